"""A store in memory, for tests, simulations and recorded histories.

The one idea: it keeps every promise of ``api`` except surviving the process, so code tested on it meets no surprise on
a real one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import NoReturn

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import Damaged, ObjectExists, ObjectMissing, Refused
from pghaven.store.api import Buffers, ObjectInfo, ancestors_of, check_name, check_prefix


class MemoryStore:
    """Objects in a dict. Threads may share it; processes cannot, so it refuses to be pickled."""

    url = "memory:"

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, datetime]] = {}
        self._prefixes: Counter[str] = Counter()  # how many objects lie below each, at any depth

    def create(self, name: str, content: Buffers) -> None:
        check_name(name)
        data = b"".join(content)
        with self._lock:
            if name in self._objects:
                raise ObjectExists(f'"{name}" exists already in {self.url}')
            if name in self._prefixes:
                raise Refused(f'cannot create "{name}" in {self.url}: it is a prefix of other objects')
            for ancestor in ancestors_of(name):
                if ancestor in self._objects:
                    raise Refused(f'cannot create "{name}" in {self.url}: "{ancestor}" is an object')
            self._objects[name] = (data, self._clock.now())
            self._prefixes.update(ancestors_of(name))

    def read(self, name: str) -> bytes:
        return self._entry(name)[0]

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        data = self.read(name)[offset : offset + length]
        if len(data) != length:
            raise Damaged(f'"{name}" in {self.url} ends before byte {offset + length}')
        return data

    def find(self, name: str) -> ObjectInfo | None:
        check_name(name)
        with self._lock:
            entry = self._objects.get(name)
        return None if entry is None else ObjectInfo(name=name, size_bytes=len(entry[0]), modified=entry[1])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._lock:
            names = sorted(name for name in self._objects if name.startswith(prefix))
        return (info for name in names if (info := self.find(name)) is not None)

    def list_children(self, prefix: str) -> tuple[str, ...]:
        check_prefix(prefix)
        with self._lock:
            rests = [name[len(prefix) :] for name in self._objects if name.startswith(prefix)]
        return tuple(sorted({first + slash for first, slash, _ in (rest.partition("/") for rest in rests)}))

    def confirm(self, name: str) -> None:
        self._entry(name)

    def delete(self, name: str) -> None:
        check_name(name)
        with self._lock:
            if self._objects.pop(name, None) is None:
                return
            for ancestor in ancestors_of(name):
                self._prefixes[ancestor] -= 1
                if not self._prefixes[ancestor]:
                    del self._prefixes[ancestor]

    def free_bytes(self) -> int | None:
        return None

    def _entry(self, name: str) -> tuple[bytes, datetime]:
        check_name(name)
        with self._lock:
            entry = self._objects.get(name)
        if entry is None:
            raise ObjectMissing(f'"{name}" does not exist in {self.url}')
        return entry

    def __reduce__(self) -> NoReturn:
        raise TypeError("a memory store lives in one process: a pickled one would be another store")
