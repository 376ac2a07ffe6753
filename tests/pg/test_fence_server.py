"""Two real servers and one repository: a primary that was passed over, and two that both believe they are the one."""

from __future__ import annotations

import json

import pytest

from pghaven.postgres.timeline import Timeline
from pghaven.repository.incidents import IncidentKind, list_incidents
from pghaven.wal.commands import render_restore_command
from tests.pg.test_wal_server import Protected, rows
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import copy_tree, own, run_as_plain
from tests.support.waiting import wait_until

SEGMENTS = 6


class Pair(Protected):
    """A primary that was passed over, and the server that was promoted in its place."""

    def promote_another(self) -> TestCluster:
        self.primary.append_conf(
            wal_log_hints="on",
            wal_keep_size="0",
            max_wal_size="2MB",
            min_wal_size="2MB",
            restore_command=render_restore_command(self.command.words, str(self.config), "main", None),
        )
        self.primary.restart()
        self.insert(1)
        successor = self.make_cluster.standby_of(self.primary)
        written = self.primary.value("SELECT pg_current_wal_lsn()::text")
        successor.wait_for("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written)
        successor.sql("SELECT pg_promote()")
        wait_until(lambda: self.archive.exists("00000002.history"), "the history file")
        return successor


@pytest.fixture
def pair(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path) -> Pair:  # type: ignore[no-untyped-def]
    return Pair(make_cluster, pghaven_command, server_path)


def waiting(server: TestCluster) -> list[str]:
    return [path.name for path in (server.data_directory / "pg_wal" / "archive_status").glob("*.ready")]


def test_a_zombie_loses_nothing_fills_nothing_and_finds_its_own_wal_to_come_back(pg_version: int, pair: Pair) -> None:
    zombie = pair.primary
    successor = pair.promote_another()
    successor.sql("INSERT INTO t VALUES (2)")

    written = [pair.insert(600 + number) for number in range(SEGMENTS)]
    zombie.wait_archived(written[-1])
    assert zombie.value("SELECT failed_count FROM pg_stat_archiver") == 0
    past = written[1:]  # the first holds the fork
    assert {name[:24] for name in pair.archive.list_quarantine()} >= set(past)
    assert not any(pair.archive.exists(name) for name in past)
    assert "quarantined" in zombie.log()
    # Nothing keeps the files in pg_wal: two checkpoints later they are gone.
    for _ in range(2):
        zombie.sql("CHECKPOINT")
        wait_until(lambda: not waiting(zombie), "the archiver")
    assert not (zombie.data_directory / "pg_wal" / past[0]).exists()

    zombie.stop()
    source = ("-D", str(zombie.data_directory), f"--source-server={successor.conninfo}", "--no-sync")
    assert "could not" in zombie.run("pg_rewind", *source, "--dry-run", check=False).stderr
    zombie.run("pg_rewind", *source, "--restore-target-wal")
    # Somebody else does not get it.
    stranger = zombie.data_directory.parent / "stranger"
    copy_tree(zombie.data_directory, stranger)
    request = [*pair.command.words, "wal", "get", "--config", str(pair.config), past[0]]
    assert run_as_plain([*request, f"pg_wal/{past[0]}"], cwd=stranger).returncode == 1
    assert run_as_plain([*request, f"pg_wal/{past[0]}"], cwd=zombie.data_directory).returncode == 0
    assert run_as_plain([*request, "pg_wal/RECOVERYXLOG"], cwd=zombie.data_directory).returncode == 1

    (zombie.data_directory / "standby.signal").touch()
    own(zombie.data_directory / "standby.signal")
    zombie.start({"primary_conninfo": successor.conninfo})
    successor.sql("INSERT INTO t VALUES (3)")
    zombie.wait_for("SELECT count(*) = 3 FROM t")
    assert rows(zombie) == [1, 2, 3]


def test_of_two_writers_one_wins_each_name_and_the_other_is_told_of_both(pair: Pair) -> None:
    """A clone that nobody told, on the same timeline."""
    primary = pair.primary
    primary.stop()
    directory = pair.place / "clone"
    copy_tree(primary.data_directory, directory)
    clone = pair.make_cluster.adopt(directory, version=primary.version)
    primary.start()
    clone.start()
    name = pair.insert(1)
    primary.wait_archived(name)
    content = pair.archive.get(name)
    assert pair.insert(2, clone) == name
    wait_until(lambda: "is in the archive with other contents" in clone.log(), "the refusal")
    for told in (str(primary.data_directory), str(directory), str(pair.archive.system_identifier)):
        assert told in clone.log()
    assert pair.archive.get(name) == content
    (incident,) = list_incidents(pair.archive.repository, "main", pair.archive.system_identifier)
    assert incident.kind is IncidentKind.TWO_WRITERS
    assert incident.subject == name
    assert incident.archived["data_directory"] == str(primary.data_directory.resolve())
    assert incident.refused["data_directory"] == str(directory.resolve())
    assert [one.name.timeline for one in pair.archive.list_segments(Timeline(1))][-1] == 1
    status = run_as_plain([*pair.command.words, "status", "--config", str(pair.config), "--json"])
    told = [one["text"] for one in json.loads(status.stdout)["clusters"][0]["problems"]]
    (told_of,) = [text for text in told if "two servers archive as main" in text]
    assert str(primary.data_directory) in told_of
    assert str(directory) in told_of
