"""The harness itself: servers are private, end with their test, and can run pghaven."""

from __future__ import annotations

import os
from pathlib import Path

from pghaven.server.identity import OsUser
from pghaven.server.programs import can_run, copy_programs
from tests.support.cluster import Kind, TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import is_open_to_plain, run_as_plain


def test_clusters_are_apart_and_their_processes_end(make_cluster: ClusterFactory) -> None:
    one, other = make_cluster(), make_cluster()
    one.sql("CREATE TABLE here ()")
    assert other.value("SELECT to_regclass('here') IS NULL")
    assert one.directory != other.directory
    pid = one.instance.child_pid
    one.stop_and_remove()
    assert pid is not None
    assert not os.path.exists(f"/proc/{pid}")


def test_clusters_of_another_variant_have_another_system_identifier(make_cluster: ClusterFactory) -> None:
    query = "SELECT system_identifier FROM pg_control_system()"
    first, copied, other = make_cluster(), make_cluster(), make_cluster(kind=Kind(variant=1))
    assert first.value(query) == copied.value(query) != other.value(query)


def test_crash_leaves_recovery_to_the_next_start(pg_cluster: TestCluster) -> None:
    pg_cluster.sql("CREATE TABLE kept ()")
    pg_cluster.crash()
    pg_cluster.start()
    assert pg_cluster.value("SELECT to_regclass('kept') IS NOT NULL")
    assert "automatic recovery in progress" in pg_cluster.log()


def test_directory_copied_by_hand_can_be_adopted(make_cluster: ClusterFactory, server_path: Path) -> None:
    source = make_cluster()
    source.sql("CREATE TABLE kept ()")
    source.stop()
    os.rename(source.data_directory, server_path / "data")
    adopted = make_cluster.adopt(server_path / "data")
    adopted.start()
    assert adopted.value("SELECT to_regclass('kept') IS NOT NULL")
    adopted.stop()


def test_server_can_run_pghaven_as_its_archive_command(
    make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    command = f"{pghaven_command.text} --version > {server_path}/said && cp %p {server_path}/%f"
    cluster = make_cluster(conf={"archive_mode": "on", "archive_command": command})
    segment = cluster.switch_wal()
    cluster.wait_archived(segment)
    assert (server_path / segment).stat().st_size == 1 << 20
    assert (server_path / "said").read_text().startswith("pghaven ")


def test_copied_programs_run_as_the_servers_user(
    make_cluster: ClusterFactory, server_path: Path, plain_user: OsUser
) -> None:
    programs = copy_programs(make_cluster(start=False).programs, str(server_path))
    assert can_run(programs, plain_user)
    assert run_as_plain([programs.path("initdb"), "--version"]).returncode == 0
    if os.geteuid() == 0:
        os.chown(server_path, 0, 0)
        os.chmod(server_path, 0o700)
        assert not can_run(programs, plain_user)
        assert not is_open_to_plain(server_path)
