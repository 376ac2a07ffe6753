"""Real servers whose WAL is received as it is written: what is there when they burn, switch, restart, lose a slot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pghaven.postgres.timeline import Timeline
from pghaven.repository.partials import list_pieces
from tests.support.agent import running_agent
from tests.support.cluster import TestCluster, adopt, make_standby
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import run_as_plain
from tests.support.protected import Protected
from tests.support.receiving import SLOT, burn, current_lsn, receiving
from tests.support.waiting import wait_until

Protect = Callable[[TestCluster], Protected]
SYNCHRONOUS = {"synchronous_standby_names": SLOT}


@pytest.fixture
def site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    made = Protected(make_cluster(), pghaven_command, server_path)
    made.cluster.sql("CREATE TABLE t (n int)")
    made.backup()
    return made


def recover_rows(site: Protected) -> set[int]:
    """What a restore to the end has."""
    plan = site.plan()
    restored = adopt(Path(plan.request.target_dir), site.cluster.programs)
    try:
        site.recover(plan, restored)
        return {n for (n,) in restored.sql("SELECT n FROM t")}
    finally:
        restored.stop_and_remove()


def newest_end(site: Protected) -> int:
    """How far the pieces that are kept reach."""
    return max((piece.segment.start_lsn + piece.end for piece, _ in list_pieces(site.archive, Timeline(1))), default=0)


class Load:
    """Sessions that insert one number after the other, each in a transaction of its own, until the server is gone."""

    def __init__(self, cluster: TestCluster, sessions: int = 3) -> None:
        self.acknowledged: set[int] = set()
        self._cluster = cluster
        self._threads = [threading.Thread(target=self._run, args=(n, sessions)) for n in range(sessions)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int, step: int) -> None:
        try:
            with self._cluster.connect() as connection:
                while True:
                    connection.execute("INSERT INTO t VALUES (%s)", (number,))
                    self.acknowledged.add(number)
                    number += step
        except psycopg.Error:
            return

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def test_every_acknowledged_commit_survives_the_loss_of_the_server(pg_version: int, site: Protected) -> None:
    primary = site.cluster
    with receiving(site, receive_synchronous="true") as receiver:
        receiver.start()
        receiver.wait_for_stream()
        primary.append_conf(**SYNCHRONOUS)
        primary.reload()
        primary.wait_for("SELECT sync_state = 'sync' FROM pg_stat_replication")
        load = Load(primary)
        wait_until(lambda: len(load.acknowledged) > 500, "commits")
        burn(primary, primary.data_directory)
        load.join()
        assert receiver.end() in (0, 3), receiver.log
        assert receiver.spooled() == []
    found = recover_rows(site)
    assert load.acknowledged <= found, f"lost {sorted(load.acknowledged - found)[:5]}"


def test_what_was_received_follows_a_promotion_to_another_host(pg_version: int, site: Protected) -> None:
    primary = site.cluster
    standby = make_standby(primary)
    try:
        hosts = f"host={primary.socket_directory},{standby.socket_directory} port=5432,5432"
        conninfo = f"{hosts} user=postgres dbname=postgres target_session_attrs=primary"
        with receiving(site, conninfo) as receiver:
            receiver.start()
            receiver.wait_for_stream()
            primary.sql("INSERT INTO t VALUES (1)")
            standby.wait_for("SELECT count(*) = 1 FROM t")
            primary.stop()
            standby.sql("SELECT pg_promote()")
            standby.append_conf(archive_mode="off")
            standby.sql("INSERT INTO t VALUES (2)")
            receiver.wait_for_stream(standby)
            standby.sql("INSERT INTO t VALUES (3)")
            receiver.wait_stored(current_lsn(standby), timeline=2)
            assert receiver.end() in (0, 3), receiver.log
        assert site.archive.exists("00000002.history")
        assert recover_rows(site) == {1, 2, 3}
    finally:
        standby.stop_and_remove()


def test_push_and_receive_together_and_a_restart_in_the_midst(pg_version: int, site: Protected) -> None:
    primary = site.cluster
    with receiving(site) as receiver:
        receiver.start()
        receiver.wait_for_stream()
        primary.sql("INSERT INTO t SELECT generate_series(1, 1000)")
        receiver.wait_stored(current_lsn(primary))
        receiver.kill()
        primary.sql("INSERT INTO t SELECT generate_series(1001, 2000)")
        names = [primary.switch_wal() for _ in range(3)]
        primary.sql("INSERT INTO t VALUES (0)")
        receiver.start()
        receiver.wait_stored(current_lsn(primary))
        wait_until(lambda: receiver.spooled() == [], "an empty spool")
        site.settle()
        assert primary.value("SELECT failed_count FROM pg_stat_archiver") == 0
        assert receiver.end() == 0, receiver.log
        assert not {str(one.segment) for one, _ in list_pieces(site.archive, Timeline(1))} & set(names)
    assert site.archive.list_quarantine() == ()
    assert recover_rows(site) == set(range(2001))


def test_the_agent_receives_where_the_configuration_says_so(pg_version: int, site: Protected) -> None:
    primary = site.cluster
    site.config.write_text(site.config.read_text() + f'receive = true\nreceive_spool = "{site.place}/spool"\n')
    with running_agent(site.config, primary.data_directory) as agent:
        primary.sql("INSERT INTO t VALUES (1)")
        end = current_lsn(primary)
        wait_until(lambda: newest_end(site) >= end, "what was written last in the repository")
        assert agent.end() == 0, agent.log.read_text()
    assert recover_rows(site) == {1}


def test_a_lost_slot_is_named_and_made_anew_and_removed_wal_told(pg_version: int, site: Protected) -> None:
    primary = site.cluster
    with receiving(site) as receiver:
        receiver.start()
        receiver.wait_for_stream()
        receiver.wait_stored(current_lsn(primary))
        assert receiver.end() == 0, receiver.log
        primary.sql(f"SELECT pg_drop_replication_slot('{SLOT}')")
        primary.sql("INSERT INTO t VALUES (1)")
        receiver.start("--once")
        assert receiver.wait() == 3, receiver.log
        assert f'replication slot "{SLOT}"' in receiver.log
        assert "is made anew" in receiver.log
        primary.sql(f"SELECT pg_drop_replication_slot('{SLOT}')")
        for _ in range(8):
            primary.switch_wal()
        site.settle()
        primary.sql("ALTER SYSTEM SET min_wal_size = '2MB'")
        primary.sql("ALTER SYSTEM SET max_wal_size = '2MB'")
        primary.reload()
        for _ in range(2):
            primary.switch_wal()
            primary.sql("CHECKPOINT")
        receiver.start()
        receiver.wait_for_stream()
        wait_until(lambda: "the server no longer has WAL from" in receiver.log, "a warning")
        primary.sql("INSERT INTO t VALUES (2)")
        receiver.wait_stored(current_lsn(primary))
        assert receiver.end() == 3, receiver.log
    assert recover_rows(site) == {1, 2}


def test_a_gap_is_told_with_the_slot_that_was_lost(site: Protected) -> None:
    primary = site.cluster
    with receiving(site) as receiver:
        receiver.start()
        receiver.wait_for_stream()
        receiver.wait_stored(current_lsn(primary))
        assert receiver.end() == 0, receiver.log
        primary.sql(f"SELECT pg_drop_replication_slot('{SLOT}')")
        primary.append_conf(archive_command="true")  # for archived it is taken, and it is nowhere
        primary.sql("ALTER SYSTEM SET min_wal_size = '2MB'")
        primary.sql("ALTER SYSTEM SET max_wal_size = '2MB'")
        primary.reload()
        for _ in range(8):
            primary.switch_wal()
        for _ in range(3):
            primary.sql("CHECKPOINT")
            primary.switch_wal()
        primary.sql("CHECKPOINT")
        receiver.start()
        receiver.wait_for_stream()
        wait_until(lambda: "the server no longer has WAL from" in receiver.log, "a warning")
        receiver.wait_stored(current_lsn(primary))
        for command in ("check", "status"):
            shown = run_as_plain([*site.command.words, "--config", str(site.config), command, "--json"])
            assert '"streaming"' in shown.stdout or "streaming, " in shown.stdout, shown
        assert receiver.end() == 3, receiver.log
    listed = run_as_plain([*site.command.words, "--config", str(site.config), "wal", "list"])
    assert f'for replication slot "{SLOT}" was not there' in listed.stdout, listed


def test_while_a_store_is_down_wal_is_spooled_and_the_server_keeps_it(pg_version: int, site: Protected) -> None:
    primary = site.cluster
    primary.append_conf(archive_mode="off")
    primary.restart()
    with receiving(site) as receiver:
        receiver.start()
        receiver.wait_for_stream()
        site.repository_directory.rename(site.place / "away")
        primary.sql("INSERT INTO t VALUES (1)")
        name = primary.switch_wal()
        wait_until(lambda: f"{name}.ready" in receiver.spooled(), "a segment in the spool")
        wait_until(lambda: "could not archive what was received" in receiver.log, "a warning")
        assert primary.value("SELECT pg_walfile_name(flush_lsn) <= %s FROM pg_stat_replication", name)
        (site.place / "away").rename(site.repository_directory)
        wait_until(lambda: receiver.spooled() == [], "an empty spool")
        primary.sql("INSERT INTO t VALUES (2)")
        receiver.wait_stored(current_lsn(primary))
        primary.wait_for("SELECT flush_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication")
        assert receiver.end() == 3, receiver.log
    assert recover_rows(site) == {1, 2}
