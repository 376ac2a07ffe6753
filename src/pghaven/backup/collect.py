"""What the workers report, gathered into the columns of a manifest.

The one idea: results come in any order and are kept as plain columns per worker, which are not in memory where they are
long; once all packs have names, one pass of NumPy over some files at a time makes the block map of them, over what
unchanged files keep of their parent's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pghaven.backup.gather import KNOWN_PACKS
from pghaven.backup.listing import Listing
from pghaven.backup.pagecheck import SuspectPage
from pghaven.backup.results import ReadResult, WorkerPacks
from pghaven.repository.blockmap import HOLE, BlockMap, Placements, used_packs
from pghaven.repository.manifest import FLAG_PAGES_VERIFIED, HASH_BYTES, FileColumns, Manifest
from pghaven.repository.mapmaking import Inheritance, build_block_map
from pghaven.repository.pack import PackRef
from pghaven.repository.packtable import PackRows, PackTable, join_packs
from pghaven.runtime.columns import Column
from pghaven.runtime.names import Names
from pghaven.runtime.spill import Spool, in_parts, let_go, make_column

_TYPES = "IQQIQ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parentage:
    """Which files go on from a parent's.

    ``source`` has for each file of the listing the number of its counterpart, or -1. Where ``compared`` is set it holds
    only if a worker reports the file as unchanged. ``rehashed`` files have parts of their own, and so have not the
    parent's hash.
    """

    parent: Manifest
    source: npt.NDArray[np.int64]
    compared: npt.NDArray[np.bool_]
    rehashed: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The files that were there to be read, where their bytes lie, and the packs that these need.

    ``reused_bytes`` of them were found in packs of an interrupted backup.
    """

    files: FileColumns
    block_map: BlockMap
    packs: PackTable
    reused_bytes: int


class Collector:
    """Takes the results of all workers for a listing of ``count`` files; ``finish`` is called once, after the last one.

    ``known`` are the packs of an interrupted backup that the workers were told of.
    """

    def __init__(self, count: int, known: Sequence[PackRef] = ()) -> None:
        self.read_bytes = 0
        self.suspects: list[SuspectPage] = []
        self.unsettled: list[int] = []
        self._known = known
        self._has_vanished: npt.NDArray[np.bool_] = make_column(count, np.bool_)
        self._is_unchanged: npt.NDArray[np.bool_] = make_column(count, np.bool_)
        self._hashes: npt.NDArray[np.uint8] = make_column(count * HASH_BYTES, np.uint8)
        self._columns: dict[int, tuple[Column, ...]] = {}
        self._packs: dict[int, PackRows] = {}
        self._closed: set[int] = set()

    def take(self, result: ReadResult | WorkerPacks) -> None:
        columns = self._columns.setdefault(result.worker, tuple(Column(kind) for kind in _TYPES))
        for column, data in zip(columns, result.pieces, strict=True):
            column.extend(data)
        self._packs.setdefault(result.worker, PackRows()).extend(result.packs)
        if isinstance(result, WorkerPacks):
            self._closed.add(result.worker)
            return
        self.read_bytes += result.read_bytes
        self.suspects.extend(result.suspects)
        self.unsettled.extend(result.unsettled)
        self._has_vanished[list(result.vanished)] = True
        self._is_unchanged[list(result.unchanged)] = True
        hashes = self._hashes.data
        for number, content_hash in result.hashes:
            hashes[HASH_BYTES * number : HASH_BYTES * (number + 1)] = content_hash
        let_go()

    @property
    def pack_count(self) -> int:
        """How many packs were written."""
        return sum(map(len, self._packs.values()))

    @property
    def stored_bytes(self) -> int:
        """What these take in the store."""
        return sum(rows.size_bytes for rows in self._packs.values())

    def finish(self, listing: Listing, *, verified: bool, parentage: Parentage | None = None) -> Collected:
        numbers = self._number_kept()
        source = self._sources(numbers, parentage)
        written, parents = self.pack_count, parentage.parent.packs if parentage is not None else ()
        pieces, reused_bytes = self._pieces(written + len(parents))
        inheritance = None
        if parentage is not None:
            inheritance = Inheritance(
                parent=parentage.parent.block_map,
                source=source,
                size=_pick(listing.size.to_array(), numbers),
                pack_of_parent=np.arange(written, written + len(parents), dtype=np.uint32),
            )
        block_map, sizes = build_block_map(pieces, len(numbers), inheritance)
        packs = self._join_packs(parents)
        block_map, used = used_packs(block_map, len(packs))
        files = self._files(listing, numbers, sizes)
        if parentage is not None:
            _inherit_hashes(files, numbers, source, parentage)
        parent = parentage.parent.files if parentage is not None else None
        _set_flags(files, listing, numbers, (source, parent) if verified else None)
        return Collected(
            files=files,
            block_map=block_map,
            packs=packs.choose(used),
            reused_bytes=reused_bytes,
        )

    def _join_packs(self, parents: Sequence[PackRef]) -> PackTable:
        """All packs that were written, in the order of the workers, then the parent's, then the known ones."""
        written = [self._packs[worker].finish() for worker in sorted(self._packs)]
        return join_packs(*written, parents, self._known)

    def _number_kept(self) -> npt.NDArray[np.uint32]:
        """The numbers in the listing of the files that were there."""
        numbers = Column("I")
        for part in in_parts(len(self._has_vanished)):
            kept = np.flatnonzero(~self._has_vanished[part])
            numbers.extend((kept + part.start).astype(np.uint32).tobytes())
        return numbers.to_array()

    def _sources(self, numbers: npt.NDArray[np.uint32], parentage: Parentage | None) -> npt.NDArray[np.int64]:
        """For each file that is kept its counterpart in the parent, or -1."""
        if parentage is None:
            return np.zeros(0, np.int64)
        source = make_column(len(numbers), np.int64)
        for part in in_parts(len(numbers)):
            here = numbers[part]
            source[part] = np.where(~parentage.compared[here] | self._is_unchanged[here], parentage.source[here], -1)
        return source

    def _files(
        self,
        listing: Listing,
        numbers: npt.NDArray[np.uint32],
        sizes: npt.NDArray[np.uint64],
    ) -> FileColumns:
        hashes = self._hashes.reshape(-1, HASH_BYTES)
        content_hash = make_column(len(numbers) * HASH_BYTES, np.uint8).reshape(-1, HASH_BYTES)
        for part in in_parts(len(numbers)):
            content_hash[part] = hashes[numbers[part]]
        names = listing.names
        if len(numbers) < len(names):
            names = Names(name for name, gone in zip(names, self._has_vanished, strict=True) if not gone)
        return FileColumns(
            directories=[_encode(path) for path in listing.directories],
            directory_mode=listing.directory_mode.to_array(),
            names=names,
            directory=_pick(listing.directory.to_array(), numbers),
            size=sizes,
            mode=_pick(listing.mode.to_array(), numbers),
            mtime_ns=_pick(listing.mtime_ns.to_array(), numbers),
            owner=_pick(listing.owner.to_array(), numbers),
            flags=make_column(len(numbers), np.uint8),
            content_hash=content_hash,
        )

    def _pieces(self, first_known: int) -> tuple[Placements, int]:
        """All pieces of the files that are kept, and how many bytes of them lie in known packs.

        Each worker's packs are counted on from those of the one before, known ones from ``first_known`` on.
        """
        assert self._columns.keys() == self._closed, "a worker has not told all its packs"
        numbers = make_column(len(self._has_vanished), np.uint32)
        reached = 0
        for part in in_parts(len(numbers)):
            kept = ~self._has_vanished[part]
            numbers[part] = np.cumsum(kept) + (reached - 1)
            reached += int(np.count_nonzero(kept))
        joined = [Spool() for _ in _TYPES]
        base = reused_bytes = 0
        for worker in sorted(self._packs):
            columns = tuple(column.to_array() for column in self._columns.pop(worker))
            for part in in_parts(len(columns[0])):
                file, offset, length, pack, pack_offset = (column[part] for column in columns)
                is_known = (pack >= KNOWN_PACKS) & (pack != HOLE)
                shift = np.where(is_known, np.uint32((first_known - KNOWN_PACKS) % (1 << 32)), np.uint32(base))
                pack = np.where(pack == HOLE, pack, pack + shift)
                kept = ~self._has_vanished[file]
                reused_bytes += int(length[is_known & kept].sum())
                for spool, column in zip(joined, (numbers[file], offset, length, pack, pack_offset), strict=True):
                    spool.write(column[kept])
            base += len(self._packs[worker])
        file, pack = (joined[number].to_array(np.uint32) for number in (0, 3))
        offset, length, pack_offset = (joined[number].to_array(np.uint64) for number in (1, 2, 4))
        placements = Placements(file=file, file_offset=offset, length=length, pack=pack, pack_offset=pack_offset)
        return placements, reused_bytes


def _pick(column: npt.NDArray[Any], numbers: npt.NDArray[np.uint32]) -> npt.NDArray[Any]:
    """The entries of these files."""
    if len(numbers) == len(column):
        return column
    picked = make_column(len(numbers), column.dtype)
    for part in in_parts(len(numbers)):
        picked[part] = column[numbers[part]]
    return picked


def _inherit_hashes(
    files: FileColumns, numbers: npt.NDArray[np.uint32], source: npt.NDArray[np.int64], parentage: Parentage
) -> None:
    theirs = parentage.parent.files.content_hash
    for part in in_parts(len(numbers)):
        same = np.flatnonzero((source[part] >= 0) & ~parentage.rehashed[numbers[part]])
        files.content_hash[part][same] = theirs[source[part][same]]


def _set_flags(
    files: FileColumns,
    listing: Listing,
    numbers: npt.NDArray[np.uint32],
    origin: tuple[npt.NDArray[np.int64], FileColumns | None] | None,
) -> None:
    """Which files' pages were verified, here and where they are the parent's in the parent; without an origin none."""
    if origin is None:
        return
    source, parent = origin
    first_block = listing.first_block.to_array()
    for part in in_parts(len(numbers)):
        flags = np.where(first_block[numbers[part]] >= 0, FLAG_PAGES_VERIFIED, 0).astype(np.uint8)
        if parent is not None:
            inherited = np.flatnonzero(source[part] >= 0)
            flags[inherited] &= parent.flags[source[part][inherited]]
        files.flags[part] = flags


def _encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
