"""Segments of every size, and every kind of file that a server archives, come in by push and receive and out by get."""

from __future__ import annotations

from pathlib import Path

import pytest

from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.postgres.waldata import check_segment
from tests.support.cluster import Kind, adopt
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.protected import Protected
from tests.support.receiving import burn, current_lsn, receiving


@pytest.mark.parametrize("size_mib", [2, 64, pytest.param(1024, marks=pytest.mark.slow)])
def test_pushed_received_and_fetched_whatever_its_size(
    make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path, size_mib: int
) -> None:
    size = size_mib << 20
    site = Protected(make_cluster(kind=Kind(wal_segment_size_mib=size_mib)), pghaven_command, server_path)
    site.config.write_text(site.config.read_text() + f'receive_spool_limit = "{4 * size_mib}MiB"\n')
    site.cluster.sql("CREATE TABLE t (n int)")
    site.backup()
    with receiving(site) as receiver:
        receiver.start()
        receiver.wait_for_stream()
        site.cluster.sql("INSERT INTO t VALUES (1)")
        segment = SegmentName.parse(site.cluster.switch_wal(), size)
        site.cluster.wait_archived(str(segment), timeout_seconds=240.0)
        assert site.cluster.value("SELECT failed_count FROM pg_stat_archiver") == 0
        content = (site.cluster.data_directory / "pg_wal" / str(segment)).read_bytes()
        assert len(content) == size
        assert site.archive.get(str(segment)) == content
        site.cluster.sql("INSERT INTO t VALUES (2)")
        receiver.wait_stored(current_lsn(site.cluster))
        burn(site.cluster, site.cluster.data_directory)
        receiver.end()
    (label,) = (path.name for path in site.repository_directory.rglob("*.backup"))
    assert site.archive.get(label).startswith(b"START WAL LOCATION")
    plan = site.plan()
    restored = adopt(Path(plan.request.target_dir), site.cluster.programs)
    try:
        site.recover(plan, restored)
        assert restored.sql("SELECT n FROM t ORDER BY n") == [(1,), (2,)]
    finally:
        restored.stop_and_remove()


def test_what_a_promotion_leaves_is_archived_file_by_file(
    pg_version: int, make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    """The history, the old timeline's last segment as .partial, and that segment of the new timeline."""
    site = Protected(make_cluster(), pghaven_command, server_path)
    site.cluster.sql("CREATE TABLE t (n int)")
    standby = make_cluster.standby_of(site.cluster)
    site.cluster.sql("INSERT INTO t VALUES (1)")  # so that it is promoted within a segment
    lsn = site.cluster.value("SELECT pg_current_wal_lsn()::text")
    standby.wait_for("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", lsn)
    burn(site.cluster, site.cluster.data_directory)
    standby.sql("SELECT pg_promote()")
    site.cluster = standby
    site.settle()
    (partial,) = (name for name in site.archive.list_files(Timeline(1)) if name.endswith(".partial"))
    segment = SegmentName.parse(partial.removesuffix(".partial"), site.archive.segment_size)
    assert not site.archive.exists(str(segment))
    held = site.archive.get(partial)
    check_segment(held, segment, site.facts.system_identifier)
    (left,) = site.archive.read_history(Timeline(2)).entries
    assert segment.start_lsn <= left.switch_lsn < segment.end_lsn
    heir = site.archive.get(str(SegmentName(timeline=Timeline(2), number=segment.number, segment_size=len(held))))
    # The new timeline's copy begins with the same records, under page headers that say which timeline it is.
    shared = left.switch_lsn - segment.start_lsn
    assert heir[40:8192] == held[40:8192] or shared < 8192
    assert standby.value("SELECT failed_count FROM pg_stat_archiver") == 0
