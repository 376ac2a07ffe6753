"""Columns that this process makes and its workers read.

The one idea: they are copied into one file without a name, which all of them map, so that they are in memory once and
not once a process, and only as long as there is room.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pghaven.runtime.shared import find_shared, share
from pghaven.runtime.spill import in_parts, map_file, open_nameless

_Layout = tuple[tuple[str, int], ...]
_ALIGNED = 8


class SharedColumns:
    """``arrays`` are the columns it was made of, in their order; they must not be changed."""

    def __init__(self, columns: Sequence[npt.NDArray[Any]]) -> None:
        """Raises StoreUnreachable where there is no room for them."""
        file = open_nameless()
        size = sum(_padded(column.nbytes) for column in columns)
        os.posix_fallocate(file.fileno(), 0, max(size, _ALIGNED))
        for column in columns:
            for part in in_parts(len(column)):
                file.write(column[part].tobytes())
            file.seek(_padded(file.tell()))
        self._adopt(file, tuple((column.dtype.str, len(column)) for column in columns))

    def __del__(self) -> None:
        self._file.close()  # what is mapped of it stays

    def __reduce__(self) -> tuple[Callable[[int, _Layout], SharedColumns], tuple[int, _Layout]]:
        return _find, (self.descriptor, self._layout)

    @property
    def descriptor(self) -> int:
        """Of their file, here and in the workers."""
        return self._file.fileno()

    def _adopt(self, file: BinaryIO, layout: _Layout) -> None:
        self._file, self._layout = file, layout
        kinds = [(np.dtype(kind), count) for kind, count in layout]
        size = sum(_padded(kind.itemsize * count) for kind, count in kinds)
        mapped = map_file(file, max(size, _ALIGNED), mmap.ACCESS_READ)
        self.arrays: list[npt.NDArray[Any]] = []
        at = 0
        for kind, count in kinds:
            self.arrays.append(np.frombuffer(mapped, kind, count, at))
            at += _padded(kind.itemsize * count)
        share(self.descriptor, self)


def _find(descriptor: int, layout: _Layout) -> SharedColumns:
    found = find_shared(descriptor)
    if not isinstance(found, SharedColumns):
        found = SharedColumns.__new__(SharedColumns)
        found._adopt(os.fdopen(descriptor, "rb", buffering=0), layout)
    return found


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
