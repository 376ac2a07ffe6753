"""Backup and restore, killed at every step, out of space, and with a damaged repository: nothing is lost or half done.

Kills are exact: strace ends a process just before its Nth call of a kind takes effect, for N = 1, 2, 3 … until the
command gets through.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pghaven.errors import TargetFailed
from pghaven.repository.entry import BackupState
from tests.cli.running import clean_environment
from tests.fault.volumes import needs_root
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import own
from tests.support.protected import Protected, dump_hash
from tests.support.waiting import PATIENCE_SECONDS

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
_ROUNDS_MAX = 40


@pytest.fixture
def site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    protected = Protected(make_cluster(), pghaven_command, server_path)
    protected.cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
    return protected


def run(site: Protected, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "pghaven.cli.main", "--config", str(site.config), *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=clean_environment(), check=False, cwd="/"
    )


def killer(calls: str, number: int) -> tuple[str, ...]:
    inject = f"inject={calls}:signal=SIGKILL:when={number}"
    return ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", inject)


def until_it_gets_through(calls: str, attempt: Callable[[tuple[str, ...]], subprocess.CompletedProcess[str]]) -> int:
    """Runs with a kill before call 1, 2, 3 …; how many kills there were before a run was clean."""
    for number in range(1, _ROUNDS_MAX):
        ended = attempt(killer(calls, number))
        if ended.returncode == 0:
            return number - 1
    raise AssertionError(f"still killed after {_ROUNDS_MAX} rounds: {ended.stderr}")


@pytest.fixture
def adopt(make_cluster: ClusterFactory) -> Callable[[Path], TestCluster]:
    return make_cluster.adopt


def start_and_compare(site: Protected, adopt: Callable[[Path], TestCluster], target: Path) -> None:
    restored = adopt(target)
    restored.start()
    restored.wait_for("SELECT NOT pg_is_in_recovery()")
    assert dump_hash(restored) == dump_hash(site.cluster)


@needs_strace
def test_a_backup_killed_before_any_of_its_writes_leaves_the_repository_sound(
    site: Protected, adopt: Callable[[Path], TestCluster]
) -> None:
    def attempt(prefix: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        before = len(site.catalog.list_committed())
        ended = run(site, "backup", prefix=prefix)
        states = [entry.state for entry in site.catalog.list_entries()]
        assert states.count(BackupState.COMMITTED) == before + (ended.returncode == 0)
        assert site.cluster.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pghaven'") <= 1
        return ended

    kills = until_it_gets_through("link,linkat", attempt)
    assert kills >= 3, "intent, manifest and decision at least"
    assert [entry.state for entry in site.catalog.list_entries()].count(BackupState.UNDECIDED) == 0
    site.settle()
    target = site.place / "back"
    assert run(site, "restore", "main", "--target-dir", str(target)).returncode == 0
    start_and_compare(site, adopt, target)


@needs_strace
@pytest.mark.parametrize("calls", ["rename,renameat,renameat2", "syncfs", "symlink,symlinkat,utimensat"])
def test_a_restore_killed_at_any_step_cannot_be_started_and_can_be_run_again(
    site: Protected, adopt: Callable[[Path], TestCluster], calls: str
) -> None:
    site.backup()
    site.settle()
    target = site.place / "back"

    def attempt(prefix: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        ended = run(site, "restore", "main", "--target-dir", str(target), prefix=prefix)
        assert (target / "global" / "pg_control").exists() == (ended.returncode == 0)
        return ended

    # Files are many: of their calls every 150th is enough.
    if "utimensat" in calls:
        for number in (1, 150, 300):
            assert attempt(killer(calls, number)).returncode != 0
        assert run(site, "restore", "main", "--target-dir", str(target)).returncode == 0
    else:
        assert until_it_gets_through(calls, attempt) >= 1
    start_and_compare(site, adopt, target)


def test_a_foreign_file_in_an_unfinished_restore_is_named_and_kept(site: Protected) -> None:
    site.backup()
    site.settle()
    plan = site.plan()
    site.carry_out(plan)
    target = Path(plan.request.target_dir)
    (target / "global" / "pg_control").unlink()  # as if it had been killed just before the end
    (target / "precious.txt").write_text("mine")
    ended = run(site, "restore", "main", "--target-dir", str(target))
    assert ended.returncode == 12
    assert "precious.txt" in ended.stderr
    assert (target / "precious.txt").read_text() == "mine"


def test_an_interrupted_backup_says_so_and_is_abandoned(site: Protected) -> None:
    command = [sys.executable, "-m", "pghaven.cli.main", "--config", str(site.config), "-v", "backup"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment()
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "starting backup" in line:
                process.send_signal(signal.SIGINT)
                break
        process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 18
    assert {entry.state for entry in site.catalog.list_entries()} <= {BackupState.ABANDONED}
    assert run(site, "backup").returncode == 0


# -- space ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    mounted: list[Path] = []

    def mount(place: Path, options: str) -> None:
        if place in mounted:
            subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)
            return
        place.mkdir(exist_ok=True)
        ended = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if ended.returncode != 0:
            pytest.skip(f"cannot mount here: {ended.stderr.decode().strip()}")
        mounted.append(place)
        own(place)

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


@needs_root
def test_a_full_repository_fails_the_backup_and_nothing_else(
    site: Protected, volume: Callable[[Path, str], None]
) -> None:
    packs = site.repository_directory / "clusters" / "main" / "packs"
    packs.parent.mkdir(exist_ok=True)
    own(packs.parent)
    volume(packs, "size=64k,mode=0750")
    ended = run(site, "backup")
    assert ended.returncode == 14
    assert "no space" in ended.stderr
    assert site.catalog.list_committed() == ()
    volume(packs, "size=512m")
    assert run(site, "backup").returncode == 0


@needs_root
def test_a_target_that_fills_up_cannot_be_started_and_can_be_finished(
    site: Protected, volume: Callable[[Path, str], None], adopt: Callable[[Path], TestCluster]
) -> None:
    site.backup()
    site.settle()
    target = site.place / "small"
    volume(target, "size=8m,mode=0700")
    refused = run(site, "restore", "main", "--target-dir", str(target))
    assert refused.returncode == 12
    assert "not enough space" in refused.stderr
    assert os.listdir(target) == []
    volume(target, "size=512m,nr_inodes=300")  # room for the bytes, not for the files: nobody could have known
    failed = run(site, "restore", "main", "--target-dir", str(target))
    assert failed.returncode == 14
    assert not (target / "global" / "pg_control").exists()
    volume(target, "size=512m,nr_inodes=10000")
    assert run(site, "restore", "main", "--target-dir", str(target)).returncode == 0
    start_and_compare(site, adopt, target)


@needs_root
def test_a_target_that_somebody_else_fills_meanwhile_cannot_be_started_and_can_be_finished(
    site: Protected, volume: Callable[[Path, str], None], adopt: Callable[[Path], TestCluster]
) -> None:
    """There was room when it was planned; now there is some for the first pages."""
    site.backup()
    site.settle()
    disk = site.place / "disk"
    volume(disk, "size=512m,mode=0755")
    target = disk / "data"
    plan = site.plan(target_dir=str(target))
    volume(disk, "size=10m,mode=0755")
    with pytest.raises(TargetFailed, match="No space left on device") as failed:
        site.carry_out(plan)
    assert "run the same command again" in str(failed.value.hint)
    assert not (target / "global" / "pg_control").exists()
    assert sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) > 1 << 20, "it had begun to write"
    volume(disk, "size=512m,mode=0755")
    assert run(site, "restore", "main", "--target-dir", str(target)).returncode == 0
    start_and_compare(site, adopt, target)


# -- damage -----------------------------------------------------------------------------------------------------------


def flip(path: Path) -> bytes:
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])
    return whole


@pytest.mark.parametrize("what", ["packs", "manifest"])
@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
def test_damage_is_named_and_never_restored(
    site: Protected, adopt: Callable[[Path], TestCluster], what: str, how: str
) -> None:
    site.backup()
    site.settle()
    home = site.repository_directory / "clusters" / "main"
    victim = max((home / "packs").rglob("*"), key=size) if what == "packs" else next(home.rglob("manifest"))
    whole = victim.read_bytes()
    if how == "flip":
        flip(victim)
    elif how == "truncate":
        victim.write_bytes(whole[: len(whole) // 2])
    else:
        victim.unlink()
    target = site.place / "back"
    ended = run(site, "--json", "restore", "main", "--target-dir", str(target))
    assert ended.returncode in (10, 16)
    error: dict[str, Any] = json.loads(ended.stdout)["error"]
    assert victim.name in error["message"]
    assert not (target / "global" / "pg_control").exists()
    victim.write_bytes(whole)
    own(victim)
    assert run(site, "restore", "main", "--target-dir", str(target)).returncode == 0
    start_and_compare(site, adopt, target)


def size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
