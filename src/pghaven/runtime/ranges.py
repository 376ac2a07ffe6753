"""Sets of whole numbers of which most follow one another.

The one idea: a number costs nothing as long as the one before it is in the set; what is kept is where each row of them
begins and ends. So a year of WAL without a gap is two numbers.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, MutableSet


class NumberRanges(MutableSet[int]):
    """A set of whole numbers below 2**63, which is gone through in order; 16 bytes a row of numbers without a gap."""

    __slots__ = ("_begins", "_ends")

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._begins = array("q")
        self._ends = array("q")  # the first number behind each row
        for number in numbers:
            self.add(number)

    def add(self, value: int) -> None:
        at = self._find(value)
        if at >= 0 and value < self._ends[at]:
            return
        joins_one_before = at >= 0 and self._ends[at] == value
        joins_one_behind = at + 1 < len(self._begins) and self._begins[at + 1] == value + 1
        if joins_one_before and joins_one_behind:
            self._ends[at] = self._ends.pop(at + 1)
            del self._begins[at + 1]
        elif joins_one_before:
            self._ends[at] = value + 1
        elif joins_one_behind:
            self._begins[at + 1] = value
        else:
            self._begins.insert(at + 1, value)
            self._ends.insert(at + 1, value + 1)

    def discard(self, value: int) -> None:
        if value not in self:
            return
        at = self._find(value)
        begin, end = self._begins[at], self._ends[at]
        del self._begins[at], self._ends[at]
        for first, after in ((value + 1, end), (begin, value)):
            if first < after:
                self._begins.insert(at, first)
                self._ends.insert(at, after)

    def copy(self) -> NumberRanges:
        made = NumberRanges()
        made._begins, made._ends = self._begins[:], self._ends[:]
        return made

    @property
    def last(self) -> int:
        """The highest number, -1 without any."""
        return self._ends[-1] - 1 if self._ends else -1

    def iter_rows(self, first: int = 0, after: int | None = None) -> Iterator[range]:
        """What is in the set from ``first`` up to ``after``, exclusive, in rows without a gap, in order."""
        for at in range(max(self._find(first), 0), len(self._begins)):
            begin, end = max(self._begins[at], first), self._ends[at]
            if after is not None:
                if begin >= after:
                    return
                end = min(end, after)
            if begin < end:
                yield range(begin, end)

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int):
            return False
        at = self._find(value)
        return at >= 0 and value < self._ends[at]

    def __iter__(self) -> Iterator[int]:
        for begin, end in zip(self._begins, self._ends, strict=True):
            yield from range(begin, end)

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._begins)

    def __repr__(self) -> str:
        return f"NumberRanges({', '.join(f'{row.start}..{row.stop - 1}' for row in self.iter_rows())})"

    def _find(self, value: int) -> int:
        """The last row that begins at or before a number, -1 if none does."""
        return bisect_right(self._begins, value) - 1
