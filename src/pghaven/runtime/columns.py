"""Columns of numbers that are appended to, and rows brought into groups.

The one idea: both go through what they are given once, in order, so that nothing of the size of a whole column is ever
in memory (``spill``).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pghaven.runtime.spill import SMALL_BYTES, Spool, cumulate, in_parts, let_go, make_column

# Rows are sorted so many at a time: some 100 bytes for each meanwhile. Fifty million fill all buckets.
_ROWS_AT_ONCE = 1 << 17
# Each is a file, of which a process may have some thousand open; together they have so much waiting to be written.
_BUCKETS_MAX = 384
_WAITING_BYTES = 8 << 20


class Column(Sequence[int]):
    """Numbers of one of ``array``'s kinds. ``append`` is that of an array; ``settle`` now and then moves what there is
    much of out of memory, after which ``seal`` comes before reading."""

    __slots__ = ("_items", "_kind", "_spool", "_tail", "append")

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._tail: array[int] = array(kind)
        self._items: Sequence[int] = self._tail
        self._spool: Spool | None = None
        self.append = self._tail.append

    def extend(self, data: bytes) -> None:
        """Numbers as bytes."""
        self._tail.frombytes(data)
        self.settle()

    def settle(self) -> None:
        if len(self._tail) * self._tail.itemsize > SMALL_BYTES:
            self._spill()

    def seal(self) -> None:
        """Have all of it ready to be read."""
        if self._spool is not None:
            self._spill()
            self._items = self._spool.view().cast(self._kind)  # type: ignore[call-overload]

    def to_array(self) -> npt.NDArray[Any]:
        """All of it, which must not be appended to any more."""
        self.seal()
        return np.frombuffer(self._items, self._kind) if len(self) else np.zeros(0, self._kind)  # type: ignore[call-overload]

    def __len__(self) -> int:
        return len(self._tail) + (len(self._spool) // self._tail.itemsize if self._spool is not None else 0)

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[int]: ...
    def __getitem__(self, at: int | slice) -> int | Sequence[int]:
        return self._items[at]

    def __iter__(self) -> Iterator[int]:
        return iter(self._items)

    def _spill(self) -> None:
        if self._spool is None:
            self._spool = Spool()
        self._spool.write(self._tail.tobytes())
        del self._tail[:]


def group_rows(
    keys: npt.NDArray[np.uint32], columns: Sequence[npt.NDArray[Any]], groups: int
) -> tuple[tuple[npt.NDArray[Any], ...], npt.NDArray[np.int64]]:
    """The rows of these columns by their key, those of one in the order they had; and where each of the ``groups`` keys
    ends."""
    counts = make_column(groups, np.int64)
    for part in in_parts(len(keys)):
        np.add.at(counts, keys[part], 1)
    ends = cumulate(counts)
    if len(keys) <= _ROWS_AT_ONCE:
        order = np.argsort(keys, kind="stable")
        return tuple(column[order] for column in columns), ends
    made = tuple(make_column(len(keys), column.dtype) for column in columns)
    done = 0
    for bucket in _iter_buckets(keys, columns, ends):
        is_one = np.all(bucket["key"] == bucket["key"][0])
        rows = bucket if is_one else bucket[np.argsort(bucket["key"], kind="stable")]
        for number, column in enumerate(made):
            column[done : done + len(rows)] = rows[str(number)]
        done += len(rows)
    return made, ends


def _iter_buckets(
    keys: npt.NDArray[np.uint32], columns: Sequence[npt.NDArray[Any]], ends: npt.NDArray[np.int64]
) -> Iterator[npt.NDArray[Any]]:
    """The rows as records, those of neighbouring keys together, as many at a time as can be sorted."""
    at_once = max(_ROWS_AT_ONCE, -(-len(keys) // _BUCKETS_MAX))
    first_keys = np.unique(np.searchsorted(ends, np.arange(0, len(keys), at_once), "right"))
    record = np.dtype([("key", keys.dtype), *((str(number), column.dtype) for number, column in enumerate(columns))])
    waiting = min(SMALL_BYTES, _WAITING_BYTES // len(first_keys))
    buckets = [Spool(waiting) for _ in first_keys]
    for part in in_parts(len(keys)):
        bucket = np.searchsorted(first_keys, keys[part], "right") - 1
        order = np.argsort(bucket, kind="stable")
        rows = np.empty(len(order), record)
        rows["key"] = keys[part][order]
        for number, column in enumerate(columns):
            rows[str(number)] = column[part][order]
        cuts = np.searchsorted(bucket[order], np.arange(len(buckets) + 1))
        for number, spool in enumerate(buckets):
            spool.write(rows[cuts[number] : cuts[number + 1]].tobytes())
    for number, spool in enumerate(buckets):
        buckets[number] = Spool()
        rows = np.frombuffer(spool.view(), record)
        del spool
        yield rows
        let_go()
