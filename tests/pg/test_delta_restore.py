"""Servers that are restored over what is left of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pghaven.errors import Refused
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.restore.execute import RestoreResult
from pghaven.restore.recover import run_recovery
from pghaven.restore.request import RestorePlan
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import own
from tests.support.protected import Protected, dump_hash

# The servers' own caches, and what says where and how it was restored.
NOT_COMPARED = {"pg_internal.init", "pghaven.restore.json", "postgresql.auto.conf"}
ROWS = 30_000


@pytest.fixture
def site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    """A cluster with a tablespace and a backup."""
    made = Protected(make_cluster(), pghaven_command, server_path)
    source = made.cluster
    space = made.place / "space"
    space.mkdir()
    own(space)
    source.sql(f"CREATE TABLESPACE side LOCATION '{space}'")
    source.sql(
        "CREATE TABLE ledger (id bigserial PRIMARY KEY, note text);"
        f"INSERT INTO ledger (note) SELECT md5(i::text) FROM generate_series(1, {ROWS}) i;"
        f"CREATE TABLE archive AS SELECT i, md5(i::text) FROM generate_series(1, {3 * ROWS}) i"
    )
    source.sql("CREATE TABLE t TABLESPACE side AS SELECT i FROM generate_series(1, 10000) i")
    source.sql("VACUUM")
    made.backup()
    return made


def spoil(source: TestCluster) -> None:
    """What a bad release does."""
    source.sql(f"UPDATE ledger SET note = 'gone' WHERE id > {ROWS // 2}")
    source.sql("DROP TABLE t")
    source.sql("CREATE TABLE more AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
    source.sql("CREATE DATABASE other")
    source.sql("CREATE TABLE u AS SELECT i FROM generate_series(1, 1000) i", dbname="other")
    source.sql("CREATE UNLOGGED TABLE scratch AS SELECT i FROM generate_series(1, 1000) i")


def plan_in_place(site: Protected, target: RecoveryTarget, **request: object) -> RestorePlan:
    return site.plan(target, target_dir=str(site.cluster.data_directory), delta=True, archiving=True, **request)


def carry_out(site: Protected, plan: RestorePlan) -> RestoreResult:
    result = site.carry_out(plan)
    assert result.written_bytes + result.proven_bytes == plan.manifest.facts.total_bytes
    return result


def read_files(root: Path) -> dict[str, bytes]:
    found = {}
    for directory, _, names in os.walk(root, followlinks=True):
        for name in set(names) - NOT_COMPARED:
            path = Path(directory, name)
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def test_a_crashed_server_comes_back_in_its_own_place(pg_version: int, site: Protected) -> None:
    source = site.cluster
    source.sql("INSERT INTO ledger (note) VALUES ('kept')")
    moment = source.value("SELECT clock_timestamp()")
    before = dump_hash(source)
    spoil(source)
    site.settle()
    source.sql("INSERT INTO ledger (note) VALUES ('in no archive')")
    source.crash()
    target = RecoveryTarget(kind=TargetKind.TIME, time=moment)
    fresh = site.restore(target, tablespace_mapping={str(site.place / "space"): str(site.place / "fresh-space")})

    plan = plan_in_place(site, target)
    existing = plan.existing
    assert existing is not None
    assert existing.foreign == ()
    assert len(existing.saved_wal) >= 1
    result = carry_out(site, plan)

    assert read_files(source.data_directory) == read_files(fresh)
    assert result.proven_bytes > 2 * result.written_bytes
    assert {path.name for path in Path(existing.saved_wal_directory).iterdir()} == set(existing.saved_wal)
    source.append_conf(unix_socket_directories=str(source.socket_directory))
    recovery = run_recovery(plan, str(source.programs.bin_dir), site.tell)
    assert recovery.reached_lsn >= plan.wal.end_lsn
    assert dump_hash(source) == before
    assert source.value("SELECT count(*) FROM t") == 10000
    source.run("pg_amcheck", "--all", "--heapallindexed", "--install-missing")
    source.stop()


def test_a_restored_server_can_be_taken_to_another_moment(site: Protected, make_cluster: ClusterFactory) -> None:
    """Looking for the moment: restored, opened, found to be too late, and taken back."""
    source = site.cluster
    moments = []
    for number in range(3):
        source.sql("INSERT INTO ledger (note) VALUES (%s)", f"step {number}")
        moments.append(source.value("SELECT clock_timestamp()"))
    spoil(source)
    site.settle()
    directory = site.place / "copy"
    mapping = {str(site.place / "space"): str(site.place / "copy-space")}
    copy = make_cluster.adopt(directory)
    for number in (2, 0, 1):
        target = RecoveryTarget(kind=TargetKind.TIME, time=moments[number])
        plan = site.plan(target, target_dir=str(directory), delta=True, tablespace_mapping=mapping)
        assert (plan.existing is None) == (number == 2)
        recovery = site.recover(plan, copy)
        assert recovery.state == "open"
        steps = [row[0] for row in copy.sql("SELECT note FROM ledger WHERE note LIKE 'step%' ORDER BY id")]
        assert steps == [f"step {one}" for one in range(number + 1)]
        copy.sql("DELETE FROM ledger WHERE id % 7 = 0")
        copy.stop()


def test_a_directory_in_use_is_refused_also_by_its_tablespace(site: Protected, make_cluster: ClusterFactory) -> None:
    site.settle()
    latest = RecoveryTarget(kind=TargetKind.LATEST)
    with pytest.raises(Refused, match="a server is running on"):
        plan_in_place(site, latest)
    copied = site.place / "copied"
    site.restore(latest, target_dir=str(copied), tablespace_mapping={str(site.place / "space"): str(copied) + "-space"})
    link = next((copied / "pg_tblspc").iterdir())
    link.unlink()
    link.symlink_to(site.place / "space")  # as in a copy made with cp: its links are the original's
    with pytest.raises(Refused, match="with the tablespace directory"):
        site.plan(latest, target_dir=str(copied), delta=True)
