"""A time of wal_level = minimal between two backups, on real servers and through a real archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pghaven.backup.waldip import DipSearch, find_dip
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.server.bracket import backup_bracket
from pghaven.server.connection import connect
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.protected import Protected
from tests.support.waiting import wait_until

Protect = Callable[[TestCluster], Protected]
MINIMAL = {"wal_level": "minimal", "archive_mode": "off", "max_wal_senders": "0"}
USUAL = {"wal_level": "replica", "archive_mode": "on", "max_wal_senders": "10"}


@pytest.fixture
def protect(pghaven_command: PghavenCommand, server_path: Path) -> Protect:
    return lambda cluster: Protected(cluster, pghaven_command, server_path)


def start_backup(cluster: TestCluster) -> tuple[Timeline, Lsn]:
    """Where a backup taken now would start."""
    with connect(cluster.conninfo) as connection, backup_bracket(connection, "test", fast=True) as backup:
        backup.stop()
        return backup.timeline, backup.start_lsn


def look(site: Protected, start: Lsn, *, timeout_seconds: float = 60.0) -> str | None:
    timeline, end = start_backup(site.cluster)
    archive = site.archive
    if timeline > 1:
        wait_until(lambda: archive.exists(timeline.history_name), "the history file")
    search = DipSearch(
        history=History.root(timeline) if timeline == 1 else archive.read_history(timeline),
        start_lsn=start,
        end_lsn=end,
        from_standby=False,
        timeout_seconds=timeout_seconds,
        on_wait=lambda: None,
    )
    return find_dip(archive, search)


def load_without_wal(cluster: TestCluster) -> None:
    """Fill a table in the transaction that makes it: at wal_level = minimal nothing of it is in the WAL."""
    with cluster.connect() as connection, connection.transaction():
        connection.execute("CREATE TABLE loaded (id int, body text)")
        with connection.cursor().copy("COPY loaded FROM STDIN") as copy:
            for number in range(2000):
                copy.write_row((number, "x" * 50))


def test_time_of_minimal_wal_is_found(pg_version: int, protect: Protect, pg_cluster: TestCluster) -> None:
    site = protect(pg_cluster)
    _, start = start_backup(pg_cluster)
    pg_cluster.restart(MINIMAL)
    load_without_wal(pg_cluster)
    pg_cluster.restart(USUAL)
    found = look(site, start)
    assert found is not None
    assert found.startswith("wal_level was minimal since: the server was started so at ")
    # From here on it is history.
    _, later = start_backup(pg_cluster)
    pg_cluster.sql("CREATE TABLE t ()")
    assert look(site, later) is None


def test_wal_that_was_removed_unarchived_in_that_time_counts(protect: Protect, pg_cluster: TestCluster) -> None:
    site = protect(pg_cluster)
    _, start = start_backup(pg_cluster)
    pg_cluster.restart(MINIMAL)
    with pg_cluster.connect() as connection:
        for _ in range(4):
            connection.execute("SELECT pg_logical_emit_message(false, 'tests', 'x'), pg_switch_wal()")
            connection.execute("CHECKPOINT")
    pg_cluster.restart(USUAL)
    found = look(site, start, timeout_seconds=2)
    assert found is not None
    assert found.startswith("wal_level ")
    assert " minimal since" in found


def test_restarts_and_crashes_at_other_levels_are_no_dip(
    pg_version: int, protect: Protect, pg_cluster: TestCluster
) -> None:
    site = protect(pg_cluster)
    _, start = start_backup(pg_cluster)
    pg_cluster.restart({"wal_level": "logical"})
    pg_cluster.sql("CREATE TABLE t AS SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n")
    pg_cluster.crash()
    pg_cluster.start({"wal_level": "replica", "max_connections": "30"})
    assert look(site, start) is None


def test_promotion_is_crossed(pg_version: int, protect: Protect, make_cluster: ClusterFactory) -> None:
    """The old primary's last segment never reaches the archive; what is needed of it is in the new one's first."""
    primary = make_cluster()
    site = protect(primary)
    _, start = start_backup(primary)
    standby = make_cluster.standby_of(primary)
    site.settle()
    primary.sql("CREATE TABLE t ()")
    lsn = primary.value("SELECT pg_current_wal_lsn()::text")
    standby.wait_for("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", lsn)
    primary.crash()
    standby.sql("SELECT pg_promote()")
    site.cluster = standby
    assert look(site, start) is None
    fork = site.archive.read_history(Timeline(2)).entries[0].switch_lsn
    last = SegmentName.containing(Timeline(1), fork, site.archive.segment_size)
    assert not site.archive.exists(str(last))
