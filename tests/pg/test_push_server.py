"""Real servers with a backlog: cleared by few programs, from any path, on a standby too, and restored whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from pghaven.wal.commands import render_archive_command
from tests.pg.test_wal_server import Protected, recover, rows
from tests.support.agent import running_agent
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import copy_tree, own
from tests.support.waiting import wait_until

BACKLOG = 12


@pytest.fixture
def protected(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    return Protected(make_cluster, pghaven_command, server_path)


def count_programs(protected: Protected, server: TestCluster) -> Path:
    """Have the server archive by a command that counts the programs it starts: a line in this file for each."""
    counted, script = protected.place / "started", protected.place / "counting"
    script.write_text(f'echo x >> {counted}\nexec "$@"\n')
    command = render_archive_command(["/bin/sh", str(script), *protected.command.words], str(protected.config), "main")
    server.append_conf(archive_command=command)
    server.reload()
    return counted


def test_a_backlog_costs_a_shell_a_file_and_is_restored_whole(pg_version: int, protected: Protected) -> None:
    primary = protected.primary
    protected.take_base_backup()
    primary.append_conf(archive_command="false")
    primary.reload()
    names = [protected.insert(value) for value in range(BACKLOG)]
    counted = count_programs(protected, primary)
    primary.wait_archived(names[-1])
    # One for the first file, one for a file that it had begun before; histories and labels come one by one.
    assert len(counted.read_text().split()) <= 4
    assert all(protected.archive.exists(name) for name in names)
    restored = protected.restore("restored")
    assert recover(restored)
    assert rows(restored) == list(range(BACKLOG))


def test_the_agent_archives_for_a_server_that_comes_later(pg_version: int, protected: Protected) -> None:
    """As root where the tests are: it becomes the owner of the data directory, who alone may ask it."""
    primary = protected.primary
    protected.take_base_backup()
    primary.append_conf(archive_command="false")
    primary.reload()
    names = [protected.insert(value) for value in range(BACKLOG)]
    primary.stop()
    with running_agent(protected.config, primary.data_directory, program=protected.command.words) as agent:
        wait_until(lambda: all(protected.archive.exists(name) for name in names), "the agent, without a server")
        primary.append_conf(archive_command=protected.archive_command)
        primary.start()
        primary.sql("SELECT pg_stat_reset_shared('archiver')")
        names += [protected.insert(value) for value in range(BACKLOG, BACKLOG + 4)]
        primary.wait_archived(names[-1])
        assert primary.value("SELECT failed_count FROM pg_stat_archiver") == 0
        assert "warning" not in agent.log.read_text()
    restored = protected.restore("restored")
    assert recover(restored)
    assert rows(restored) == list(range(BACKLOG + 4))


def test_a_standby_that_archives_too_gives_what_is_there_already(pg_version: int, protected: Protected) -> None:
    protected.take_base_backup()
    protected.insert(0)
    standby = protected.restore(
        "standby",
        signal="standby.signal",
        hot_standby="on",
        archive_mode="always",
        archive_command=protected.archive_command,
        primary_conninfo=protected.primary.conninfo,
        recovery_target_timeline="latest",
        wal_retrieve_retry_interval="100ms",
    )
    standby.start()
    names = [protected.insert(value) for value in range(1, 5)]
    protected.primary.wait_archived(names[-1])
    standby.wait_for("SELECT count(*) = 5 FROM t")
    standby.wait_for("SELECT coalesce(last_archived_wal, '') >= %s FROM pg_stat_archiver", names[-2])
    assert standby.value("SELECT failed_count FROM pg_stat_archiver") == 0
    assert protected.primary.value("SELECT failed_count FROM pg_stat_archiver") == 0
    assert protected.archive.list_quarantine() == ()
    standby.stop()
    restored = protected.restore("restored")
    assert recover(restored)
    assert rows(restored) == list(range(5))


@pytest.mark.parametrize("name", ["a b'c%d", 'quo"te $HOME %p', "%f%%"])
def test_a_data_directory_of_any_name_archives_and_finds_its_marks(protected: Protected, name: str) -> None:
    protected.primary.stop()
    place = protected.place / name
    copy_tree(protected.primary.data_directory, place)
    own(place)
    moved = protected.make_cluster.adopt(place, version=protected.primary.version)
    text = protected.config.read_text()
    protected.config.write_text(text.replace(f'"{protected.primary.data_directory}"', f"'''{place}'''"))
    moved.append_conf(archive_command="false")
    moved.start()
    names = [protected.insert(value, moved) for value in range(4)]
    counted = count_programs(protected, moved)
    wait_until(lambda: protected.archive.exists(names[-1]), "the archiver")
    moved.wait_archived(names[-1])
    assert len(counted.read_text().split()) < len(names)
    assert moved.value("SELECT count(*) FROM t") == 4
