"""Large writes that pass by the page cache (``O_DIRECT``): when they can, and what happens where they cannot.

The one idea: what is written once and not read soon only suffers from the page cache: each page of it is copied, takes
a fresh page of memory, evicts what others need, and waits to be flushed. So large pieces go to the disk from a buffer
of ours. Where a file system has no such thing the same bytes are written as usual. Nothing here makes anything durable:
that is still ``durable``'s.

Errors are plain OSErrors; those of ``DirectWriter`` have the name the caller gave as ``filename``.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pghaven.runtime.durable import write_fully

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pghaven.runtime.durable import Buffer

# Below it, waiting for the disk costs more than the page cache.
PIECE_BYTES_MIN: Final = 256 << 10
# No file system asks for more: the largest sector there is, and a page of memory.
_ALIGNMENT: Final = 4096
_BUFFERS: Final = 2
_STAGING_BYTES: Final = 2 << 20

_spare: list[memoryview] = []
"""Memory that was used, and is at hand again: new pages cost more than what is copied into them."""


def open_direct(descriptor: int) -> int | None:
    """A second descriptor of the same open file, for direct writes; None where there are none."""
    try:
        # By what is open, not by its name, which may have become another file's.
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None


def write_new(descriptor: int, content: Sequence[Buffer]) -> None:
    """Write all that a new, empty file is to hold; directly if it is large and its file system lies on a device.

    On what has none of its own (NFS, FUSE, what lies in memory) a direct write is slow, none, or a flush of its own.
    """
    size = sum(memoryview(part).nbytes for part in content)
    has_device = size >= PIECE_BYTES_MIN and os.major(os.fstat(descriptor).st_dev) != 0
    if not (has_device and _set_direct(descriptor, is_wanted=True)):
        write_fully(descriptor, content)
        return
    is_direct = True
    with _staging() as memory:
        for piece in _gather(content, memory):
            done = _write_blocks(descriptor, piece) if is_direct else 0
            if done < len(piece):
                is_direct = is_direct and _set_direct(descriptor, is_wanted=False)
                write_fully(descriptor, [piece[done:]])


@contextmanager
def _staging() -> Iterator[memoryview]:
    """Aligned memory, of no other thread and of no other process."""
    try:
        memory = _spare.pop()
    except IndexError:
        memory = memoryview(mmap.mmap(-1, _STAGING_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    try:
        yield memory
    finally:
        _spare.append(memory)


def _gather(content: Sequence[Buffer], memory: memoryview) -> Iterator[memoryview]:
    """All of it in pieces that fill the memory, but for the last; each is gone when the next is asked for."""
    filled = 0
    for part in content:
        rest = memoryview(part).cast("B")
        while rest:
            taken = rest[: len(memory) - filled]
            memory[filled : filled + len(taken)] = taken
            filled, rest = filled + len(taken), rest[len(taken) :]
            if filled == len(memory):
                yield memory
                filled = 0
    if filled:
        yield memory[:filled]


def _write_blocks(descriptor: int, piece: memoryview) -> int:
    """Write the whole blocks at the beginning of a piece; how many bytes that were. Fewer where direct writes end."""
    done = 0
    while (whole := (len(piece) - done) // _ALIGNMENT * _ALIGNMENT) and not done % _ALIGNMENT:
        try:
            done += os.writev(descriptor, [piece[done : done + whole]])
        except OSError as error:
            if error.errno == errno.EINVAL:
                break  # its blocks are larger
            raise
    return done


def _set_direct(descriptor: int, *, is_wanted: bool) -> bool:
    """Have writes by a descriptor be direct or not; whether they are. False where there are none."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | (os.O_DIRECT if is_wanted else 0))
    except OSError:
        if not is_wanted:
            raise
        return False
    return is_wanted


class DirectWriter:
    """Writes pieces of up to ``piece_bytes`` in a thread of its own, in the order they come, one while the caller
    prepares the next. For one caller.

    ``write`` returns when the piece is copied, ``drain`` when all are written. An error is raised by a later call.
    """

    def __init__(self, piece_bytes: int) -> None:
        from concurrent.futures import ThreadPoolExecutor  # here, as a push does without it

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
