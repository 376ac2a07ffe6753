"""Incremental backups of real servers: what they store, and that they hold what a full one would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.protected import Protected, dump_hash
from tests.support.twins import assert_holds_all

LATEST = RecoveryTarget(kind=TargetKind.LATEST)
Site = Callable[..., Protected]


@pytest.fixture
def site(
    make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path, pg_version: int
) -> Protected:
    made = Protected(make_cluster(), pghaven_command, server_path)
    if pg_version >= 17:
        made.cluster.append_conf(summarize_wal="on")
        made.cluster.reload()
    return made


def methods(pg_version: int) -> list[str]:
    return ["lsn", "summaries"] if pg_version >= 17 else ["lsn"]


def test_only_what_changed_is_stored(site: Protected, pg_version: int, make_cluster: ClusterFactory) -> None:
    cluster = site.cluster
    cluster.sql("CREATE TABLE big AS SELECT i, md5(i::text) FROM generate_series(1, 200000) i")
    cluster.sql("VACUUM big")
    cluster.sql("CHECKPOINT")
    full = site.backup()
    assert (full.facts.changes, full.facts.parent) == ("full", None)
    parent = full.facts.label
    for method in methods(pg_version):
        cluster.sql("UPDATE big SET md5 = 'changed' WHERE i % 20000 = 7")
        result = site.backup(changes=method)
        assert (result.facts.changes, result.facts.parent) == (method, parent)
        assert result.facts.stored_bytes < full.facts.stored_bytes / 10
        assert result.facts.total_bytes >= full.facts.total_bytes
        parent = result.facts.label
    site.settle()
    plan = site.plan(backup_label=parent)
    restored = make_cluster.adopt(Path(plan.request.target_dir))
    site.recover(plan, restored)
    assert dump_hash(restored) == dump_hash(cluster)
    restored.run("pg_amcheck", "--all", "--heapallindexed", "--install-missing")
    restored.stop()
    restored.run("pg_checksums", "--check", "-D", str(restored.data_directory))


def test_a_damaged_page_is_told_until_it_is_gone(site: Protected, pg_version: int) -> None:
    """Also by a backup that need not read it, for all that the WAL says; and so it is noticed when it was mended."""
    cluster = site.cluster
    cluster.sql("CREATE TABLE hurt AS SELECT i FROM generate_series(1, 5000) i")
    cluster.sql("VACUUM FREEZE hurt")
    cluster.sql("CHECKPOINT")
    path = Path(cluster.data_directory) / cluster.value("SELECT pg_relation_filepath('hurt')")
    content = bytearray(path.read_bytes())
    content[3 * 8192 + 5000] ^= 1
    path.write_bytes(content)
    first = site.backup().facts.bad_pages
    assert [page.block for page in first] == [3]
    for method in methods(pg_version):
        result = site.backup(changes=method)
        assert result.facts.changes == method
        assert [(page.path, page.block) for page in result.facts.bad_pages] == [(first[0].path, 3)]
    content[3 * 8192 + 5000] ^= 1
    path.write_bytes(content)
    result = site.backup(changes=methods(pg_version)[-1])
    assert result.facts.bad_pages == ()
    assert_holds_all(site, result)
