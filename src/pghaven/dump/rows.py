"""Which rows of a table's data were there in an earlier dump: what changed is then stored row by row.

The one idea: PostgreSQL writes one row a line, and most tables are changed a row here and a row there, so that hardly a
frame stays the same. Rows that follow one another in both dumps make one long run; only what lies between is new.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

# A run takes some ten bytes in a manifest and a write in a restore: shorter ones are cheaper stored again.
RUN_BYTES_MIN = 256
SKETCH_ROWS = 32
# How far a row is looked for after the last one that was found, and from where the first one is expected, both ways.
_LOOK_BYTES = 4 << 10
_FIRST_LOOK_BYTES = 64 << 10
_MISSES_MAX = 16
# What is compared at once, less at first.
_FIRST_BYTES, _LAST_BYTES = 8 << 10, 128 << 10
_NEWLINE = 10
ROW_HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class SameRows:
    """``length`` bytes at ``at`` of the new data are those at ``old_at`` of the old."""

    at: int
    old_at: int
    length: int


def find_same_rows(data: bytes, old: bytes, near: int = 0) -> Iterator[SameRows]:
    """Runs that begin with a whole row and are in both, in the order of ``data``, not overlapping there.

    ``near`` is about where in ``old`` the beginning of ``data`` is.
    """
    search = _Search(data, old, near)
    at = 0
    while at < len(data):
        old_at = search.find(at)
        if old_at >= 0:
            length = search.measure(at, old_at)
            if length >= RUN_BYTES_MIN:
                yield SameRows(at, old_at, length)
            at += length
        else:
            at = data.find(b"\n", at) + 1 or len(data)


class _Search:
    """Where rows of new data are in the old: usually a few rows after the last one that was found; only when several
    in turn are not, all old rows are put into a table."""

    def __init__(self, data: bytes, old: bytes, near: int) -> None:
        self._data, self._old = data, old
        self._new_bytes, self._old_bytes = np.frombuffer(data, np.uint8), np.frombuffer(old, np.uint8)
        self._expected = max(near - _FIRST_LOOK_BYTES, 0)
        self._look_bytes = 2 * _FIRST_LOOK_BYTES
        self._misses = 0
        self._places: dict[bytes, int] | None = None

    def find(self, at: int) -> int:
        """Where the row at ``at`` begins in the old data, or -1."""
        end = self._data.find(b"\n", at) + 1
        if not end:
            return -1
        row = self._data[at:end]
        place = -1
        if self._misses < _MISSES_MAX:
            place = self._old.find(row, self._expected, self._expected + self._look_bytes + len(row))
            if place > 0 and self._old[place - 1] != _NEWLINE:
                place = -1  # the end of another row
        else:
            place = self._look_up(row)
        self._misses = 0 if place >= 0 else self._misses + 1
        return place

    def measure(self, at: int, old_at: int) -> int:
        """How many bytes are the same from here on, up to the end of a row if they do not end together."""
        begin, size = at, _FIRST_BYTES
        new, old = self._new_bytes, self._old_bytes
        while True:
            mine, theirs = new[at : at + size], old[old_at : old_at + size]
            count = min(len(mine), len(theirs))
            differs = mine[:count] != theirs[:count]
            first = int(differs.argmax()) if count else 0
            if count and differs[first]:
                at, old_at = at + first, old_at + first
                break
            at, old_at = at + count, old_at + count
            if count < size:
                break
            size = min(size * 2, _LAST_BYTES)
        last = self._data.rfind(b"\n", begin, at) + 1
        if at < len(self._data) and last:
            at, old_at = last, old_at - (at - last)
        self._expected, self._look_bytes = old_at, _LOOK_BYTES
        return at - begin

    def _look_up(self, row: bytes) -> int:
        if self._places is None:
            rows = self._old.split(b"\n")
            rows.pop()  # no whole row, or empty
            lengths = np.fromiter(map(len, rows), np.int64, len(rows)) + 1
            begins = (np.cumsum(lengths) - lengths).tolist()
            self._places = dict(zip(reversed(rows), reversed(begins), strict=True))
        return self._places.get(row[:-1], -1)


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
