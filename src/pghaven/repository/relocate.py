"""Which bytes of which packs are in use, and maps over bytes that were moved. Pure; NumPy over whole maps.

The one idea: many packs' plain bytes lie on one line, one pack after another with a gap between them. So what several
maps use of them is one row of intervals, what was moved is another, and both are found by searching.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pghaven.repository.blockmap import HOLE, U4, U8, BlockMap
from pghaven.repository.mapmaking import join_runs
from pghaven.repository.pack import PackRef
from pghaven.repository.packtable import PackNumbers, PackTable

_NOWHERE = np.uint64((1 << 64) - 1)
_NONE = np.zeros(0, np.uint64)


class PackLine:
    """Packs on one line, in the order in which they are added; each has a number, and a place where it begins."""

    def __init__(self, packs: Iterable[PackRef] = ()) -> None:
        self._numbers = PackNumbers()
        self._is_forgotten = np.zeros(0, bool)
        self.begins: U8 = _NONE
        self.add(PackTable.of(packs))

    @property
    def packs(self) -> PackTable:
        return self._numbers.table

    def add(self, packs: Sequence[PackRef]) -> None:
        before = len(self._numbers)
        self._numbers.add(packs)
        if len(self._numbers) > before:
            # One more than they are long, so that intervals of two packs never touch.
            ends = np.cumsum(self.packs.plain_length + np.uint64(1), dtype=np.uint64)
            self.begins = np.concatenate((_NONE, np.zeros(1, np.uint64), ends[:-1]))
            self._is_forgotten = np.concatenate((self._is_forgotten, np.zeros(len(ends) - before, bool)))

    def forget(self, numbers: Iterable[int]) -> None:
        """Take packs off the line; the others stay where they are."""
        self._is_forgotten[list(numbers)] = True

    def begin_of(self, number: int) -> int:
        return int(self.begins[number])

    def find(self, label: str, pack_id: bytes) -> int | None:
        """The number of a pack, None for one that is not on the line."""
        number = self._numbers.find(label, pack_id)
        return None if number < 0 or self._is_forgotten[number] else number

    def numbers_of(self, packs: Sequence[PackRef]) -> npt.NDArray[np.int64]:
        """The number of each pack, -1 for those that are not on the line."""
        numbers = np.array(self._numbers.find_all(packs))
        known = numbers >= 0
        numbers[known] = np.where(self._is_forgotten[numbers[known]], -1, numbers[known])
        return numbers

    def lay(self, block_map: BlockMap, packs: Sequence[PackRef]) -> U8:
        """Where each run of a map over ``packs`` begins on the line; the largest number for what is not on it."""
        numbers = self.numbers_of(packs)
        begins = np.full(len(packs), _NOWHERE, np.uint64)
        known = numbers >= 0
        begins[known] = self.begins[numbers[known]]
        found = np.full(len(block_map.pack), _NOWHERE, np.uint64)
        stored = np.flatnonzero(block_map.pack != HOLE)
        found[stored] = begins[block_map.pack[stored]]
        here = found != _NOWHERE
        found[here] += block_map.offset[here]
        return found


class LiveBytes:
    """What any number of maps use of the packs on a line.

    Where anything of ``grain`` bytes of a pack is in use, all of them count. A pack of which the share ``dense_at`` is
    found in use is counted as wholly in use, and its intervals are forgotten: memory is for packs that are mostly dead.
    """

    def __init__(self, line: PackLine, *, dense_at: float | None = None, grain: int = 1) -> None:
        self._line = line
        self._dense_at = dense_at
        self._grain = np.uint64(grain)
        self._begin: U8 = _NONE
        self._end: U8 = _NONE
        self._is_dense = np.zeros(0, bool)

    def add(self, block_map: BlockMap, packs: Sequence[PackRef]) -> None:
        """Count in what one more map uses of those of its packs that are on the line."""
        begin = self._line.lay(block_map, packs)
        here = begin != _NOWHERE
        begin, end = begin[here], begin[here] + block_map.length[here]
        plain = self._line.packs.plain_length
        self._is_dense = np.concatenate((self._is_dense, np.zeros(len(plain) - len(self._is_dense), bool)))
        pack = self._pack_at(begin)
        base = self._line.begins[pack]
        begin -= (begin - base) % self._grain
        end = np.minimum(end + -(end - base) % self._grain, base + plain[pack])
        begin, end = self._without_dense(begin, end)
        self._begin, self._end = _merge(np.concatenate((self._begin, begin)), np.concatenate((self._end, end)))
        if self._dense_at is not None:
            self._is_dense |= self._sum_kept() >= self._dense_at * plain
            self._begin, self._end = self._without_dense(self._begin, self._end)

    def bytes_of_sparse(self) -> dict[int, int]:
        """By number, the bytes in use of each pack that is used but not dense."""
        sums = self._sum_kept()
        return {int(number): int(sums[number]) for number in np.flatnonzero(sums)}

    def intervals_of(self, number: int) -> npt.NDArray[np.int64]:
        """What is in use of a pack that is not dense: rows of begin and end in its plain bytes, in order."""
        begin = self._line.begin_of(number)
        first = int(np.searchsorted(self._begin, np.uint64(begin)))
        last = int(np.searchsorted(self._begin, np.uint64(begin + self._line.packs[number].plain_length)))
        rows = np.stack((self._begin[first:last], self._end[first:last]), axis=1)
        return (rows - np.uint64(begin)).astype(np.int64)

    def _pack_at(self, begin: U8) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = np.searchsorted(self._line.begins, begin, "right") - 1
        return found

    def _without_dense(self, begin: U8, end: U8) -> tuple[U8, U8]:
        kept = ~self._is_dense[self._pack_at(begin)] if len(begin) else np.zeros(0, bool)
        return begin[kept], end[kept]

    def _sum_kept(self) -> U8:
        sums = np.zeros(len(self._line.packs), np.uint64)
        np.add.at(sums, self._pack_at(self._begin), self._end - self._begin)
        return sums


def _merge(begin: U8, end: U8) -> tuple[U8, U8]:
    """The union of intervals, in order, as intervals that do not touch."""
    if not len(begin):
        return begin, end
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order])
    starts = np.ones(len(begin), bool)
    starts[1:] = begin[1:] > end[:-1]
    first = np.flatnonzero(starts)
    return begin[first], end[np.append(first[1:], len(begin)) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Bytes of a line and where they are now: columns of one length, ordered by ``begin`` and without overlap."""

    begin: U8
    length: U8
    pack: U4
    offset: U8


def relocate(block_map: BlockMap, packs: Sequence[PackRef], line: PackLine, moves: Moves) -> BlockMap:
    """The same map with everything that lies in packs of this line where it was moved to.

    The packs it was moved to are numbered on after ``packs``. Raises ValueError when a byte that is needed was not
    moved, which would be a bug of the mover.
    """
    begin = line.lay(block_map, packs)
    is_moved = begin != _NOWHERE
    if not np.any(is_moved):
        return block_map
    end = np.where(is_moved, begin, np.uint64(0)) + block_map.length
    first = np.searchsorted(moves.begin, begin, "right") - 1
    last = np.searchsorted(moves.begin, end, "left") - 1
    counts = np.where(is_moved, last - first + 1, 1)
    if np.any(first[is_moved] < 0) or np.any(counts < 1):
        raise ValueError("a run lies in what was not moved")
    run = np.repeat(np.arange(len(begin)), counts)
    within = np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)
    length, pack, offset = block_map.length[run], block_map.pack[run], block_map.offset[run]
    ours = is_moved[run]
    piece = first[run][ours] + within[ours]
    from_here = np.maximum(begin[run][ours], moves.begin[piece])
    to_here = np.minimum(end[run][ours], moves.begin[piece] + moves.length[piece])
    length[ours] = to_here - from_here
    pack[ours] = moves.pack[piece] + np.uint32(len(packs))
    offset[ours] = moves.offset[piece] + (from_here - moves.begin[piece])
    totals = np.zeros(len(begin), np.uint64)
    np.add.at(totals, run, length)
    if np.any(to_here <= from_here) or not np.array_equal(totals, block_map.length):
        raise ValueError("a run lies in what was not moved")
    file = np.repeat(np.arange(len(block_map.runs_of_file), dtype=np.uint32), block_map.runs_of_file)[run]
    return join_runs(file, length, pack, offset, len(block_map.runs_of_file))
