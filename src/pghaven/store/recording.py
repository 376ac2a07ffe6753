"""A store that writes down what is done to another, so that every crash can be looked at afterwards.

The one idea: a process that dies leaves exactly a prefix of its changes. Replaying each prefix into a fresh store gives
every state a crash can leave, and each of them must be a valid repository.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pghaven.runtime.durable import Buffer
from pghaven.store.api import Buffers, ObjectInfo, Store
from pghaven.store.memory import MemoryStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One change that took effect. ``content`` is empty for a delete."""

    operation: Literal["create", "delete"]
    name: str
    content: bytes = b""


class RecordingStore:
    """Passes every call on and records the changes in the order in which they took effect.

    Changes are made one at a time, so that this order is the true one also with threads.
    """

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._mutations: list[Mutation] = []

    @property
    def url(self) -> str:
        return self._inner.url

    @property
    def mutations(self) -> tuple[Mutation, ...]:
        """What took effect so far. A create that failed and a delete of nothing are not changes."""
        with self._lock:
            return tuple(self._mutations)

    def replay(self, count: int) -> MemoryStore:
        """A fresh store with the first ``count`` changes: what a crash after them leaves."""
        store = MemoryStore()
        for mutation in self.mutations[:count]:
            if mutation.operation == "create":
                store.create(mutation.name, [mutation.content])
            else:
                store.delete(mutation.name)
        return store

    def create(self, name: str, content: Buffers) -> None:
        data = b"".join(content)
        with self._lock:
            self._inner.create(name, [data])
            self._mutations.append(Mutation(operation="create", name=name, content=data))

    def read(self, name: str) -> bytes:
        return self._inner.read(name)

    def read_range(self, name: str, offset: int, length: int) -> Buffer:
        return self._inner.read_range(name, offset, length)

    def find(self, name: str) -> ObjectInfo | None:
        return self._inner.find(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def list_children(self, prefix: str) -> tuple[str, ...]:
        return self._inner.list_children(prefix)

    def confirm(self, name: str) -> None:
        self._inner.confirm(name)

    def delete(self, name: str) -> None:
        with self._lock:
            was_there = self._inner.find(name) is not None
            self._inner.delete(name)
            if was_there:
                self._mutations.append(Mutation(operation="delete", name=name))

    def free_bytes(self) -> int | None:
        return self._inner.free_bytes()
