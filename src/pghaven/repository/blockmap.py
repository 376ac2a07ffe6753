"""Block maps: where every byte of every file lies. NumPy over whole backups; no loops over runs.

The one idea: a file is an ordered list of runs (length, pack, offset in the pack's plain bytes) that follow one another
without gap or overlap, so a run needs no file offset and "every byte exactly once" is a sum. A run may cross frames:
the pack's index tells where they end. Bytes that are zero are a run in no pack (``HOLE``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pghaven.errors import Damaged

HOLE = 0xFFFFFFFF

U8 = npt.NDArray[np.uint64]
U4 = npt.NDArray[np.uint32]
_Number = TypeVar("_Number", bound=np.integer[Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Placements:
    """Pieces of files as workers stored them, in any order: columns of one length."""

    file: U4
    file_offset: U8
    length: U8
    pack: U4
    pack_offset: U8


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMap:
    """``runs_of_file`` has an entry a file; the other columns an entry a run, files one after another."""

    runs_of_file: U4
    length: U8
    pack: U4
    offset: U8


def sort_unique(values: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """The different values in order. NumPy hashes them for its own ``unique``, which takes minutes for a big map."""
    ordered = np.sort(values)
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def used_packs(block_map: BlockMap, pack_count: int) -> tuple[BlockMap, npt.NDArray[np.int64]]:
    """The same map with its packs numbered anew without those that nothing refers to; returns the old numbers kept."""
    stored = block_map.pack != HOLE
    kept = np.flatnonzero(np.bincount(block_map.pack[stored], minlength=pack_count))
    renumbered = np.zeros(pack_count, np.uint32)
    renumbered[kept] = np.arange(len(kept), dtype=np.uint32)
    pack = np.full(len(block_map.pack), HOLE, np.uint32)
    pack[stored] = renumbered[block_map.pack[stored]]
    return replace(block_map, pack=pack), kept


# An extent (1 MiB of a file) that has come to consist of more runs than this is stored whole again. A map takes some
# 20 bytes a run, so a terabyte of extents at the limit would take 640 MB. Pages that change one by one add two runs
# each: an extent is stored again after about 16 of its 128 pages have changed, which is eight times what changed,
# spread over as many backups as that took. And a restore writes an extent in at most 32 pieces.
EXTENT_BYTES = 1 << 20
EXTENT_RUNS_MAX = 32
# With many terabytes the whole map must stay bounded as well: about 2 GiB in memory.
MAP_RUNS_MAX = 100_000_000


def find_fragmented(block_map: BlockMap) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The extents that should be stored whole again, as columns of files and of extents within them, in order."""
    offsets = _file_offsets(block_map)
    file = np.repeat(np.arange(len(block_map.runs_of_file)), block_map.runs_of_file)
    keys = (file.astype(np.uint64) << np.uint64(32)) | (offsets // np.uint64(EXTENT_BYTES))
    found = sort_unique(keys)
    counts = np.diff(np.searchsorted(keys, found), append=len(keys))
    limit = EXTENT_RUNS_MAX
    while limit > 2 and int(counts[counts <= limit].sum()) > MAP_RUNS_MAX:
        limit //= 2
    found = found[counts > limit]
    return (found >> np.uint64(32)).astype(np.int64), (found & np.uint64(0xFFFFFFFF)).astype(np.int64)


# What is looked at in one step, so that checking takes no second map's memory.
_RUNS_AT_ONCE = 1 << 18


def check_block_map(block_map: BlockMap, sizes: U8, pack_plain: U8) -> None:
    """Raises Damaged unless the runs cover each file exactly once and lie within their packs."""
    columns = (block_map.length, block_map.pack, block_map.offset)
    if len({len(column) for column in columns}) != 1:
        raise Damaged("the columns of its block map differ in length")
    runs = block_map.runs_of_file.astype(np.int64)
    if len(runs) != len(sizes) or int(runs.sum()) != len(block_map.length):
        raise Damaged("its block map has another number of runs than its files say")
    if len(block_map.length) and int(block_map.length.min()) == 0:
        raise Damaged("its block map has an empty run")
    ends = np.cumsum(runs)
    totals = np.zeros(len(sizes), np.uint64)
    covered = True
    for at in range(0, len(block_map.length), _RUNS_AT_ONCE):
        part = slice(at, at + _RUNS_AT_ONCE)
        length = block_map.length[part]
        file = np.searchsorted(ends, np.arange(at, at + len(length)), "right")
        np.add.at(totals, file, length)
        covered = covered and not np.any(length > sizes[file])
        _check_within_packs(block_map.pack[part], block_map.offset[part], length, pack_plain)
    # A column's numbers wrap: no file's runs are fewer bytes than it has, so together they must not be more.
    if not covered or not np.array_equal(totals, sizes) or exact_sum(block_map.length) != exact_sum(sizes):
        raise Damaged("its block map does not cover every byte of every file exactly once")


def _check_within_packs(pack: U4, offset: U8, length: U8, pack_plain: U8) -> None:
    stored = pack != HOLE
    pack, offset, length = pack[stored], offset[stored], length[stored]
    if len(pack) and int(pack.max()) >= len(pack_plain):
        raise Damaged("its block map names a pack that it does not list")
    room = pack_plain[pack]
    if np.any(offset > room) or np.any(length > room - offset):
        raise Damaged("its block map reaches beyond the end of a pack")


def exact_sum(column: U8) -> int:
    """The sum of numbers that together may be more than 64 bits."""
    return (int((column >> np.uint64(32)).sum()) << 32) + int((column & np.uint64(0xFFFFFFFF)).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRuns:
    """What one pack is needed for: columns of one length, ordered by ``pack_offset``."""

    pack: int
    file: U4
    file_offset: U8
    length: U8
    pack_offset: U8


class PackSide:
    """Runs from the packs' side: what each needed pack holds, in the order of their numbers.

    Each is made when it is asked for: a cluster of ten terabytes has some eighty thousand packs.
    """

    def __init__(self, runs: Placements) -> None:
        self._runs = runs
        self._order = np.lexsort((runs.pack_offset, runs.pack))
        cuts = np.flatnonzero(np.diff(runs.pack[self._order])) + 1
        self._bounds = [0, *cuts.tolist(), len(self._order)] if len(self._order) else [0]

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[PackRuns]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, index: int) -> PackRuns:
        number = range(len(self))[index]
        part = self._order[self._bounds[number] : self._bounds[number + 1]]
        return PackRuns(
            pack=int(self._runs.pack[part[0]]),
            file=self._runs.file[part],
            file_offset=self._runs.file_offset[part],
            length=self._runs.length[part],
            pack_offset=self._runs.pack_offset[part],
        )


def _file_offsets(block_map: BlockMap) -> U8:
    """Where each run begins in its file."""
    starts = np.cumsum(block_map.length, dtype=np.uint64) - block_map.length
    runs = block_map.runs_of_file[block_map.runs_of_file > 0]
    first_run = np.cumsum(runs, dtype=np.int64) - runs
    offsets: U8 = starts - np.repeat(starts[first_run], runs)
    return offsets


def list_holes(block_map: BlockMap) -> list[tuple[int, int, int]]:
    """The runs in no pack: file, offset and length."""
    runs = block_map.runs_of_file
    holes = np.flatnonzero(block_map.pack == HOLE)
    file = np.repeat(np.arange(len(runs)), runs)[holes]
    columns = (file, _file_offsets(block_map)[holes], block_map.length[holes])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _list_stored(block_map: BlockMap) -> Placements:
    runs = block_map.runs_of_file
    kept = block_map.pack != HOLE
    return Placements(
        file=np.repeat(np.arange(len(runs), dtype=np.uint32), runs)[kept],
        file_offset=_file_offsets(block_map)[kept],
        length=block_map.length[kept],
        pack=block_map.pack[kept],
        pack_offset=block_map.offset[kept],
    )


def invert(block_map: BlockMap) -> PackSide:
    """The map from the packs' side, so that each pack is read once and in order."""
    return PackSide(_list_stored(block_map))


# Of what was stored in one piece, so many bytes must still be needed for it to be written in one piece.
BULK_BYTES = 128 << 10
# Stale bytes up to this many between two runs are written with them: it is cheaper than two writes.
STALE_BYTES_MAX = 256 << 10


def invert_in_two(
    block_map: BlockMap, *, bulk_bytes: int = BULK_BYTES, stale_bytes_max: int = STALE_BYTES_MAX
) -> tuple[PackSide, PackSide | None]:
    """The map for writing new files in two passes, the second after all of the first; or in one.

    The first pass writes what was stored in large pieces, with the stale pages that lie in these, and the second lays
    the pages over them that have changed since, wherever they come from. Nothing is left stale: what lies between two
    runs of the first pass is all of the second.
    """
    runs = _list_stored(block_map)
    in_bulk = _sum_pieces(runs) >= bulk_bytes
    first, second = choose_runs(runs, in_bulk), choose_runs(runs, ~in_bulk)
    if not len(first.file) or not len(second.file):
        return PackSide(runs), None
    ends = first.file_offset + first.length
    gap = first.file_offset[1:] - ends[:-1]
    follows = (first.file[1:] == first.file[:-1]) & (first.pack[1:] == first.pack[:-1]) & (gap <= stale_bytes_max)
    follows &= first.pack_offset[1:] - (first.pack_offset + first.length)[:-1] == gap
    # Zeros are nobody's to write: a gap with a hole in it stays one.
    holes = np.cumsum(block_map.pack == HOLE)[block_map.pack != HOLE][in_bulk]
    follows &= holes[1:] == holes[:-1]
    begins = np.flatnonzero(np.concatenate(([True], ~follows)))
    last = np.append(begins[1:], len(ends)) - 1
    joined = choose_runs(first, begins)
    return PackSide(replace(joined, length=ends[last] - joined.file_offset)), PackSide(second)


def _sum_pieces(runs: Placements) -> U8:
    """For each run how many bytes are needed of the piece of a file that it was stored in: as far as can be seen, all
    of the runs of one file and one pack that are as far from each other there as here."""
    if not len(runs.file):
        return runs.length
    distance = runs.file_offset - runs.pack_offset
    order = np.lexsort((distance, runs.pack, runs.file))
    columns = (runs.file[order], runs.pack[order], distance[order])
    begins = np.ones(len(order), bool)
    begins[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    sums = np.zeros(len(order), np.uint64)
    starts = np.flatnonzero(begins)
    sums[order] = np.repeat(np.add.reduceat(runs.length[order], starts), np.diff(starts, append=len(order)))
    return sums


def choose_runs(runs: Placements, which: npt.NDArray[Any]) -> Placements:
    """Some of them, by index or by mask."""
    return Placements(
        file=runs.file[which],
        file_offset=runs.file_offset[which],
        length=runs.length[which],
        pack=runs.pack[which],
        pack_offset=runs.pack_offset[which],
    )
