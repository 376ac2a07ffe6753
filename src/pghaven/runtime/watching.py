"""Being told when files in a directory are finished: Linux's inotify.

The one idea: whoever else writes a file closes it when it is done, and the kernel tells. What was missed (a queue that
overflowed) is only late: the directory itself says at the end what there is.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from types import TracebackType
from typing import Self

_CLOSE_WRITE = 0x8
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 << 10


class ClosedFiles:
    """Names of files directly below a directory that somebody has written and closed. Raises OSError."""

    def __init__(self, directory: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(_FLAGS)
        if self._fd < 0:
            self._fail(directory)
        if libc.inotify_add_watch(self._fd, os.fsencode(directory), ctypes.c_uint32(_CLOSE_WRITE)) < 0:
            try:
                self._fail(directory)
            finally:
                os.close(self._fd)

    def _fail(self, directory: str) -> None:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), directory)

    def wait(self, seconds: float, also: int | None = None) -> tuple[str, ...]:
        """The names of files closed since the last call; waits until there are some, but no longer than this, nor once
        the descriptor ``also`` can be read."""
        watched = [self._fd] if also is None else [self._fd, also]
        if self._fd not in select.select(watched, [], [], seconds)[0]:
            return ()
        data = os.read(self._fd, _READ_BYTES)
        names, at = [], 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            if mask & _CLOSE_WRITE:
                names.append(os.fsdecode(data[at : at + length].rstrip(b"\0")))
            at += length
        return tuple(names)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()
