"""Which rows of a table's data were there in an earlier dump: what changed is then stored row by row.

The one idea: PostgreSQL writes one row a line, and most tables are changed a row here and a row there, so that hardly a
frame stays the same. Rows that follow one another in both dumps make one long run; only what lies between is new.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from pghaven.repository.codec import Buffer
from pghaven.runtime.mapped import end_of_line

# A run takes some ten bytes in a manifest and a write in a restore: shorter ones are cheaper stored again.
RUN_BYTES_MIN = 256
SKETCH_ROWS = 32
ROW_HASH_BYTES = 8
# How much of the old data must be at hand at once.
HELD_BYTES_MAX = 1 << 20
# How far a row is looked for after the last one that was found; and both ways where it is only about known where it is.
_LOOK_BYTES = 4 << 10
# And at first: of so few bytes more are searched without preparing for it.
_NEXT_BYTES = 1800
_WIDE_BYTES = 64 << 10
# After so many rows in turn that were not found one is looked for far around; after so many, something else is tried.
_MISSES_WIDE, _MISSES_MAX = 8, 48
# After so many that no table has either, the rest is taken for new.
_MISSES_LAST = 4096
# What is compared at once, less at first.
_FIRST_BYTES, _LAST_BYTES = 16 << 10, 256 << 10
_NEAR_BYTES = 8 << 10
_NEWLINE = 10
_ROW_BYTES = 512  # most rows are shorter


class SameRows(NamedTuple):
    """``length`` bytes at ``at`` of the new data are those at ``old_at`` of the old."""

    at: int
    old_at: int
    length: int


class OldText(Protocol):
    """Old data of which a part is at hand: ``fill`` bytes in ``content``, from ``start`` of the whole on."""

    content: bytes | bytearray
    start: int
    fill: int
    size: int

    def hold(self, begin: int, length: int) -> None:
        """Have these bytes at hand, as far as there are any: not more than HELD_BYTES_MAX."""


class WholeText:
    """Old data that is all in memory."""

    def __init__(self, content: bytes) -> None:
        self.content: bytes | bytearray = content
        self.start, self.fill, self.size = 0, len(content), len(content)

    def hold(self, begin: int, length: int) -> None:
        """It is."""


def find_same_rows(
    data: Buffer, old: OldText, near: int = 0, anchors: Sequence[tuple[int, int]] = ()
) -> Iterator[SameRows]:
    """Runs that begin with a whole row and are in both, in the order of ``data``, not overlapping there.

    ``near`` is about where in ``old`` the beginning of ``data`` is. ``anchors`` are places in ``data``, in order, each
    with the one in ``old`` that is thought to be the same.
    """
    search = _Search(memoryview(data), old, near, anchors)
    at, size = 0, len(data)
    while at < size:
        if search.is_following:
            yield from search.follow(at)
            at = search.at
        old_at = search.find(at)
        length = search.measure(at, old_at) if old_at >= 0 else 0
        if length >= RUN_BYTES_MIN:
            yield SameRows(at, old_at, length)
        at = at + length if length else search.go_on(at)


class _Search:
    """Where rows of new data are in the old: usually a few rows after the last one that was found. When many in turn
    are not, the next anchor says where to go on, and what is before it is compared backwards; without one, the old rows
    around are put into a table."""

    def __init__(self, data: memoryview, old: OldText, near: int, anchors: Sequence[tuple[int, int]]) -> None:
        self._data, self._old = data, old
        self._new_bytes = np.frombuffer(data, np.uint8)
        self._old_bytes = np.frombuffer(old.content, np.uint8)
        self._anchors = list(reversed(anchors))
        self._expected = near
        self._is_sure = False
        self._misses = 0
        self._places: dict[bytes, int] | None = None
        self.at = 0

    @property
    def is_following(self) -> bool:
        """Whether the last row was found, so that the next ones are probably near it."""
        return self._is_sure and not self._misses

    def follow(self, at: int) -> Iterator[SameRows]:
        """Runs from ``at`` on, as long as all goes as it does nearly always: a row is new, or rows are gone, and what
        follows is at hand. ``self.at`` is then where the next row begins.

        What it does, it does once for each row that changed, and so without calling anybody.
        """
        data, new, old, old_bytes = self._data, self._new_bytes, self._old, self._old_bytes
        content, start, fill, end = old.content, old.start, old.fill, len(data)
        place, misses = self._expected - start, 0
        while at < end and 0 < place < fill - _NEAR_BYTES:
            row = bytes(data[at : at + _ROW_BYTES])
            size = row.find(b"\n") + 1
            if not size:
                break
            found = content.find(row[:size], place, place + size + _NEXT_BYTES)
            if found < 0 or content[found - 1] != _NEWLINE:
                misses += 1
                if misses > 1:
                    break
                at += size
                continue
            count, run = min(_NEAR_BYTES, end - at, fill - found), 0
            while count > 0:
                differs = new[at + run : at + run + count] != old_bytes[found + run : found + run + count]
                first = differs.argmax()
                if differs[first]:
                    run = content.rfind(b"\n", found, found + run + int(first)) + 1 - found
                    break
                run += count
                count = min(_NEAR_BYTES, end - at - run, fill - found - run)
            if not count or run <= 0:
                break
            if run >= RUN_BYTES_MIN:
                yield SameRows(at, start + found, run)
            at, place, misses = at + run, found + run, 0
        self._expected, self._misses, self.at = start + place, misses, at

    def find(self, at: int) -> int:
        """Where the row at ``at`` begins in the old data, or -1."""
        row = bytes(self._data[at : at + _ROW_BYTES])
        size = row.find(b"\n") + 1
        if size:
            row = row[:size]
        elif end := _end_of_row(self._data, at):
            row = bytes(self._data[at:end])
        else:
            return -1
        if self._places is not None:
            return self._places.get(row[:-1], -1)
        begin, stop = self._expected, self._expected + _LOOK_BYTES + len(row)
        if self._misses == _MISSES_WIDE or not self._is_sure:
            begin, stop = max(begin - _WIDE_BYTES, 0), stop + _WIDE_BYTES
        old = self._old
        if begin < old.start or stop > old.start + old.fill:
            old.hold(begin, min(stop - begin, HELD_BYTES_MAX))
        first, last = begin - old.start, stop - old.start
        place = old.content.find(row, first if first > 0 else 0, last if last < old.fill else old.fill)
        if place > 0 and old.content[place - 1] != _NEWLINE:
            return -1  # the end of another row
        return place + old.start if place >= 0 else -1

    def measure(self, at: int, old_at: int) -> int:
        """How many bytes are the same from here on, up to the end of a row if they do not end together."""
        begin, size, old = at, _FIRST_BYTES, self._old
        end = len(self._data)
        while at < end:
            if old_at < old.start or old_at + size > old.start + old.fill:
                old.hold(old_at, size)
            there = old_at - old.start
            count = min(size, end - at, old.fill - there)
            if there < 0 or count <= 0:
                break
            differs = self._new_bytes[at : at + count] != self._old_bytes[there : there + count]
            first = int(differs.argmax())
            if differs[first]:
                at, old_at = at + first, old_at + first
                break
            at, old_at = at + count, old_at + count
            size = min(size * 2, _LAST_BYTES)
        if at < end:
            first = max(old_at - (at - begin) - old.start, 0)
            last = old.content.rfind(b"\n", first, old_at - old.start) + 1
            if last:
                at, old_at = at - (old_at - old.start - last), old.start + last
        if at > begin:
            self._expected, self._is_sure, self._misses = old_at, True, 0
        return at - begin

    def go_on(self, at: int) -> int:
        """Where to look next, the row at ``at`` being new."""
        self._misses += 1
        following = _end_of_row(self._data, at) or len(self._data)
        if self._misses < _MISSES_MAX or self._places is not None:
            return following if self._misses < _MISSES_LAST else len(self._data)
        while self._anchors and self._anchors[-1][0] <= at:
            self._anchors.pop()
        if not self._anchors:
            self._make_table()
            return following
        self._misses = 0
        anchor, there = self._anchors.pop()
        begin = max(anchor - self._measure_back(anchor - following, anchor, there), following)
        self._expected, self._is_sure = max(there - (anchor - begin), 0), True
        return begin

    def _measure_back(self, limit: int, at: int, old_at: int) -> int:
        """How many bytes are the same before two places, from the beginning of a row on; not more than ``limit``."""
        old, size, same = self._old, _FIRST_BYTES, 0
        while same < limit:
            mine, theirs = at - same, old_at - same
            count = min(size, limit - same, theirs)
            old.hold(theirs - count, count)
            there = theirs - old.start
            if count <= 0 or there < count or there > old.fill:
                break
            differs = self._new_bytes[mine - count : mine] != self._old_bytes[there - count : there]
            if differs.any():
                same += int(differs[::-1].argmax())
                break
            same += count
            size = min(size * 2, _LAST_BYTES)
        if same < limit:
            following = bytes(self._data[at - same : at - same + _LAST_BYTES]).find(b"\n") + 1
            same = same - following if following else 0
        return max(same, 0)

    def _make_table(self) -> None:
        old = self._old
        old.hold(max(self._expected - HELD_BYTES_MAX // 2, 0), HELD_BYTES_MAX)
        rows = bytes(memoryview(old.content)[: old.fill]).split(b"\n")
        rows.pop()  # no whole row, or empty
        lengths = np.fromiter(map(len, rows), np.int64, len(rows)) + 1
        begins = (np.cumsum(lengths) - lengths + old.start).tolist()
        self._places = dict(zip(reversed(rows), reversed(begins), strict=True))


def _end_of_row(data: memoryview, begin: int) -> int:
    """Behind the next line feed, or 0."""
    found = bytes(data[begin : begin + _ROW_BYTES]).find(b"\n")
    return (begin + found if found >= 0 else end_of_line(data, begin)) + 1


def sketch_rows(data: bytes) -> tuple[bytes, ...]:
    """Hashes of some rows of the beginning of a table's data, by which it is known again although its file is called
    differently: those that are the smallest, so that other data with most of these rows gives most of these hashes."""
    rows = data.split(b"\n")[:-1]
    return tuple(heapq.nsmallest(SKETCH_ROWS, {hash_row(row) for row in rows if row}))


def hash_row(row: bytes) -> bytes:
    return hashlib.blake2b(row, digest_size=ROW_HASH_BYTES).digest()


def find_alike(sketch: Iterable[bytes], known: dict[bytes, list[int]]) -> int | None:
    """The file that has most of a sketch's rows, if it has a quarter of them; ``known`` has the files of each hash."""
    votes: dict[int, int] = {}
    count = 0
    for one in sketch:
        count += 1
        for number in known.get(one, ()):
            votes[number] = votes.get(number, 0) + 1
    if not votes:
        return None
    best = max(votes, key=lambda number: (votes[number], -number))
    return best if votes[best] * 4 >= count else None
