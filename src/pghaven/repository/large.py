"""What is large is not held in memory twice: parts of an object, and the contents that come out of one.

The one idea: up to LARGE_BYTES everything is bytes in memory, which is fast. Beyond that what is stored lies in a
working file, mapped, and what was stored is read frame by frame; so a WAL segment of 1 GiB takes hardly more memory
than itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from pghaven.repository.codec import Buffer
from pghaven.store.api import Store

if TYPE_CHECKING:
    from typing import Protocol

    from pghaven.runtime.spill import Spool

    class Frames(Protocol):
        """Contents that are not in memory, and are the same however often they are read, or an error is raised."""

        def __len__(self) -> int: ...

        def iter_frames(self, frame_bytes: int) -> Iterator[Buffer]:
            """All of it, in pieces of this length; each is gone when the next is asked for."""

        def read_all(self) -> bytes: ...

    Plain = bytes | Frames

LARGE_BYTES = 64 << 20
_PART_BYTES = 16 << 20


class StoredParts:
    """What an object is made of, in order. Raises StoreUnreachable where there is no room for a working file."""

    def __init__(self, first: bytes) -> None:
        self._parts = [first]
        self._size_bytes = len(first)
        self._spool: Spool | None = None

    def append(self, part: bytes) -> None:
        if self._spool is not None:
            self._spool.write(part)
            return
        self._parts.append(part)
        self._size_bytes += len(part)
        if self._size_bytes > LARGE_BYTES:
            self._spool = _new_spool()
            for one in self._parts:
                self._spool.write(one)
            self._parts.clear()

    def join(self, end: Sequence[bytes]) -> tuple[Buffer, ...]:
        """All of it, with these at the end; what is large in one piece."""
        if self._spool is None:
            return (*self._parts, *end)
        for part in end:
            self._spool.write(part)
        return (self._spool.view(),)


def iter_plain(plain: Plain, frame_bytes: int) -> Iterator[Buffer]:
    """As ``Frames.iter_frames``."""
    if not isinstance(plain, bytes):
        yield from plain.iter_frames(frame_bytes)
        return
    view = memoryview(plain)
    for start in range(0, len(view), frame_bytes):
        yield view[start : start + frame_bytes]


def read_plain(plain: Plain) -> bytes:
    """All of it in memory."""
    return plain if isinstance(plain, bytes) else plain.read_all()


def join_frames(frames: Iterable[Buffer], plain_length: int) -> bytes:
    if plain_length <= LARGE_BYTES:
        return b"".join(frames)
    whole = BytesIO()  # a list of all frames would hold everything twice
    for frame in frames:
        whole.write(frame)
    return whole.getvalue()


def are_frames_of(frames: Iterable[Buffer], content: Buffer) -> bool:
    """Whether these one after another are this content."""
    view = memoryview(content)
    at = 0
    for frame in frames:
        if view[at : at + len(frame)] != frame:
            return False
        at += len(frame)
    return at == len(view)


def read_in_parts(store: Store, name: str) -> Buffer:
    """An object's content; of a large one in a working file. Raises ObjectMissing, Damaged."""
    info = store.find(name)
    if info is None or info.size_bytes <= LARGE_BYTES:
        return store.read(name)
    spool = _new_spool()
    for offset in range(0, info.size_bytes, _PART_BYTES):
        spool.write(store.read_range(name, offset, min(_PART_BYTES, info.size_bytes - offset)))
    return spool.view()


def _new_spool() -> Spool:
    from pghaven.runtime.spill import Spool  # what hardly any object comes to costs 100 ms to import

    return Spool()
