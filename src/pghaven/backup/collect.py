"""What the workers report, gathered into the columns of a manifest.

The one idea: results come in any order and are kept as plain columns per worker; once all packs have names, one pass of
NumPy makes the block map of them.
"""

from __future__ import annotations

from array import array
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pghaven.backup.listing import Listing
from pghaven.backup.pipeline import ReadResult, SuspectPage, WorkerPacks
from pghaven.repository.blockmap import HOLE, BlockMap, Placements, build_block_map
from pghaven.repository.manifest import FLAG_PAGES_VERIFIED, HASH_BYTES, FileColumns
from pghaven.repository.pack import PackRef

_TYPES = "IQQIQ"
_T = TypeVar("_T", bound=np.generic)


class Collector:
    """Takes the results of all workers; ``finish`` is called once, after the last one."""

    def __init__(self) -> None:
        self.read_bytes = 0
        self.suspects: list[SuspectPage] = []
        self._vanished: set[int] = set()
        self._columns: dict[int, tuple[array[int], ...]] = {}
        self._packs: dict[int, tuple[PackRef, ...]] = {}

    def take(self, result: ReadResult | WorkerPacks) -> None:
        if isinstance(result, WorkerPacks):
            self._packs[result.worker] = result.packs
            return
        self.read_bytes += result.read_bytes
        self.suspects.extend(result.suspects)
        self._vanished.update(result.vanished)
        columns = self._columns.setdefault(result.worker, tuple(array(kind) for kind in _TYPES))
        for column, data in zip(columns, result.pieces, strict=True):
            column.frombytes(data)

    @property
    def packs(self) -> tuple[PackRef, ...]:
        """All packs, in the order of the workers; block maps count them in this order."""
        return tuple(pack for worker in sorted(self._packs) for pack in self._packs[worker])

    def finish(self, listing: Listing, *, verified: bool) -> tuple[FileColumns, BlockMap]:
        """The files that were there to be read, with the sizes that were read, and their block map."""
        kept = np.ones(len(listing.size), bool)
        kept[list(self._vanished)] = False
        numbers = np.cumsum(kept, dtype=np.int64) - 1
        pieces = self._pieces(kept, numbers)
        block_map, sizes = build_block_map(pieces, int(kept.sum()))
        has_pages = np.frombuffer(listing.first_block, np.int64) >= 0 if len(kept) else np.zeros(0, bool)
        flags = np.where(has_pages & verified, FLAG_PAGES_VERIFIED, 0).astype(np.uint8)
        files = FileColumns(
            directories=[_encode(path) for path in listing.directories],
            directory_mode=_column(listing.directory_mode, np.dtype(np.uint16)),
            names=[name for name, keep in zip(listing.names, kept.tolist(), strict=True) if keep],
            directory=_column(listing.directory, np.dtype(np.uint32))[kept],
            size=sizes,
            mode=_column(listing.mode, np.dtype(np.uint16))[kept],
            mtime_ns=_column(listing.mtime_ns, np.dtype(np.int64))[kept],
            owner=_column(listing.owner, np.dtype(np.uint16))[kept],
            flags=flags[kept],
            content_hash=np.zeros((int(kept.sum()), HASH_BYTES), np.uint8),
        )
        return files, block_map

    def _pieces(self, kept: npt.NDArray[np.bool_], numbers: npt.NDArray[np.int64]) -> Placements:
        assert self._columns.keys() <= self._packs.keys(), "a worker has not told its packs"
        parts: list[list[npt.NDArray[np.int64]]] = [[] for _ in _TYPES]
        base = 0
        for worker in sorted(self._packs):
            columns = self._columns.get(worker)
            if columns is not None:
                file, offset, length, pack, pack_offset = (
                    np.frombuffer(column, column.typecode) if len(column) else np.zeros(0, column.typecode)
                    for column in columns
                )
                wanted = kept[file]
                parts[0].append(numbers[file[wanted]])
                parts[1].append(offset[wanted])
                parts[2].append(length[wanted])
                parts[3].append(np.where(pack == HOLE, HOLE, pack.astype(np.int64) + base)[wanted])
                parts[4].append(pack_offset[wanted])
            base += len(self._packs[worker])
        joined = [np.concatenate(part) if part else np.zeros(0, np.int64) for part in parts]
        return Placements(
            file=joined[0].astype(np.uint32),
            file_offset=joined[1].astype(np.uint64),
            length=joined[2].astype(np.uint64),
            pack=joined[3].astype(np.uint32),
            pack_offset=joined[4].astype(np.uint64),
        )


def _column(values: array[int], dtype: np.dtype[_T]) -> npt.NDArray[_T]:
    return np.frombuffer(values, dtype) if len(values) else np.zeros(0, dtype)


def _encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
