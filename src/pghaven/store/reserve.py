"""Room kept in reserve on a store that can be full, for the little that must be written before anything can be removed.

The one idea: a full disk refuses also the record that says what is removed, so some objects of no content lie there
that can be given up. They are many small ones, given up one at a time and only where a record finds no room, since
whoever else fills the disk takes what is set free; their content is random, so that no file system makes less of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from pghaven.clock import Clock
from pghaven.errors import NotPermitted, ObjectExists, StoreFull, StoreUnreachable
from pghaven.runtime.durable import Buffer
from pghaven.store.api import Buffers, ObjectInfo, Store

PIECES: Final = 32
PIECE_BYTES: Final = 128 << 10
RESERVE_BYTES: Final = PIECES * PIECE_BYTES
# It is made only where there is so many times the room: it must not be what fills a store.
_ROOM_FACTOR = 8
# What is larger is no record, and never worth the reserve.
_RECORD_BYTES_MAX = PIECE_BYTES // 2
_PAUSE_SECONDS = 0.02


def keep_reserve(store: Store, prefix: str) -> None:
    """Make what is missing of the reserve, where the store can be full and is not nearly so.

    Where that is not permitted, or fails, there is none.
    """
    with suppress(NotPermitted, StoreUnreachable):
        free_bytes = store.free_bytes()
        if free_bytes is None or free_bytes < RESERVE_BYTES * _ROOM_FACTOR:
            return
        there = set(store.list_children(prefix))
        for number in range(PIECES):
            if f"{number:02d}" not in there:
                with suppress(ObjectExists):  # somebody else was faster
                    store.create(f"{prefix}{number:02d}", [os.urandom(PIECE_BYTES)])


class ReservedStore:
    """A store in which a record that finds no room gets some of the reserve. ``tell`` is called when that begins.

    Others may take what was set free before the record does: then the next piece is given up. Raises StoreFull when
    there is none left.
    """

    def __init__(self, inner: Store, prefix: str, clock: Clock, tell: Callable[[], None]) -> None:
        self.inner = inner
        self._prefix = prefix
        self._clock = clock
        self._tell = tell
        self._is_told = False

    @property
    def url(self) -> str:
        return self.inner.url

    def create(self, name: str, content: Buffers) -> None:
        while True:
            try:
                self.inner.create(name, content)
            except StoreFull:
                is_record = sum(memoryview(part).nbytes for part in content) <= _RECORD_BYTES_MAX
                if not is_record or not self._give_up_a_piece():
                    raise
                if not self._is_told:
                    self._is_told = True
                    self._tell()
            else:
                return
            self._clock.sleep(_PAUSE_SECONDS)  # what others have begun, and now find no room for, they take away

    def _give_up_a_piece(self) -> bool:
        there = self.inner.list_children(self._prefix)
        if there:
            self.inner.delete(self._prefix + there[-1])
        return bool(there)

    def read(self, name: str) -> bytes:
        return self.inner.read(name)

    def read_range(self, name: str, offset: int, length: int) -> Buffer:
        return self.inner.read_range(name, offset, length)

    def find(self, name: str) -> ObjectInfo | None:
        return self.inner.find(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def list_children(self, prefix: str) -> tuple[str, ...]:
        return self.inner.list_children(prefix)

    def confirm(self, name: str) -> None:
        self.inner.confirm(name)

    def delete(self, name: str) -> None:
        self.inner.delete(name)

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()
