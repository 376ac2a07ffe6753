"""Files by their rule, and the blocks of them that are to be read.

The one idea: jobs are made from these while the workers are at work, some files at a time, so nothing here is a list of
a million numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pghaven.repository.blockmap import sort_unique
from pghaven.runtime.columns import Column
from pghaven.runtime.spill import Spool, in_parts, let_go, make_column

_FILE_BITS = 32


@dataclass(frozen=True, slots=True)
class Ruled:
    """The files with one rule, as often as they are gone through."""

    rules: npt.NDArray[np.uint8]
    rule: int

    def __iter__(self) -> Iterator[int]:
        for part in in_parts(len(self.rules)):
            yield from (np.flatnonzero(self.rules[part] == self.rule) + part.start).tolist()


class BlocksToRead:
    """The blocks to be read of files, which come and go in order."""

    def __init__(self) -> None:
        self.count = 0
        self._numbers, self._counts = Column("I"), Column("I")
        self._blocks = Spool()

    def add(self, number: int, blocks: npt.NDArray[np.uint32]) -> None:
        self.count += len(blocks)
        self._numbers.append(number)
        self._counts.append(len(blocks))
        self._blocks.write(blocks)
        self._numbers.settle()
        self._counts.settle()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Each file with its blocks as a column (u4)."""
        self._numbers.seal()
        self._counts.seal()
        at, blocks = 0, self._blocks.view()
        for number, count in zip(self._numbers, self._counts, strict=True):
            yield number, bytes(blocks[at : at + 4 * count])
            at += 4 * count


class ExtentsToRead:
    """Of some files extents that are to be read whole: millions, where a map has come to many pieces."""

    def __init__(
        self, theirs: npt.NDArray[np.uint64], counterpart: npt.NDArray[np.int64], more: Sequence[tuple[int, int]]
    ) -> None:
        """``theirs`` are file << 32 | extent of the parent's files, in order, ``counterpart`` those files' numbers
        for each of ours; ``more`` are files of ours with extents."""
        ours = make_column(int(theirs[-1] >> _FILE_BITS) + 1 if len(theirs) else 0, np.int64)
        for part in in_parts(len(counterpart) if len(theirs) else 0):
            known = np.flatnonzero((counterpart[part] >= 0) & (counterpart[part] < len(ours)))
            ours[counterpart[part][known]] = known + (part.start + 1)
        found = Spool()
        for part in in_parts(len(theirs)):
            files = ours[theirs[part] >> np.uint64(_FILE_BITS)]
            extents = theirs[part] & np.uint64((1 << _FILE_BITS) - 1)
            found.write(((files[files > 0] - 1).astype(np.uint64) << np.uint64(_FILE_BITS)) | extents[files > 0])
        found.write(np.array([file << _FILE_BITS | extent for file, extent in more], np.uint64))
        keys = make_column(len(found) // 8, np.uint64)
        keys[:] = found.to_array(np.uint64)
        keys.sort()
        let_go()
        self._keys: npt.NDArray[np.uint64] = keys
        self._numbers: Sequence[int] = keys.data

    def list_of(self, number: int) -> list[int]:
        """The extents of one file, in order."""
        first, end = self._find(number), self._find(number + 1)
        return [key & ((1 << _FILE_BITS) - 1) for key in dict.fromkeys(self._numbers[first:end])]

    def list_files(self, first: int, end: int) -> npt.NDArray[np.int64]:
        """The files that have any, from one number up to another, exclusive."""
        keys = self._keys[self._find(first) : self._find(end)]
        return sort_unique(keys >> np.uint64(_FILE_BITS)).astype(np.int64)

    def _find(self, number: int) -> int:
        return bisect_left(self._numbers, number << _FILE_BITS)
