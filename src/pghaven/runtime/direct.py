"""Large writes that pass by the page cache (``O_DIRECT``): when they can, and what happens where they cannot.

The one idea: what is written once and not read soon only suffers from the page cache: each page of it is copied, takes
a fresh page of memory, evicts what others need, and waits to be flushed. So large pieces go to the disk from a buffer
of ours, one being written while the caller prepares the next. Where a file system has no such thing the same bytes are
written as usual. Nothing here makes anything durable: that is still ``durable``'s.

Errors are plain OSErrors whose ``filename`` is the name the caller gave.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

# Below it, waiting for the disk costs more than the page cache.
PIECE_BYTES_MIN: Final = 256 << 10
# No file system asks for more: the largest sector there is, and a page of memory.
_ALIGNMENT: Final = 4096
_BUFFERS: Final = 2


def open_direct(descriptor: int) -> int | None:
    """A second descriptor of the same open file, for direct writes; None where there are none."""
    try:
        # By what is open, not by its name, which may have become another file's.
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None


class DirectWriter:
    """Writes pieces of up to ``piece_bytes`` in a thread of its own, in the order they come. For one caller.

    ``write`` returns when the piece is copied, ``drain`` when all are written. An error is raised by a later call.
    """

    def __init__(self, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes
        memory = memoryview(mmap.mmap(-1, _BUFFERS * piece_bytes))  # aligned, as direct writes must be
        self._buffers = deque(memory[start : start + piece_bytes] for start in range(0, len(memory), piece_bytes))
        self._pending: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, "write")

    def fits(self, offset: int, length: int) -> bool:
        """Whether a piece can be written directly, and should."""
        return PIECE_BYTES_MIN <= length <= self._piece_bytes and not (offset | length) % _ALIGNMENT

    def write(self, descriptors: tuple[int, int], offset: int, piece: memoryview, name: str) -> None:
        """Write a piece that ``fits`` by a file's direct descriptor, or else by its usual one.

        Both must stay open until ``drain`` has returned.
        """
        while len(self._pending) >= _BUFFERS:
            self._pending.popleft().result()
        buffer = self._buffers[0]
        self._buffers.rotate(-1)
        buffer[: len(piece)] = piece
        self._pending.append(self._thread.submit(_write_piece, descriptors, offset, buffer[: len(piece)], name))

    def drain(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        self._thread.shutdown()
        self.drain()


def _write_piece(descriptors: tuple[int, int], offset: int, piece: memoryview, name: str) -> None:
    direct, usual = descriptors
    descriptor = direct
    while piece:
        try:
            done = os.pwrite(descriptor, piece, offset)
        except OSError as error:
            if error.errno == errno.EINVAL and descriptor == direct:
                descriptor = usual  # its blocks are larger, or a write that came back short left an odd rest
                continue
            error.filename = name
            raise
        piece, offset = piece[done:], offset + done
