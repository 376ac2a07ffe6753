"""What the workers report, gathered into the columns of a manifest.

The one idea: results come in any order and are kept as plain columns per worker; once all packs have names, one pass of
NumPy makes the block map of them, over what unchanged files keep of their parent's.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pghaven.backup.gather import KNOWN_PACKS
from pghaven.backup.listing import Listing
from pghaven.backup.pagecheck import SuspectPage
from pghaven.backup.pipeline import ReadResult, WorkerPacks
from pghaven.repository.blockmap import HOLE, BlockMap, Placements, used_packs
from pghaven.repository.manifest import FLAG_PAGES_VERIFIED, HASH_BYTES, FileColumns, Manifest
from pghaven.repository.mapmaking import Inheritance, build_block_map
from pghaven.repository.pack import PackRef
from pghaven.runtime.names import Names

_TYPES = "IQQIQ"
_T = TypeVar("_T", bound=np.generic)


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
    packs: tuple[PackRef, ...]
    reused_bytes: int


class Collector:
    """Takes the results of all workers; ``finish`` is called once, after the last one.

    ``known`` are the packs of an interrupted backup that the workers were told of.
    """

    def __init__(self, known: tuple[PackRef, ...] = ()) -> None:
        self.read_bytes = 0
        self.suspects: list[SuspectPage] = []
        self._known = known
        self._vanished: set[int] = set()
        self._unchanged: set[int] = set()
        self._hashes: dict[int, bytes] = {}
        self._columns: dict[int, tuple[array[int], ...]] = {}
        self._packs: dict[int, tuple[PackRef, ...]] = {}

    def take(self, result: ReadResult | WorkerPacks) -> None:
        columns = self._columns.setdefault(result.worker, tuple(array(kind) for kind in _TYPES))
        for column, data in zip(columns, result.pieces, strict=True):
            column.frombytes(data)
        if isinstance(result, WorkerPacks):
            self._packs[result.worker] = result.packs
            return
        self.read_bytes += result.read_bytes
        self.suspects.extend(result.suspects)
        self._vanished.update(result.vanished)
        self._unchanged.update(result.unchanged)
        self._hashes.update(result.hashes)

    @property
    def packs(self) -> tuple[PackRef, ...]:
        """All packs that were written, in the order of the workers."""
        return tuple(pack for worker in sorted(self._packs) for pack in self._packs[worker])

    def finish(self, listing: Listing, *, verified: bool, parentage: Parentage | None = None) -> Collected:
        count = len(listing.size)
        kept = np.ones(count, bool)
        kept[list(self._vanished)] = False
        source = self._sources(count, parentage)[kept]
        size = _column(listing.size, np.dtype(np.uint64))[kept]
        pieces = self._pieces(kept)
        parents = parentage.parent.packs if parentage is not None else ()
        written = self.packs
        inheritance = None
        if parentage is not None:
            numbers = np.arange(len(written), len(written) + len(parents), dtype=np.uint32)
            inheritance = Inheritance(
                parent=parentage.parent.block_map, source=source, size=size, pack_of_parent=numbers
            )
        pieces = _renumber_known(pieces, len(written) + len(parents))
        is_reused = (pieces.pack >= len(written) + len(parents)) & (pieces.pack != HOLE)
        block_map, sizes = build_block_map(pieces, int(kept.sum()), inheritance)
        packs = (*written, *parents, *self._known)
        block_map, used = used_packs(block_map, len(packs))
        files = self._files(listing, kept, sizes)
        has_pages = (_column(listing.first_block, np.dtype(np.int64)) >= 0)[kept]
        flags = np.where(has_pages & verified, FLAG_PAGES_VERIFIED, 0).astype(np.uint8)
        if parentage is not None:
            inherited = source >= 0
            flags[inherited] &= parentage.parent.files.flags[source[inherited]]
            same = inherited & ~parentage.rehashed[kept]
            files.content_hash[same] = parentage.parent.files.content_hash[source[same]]
        files.flags[:] = flags
        return Collected(
            files=files,
            block_map=block_map,
            packs=tuple(packs[number] for number in used.tolist()),
            reused_bytes=int(pieces.length[is_reused].sum()),
        )

    def _sources(self, count: int, parentage: Parentage | None) -> npt.NDArray[np.int64]:
        if parentage is None:
            return np.full(count, -1, np.int64)
        holds = ~parentage.compared
        holds[list(self._unchanged)] = True
        return np.where(holds, parentage.source, -1)

    def _files(
        self,
        listing: Listing,
        kept: npt.NDArray[np.bool_],
        sizes: npt.NDArray[np.uint64],
    ) -> FileColumns:
        numbers = np.cumsum(kept, dtype=np.int64) - 1
        hashes = np.zeros((len(sizes), HASH_BYTES), np.uint8)
        for number, content_hash in self._hashes.items():
            if kept[number]:
                hashes[numbers[number]] = np.frombuffer(content_hash, np.uint8)
        return FileColumns(
            directories=[_encode(path) for path in listing.directories],
            directory_mode=_column(listing.directory_mode, np.dtype(np.uint16)),
            names=Names(name for name, keep in zip(listing.names, kept, strict=True) if keep),
            directory=_column(listing.directory, np.dtype(np.uint32))[kept],
            size=sizes,
            mode=_column(listing.mode, np.dtype(np.uint16))[kept],
            mtime_ns=_column(listing.mtime_ns, np.dtype(np.int64))[kept],
            owner=_column(listing.owner, np.dtype(np.uint16))[kept],
            flags=np.zeros(len(sizes), np.uint8),
            content_hash=hashes,
        )

    def _pieces(self, kept: npt.NDArray[np.bool_]) -> Placements:
        """All pieces of the files that are kept; each worker's packs are counted on from those of the one before."""
        assert self._columns.keys() <= self._packs.keys(), "a worker has not told its packs"
        numbers = (np.cumsum(kept, dtype=np.int64) - 1).astype(np.uint32)
        parts: list[list[npt.NDArray[Any]]] = [[] for _ in _TYPES]
        base = 0
        for worker in sorted(self._packs):
            file, offset, length, pack, pack_offset = (
                np.frombuffer(column, column.typecode) if len(column) else np.zeros(0, column.typecode)
                for column in self._columns.pop(worker)
            )
            wanted = kept[file]
            parts[0].append(numbers[file[wanted]])
            parts[1].append(offset[wanted])
            parts[2].append(length[wanted])
            parts[3].append(np.where(pack >= KNOWN_PACKS, pack, pack + np.uint32(base))[wanted])
            parts[4].append(pack_offset[wanted])
            base += len(self._packs[worker])
        joined: list[npt.NDArray[Any]] = []
        for kind, part in zip(_TYPES, parts, strict=True):
            joined.append(np.concatenate(part) if part else np.zeros(0, kind))
            part.clear()
        return Placements(
            file=joined[0], file_offset=joined[1], length=joined[2], pack=joined[3], pack_offset=joined[4]
        )


def _renumber_known(pieces: Placements, first: int) -> Placements:
    """Known packs counted from ``first`` on, behind all others."""
    pack = pieces.pack
    is_known = (pack >= KNOWN_PACKS) & (pack != HOLE)
    pack[is_known] = pack[is_known] - np.uint32(KNOWN_PACKS) + np.uint32(first)
    return pieces


def _column(values: array[int], dtype: np.dtype[_T]) -> npt.NDArray[_T]:
    return np.frombuffer(values, dtype) if len(values) else np.zeros(0, dtype)


def _encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
