"""Files by their rule, and the blocks of them that are to be read.

The one idea: jobs are made from these while the workers are at work, some files at a time, so nothing here is a list of
a million numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pghaven.runtime.columns import Column
from pghaven.runtime.spill import Spool, in_parts


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
