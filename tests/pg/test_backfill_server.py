"""A primary is lost before it has archived its last segments, which its standby has received."""

from __future__ import annotations

import pytest

from pghaven.wal.backfill import list_lacking, mark_waiting
from tests.pg.test_wal_server import Protected
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import run_as_plain
from tests.support.waiting import wait_until


class Lost(Protected):
    """A primary whose archiver fails from some moment on, and a standby that streams from it."""

    def lose_primary(self) -> tuple[TestCluster, list[str]]:
        """The standby, and the segments that it has received and nobody has archived."""
        self.insert(0)
        standby = self.make_cluster.standby_of(self.primary)
        self.primary.wait_archived(self.insert(1))
        self.primary.append_conf(archive_command="false")
        self.primary.reload()
        names = [self.insert(value) for value in range(2, 6)]
        written = self.primary.value("SELECT pg_current_wal_lsn()::text")
        standby.wait_for("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written)
        self.primary.crash()
        return standby, names

    def promote(self, standby: TestCluster) -> None:
        """Until what the new primary writes itself is archived."""
        standby.sql("SELECT pg_promote()")
        standby.sql("INSERT INTO t VALUES (99)")
        own = standby.switch_wal()
        wait_until(lambda: self.archive.exists(own), "the new timeline in the archive")


@pytest.fixture
def lost(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path) -> Lost:  # type: ignore[no-untyped-def]
    return Lost(make_cluster, pghaven_command, server_path)


@pytest.mark.ends
def test_a_promotion_alone_leaves_a_gap_in_the_archive(pg_version: int, lost: Lost) -> None:
    standby, names = lost.lose_primary()
    lost.promote(standby)
    assert not any(lost.archive.exists(name) for name in names)


def test_what_was_marked_as_waiting_before_the_promotion_leaves_no_gap(pg_version: int, lost: Lost) -> None:
    standby, names = lost.lose_primary()
    directory = str(standby.data_directory / "pg_wal")
    assert list_lacking(directory, [lost.archive]) == tuple(names)
    assert mark_waiting(directory, names) == tuple(names)
    lost.promote(standby)
    wait_until(lambda: all(lost.archive.exists(name) for name in names), "the backfilled segments")
    listed = run_as_plain([*lost.command.words, "wal", "list", "--config", str(lost.config)])
    assert "gap" not in listed.stdout, listed
