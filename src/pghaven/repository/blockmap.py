"""Block maps: where every byte of every file lies. NumPy over whole backups; no loops over runs.

The one idea: a file is an ordered list of runs (length, pack, offset in the pack's plain bytes) that follow one another
without gap or overlap, so a run needs no file offset and "every byte exactly once" is a sum. A run may cross frames:
the pack's index tells where they end. Bytes that are zero are a run in no pack (``HOLE``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pghaven.errors import Damaged
from pghaven.runtime.columns import group_rows
from pghaven.runtime.spill import Spool, cumulate, in_parts, let_go, make_column

HOLE = 0xFFFFFFFF

U8 = npt.NDArray[np.uint64]
U4 = npt.NDArray[np.uint32]
_Number = TypeVar("_Number", bound=np.integer[Any])


@dataclass(frozen=True, slots=True)
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


def cut_files(weights: npt.NDArray[np.integer[Any]], at_once: int) -> Iterator[tuple[int, int]]:
    """The files as ranges, first and end, of about this much together; one file is never cut. What was touched of
    mapped columns is let go after each."""
    reached = cumulate(weights)
    first = 0
    while first < len(reached):
        begun = int(reached[first - 1]) if first else 0
        end = max(int(np.searchsorted(reached, begun + at_once, "right")), first + 1)
        yield first, end
        let_go()
        first = end


def iter_map_parts(block_map: BlockMap, at_once: int | None = None) -> Iterator[tuple[int, BlockMap]]:
    """The map of some files at a time, with the number of the first."""
    first_run = 0
    for first, end in cut_files(block_map.runs_of_file, at_once or RUNS_AT_ONCE):
        runs = block_map.runs_of_file[first:end]
        part = slice(first_run, first_run + int(runs.sum(dtype=np.int64)))
        first_run = part.stop
        length, pack, offset = block_map.length[part], block_map.pack[part], block_map.offset[part]
        yield first, BlockMap(runs_of_file=runs, length=length, pack=pack, offset=offset)


def used_packs(block_map: BlockMap, pack_count: int) -> tuple[BlockMap, npt.NDArray[np.int64]]:
    """The same map with its packs numbered anew without those that nothing refers to; returns the old numbers kept."""
    is_used = np.zeros(pack_count, bool)
    for part in in_parts(len(block_map.pack)):
        pack = block_map.pack[part]
        is_used[pack[pack != HOLE]] = True
    renumbered = np.cumsum(is_used, dtype=np.uint32) - np.uint32(1)
    made: U4 = make_column(len(block_map.pack), np.uint32)
    for part in in_parts(len(made)):
        pack = block_map.pack[part]
        stored = pack != HOLE
        made[part] = HOLE
        made[part][stored] = renumbered[pack[stored]]
    return replace(block_map, pack=made), np.flatnonzero(is_used)


# An extent (1 MiB of a file) that has come to consist of more runs than this is stored whole again. A map takes some
# 20 bytes a run, so a terabyte of extents at the limit would take 640 MB. Pages that change one by one add two runs
# each: an extent is stored again after about 16 of its 128 pages have changed, which is eight times what changed,
# spread over as many backups as that took. And a restore writes an extent in at most 32 pieces.
EXTENT_BYTES = 1 << 20
EXTENT_RUNS_MAX = 32
# With many terabytes the whole map must stay bounded as well: about 2 GiB in memory.
MAP_RUNS_MAX = 100_000_000


def find_fragmented(block_map: BlockMap) -> U8:
    """The extents that should be stored whole again, in order: file << 32 | extent within it."""
    limit = EXTENT_RUNS_MAX
    if len(block_map.length) > MAP_RUNS_MAX:
        # How many extents there are of each number of runs.
        extents = np.zeros(limit + 1, np.int64)
        for _, counts in _iter_extents(block_map):
            extents += np.bincount(counts[counts <= limit], minlength=limit + 1)
        runs = np.cumsum(extents * np.arange(limit + 1))
        while limit > 2 and int(runs[limit]) > MAP_RUNS_MAX:
            limit //= 2
    found = Spool()
    for keys, counts in _iter_extents(block_map):
        found.write(keys[counts > limit])
    return found.to_array(np.uint64)


def _iter_extents(block_map: BlockMap) -> Iterator[tuple[U8, npt.NDArray[np.int64]]]:
    """File << 32 | extent, and how many runs begin in it, for those in which any does."""
    for first, part in iter_map_parts(block_map):
        file = np.repeat(np.arange(first, first + len(part.runs_of_file)), part.runs_of_file)
        keys = (file.astype(np.uint64) << np.uint64(32)) | (_file_offsets(part) // np.uint64(EXTENT_BYTES))
        found = sort_unique(keys)
        yield found, np.diff(np.searchsorted(keys, found), append=len(keys))


# What is looked at in one step, so that nothing takes a second map's memory.
RUNS_AT_ONCE = 1 << 17


def check_block_map(block_map: BlockMap, sizes: U8, pack_plain: U8) -> None:
    """Raises Damaged unless the runs cover each file exactly once and lie within their packs."""
    columns = (block_map.length, block_map.pack, block_map.offset)
    if len({len(column) for column in columns}) != 1:
        raise Damaged("the columns of its block map differ in length")
    ends = cumulate(block_map.runs_of_file)
    if len(ends) != len(sizes) or (int(ends[-1]) if len(ends) else 0) != len(block_map.length):
        raise Damaged("its block map has another number of runs than its files say")
    totals: U8 = make_column(len(sizes), np.uint64)
    covered = True
    # By runs and not by files: one file of a forged manifest may have as many as there are.
    for part in in_parts(len(block_map.length), RUNS_AT_ONCE):
        length = block_map.length[part]
        if int(length.min()) == 0:
            raise Damaged("its block map has an empty run")
        file = np.searchsorted(ends, np.arange(part.start, part.stop), "right")
        np.add.at(totals, file, length)
        covered = covered and not np.any(length > sizes[file])
        _check_within_packs(block_map.pack[part], block_map.offset[part], length, pack_plain)
    # A column's numbers wrap: no file's runs are fewer bytes than it has, so together they must not be more.
    same = all(np.array_equal(totals[part], sizes[part]) for part in in_parts(len(sizes)))
    if not covered or not same or exact_sum(block_map.length) != exact_sum(sizes):
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
    total = 0
    for part in in_parts(len(column)):
        total += int((column[part] >> np.uint64(32)).sum()) << 32
        total += int((column[part] & np.uint64(0xFFFFFFFF)).sum())
    return total


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
        # By parts: all of a column at once would be all of it in memory.
        count = max((int(runs.pack[part].max()) for part in in_parts(len(runs.pack))), default=-1) + 1
        columns = (runs.file, runs.file_offset, runs.length, runs.pack_offset)
        self._columns, ends = group_rows(runs.pack, columns, count)
        self._packs = np.flatnonzero(np.diff(ends, prepend=0))
        self._ends = ends[self._packs]

    def __len__(self) -> int:
        return len(self._packs)

    def __iter__(self) -> Iterator[PackRuns]:
        return (self[number] for number in range(len(self)))

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """The packs' numbers."""
        return self._packs

    @property
    def run_counts(self) -> npt.NDArray[np.int64]:
        """How many runs are needed of each pack."""
        return np.diff(self._ends, prepend=0)

    def __getitem__(self, index: int) -> PackRuns:
        number = range(len(self))[index]
        part = slice(int(self._ends[number - 1]) if number else 0, int(self._ends[number]))
        columns = [column[part] for column in self._columns]
        order = np.argsort(columns[-1], kind="stable")
        file, file_offset, length, pack_offset = (column[order] for column in columns)
        pack = int(self._packs[number])
        return PackRuns(pack=pack, file=file, file_offset=file_offset, length=length, pack_offset=pack_offset)


def _file_offsets(block_map: BlockMap) -> U8:
    """Where each run begins in its file."""
    starts = np.cumsum(block_map.length, dtype=np.uint64) - block_map.length
    runs = block_map.runs_of_file[block_map.runs_of_file > 0]
    first_run = np.cumsum(runs, dtype=np.int64) - runs
    offsets: U8 = starts - np.repeat(starts[first_run], runs)
    return offsets


def iter_holes(block_map: BlockMap) -> Iterator[tuple[int, int, int]]:
    """The runs in no pack: file, offset and length."""
    for first, part in iter_map_parts(block_map):
        runs = part.runs_of_file
        holes = np.flatnonzero(part.pack == HOLE)
        file = np.repeat(np.arange(first, first + len(runs)), runs)[holes]
        columns = (file, _file_offsets(part)[holes], part.length[holes])
        yield from zip(*(column.tolist() for column in columns), strict=True)


def _list_stored(first: int, block_map: BlockMap) -> Placements:
    """The runs in packs of a map whose files are counted from ``first`` on."""
    runs = block_map.runs_of_file
    kept = block_map.pack != HOLE
    return Placements(
        file=np.repeat(np.arange(first, first + len(runs), dtype=np.uint32), runs)[kept],
        file_offset=_file_offsets(block_map)[kept],
        length=block_map.length[kept],
        pack=block_map.pack[kept],
        pack_offset=block_map.offset[kept],
    )


class _Gathered:
    """Placements that come a part at a time."""

    def __init__(self) -> None:
        self._spools = {column.name: Spool() for column in fields(Placements)}

    def add(self, part: Placements) -> None:
        for name, spool in self._spools.items():
            spool.write(getattr(part, name))

    def finish(self) -> Placements:
        file, pack = (self._spools[name].to_array(np.uint32) for name in ("file", "pack"))
        names = ("file_offset", "length", "pack_offset")
        file_offset, length, pack_offset = (self._spools[name].to_array(np.uint64) for name in names)
        return Placements(file, file_offset, length, pack, pack_offset)


def invert(block_map: BlockMap) -> PackSide:
    """The map from the packs' side, so that each pack is read once and in order."""
    gathered = _Gathered()
    for first, part in iter_map_parts(block_map):
        gathered.add(_list_stored(first, part))
    return PackSide(gathered.finish())


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
    runs of the first pass is all of the second. Files that have no large piece are in the first pass, as they are:
    nothing stale is ever written to them, so their pieces may come in any order. So are small pieces of large files,
    unless their pack holds something that lies over stale pages.
    """
    bulk, pages = _Gathered(), _Gathered()
    late = np.zeros(0, np.uint32)
    for number, part in iter_map_parts(block_map):
        runs = _list_stored(number, part)
        in_bulk = _sum_pieces(runs) >= bulk_bytes
        holes = np.cumsum(part.pack == HOLE)[part.pack != HOLE][in_bulk]
        joined, follows = _join_over_stale(choose_runs(runs, in_bulk), holes, stale_bytes_max)
        bulk.add(joined)
        is_small = np.bincount(runs.file[in_bulk] - number, minlength=len(part.runs_of_file))[runs.file - number] == 0
        bulk.add(choose_runs(runs, is_small))
        pages.add(choose_runs(runs, ~in_bulk & ~is_small))
        # Whether a run lies between two that were joined, by how many of them are before it.
        is_over = np.pad(follows, 1)[np.cumsum(in_bulk)] & ~in_bulk
        late = sort_unique(np.concatenate((late, runs.pack[is_over])))
    small, after = pages.finish(), _Gathered()
    for rows in in_parts(len(small.file)):
        runs = choose_runs(small, rows)
        is_late = np.isin(runs.pack, late)
        bulk.add(choose_runs(runs, ~is_late))
        after.add(choose_runs(runs, is_late))
    second = after.finish()
    return PackSide(bulk.finish()), PackSide(second) if len(second.file) else None


def _join_over_stale(
    runs: Placements, holes: npt.NDArray[np.int64], stale_bytes_max: int
) -> tuple[Placements, npt.NDArray[np.bool_]]:
    """Runs of the first pass joined where what lies between them is stale, and for each but the first whether it was
    joined to the one before; ``holes`` counts those before each run."""
    ends = runs.file_offset + runs.length
    gap = runs.file_offset[1:] - ends[:-1]
    follows = (runs.file[1:] == runs.file[:-1]) & (runs.pack[1:] == runs.pack[:-1]) & (gap <= stale_bytes_max)
    follows &= runs.pack_offset[1:] - (runs.pack_offset + runs.length)[:-1] == gap
    # Zeros are nobody's to write: a gap with a hole in it stays one.
    follows &= holes[1:] == holes[:-1]
    begins = np.flatnonzero(np.concatenate((np.ones(min(len(ends), 1), bool), ~follows)))
    last = np.append(begins[1:], len(ends)) - 1 if len(begins) else begins
    joined = choose_runs(runs, begins)
    return replace(joined, length=ends[last] - joined.file_offset), follows


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


def choose_runs(runs: Placements, which: npt.NDArray[Any] | slice) -> Placements:
    """Some of them, by index or by mask."""
    return Placements(
        file=runs.file[which],
        file_offset=runs.file_offset[which],
        length=runs.length[which],
        pack=runs.pack[which],
        pack_offset=runs.pack_offset[which],
    )
