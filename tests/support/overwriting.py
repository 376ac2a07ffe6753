"""Backups that are restored over one another, and what must come of it: exactly what a fresh restore makes.

The one idea: two backups with different contents, and a third whose pages lie in the packs of both, page by page, as
they do after incremental backups, are enough to meet every way in which a frame can be needed in part."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from pghaven.events import ignore
from pghaven.postgres.datadir import RESTORE_PLAN_FILE
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.blockmap import HOLE, Placements
from pghaven.repository.manifest import Manifest
from pghaven.repository.mapmaking import build_block_map
from pghaven.repository.repository import Repository
from pghaven.restore.execute import RestoreResult, run_restore
from pghaven.store.memory import MemoryStore
from tests.support.places import make_directory, remove_directory
from tests.support.synthetic import (
    CLUSTER,
    PAGE,
    TABLESPACE_OID,
    BackupOrder,
    SourceTree,
    archive_wal,
    commit,
    make_intent,
    make_pages,
    make_repository,
    make_settings,
    make_source,
    plan,
    take_backup,
)

MIB = 1 << 20
FIRST, SECOND, MIXED = BackupOrder(number=1), BackupOrder(number=2, one_by_one=False), BackupOrder(number=3)
SPACE = f"pg_tblspc/{TABLESPACE_OID}"
OURS = {RESTORE_PLAN_FILE}  # says where it lies and how it came there


class CountingStore(MemoryStore):
    """Counts the bytes of packs that were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_bytes = 0

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        if "/packs/" in name:
            self.read_bytes += length
        return super().read_range(name, offset, length)


class Ground:
    """Three backups of one cluster: two that differ, and one whose pages lie in the packs of both, page by page, as
    they do after incremental backups; and what a fresh restore of each makes."""

    def __init__(
        self, store: CountingStore, repository: Repository, manifests: dict[str, Manifest], root: Path
    ) -> None:
        self.store = store
        self.repository = repository
        self.manifests = manifests
        self.fresh = {label: root / f"fresh-{label}" for label in manifests}
        for label, target in self.fresh.items():
            run_restore(plan(repository, label, target), make_settings(repository), ignore)

    def __repr__(self) -> str:
        return "ground"  # what a failing example shows

    @contextmanager
    def target(self, label: str) -> Iterator[Path]:
        """A restored directory, and its tablespace beside it, to be spoilt."""
        place = make_directory()
        try:
            target = place / "target"
            copy_tree(self.fresh[label], target)
            yield target
        finally:
            remove_directory(place)

    def carry_out(self, label: str, target: Path, **options: bool) -> RestoreResult:
        made = plan(self.repository, label, target, delta=True, **options)
        return run_restore(made, make_settings(self.repository), ignore)


def copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)
    space = Path(f"{target}-{TABLESPACE_OID}")
    shutil.copytree(f"{source}-{TABLESPACE_OID}", space)
    (target / SPACE).unlink()
    (target / SPACE).symlink_to(space)
    left = target / RESTORE_PLAN_FILE
    left.write_text(left.read_text().replace(str(source), str(target)))


@contextmanager
def open_ground() -> Iterator[Ground]:
    root = make_directory()
    try:
        store = CountingStore()
        repository = make_repository(store)
        manifests: dict[str, Manifest] = {}
        for order, salt in ((FIRST, 1), (SECOND, 2)):
            (root / order.label).mkdir()
            source = make_source(root / order.label, salt=salt, big=True)
            add_files(source, salt)
            manifests[order.label] = take_backup(repository, source, order)
        manifests[MIXED.label] = mix(repository, manifests[FIRST.label], manifests[SECOND.label])
        yield Ground(store, repository, manifests, root)
    finally:
        remove_directory(root)


def add_files(source: SourceTree, salt: int) -> None:
    """Beside what the tree has: a file of many frames, one of odd size, and one whose pages are the same in both."""
    random = np.random.default_rng(salt)
    base = source.data_directory / "base" / "5"
    (base / "30000").write_bytes(make_pages(3 * MIB // PAGE, salt))
    (base / "30001").write_bytes(make_pages(200, 7))
    (source.data_directory / "pg_xact" / "0001").write_bytes(random.bytes(100_001))
    if salt == 2:
        (base / "30002").write_bytes(make_pages(5, 9))


def mix(repository: Repository, one: Manifest, other: Manifest) -> Manifest:
    """A backup with the files of the second; of each file that has its size in both, the even pages are the first's."""
    packs = (*one.packs, *other.packs)
    sizes = {bytes(one.files.path(number)): int(size) for number, size in enumerate(one.files.size)}
    firsts = {bytes(one.files.path(number)): number for number in range(len(one.files.names))}
    rows: list[tuple[int, int, int, int, int]] = []
    hashes = other.files.content_hash.copy()
    for number, size in enumerate(other.files.size.tolist()):
        path = bytes(other.files.path(number))
        own = [(*run, len(one.packs)) for run in runs_of(other, number)]
        mixed = sizes.get(path) == size
        if mixed:
            hashes[number] = 0  # not known
        theirs = [(*run, 0) for run in runs_of(one, firsts[path])] if mixed else own
        for page in range(0, size, PAGE):
            for offset, length, pack, pack_offset, shift in theirs if page // PAGE % 2 == 0 else own:
                start, end = max(page, offset), min(page + PAGE, size, offset + length)
                if start < end and pack != HOLE:
                    rows.append((number, start, end - start, pack + shift, pack_offset + start - offset))
                elif start < end:
                    rows.append((number, start, end - start, HOLE, 0))
    columns = list(zip(*rows, strict=True))
    pieces = Placements(
        file=np.array(columns[0], np.uint32),
        file_offset=np.array(columns[1], np.uint64),
        length=np.array(columns[2], np.uint64),
        pack=np.array(columns[3], np.uint32),
        pack_offset=np.array(columns[4], np.uint64),
    )
    block_map, found = build_block_map(pieces, len(other.files.names))
    assert np.array_equal(found, other.files.size)
    facts = replace(
        other.facts,
        label=MIXED.label,
        start_lsn=MIXED.start_lsn,
        stop_lsn=MIXED.stop_lsn,
        started_at=MIXED.started_at,
        stopped_at=MIXED.started_at,
    )
    files = replace(other.files, content_hash=hashes)
    catalog = BackupCatalog(repository, CLUSTER)
    catalog.announce(MIXED.label, make_intent(MIXED))
    archive_wal(repository, MIXED)
    return commit(catalog, replace(other, facts=facts, files=files, packs=packs, block_map=block_map), MIXED)


def runs_of(manifest: Manifest, file: int) -> list[tuple[int, int, int, int]]:
    """(file offset, length, pack, offset in the pack) of each run of a file."""
    block_map = manifest.block_map
    first = int(block_map.runs_of_file[:file].sum())
    runs, at = [], 0
    for number in range(first, first + int(block_map.runs_of_file[file])):
        length = int(block_map.length[number])
        runs.append((at, length, int(block_map.pack[number]), int(block_map.offset[number])))
        at += length
    return runs


# -- what a tree is ----------------------------------------------------------------------------------------------------


def describe(target: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a restored directory and its tablespace; times of files only, as directories have none."""
    seen: dict[str, tuple[object, ...]] = {}
    for root, prefix in ((target, ""), (Path(f"{target}-{TABLESPACE_OID}"), SPACE)):
        for directory, names, files in os.walk(root):
            for name in (*names, *files):
                path = Path(directory, name)
                found = path.lstat()
                key = str(Path(prefix) / path.relative_to(root))
                kind = stat.S_IFMT(found.st_mode)
                if stat.S_ISREG(found.st_mode):
                    seen[key] = (kind, stat.S_IMODE(found.st_mode), path.read_bytes())
                else:
                    seen[key] = (kind, None if path.is_symlink() else stat.S_IMODE(found.st_mode))
    return {name: what for name, what in seen.items() if name not in OURS}


def describe_times(target: Path, manifest: Manifest) -> list[tuple[str, int]]:
    files = manifest.files
    paths = [os.fsdecode(files.path(number)) for number in range(len(files.names))]
    return [(path, (target / path).stat().st_mtime_ns) for path in paths if path != "postgresql.auto.conf"]


def assert_as_fresh(ground: Ground, label: str, target: Path, *, foreign: frozenset[str] = frozenset()) -> None:
    found, expected = describe(target), describe(ground.fresh[label])
    found = {name: what for name, what in found.items() if name not in foreign}
    assert found.keys() == expected.keys()
    assert not [name for name in found if found[name] != expected[name]]
    manifest = ground.manifests[label]
    assert describe_times(target, manifest) == describe_times(ground.fresh[label], manifest)
