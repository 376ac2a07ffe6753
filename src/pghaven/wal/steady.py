"""A file of ``pg_wal`` that is read piece by piece, and is the same file in each of them.

The one idea: what is stored is what was proven. Memory for a whole segment costs more than reading it, since each page
of it is new; so one piece of memory is used again and again, and the file's beginning, by which a segment is judged,
must be what was judged. A file that is written to meanwhile, or replaced, is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pghaven.errors import NotFound, NotPermitted, Refused, StoreUnreachable
from pghaven.postgres.segment import SEGMENT_SIZE_MAX
from pghaven.units import render_size

if TYPE_CHECKING:
    from mmap import mmap

_HEAD_BYTES = 512
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # opening a FIFO must not block


class SteadyFile:
    """A regular file as it is when this is made. ``head`` is its first bytes.

    Everything here raises NotFound, NotPermitted, StoreUnreachable, and Refused for a file that is none of the WAL's or
    that has changed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with _reported(path):
            descriptor = os.open(path, _FLAGS)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise Refused(f'"{path}" is not a regular file')
                if status.st_size > SEGMENT_SIZE_MAX:
                    raise Refused(f'"{path}" has {render_size(status.st_size)}; no file in pg_wal is that large')
                self._state = _state(status)
                self.mtime_ns = status.st_mtime_ns
                self.head = os.pread(descriptor, _HEAD_BYTES, 0)
            finally:
                os.close(descriptor)
        self._size_bytes = status.st_size

    def __len__(self) -> int:
        return self._size_bytes

    def iter_frames(self, frame_bytes: int) -> Iterator[memoryview]:
        """All of it in pieces of this length; each is gone when the next is asked for."""
        memory = memoryview(bytearray(min(frame_bytes, self._size_bytes)))
        with self._opened() as descriptor:
            for offset in range(0, self._size_bytes, frame_bytes):
                frame = memory[: min(frame_bytes, self._size_bytes - offset)]
                self._fill(descriptor, frame, offset)
                if not offset and frame[: len(self.head)] != self.head[: len(frame)]:
                    raise self._changed()
                yield frame

    def read_all(self) -> bytes:
        """All of it in memory."""
        return b"".join([bytes(frame) for frame in self.iter_frames(1 << 20)])

    @contextmanager
    def mapped(self) -> Iterator[mmap]:
        """All of it as memory, for who looks at a few places. Whoever cut it off meanwhile would end this process."""
        import mmap

        with self._opened() as descriptor, mmap.mmap(descriptor, self._size_bytes, prot=mmap.PROT_READ) as memory:
            yield memory

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor of it. Raises Refused, also at the end, if it is not what it was."""
        with _reported(self._path):
            descriptor = os.open(self._path, _FLAGS)
            try:
                self._require_same(descriptor)
                yield descriptor
                self._require_same(descriptor)
            finally:
                os.close(descriptor)

    def _require_same(self, descriptor: int) -> None:
        if _state(os.fstat(descriptor)) != self._state:
            raise self._changed()

    def _fill(self, descriptor: int, frame: memoryview, offset: int) -> None:
        done = 0
        while done < len(frame):
            read = os.preadv(descriptor, [frame[done:]], offset + done)
            if not read:
                raise self._changed()
            done += read

    def _changed(self) -> Refused:
        return Refused(
            f'"{self._path}" has changed while it was read',
            hint="The server will try again. Nothing but its own server may write to pg_wal.",
        )


def _state(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def _reported(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f'"{path}" does not exist') from error
    except PermissionError as error:
        raise NotPermitted(f'could not read "{path}": permission denied') from error
    except OSError as error:
        raise StoreUnreachable(f'could not read "{path}": {error.strerror}') from error
