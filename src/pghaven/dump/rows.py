"""Which rows of a table's data were there in an earlier dump: what changed is then stored row by row.

The one idea: PostgreSQL writes one row a line, and most tables are changed a row here and a row there, so that hardly a
frame stays the same. Rows that follow one another in both dumps make one long run; only what lies between is new.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# A run takes some ten bytes in a manifest and a write in a restore: shorter ones are cheaper stored again.
RUN_BYTES_MIN = 256
SKETCH_ROWS = 32
ROW_HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class SameRows:
    """``length`` bytes at ``at`` of the new data are those at ``old_at`` of the old."""

    at: int
    old_at: int
    length: int


def find_same_rows(data: bytes, old: bytes) -> Iterator[SameRows]:
    """Runs of whole rows that are in both, in the order of ``data``, not overlapping there."""
    old_rows = old.split(b"\n")
    old_rows.pop()  # no whole row, or empty
    places = dict(zip(reversed(old_rows), range(len(old_rows) - 1, -1, -1), strict=True))
    old_begins = [0]
    for row in old_rows:
        old_begins.append(old_begins[-1] + len(row) + 1)
    rows = data.split(b"\n")
    rows.pop()
    at = begin = 0
    first = following = -1
    for row in rows:
        if 0 <= following < len(old_rows) and old_rows[following] == row:
            following += 1
        else:
            if at - begin >= RUN_BYTES_MIN and first >= 0:
                yield SameRows(begin, old_begins[first], at - begin)
            begin = at
            first = places.get(row, -1)
            following = first + 1 if first >= 0 else -1
        at += len(row) + 1
    if at - begin >= RUN_BYTES_MIN and first >= 0:
        yield SameRows(begin, old_begins[first], at - begin)


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
