"""Whatever has become of a data directory: a restore over it makes it what a fresh restore would have made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.overwriting import FIRST, MIB, MIXED, SECOND, SPACE, Ground, assert_as_fresh, open_ground
from tests.support.synthetic import PAGE


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with open_ground() as made:
        yield made


# -- what may have become of it ----------------------------------------------------------------------------------------


FILES = (
    "PG_VERSION",
    "postgresql.conf",
    "empty",
    "base/5/PG_VERSION",
    "base/5/16384",
    "base/5/16384.1",
    "base/5/16385",
    "base/5/16390",
    "base/5/20000",
    "base/5/30000",
    "base/5/30001",
    "global/1262",
    "global/pg_filenode.map",
    "pg_xact/0000",
    "pg_xact/0001",
    f"{SPACE}/PG_17_202406281/5/16500",
)
DIRECTORIES = ("base/5", "pg_xact", "pg_stat_tmp", "pg_wal", f"{SPACE}/PG_17_202406281/5")
EXTRA = (
    "base/5/99999",
    "base/5/99999_vm.3",
    "base/7/16384",
    "base/5/t3_16700",
    "base/pgsql_tmp/pgsql_tmp12.0",
    "global/pg_internal.init",
    "pg_xact/00FF",
    "pg_multixact/members/0000",
    "pg_replslot/standby/state",
    "pg_stat/pgstat.stat",
    "pg_twophase/0000000000000301",
    "pg_wal/archive_status/000000010000000000000009.ready",
    "postmaster.pid",
    "standby.signal",
    "backup_label.old",
    "global/.pg_control.0a0b0c0d0e0f.tmp",
    f"{SPACE}/PG_17_202406281/5/99999",
)


@dataclass(frozen=True)
class Change:
    name: str
    kind: str
    where: int
    other: str


def flip(path: Path, change: Change) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[change.where % len(content)] ^= 1 << change.where % 8
        path.write_bytes(content)


def cut(path: Path, change: Change) -> None:
    os.truncate(path, change.where % (path.stat().st_size + 1))


def extend(path: Path, change: Change) -> None:
    with path.open("ab") as file:
        file.write(b"x" * (change.where % (3 * PAGE) + 1))


def zero(path: Path, change: Change) -> None:
    content = bytearray(path.read_bytes())
    start = change.where % (len(content) + 1) // PAGE * PAGE
    content[start : start + 2 * PAGE] = bytes(len(content[start : start + 2 * PAGE]))
    path.write_bytes(content)


def remove(path: Path, _change: Change) -> None:
    path.unlink()


def rename(path: Path, change: Change) -> None:
    path.rename(path.parent / str(70000 + change.where % 9)) if path.parent.name == "5" else path.unlink()


def touch(path: Path, change: Change) -> None:
    os.utime(path, ns=(change.where, change.where))
    path.chmod(0o600 if change.where % 2 else 0o640)


def make_pipe(path: Path, _change: Change) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES: dict[str, Callable[[Path, Change], None]] = {
    "flip": flip,
    "cut": cut,
    "extend": extend,
    "zero": zero,
    "remove": remove,
    "rename": rename,
    "touch": touch,
    "pipe": make_pipe,
}


def is_inside(path: Path, target: Path) -> bool:
    """Whether no link, but that of the tablespace, leads there."""
    ways = [path, *path.parents]
    return not any(way.is_symlink() for way in ways if target in way.parents and way != target / SPACE)


def apply(target: Path, outside: Path, change: Change) -> None:
    path, other = target / change.name, target / change.other
    if not is_inside(path, target) or not path.is_file():
        return
    if change.kind in CHANGES:
        CHANGES[change.kind](path, change)
    elif change.kind == "swap" and path != other and is_inside(other, target) and other.is_file():
        spare = target / "spare"
        path.rename(spare)
        other.rename(path)
        spare.rename(other)
    elif change.kind == "link":
        path.unlink()
        path.symlink_to(outside / "secret")
    elif change.kind == "hard link":
        path.unlink()
        path.hardlink_to(outside / "secret")
    elif change.kind == "linked directory":
        directory = target / DIRECTORIES[change.where % len(DIRECTORIES)]
        if directory.is_dir() and not directory.is_symlink():
            shutil.rmtree(directory)
            directory.symlink_to(outside)


CHANGE = st.builds(
    Change,
    name=st.sampled_from(FILES),
    kind=st.sampled_from([*CHANGES, "swap", "link", "hard link", "linked directory"]),
    where=st.integers(0, 7 * MIB),
    other=st.sampled_from(FILES),
)
LABELS = st.sampled_from([FIRST.label, SECOND.label, MIXED.label])


@settings(max_examples=60, deadline=None)
@given(
    before=LABELS,
    after=LABELS,
    changes=st.lists(CHANGE, max_size=6),
    extra=st.lists(st.sampled_from(EXTRA), max_size=4, unique=True),
)
def test_whatever_was_there_becomes_what_a_fresh_restore_makes(
    ground: Ground, before: str, after: str, changes: list[Change], extra: list[str]
) -> None:
    with ground.target(before) as target:
        outside = make_outside(target.parent)
        for change in changes:
            apply(target, outside, change)
        for name in extra:
            add_extra(target, name)
        watched = watch(outside)
        result = ground.carry_out(after, target)
        assert_as_fresh(ground, after, target)
        assert watch(outside) == watched
        total = ground.manifests[after].facts.total_bytes
        assert result.written_bytes + result.proven_bytes == total


def add_extra(target: Path, name: str) -> None:
    path = target / name
    if not is_inside(path, target):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"4194304\n")  # as good as anything, and in postmaster.pid no process


def make_outside(place: Path) -> Path:
    outside = place / "outside"
    outside.mkdir()
    for name in ("secret", "16384", "30000", "0000", "000000010000000000000003", "archive_status"):
        (outside / name).write_text("keep")
    return outside


def watch(outside: Path) -> dict[str, tuple[object, ...]]:
    found = {path.name: (path.lstat(), path.read_bytes()) for path in outside.iterdir()}
    return {
        name: (one.st_ino, one.st_mode, one.st_uid, one.st_size, one.st_mtime_ns, content)
        for name, (one, content) in found.items()
    }
