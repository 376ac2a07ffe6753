"""Incremental backups of real servers: what they store, and that they hold what a full one would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pghaven.events import ignore
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.proof.verify import VerifySettings, run_verify
from pghaven.repository import layout
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
    assert_holds_all(site, result.facts)


def test_a_damaged_backup_is_not_built_on(site: Protected) -> None:
    """What the new one kept of it would be damaged as well, and nobody would see that before its restore."""
    label = site.backup().facts.label
    for kind, content in (("pack", None), ("pack", b"cut off"), ("manifest", b"rotten")):
        path = largest_pack(site, label) if kind == "pack" else site.repository_directory / manifest_name(label)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        site.notices.clear()
        result = site.backup()
        assert (result.facts.changes, result.facts.parent) == ("full", None)
        assert "damaged_parent" in site.notice_codes()
        label = result.facts.label


def test_a_backup_that_was_found_damaged_is_passed_over_for_an_older_one(site: Protected) -> None:
    older, newer = site.backup().facts.label, site.backup(changes="full").facts.label
    path = largest_pack(site, newer)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.unlink()
    path.write_bytes(content)
    run_verify(site.repository, VerifySettings(cluster=site.name, processes=0), ignore)
    result = site.backup()
    assert result.facts.parent == older
    assert any(f'"{newer}" was found damaged' in notice.text for notice in site.notices)
    assert_holds_all(site, result.facts)


def largest_pack(site: Protected, label: str) -> Path:
    packs = site.repository.store.list(layout.packs_prefix(site.name, label))
    return site.repository_directory / max(packs, key=lambda pack: pack.size_bytes).name


def manifest_name(label: str) -> str:
    return layout.backup_object_name(Protected.name, label, "manifest")
