"""Which blocks of which relations changed over a stretch of WAL, gathered from many summaries of it.

The one idea: only unions are formed. A block that any summary names is changed, and so is every block from the shortest
length a relation was ever cut to (its limit; 0 for one that was made or removed). So a summary that says too much costs
some reading, and neither the order of summaries nor what one of them left out after a truncation can lose a change.

Follows blkreftable.c and walsummarizer.c: a whole database that was made or removed stands as relation 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_WHOLE_DATABASE: Final = 0
_BLOCK_BITS: Final = np.uint64(32)
# Blocks wait here until they are worth sorting: 8 MiB.
_PART: Final = 1 << 20


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
    """The changes of all relations; some 4 bytes a block and 150 a relation. Made by ``ChangedBlocksBuilder``."""

    def __init__(
        self, slices: dict[tuple[int, int, int], tuple[int, int, int | None]], blocks: NDArray[np.uint32]
    ) -> None:
        self._slices = slices
        self._blocks = blocks

    def find(self, tablespace_oid: int, database_oid: int, relfilenode: int) -> RelationChanges | None:
        """What changed of a relation's main fork; None is proof that nothing did.

        1663 is pg_default; the catalogues all databases share are in 1664 (pg_global), database 0.
        """
        if (tablespace_oid, database_oid, _WHOLE_DATABASE) in self._slices:
            return _ALL
        found = self._slices.get((tablespace_oid, database_oid, relfilenode))
        if found is None:
            return None
        start, end, limit_block = found
        return RelationChanges(blocks=self._blocks[start:end], limit_block=limit_block)

    @property
    def relation_count(self) -> int:
        return len(self._slices)

    @property
    def block_count(self) -> int:
        """Without those that only a limit says have changed."""
        return len(self._blocks)


class ChangedBlocksBuilder:
    """Takes what summaries say, in any order and as often as they say it. Good for one ``finish``."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._limits: dict[int, int] = {}
        # Both hold relation number << 32 | block.
        self._sorted: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._waiting: NDArray[np.uint64] = np.empty(_PART, np.uint64)
        self._waiting_count = 0

    def add_limit(self, relation: tuple[int, int, int], limit_block: int) -> None:
        """All blocks from ``limit_block`` on. ``relation`` is tablespace, database, relfilenode."""
        number = self._number(relation)
        self._limits[number] = min(limit_block, self._limits.get(number, limit_block))

    def add_blocks(self, relation: tuple[int, int, int], blocks: NDArray[np.uint32]) -> None:
        """Blocks in any order."""
        base = np.uint64(self._number(relation) << 32)
        count = self._waiting_count
        if count + len(blocks) > len(self._waiting):
            self._sort(len(blocks))
            count = 0
        np.bitwise_or(blocks, base, out=self._waiting[count : count + len(blocks)])
        self._waiting_count = count + len(blocks)

    def finish(self) -> ChangedBlocks:
        self._sort(0)
        self._waiting = np.zeros(0, np.uint64)
        bounds = np.searchsorted(self._sorted, np.arange(len(self._numbers) + 1, dtype=np.uint64) << _BLOCK_BITS)
        ends = bounds.tolist()
        slices = {
            relation: (ends[number], ends[number + 1], self._limits.get(number))
            for relation, number in self._numbers.items()
        }
        return ChangedBlocks(slices, self._sorted.astype(np.uint32))

    def _number(self, relation: tuple[int, int, int]) -> int:
        return self._numbers.setdefault(relation, len(self._numbers))

    def _sort(self, needed: int) -> None:
        """Make room. What waits grows with what is sorted, so that a block is sorted only a few times in all."""
        if self._waiting_count:
            joined = np.concatenate([self._sorted, self._waiting[: self._waiting_count]])
            joined.sort()
            # np.unique does the same with a hash table, and takes a hundred times as long.
            is_first = np.ones(len(joined), np.bool_)
            np.not_equal(joined[1:], joined[:-1], out=is_first[1:])
            self._sorted = joined[is_first]
            self._waiting_count = 0
        size = max(_PART, len(self._sorted), needed)
        if size > len(self._waiting):
            self._waiting = np.empty(size, np.uint64)
