"""Driving servers: start, readiness, failure, end; and telling from outside whether one runs."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from pghaven.errors import Cancelled, Refused, ServerUnsuitable
from pghaven.server.identity import find_owner
from pghaven.server.instance import Instance, PidFile, StopMode, is_running
from pghaven.server.postmaster import STATUS_READY, STATUS_STANDBY, is_alive, list_server_processes
from tests.support.cluster import TestCluster
from tests.support.fixtures import ClusterFactory
from tests.support.places import own
from tests.support.waiting import wait_until


def running(cluster: TestCluster) -> PidFile | None:
    return is_running(str(cluster.data_directory))


def test_started_server_is_ready_and_stops_in_every_mode(pg_version: int, make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(start=False)
    assert running(cluster) is None
    modes: tuple[StopMode, ...] = ("smart", "fast", "immediate")
    for mode in modes:
        cluster.start()
        found = running(cluster)
        assert found is not None
        assert (found.status, found.port, found.socket_directory) == (STATUS_READY, 5432, str(cluster.socket_directory))
        assert found.pid in list_server_processes(str(cluster.data_directory))
        cluster.instance.stop(mode)
        assert running(cluster) is None
        assert not is_alive(found.pid)
        assert list_server_processes(str(cluster.data_directory)) == ()
    cluster.instance.stop()


def test_server_runs_as_the_owner_of_its_directory(pg_cluster: TestCluster) -> None:
    found = running(pg_cluster)
    assert found is not None
    owner = find_owner(str(pg_cluster.data_directory))
    assert owner is not None
    assert os.stat(f"/proc/{found.pid}").st_uid == owner.uid != 0


def test_connection_parameters_come_from_the_running_server(pg_cluster: TestCluster) -> None:
    assert pg_cluster.instance.conninfo == f"host='{pg_cluster.socket_directory}' port=5432"
    pg_cluster.stop()
    with pytest.raises(ServerUnsuitable, match="no server"):
        _ = pg_cluster.instance.conninfo


def test_failed_start_reports_the_servers_last_words(pg_version: int, make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(start=False)
    with pytest.raises(ServerUnsuitable, match=r'FATAL: .*"bogus_setting"') as caught:
        cluster.instance.start({"bogus_setting": "1"})
    assert "bogus_setting" in (caught.value.detail or "")
    assert cluster.instance.child_pid is None


def test_missing_wal_is_the_reason_though_the_collector_has_the_log(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(start=False, conf={"logging_collector": "on"})
    for segment in (cluster.data_directory / "pg_wal").iterdir():
        if segment.is_file():
            segment.unlink()
    cluster.log_path.write_text("FATAL:  trouble of an older start\n")
    with pytest.raises(ServerUnsuitable, match=r"PANIC: .*could not locate a valid checkpoint record"):
        cluster.start()


def test_second_start_is_refused(pg_cluster: TestCluster) -> None:
    with pytest.raises(Refused, match="already runs"):
        pg_cluster.start()
    assert pg_cluster.value("SELECT 1") == 1


def test_start_that_takes_longer_can_be_awaited_again(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(start=False)
    go, recovery = cluster.directory / "go", cluster.data_directory / "recovery.signal"
    recovery.touch()
    own(recovery)
    # The control file is of a cluster with more connections, and recovery wants as many.
    cluster.append_conf(max_connections="100", restore_command=f"until [ -e {go} ]; do sleep 0.01; done; exit 1")
    cluster.start(wait=False)
    with pytest.raises(Cancelled, match=r"not ready after 0\.1 s"):
        cluster.instance.wait_ready(timeout_seconds=0.1)
    go.touch()
    seen: list[PidFile | None] = []
    assert cluster.instance.wait_ready(timeout_seconds=60, on_wait=seen.append).status == STATUS_READY
    assert cluster.value("SELECT 1") == 1


def test_standby_closed_to_readers_counts_as_up(make_cluster: ClusterFactory) -> None:
    primary = make_cluster()
    standby = make_cluster.standby_of(primary, start=False)
    standby.start({"hot_standby": "off"})
    found = running(standby)
    assert found is not None
    assert found.status == STATUS_STANDBY


def test_pid_file_of_a_crashed_server_is_stale(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster()
    found = running(cluster)
    assert found is not None
    cluster.instance.stop("immediate")
    pid_file = cluster.data_directory / "postmaster.pid"
    pid_file.write_text(f"{found.pid}\n{cluster.data_directory}\n1\n5432\n\n\n\nready\n")
    assert running(cluster) is None
    cluster.start()
    assert cluster.value("SELECT 1") == 1


def test_process_id_given_to_somebody_else_is_not_a_server(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(start=False)
    pid_file = cluster.data_directory / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{cluster.data_directory}\n1\n5432\n\n\n\nready\n")
    assert running(cluster) is None
    other = running(make_cluster())
    assert other is not None
    pid_file.write_text(f"{other.pid}\n{cluster.data_directory}\n1\n5432\n\n\n\nready\n")
    assert running(cluster) is None, "a server, but another directory's"


def test_backends_that_outlive_their_postmaster_are_found(pg_cluster: TestCluster) -> None:
    found = running(pg_cluster)
    assert found is not None
    with pg_cluster.connect() as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        os.kill(found.pid, signal.SIGKILL)
        wait_until(lambda: running(pg_cluster) is None, "the postmaster's end")
        try:
            assert backend in list_server_processes(str(pg_cluster.data_directory))
        finally:
            os.kill(backend, signal.SIGKILL)
    wait_until(lambda: not list_server_processes(str(pg_cluster.data_directory)), "the end of all processes")


def test_server_whose_directory_vanished_is_still_ours_to_stop(pg_cluster: TestCluster) -> None:
    shutil.rmtree(pg_cluster.data_directory)
    assert running(pg_cluster) is None
    assert pg_cluster.instance.child_pid is not None


def test_initdb_says_why_it_cannot(pg_cluster: TestCluster) -> None:
    with pytest.raises(ServerUnsuitable, match="could not make a cluster") as caught:
        pg_cluster.instance.initdb()
    assert "not empty" in (caught.value.detail or "")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by PostgreSQL")
def test_directory_of_root_cannot_become_a_cluster(make_cluster: ClusterFactory, tmp_path: Path) -> None:
    cluster = make_cluster(start=False)
    instance = Instance(str(tmp_path / "data"), cluster.programs, log_path=str(tmp_path / "log"))
    with pytest.raises(Refused, match="does not run as root"):
        instance.initdb()


def test_variables_of_clients_do_not_reach_the_server(
    make_cluster: ClusterFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATA", "/nonexistent")
    monkeypatch.setenv("PGTZ", "Nowhere")
    monkeypatch.setenv("PGHAVEN_CONFIG", "/etc/x.toml")
    cluster = make_cluster()
    found = running(cluster)
    assert found is not None
    environment = Path(f"/proc/{found.pid}/environ").read_text().split("\0")
    assert "PGHAVEN_CONFIG=/etc/x.toml" in environment
    assert not any(entry.startswith(("PGTZ=", "PGDATA=/nonexistent")) for entry in environment)
