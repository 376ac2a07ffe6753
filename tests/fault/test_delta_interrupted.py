"""A restore over an existing directory, ended at any step: it cannot be started, and running it again completes it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pghaven.errors import PghavenError
from pghaven.events import ignore
from pghaven.repository.repository import Repository
from pghaven.restore.execute import run_restore
from tests.cli.running import clean_environment
from tests.fault.test_interrupted import killer, needs_strace
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.overwriting import FIRST, MIXED, SECOND, Ground, assert_as_fresh, open_ground
from tests.support.protected import Protected, dump_hash
from tests.support.synthetic import make_settings, plan
from tests.support.unreliable import UnreliableStore


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with open_ground() as made:
        yield made


@pytest.mark.parametrize(("before", "after"), [(FIRST.label, SECOND.label), (SECOND.label, MIXED.label)])
def test_a_repository_that_is_lost_at_any_read_leaves_a_directory_that_can_be_finished(
    ground: Ground, before: str, after: str
) -> None:
    """Each time over what the last try left, then by one that gets through."""
    with ground.target(before) as target:
        failures = 0
        for number in range(1, 200):
            store = UnreliableStore(ground.store, number, "before")
            repository = Repository(store, ground.repository.descriptor)
            made = plan(ground.repository, after, target, delta=True)
            try:
                run_restore(made, make_settings(repository), ignore)
            except PghavenError:
                failures += 1
                assert not (target / "global" / "pg_control").exists()
                continue
            break
        assert failures > 3
        assert_as_fresh(ground, after, target)


@pytest.fixture
def site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    made = Protected(make_cluster(), pghaven_command, server_path)
    made.cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
    made.cluster.sql("CREATE TABLE u AS SELECT i FROM generate_series(1, 20000) i")
    return made


@needs_strace
@pytest.mark.parametrize(
    ("calls", "numbers"),
    [
        ("rename,renameat,renameat2", range(1, 9)),
        ("unlink,unlinkat,rmdir", range(1, 300, 23)),
        ("pwrite64,pwritev,ftruncate", range(1, 200, 17)),
        ("syncfs,fsync", range(1, 12)),
    ],
)
def test_a_kill_at_any_step_leaves_a_directory_that_cannot_be_started_and_can_be_finished(
    site: Protected, make_cluster: ClusterFactory, calls: str, numbers: range
) -> None:
    site.backup()
    expected = dump_hash(site.cluster)
    moment = str(site.cluster.value("SELECT clock_timestamp()"))
    spoil(site.cluster)
    site.settle()
    site.cluster.crash()
    lost = site.cluster.data_directory
    wal = {path.name: path.read_bytes() for path in (lost / "pg_wal").iterdir() if path.is_file()}
    kills = 0
    for number in numbers:
        ended = restore(site, lost, moment, prefix=killer(calls, number))
        if ended.returncode == 0:
            break
        kills += 1
        if (lost / "global" / "pg_control").exists():  # as it was, or complete, and nothing between
            assert (lost / "postmaster.opts").exists() != (lost / "recovery.signal").exists()
    assert kills >= 1
    assert restore(site, lost, moment).returncode == 0
    kept = {path.name: path.read_bytes() for place in lost.parent.glob("*.pg_wal-*") for path in place.iterdir()}
    archived = {name for name in wal if site.archive.exists(name)}
    assert not [name for name, content in kept.items() if wal[name] != content]
    assert not {name for name in wal if name not in archived and is_written(wal[name], name)} - kept.keys()
    server = make_cluster.adopt(lost)
    server.start()
    server.wait_for("SELECT NOT pg_is_in_recovery()")
    assert dump_hash(server) == expected


def spoil(cluster: TestCluster) -> None:
    cluster.sql("UPDATE t SET md5 = 'gone' WHERE i % 100 = 0")
    cluster.sql("DROP TABLE u")
    for number in range(20):
        cluster.sql(f"CREATE TABLE more_{number} (i int PRIMARY KEY, note text)")


def is_written(content: bytes, name: str) -> bool:
    """Whether a segment's first page is its own (16 MiB segments, whose names hold their position)."""
    log, segment = int(name[8:16], 16), int(name[16:24], 16)
    return int.from_bytes(content[8:16], "little") == (log << 32) + segment * len(content)


def restore(
    site: Protected, target: Path, moment: str, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    words = ("restore", "main", "--target-dir", str(target), "--target-time", moment, "--delta")
    command = [*prefix, sys.executable, "-m", "pghaven.cli.main", "--config", str(site.config), *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=clean_environment(), check=False, cwd="/"
    )
