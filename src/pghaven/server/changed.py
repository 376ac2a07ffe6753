"""Which blocks of which relations changed over a stretch of WAL, gathered from many summaries of it.

The one idea: only unions are formed. A block that any summary names is changed, and so is every block from the shortest
length a relation was ever cut to (its limit; 0 for one that was made or removed). So a summary that says too much costs
some reading, and neither the order of summaries nor what one of them left out after a truncation can lose a change.

Follows blkreftable.c and walsummarizer.c: a whole database that was made or removed stands as relation 0.

A twentieth of ten terabytes are sixty million blocks: they are sorted half a million at a time, the sorted parts lie
in working files, and these are merged as many at a time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pghaven.runtime.spill import Spool, cumulate, let_go, make_column

_WHOLE_DATABASE: Final = 0
# So many rows are sorted at once: 4 MiB.
PART_ROWS: Final = 1 << 19

# A row is the number of a relation, whether this is a limit, and a block.
_RELATION_BITS: Final = np.uint64(33)
_LIMIT: Final = np.uint64(1 << 32)
_WITHOUT_RELATION: Final = np.uint64((1 << 33) - 1)
_NO_LIMIT: Final = -1
_Rows = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationChanges:
    """The changed blocks of one relation's main fork: ``blocks`` (ascending) and all from ``limit_block`` on."""

    blocks: NDArray[np.uint32]
    limit_block: int | None

    def select(self, first: int, end: int) -> NDArray[np.uint32]:
        """The changed blocks from ``first`` up to ``end``, exclusive, ascending: those of one file, say."""
        limit = end if self.limit_block is None else min(max(self.limit_block, first), end)
        low, high = np.searchsorted(self.blocks, [first, limit])
        return np.concatenate([self.blocks[low:high], np.arange(limit, end, dtype=np.uint32)])


_ALL: Final = RelationChanges(blocks=np.zeros(0, np.uint32), limit_block=0)


class ChangedBlocks:
    """The changes of all relations: 4 bytes a block and 24 a relation, in working files where there are many. Made by
    ``ChangedBlocksBuilder``."""

    def __init__(
        self,
        places: Mapping[tuple[int, int], int],
        relations: _Rows,
        columns: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32]],
    ) -> None:
        """``columns`` are, of each relation, where its blocks end and its limit; and all blocks."""
        self._places = places
        self._relations: Sequence[int] = relations.data
        self._ends, self._limits, self._blocks = columns

    def find(self, tablespace_oid: int, database_oid: int, relfilenode: int) -> RelationChanges | None:
        """What changed of a relation's main fork; None is proof that nothing did.

        1663 is pg_default; the catalogues all databases share are in 1664 (pg_global), database 0.
        """
        place = self._places.get((tablespace_oid, database_oid))
        if place is None:
            return None
        if self._find_number(place, _WHOLE_DATABASE) is not None:
            return _ALL
        number = self._find_number(place, relfilenode)
        if number is None:
            return None
        start = int(self._ends[number - 1]) if number else 0
        limit = int(self._limits[number])
        return RelationChanges(
            blocks=self._blocks[start : int(self._ends[number])], limit_block=None if limit == _NO_LIMIT else limit
        )

    def _find_number(self, place: int, relfilenode: int) -> int | None:
        key = place << 32 | relfilenode
        at = bisect_left(self._relations, key)
        return at if at < len(self._relations) and self._relations[at] == key else None

    @property
    def relation_count(self) -> int:
        return len(self._relations)

    @property
    def block_count(self) -> int:
        """Without those that only a limit says have changed."""
        return len(self._blocks)


class ChangedBlocksBuilder:
    """Takes what summaries say, in any order and as often as they say it. Good for one ``finish``."""

    def __init__(self) -> None:
        # Of a relation's key the upper half is the number of its tablespace and database.
        self._places: dict[tuple[int, int], int] = {}
        self._waiting: _Rows = np.empty(PART_ROWS, np.uint64)
        self._waiting_count = 0
        # What waits came in so many pieces, each of one relation.
        self._relation_of_piece, self._rows_of_piece = array("Q"), array("Q")
        self._runs = _Runs()

    def add_limit(self, relation: tuple[int, int, int], limit_block: int) -> None:
        """All blocks from ``limit_block`` on. ``relation`` is tablespace, database, relfilenode."""
        self._add(relation, np.array([limit_block], np.uint64) | _LIMIT)

    def add_blocks(self, relation: tuple[int, int, int], blocks: NDArray[np.uint32]) -> None:
        """Blocks in any order."""
        self._add(relation, blocks)

    def finish(self) -> ChangedBlocks:
        """Raises StoreUnreachable where there is no room for working files."""
        self._sort()
        self._waiting = np.zeros(0, np.uint64)
        relations, rows = self._runs.merge()
        counts, limits = make_column(len(relations), np.int64), make_column(len(relations), np.int64)
        limits[:] = _NO_LIMIT
        blocks = Spool()
        for part in rows:
            is_limit = (part & _LIMIT) != 0
            blocks.write(part[~is_limit].astype(np.uint32))
            numbers, begins = _find_groups(part[~is_limit] >> _RELATION_BITS)
            counts[numbers] += np.diff(begins)
            # In order, so the first of a relation is its lowest; and what came in an earlier part is lower still.
            numbers, begins = _find_groups(part[is_limit] >> _RELATION_BITS)
            is_new = limits[numbers] == _NO_LIMIT
            limits[numbers[is_new]] = part[is_limit][begins[:-1][is_new]].astype(np.uint32)
            let_go()
        return ChangedBlocks(self._places, relations, (cumulate(counts), limits, blocks.to_array(np.uint32)))

    def _add(self, relation: tuple[int, int, int], rows: NDArray[Any]) -> None:
        place = self._places.setdefault(relation[:2], len(self._places))
        while len(rows):
            if self._waiting_count == PART_ROWS:
                self._sort()
            piece, rows = np.split(rows, [PART_ROWS - self._waiting_count])
            self._waiting[self._waiting_count : self._waiting_count + len(piece)] = piece
            self._waiting_count += len(piece)
            self._relation_of_piece.append(place << 32 | relation[2])
            self._rows_of_piece.append(len(piece))

    def _sort(self) -> None:
        keys = np.array(self._relation_of_piece, np.uint64)
        relations = _sort_unique(keys)
        numbers = np.searchsorted(relations, keys).astype(np.uint64) << _RELATION_BITS
        rows = self._waiting[: self._waiting_count] | np.repeat(numbers, np.array(self._rows_of_piece, np.int64))
        self._runs.add(relations, _sort_unique(rows))
        self._waiting_count = 0
        self._relation_of_piece, self._rows_of_piece = array("Q"), array("Q")


class _Runs:
    """Sorted rows, run by run, each with the relations that its own numbers stand for, in order."""

    def __init__(self) -> None:
        self._rows, self._relations = Spool(), Spool()
        self._ends, self._relation_ends = [0], [0]

    def add(self, relations: _Rows, rows: _Rows) -> None:
        if len(rows):
            self._rows.write(rows)
            self._relations.write(relations)
            self._ends.append(self._ends[-1] + len(rows))
            self._relation_ends.append(self._relation_ends[-1] + len(relations))

    def merge(self) -> tuple[_Rows, Iterator[_Rows]]:
        """All relations, in order; and all rows with their numbers among these, in order and each once, in parts."""
        tables = _cut(self._relations.to_array(np.uint64), self._relation_ends)
        relations: _Rows = np.zeros(0, np.uint64)
        for table in tables:
            place = np.minimum(np.searchsorted(relations, table), max(len(relations) - 1, 0))
            new = table[relations[place] != table] if len(relations) else table
            relations = np.sort(np.concatenate((relations, new))) if len(new) else relations
        spool = Spool()
        for table in tables:
            spool.write(np.searchsorted(relations, table).astype(np.uint32))
            let_go()
        numbers = _cut(spool.to_array(np.uint32), self._relation_ends)
        return relations, _iter_merged(_cut(self._rows.to_array(np.uint64), self._ends), numbers)


def _iter_merged(runs: Sequence[_Rows], numbers: Sequence[NDArray[np.uint32]]) -> Iterator[_Rows]:
    """``numbers`` has for each run those of its relations among all. Some ``PART_ROWS`` at a time.

    Of each run every so manieth row is looked at. Between two of these that are as many apart as there are runs lie no
    more rows than twice their distance in all runs together.
    """
    if not runs:
        return
    distance = max(PART_ROWS // (2 * len(runs)), 1)
    samples = [_renumber(run[::distance], own) for run, own in _in_turn(runs, numbers)]
    cuts = np.sort(np.concatenate(samples))[len(runs) :: len(runs)]
    places = [_find_cuts(run, own, cuts) for run, own in _in_turn(runs, numbers)]
    for at in range(len(cuts) + 1):
        parts = (run[place[at] : place[at + 1]] for run, place in zip(runs, places, strict=True))
        yield _sort_unique(np.concatenate([_renumber(part, own) for part, own in zip(parts, numbers, strict=True)]))


def _in_turn(
    runs: Sequence[_Rows], numbers: Sequence[NDArray[np.uint32]]
) -> Iterator[tuple[_Rows, NDArray[np.uint32]]]:
    """Each run with its numbers. Who looks into one here and there touches all of it: the system maps what is near."""
    for pair in zip(runs, numbers, strict=True):
        yield pair
        let_go()


def _renumber(rows: _Rows, numbers: NDArray[np.uint32]) -> _Rows:
    renumbered: _Rows = numbers[rows >> _RELATION_BITS].astype(np.uint64)
    return renumbered << _RELATION_BITS | rows & _WITHOUT_RELATION


def _find_cuts(run: _Rows, numbers: NDArray[np.uint32], cuts: _Rows) -> list[int]:
    """Where in a run, by its own numbers, these rows would lie; between its beginning and its end."""
    wanted = cuts >> _RELATION_BITS
    own = np.searchsorted(numbers, wanted)
    is_there = numbers[np.minimum(own, len(numbers) - 1)] == wanted
    rows = own.astype(np.uint64) << _RELATION_BITS | np.where(is_there, cuts & _WITHOUT_RELATION, np.uint64(0))
    return [0, *np.searchsorted(run, rows).tolist(), len(run)]


def _cut(column: NDArray[Any], ends: Sequence[int]) -> list[NDArray[Any]]:
    return [column[begin:end] for begin, end in pairwise(ends)]


def _find_groups(numbers: _Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of numbers in order each one, and where it begins, with the end of all."""
    found = _sort_unique(numbers)
    return found.astype(np.int64), np.append(np.searchsorted(numbers, found), len(numbers))


def _sort_unique(numbers: _Rows) -> _Rows:
    """np.unique does the same with a hash table, and takes a hundred times as long."""
    ordered = np.sort(numbers)
    is_first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]
