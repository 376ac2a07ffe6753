"""Whether a manifest may be believed: its counts, its paths, its packs.

The one idea: whoever can write to the store can write a manifest, so nothing in it may name a place outside the
directory it is restored to, or make a reader allocate without bound. A writer asks the same before it stores one, so
that no backup is committed that no reader would take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pghaven.errors import Damaged
from pghaven.postgres.segment import is_valid_segment_size
from pghaven.repository.blockmap import check_block_map, exact_sum
from pghaven.repository.container import FOOTER_BYTES, HEADER_BYTES
from pghaven.repository.packtable import PackTable
from pghaven.runtime.spill import in_parts, let_go

if TYPE_CHECKING:
    from pghaven.repository.manifest import BackupFacts, ConfigFile, FileColumns, Manifest

# As in any path of the system; the depth is what PostgreSQL's own directories need many times over.
_PATH_BYTES_MAX = 4096
_NAME_BYTES_MAX = 255
_DEPTH_MAX = 64
# Far above any file and pack, and far enough below 2**63 for offsets to be added to it.
_SIZE_BYTES_MAX = 1 << 60
# Written by a restore itself, before and after all files.
_NOT_FILES = frozenset({b"global/pg_control", b"pghaven.restore.json"})


def check_manifest(manifest: Manifest) -> None:
    """Raises Damaged saying what is wrong with it."""
    facts, files, packs = manifest.facts, manifest.files, PackTable.of(manifest.packs)
    _check_facts(facts, manifest.config_files)
    _check_columns(facts, files)
    let_go()
    taken = _check_directories(facts, files.directories)
    _check_names(files, taken)
    check_packs(packs)
    check_block_map(manifest.block_map, files.size, packs.plain_length)
    let_go()
    if facts.file_count != len(files.size) or facts.total_bytes != exact_sum(files.size):
        raise Damaged("its files are not as many or as large as it says")


def _check_facts(facts: BackupFacts, config_files: Sequence[ConfigFile]) -> None:
    sizes_valid = facts.block_size > 0 and facts.segment_blocks > 0 and is_valid_segment_size(facts.wal_segment_size)
    if not sizes_valid or facts.start_lsn > facts.stop_lsn:
        raise Damaged("its sizes or WAL positions cannot be")
    oids = [tablespace.oid for tablespace in facts.tablespaces]
    if len(set(oids)) != len(oids) or any(not 0 < oid < 1 << 32 for oid in oids):
        raise Damaged("its tablespaces' numbers cannot be")
    paths = [tablespace.path for tablespace in facts.tablespaces] + [file.path for file in config_files]
    if any("\0" in path or not path for path in paths):
        raise Damaged("a path in it cannot be one")


def _check_columns(facts: BackupFacts, files: FileColumns) -> None:
    count = len(files.size)
    columns: tuple[npt.NDArray[np.generic], ...] = (
        files.directory,
        files.mode,
        files.mtime_ns,
        files.owner,
        files.flags,
    )
    hashes = files.content_hash
    if len(files.names) != count or any(len(column) != count for column in (*columns, hashes)):
        raise Damaged("its columns of files differ in length")
    if len(files.directories) != len(files.directory_mode):
        raise Damaged("its columns of directories differ in length")
    if count and int(files.directory.max()) >= len(files.directories):
        raise Damaged("a file lies in a directory that is not listed")
    if count and int(files.owner.max()) >= len(facts.owners):
        raise Damaged("a file has an owner that is not listed")
    if count and int(files.size.max()) > _SIZE_BYTES_MAX:
        raise Damaged("a file is larger than any file can be")


def _check_directories(facts: BackupFacts, directories: Sequence[bytes]) -> set[bytes]:
    """Each lies in one listed before it; returns them and whatever else a file cannot be called."""
    tablespaces = {b"%d" % tablespace.oid for tablespace in facts.tablespaces}
    seen: set[bytes] = set()
    for path in directories:
        if path in seen:
            raise Damaged(f'directory "{_show(path)}" is listed twice')
        if path:
            _check_directory(path, tablespaces)
            if path.rpartition(b"/")[0] not in seen:
                raise Damaged(f'directory "{_show(path)}" lies in one that is not listed before it')
        seen.add(path)
    if b"global" not in seen:
        raise Damaged('it has no directory "global"')
    return seen | _NOT_FILES | {b"pg_tblspc/" + oid for oid in tablespaces}


def _check_directory(path: bytes, tablespaces: set[bytes]) -> None:
    parts = path.split(b"/")
    if len(path) > _PATH_BYTES_MAX or len(parts) > _DEPTH_MAX or not all(map(_can_be_name, parts)):
        raise Damaged(f'"{_show(path)}" cannot be a directory of a backup')
    if parts[0] == b"pg_tblspc" and len(parts) > 1 and parts[1] not in tablespaces:
        raise Damaged(f'"{_show(path)}" belongs to no tablespace of this backup')


def _check_names(files: FileColumns, taken: set[bytes]) -> None:
    numbers = {path: number for number, path in enumerate(files.directories)}
    # By directory and name as the files are, so that no path has to be joined for each of a million.
    taken_places = {(numbers.get(parent, -1), name) for parent, _, name in (path.rpartition(b"/") for path in taken)}
    previous = (-1, b"")
    places = zip(_iter_numbers(files.directory), files.names, strict=True)
    for number, place in enumerate(places):
        name = place[1]
        if b"/" in name or not _can_be_name(name):
            raise Damaged(f'"{_show(name)}" cannot be the name of a file')
        if place <= previous or place in taken_places:
            raise Damaged(f'"{_show(files.path(number))}" is listed twice, out of order, or cannot be a file')
        previous = place


def _iter_numbers(column: npt.NDArray[np.uint32]) -> Iterator[int]:
    for part in in_parts(len(column)):
        yield from column[part].tolist()


def _can_be_name(name: bytes) -> bool:
    return name not in (b"", b".", b"..") and len(name) <= _NAME_BYTES_MAX and b"\0" not in name


def check_packs(packs: PackTable) -> None:
    """Raises Damaged for packs whose sizes cannot be."""
    for part in in_parts(len(packs)):
        size, tail = packs.size_bytes[part], packs.tail_bytes[part]
        inside = (HEADER_BYTES + tail.astype(np.uint64) <= size) & (size <= _SIZE_BYTES_MAX) & (tail >= FOOTER_BYTES)
        if not np.all(inside & (packs.plain_length[part] <= _SIZE_BYTES_MAX)):
            raise Damaged("its table of packs holds sizes that cannot be")


def _show(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
