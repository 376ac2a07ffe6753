"""Proof that a backup holds what it should: restored beside a fresh full one, and compared page by page.

The one idea: a full backup reads and stores everything, so whatever one that builds on a parent left out by mistake
shows as a page that differs once both have been brought to the same point. Where nobody writes, the data directory
itself is such a copy, and no server needs to be started.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.repository.manifest import BackupFacts
from pghaven.restore.request import RestorePlan
from tests.support.cluster import TestCluster
from tests.support.fixtures import ClusterFactory
from tests.support.places import own
from tests.support.protected import Protected, dump_hash
from tests.support.samepages import assert_same_pages

_IMMEDIATE = RecoveryTarget(kind=TargetKind.IMMEDIATE)


def assert_holds_all(site: Protected, backup: BackupFacts, cluster: TestCluster | None = None) -> None:
    """A backup of a cluster that nobody has written to since holds the pages that lie in its data directory."""
    cluster = cluster or site.cluster
    cluster.sql("CHECKPOINT")
    plan = plan_copy(site, backup.label, _IMMEDIATE)
    site.carry_out(plan)
    assert_same_pages(Path(plan.request.target_dir), cluster.data_directory, since=backup.start_lsn)
    remove(plan)


def assert_twin_of_full(
    site: Protected, backup: BackupFacts, make_cluster: ClusterFactory, full: BackupFacts | None = None
) -> None:
    """A backup and a full one, taken after it, come to hold the same when both are brought to one checkpoint.

    There their servers shut down, without ever having been open. Then that of the first goes on, and what it says is
    examined too: indexes, visibility maps, checksums, and a dump, which must be the source's own. So nobody may write
    to the source from the full backup on, and autovacuum must be off.
    """
    full = full or site.backup(changes="full").facts
    target = find_end(site)
    plans = [plan_copy(site, one.label, target) for one in (backup, full)]
    restored = []
    for plan in plans:
        copy = make_cluster.adopt(Path(plan.request.target_dir))
        assert site.recover(plan, copy).state == "shut down"
        restored.append(copy)
    assert_same_pages(*(one.data_directory for one in restored))
    restored[1].stop_and_remove()
    remove(plans[1])
    restored[0].start({"recovery_target_action": "promote"})
    restored[0].wait_for("SELECT NOT pg_is_in_recovery()")
    restored[0].stop()
    examine(restored[0], site.cluster)
    remove(plans[0])


def find_end(site: Protected) -> RecoveryTarget:
    """A checkpoint after all that the source has written: a copy that shuts down there has every page on its disk."""
    site.cluster.sql("CHECKPOINT")
    lsn = Lsn.parse(site.cluster.value("SELECT checkpoint_lsn::text FROM pg_control_checkpoint()"))
    site.settle()
    return RecoveryTarget(kind=TargetKind.LSN, lsn=lsn, action="shutdown")


def examine(restored: TestCluster, source: TestCluster | None = None) -> None:
    """What the server's own tools say of a stopped copy; ``source`` runs, and is to have the same contents."""
    checked = restored.run("pg_controldata", "-D", str(restored.data_directory)).stdout
    if "Data page checksum version:           0" not in checked:
        restored.run("pg_checksums", "--check", "-D", str(restored.data_directory))
    restored.start()
    for (database,) in restored.sql("SELECT datname FROM pg_database WHERE datallowconn"):
        if source is not None:
            assert dump_hash(restored, database) == dump_hash(source, database), database
            assert_sequences_go_on(restored, source, database)
        assert find_untrue_visibility(restored, database) == []
    restored.run("pg_amcheck", "--all", "--heapallindexed", "--install-missing")
    restored.stop()


def assert_sequences_go_on(restored: TestCluster, source: TestCluster, database: str) -> None:
    """No number that the source has given out will be given out again."""
    query = "SELECT schemaname, sequencename, coalesce(last_value, 0) FROM pg_sequences ORDER BY 1, 2"
    pairs = zip(restored.sql(query, dbname=database), source.sql(query, dbname=database), strict=True)
    assert [ours for ours, theirs in pairs if ours[:2] != theirs[:2] or ours[2] < theirs[2]] == []


def find_untrue_visibility(cluster: TestCluster, database: str) -> list[tuple[str, str]]:
    """Rows that the visibility map calls visible to all, or frozen, and are not, as table and place."""
    cluster.sql("CREATE EXTENSION IF NOT EXISTS pg_visibility", dbname=database)
    return cluster.sql(
        "SELECT oid::regclass::text, place::text FROM pg_class, LATERAL ("
        " SELECT pg_check_visible(oid) AS place UNION ALL SELECT pg_check_frozen(oid)) AS found"
        " WHERE relkind IN ('r', 't', 'm') AND relpersistence = 'p'",
        dbname=database,
    )


def plan_copy(site: Protected, label: str, target: RecoveryTarget) -> RestorePlan:
    """A restore beside the cluster, each tablespace in a new place beside the target."""
    catalog = site.catalog
    manifest = catalog.load_manifest(catalog.find_entry(label))
    mapping: dict[str, str] = {}
    for tablespace in manifest.facts.tablespaces:
        place = Path(tempfile.mkdtemp(prefix="space", dir=site.place))
        own(place)
        mapping[tablespace.path] = str(place)
    return site.plan(target, backup_label=label, tablespace_mapping=mapping)


def remove(plan: RestorePlan) -> None:
    """A restored directory with its tablespaces."""
    shutil.rmtree(plan.request.target_dir, ignore_errors=True)
    for place in plan.request.tablespace_mapping.values():
        shutil.rmtree(place, ignore_errors=True)
