"""Columns that may be longer than memory should be filled with: large ones are files without a name, mapped.

The one idea: a mapped column reads and writes like any other array, and ``let_go`` takes what was touched of all of
them out of this process's memory; the system keeps as much of it as it has room for. So who goes through columns in
parts (``in_parts``) holds a part of them, however long they are. What is small stays in memory and costs no file.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from pghaven.errors import StoreUnreachable

Buffer = bytes | bytearray | memoryview
_Number = TypeVar("_Number", bound=np.generic)

SMALL_BYTES = 1 << 18
PART_ROWS = 1 << 16
# On many systems /tmp is memory; what outlives a restart is not.
_DIRECTORY = "/var/tmp"  # noqa: S108 (files in it have no name)

_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
_lock = threading.Lock()


def find_directory() -> str:
    """Where working files go: ``TMPDIR``, or ``/var/tmp``."""
    return os.environ.get("TMPDIR") or (_DIRECTORY if os.access(_DIRECTORY, os.W_OK) else tempfile.gettempdir())


def make_column(count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros of this type. Raises StoreUnreachable where there is no room for a file of them."""
    kind = np.dtype(dtype)
    size = count * kind.itemsize
    if size <= SMALL_BYTES:
        return np.zeros(count, kind)
    with open_nameless() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, and a SIGBUS later
        except OSError as error:
            raise _no_room(error) from error
        return np.frombuffer(map_file(file, size, mmap.ACCESS_WRITE), kind)


def let_go() -> None:
    """Take what was touched of all mapped columns out of this process's memory; nothing of it is lost."""
    with _lock:
        mappings = list(_mappings)
    for mapping in mappings:
        mapping.madvise(mmap.MADV_DONTNEED)


def in_parts(count: int, rows: int = PART_ROWS) -> Iterator[slice]:
    """Slices that cover this many rows; what was touched of mapped columns is let go after each."""
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))
        let_go()


def cumulate(counts: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Where each one ends if they lie one after another."""
    ends: npt.NDArray[np.int64] = make_column(len(counts), np.int64)
    reached = 0
    for part in in_parts(len(counts)):
        np.cumsum(counts[part], dtype=np.int64, out=ends[part])
        ends[part] += reached
        reached = int(ends[part.stop - 1])
    return ends


class Spool:
    """Bytes that are written one after another and then read as one piece."""

    __slots__ = ("_buffer", "_buffer_bytes", "_file", "_written")

    def __init__(self, buffer_bytes: int = SMALL_BYTES) -> None:
        self._buffer_bytes = buffer_bytes
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._written = 0

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()  # what is mapped of it stays

    def __len__(self) -> int:
        return self._written + len(self._buffer)

    def write(self, data: Buffer | npt.NDArray[Any]) -> None:
        """Raises StoreUnreachable where there is no room for them."""
        self._buffer += data.tobytes() if isinstance(data, np.ndarray) else data
        if len(self._buffer) > self._buffer_bytes:
            self._flush()

    def view(self) -> memoryview:
        """All that was written so far. It must not be changed."""
        if self._file is None:
            return memoryview(bytes(self._buffer))
        self._flush()
        return memoryview(map_file(self._file, self._written, mmap.ACCESS_READ))

    def to_array(self, dtype: type[_Number]) -> npt.NDArray[_Number]:
        return np.frombuffer(self.view(), dtype)

    def _flush(self) -> None:
        if self._file is None:
            self._file = open_nameless()
        waiting, self._buffer = memoryview(self._buffer), bytearray()
        try:
            while waiting:
                written = self._file.write(waiting)
                waiting = waiting[written:]
                self._written += written
        except OSError as error:
            raise _no_room(error) from error


def open_nameless() -> BinaryIO:
    """A working file. Raises StoreUnreachable where there is no room for one."""
    try:
        return tempfile.TemporaryFile(prefix="pghaven-", dir=find_directory(), buffering=0)
    except OSError as error:
        raise _no_room(error) from error


def map_file(file: BinaryIO, size: int, access: int) -> mmap.mmap:
    """A working file's contents, which ``let_go`` knows of."""
    mapping = mmap.mmap(file.fileno(), size, access=access)
    with _lock:
        _mappings.add(mapping)
    return mapping


def _no_room(error: OSError) -> StoreUnreachable:
    return StoreUnreachable(
        f'could not write a working file in "{find_directory()}": {error.strerror}',
        hint="Lists take some 200 bytes for each file of the cluster, WAL segments above 64 MiB as much as they have. "
        "TMPDIR can name another directory.",
    )
