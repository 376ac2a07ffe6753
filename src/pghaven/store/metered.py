"""A store that counts what is asked of another, and keeps to a pace if there is one.

The one idea: requests are counted by the classes that object stores charge for, over all worker processes, so that what
an operation costs is counted and never guessed. Where one call is several requests, or one is made again, the store
itself tells of each, since each is charged for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pghaven.light import dataclass
from pghaven.runtime.durable import Buffer
from pghaven.runtime.pace import Pace
from pghaven.runtime.shared import SharedNumbers
from pghaven.store.api import Buffers, DependsOnServer, KeepsLeftovers, ObjectInfo, Store, TellsRequests
from pghaven.store.reserve import ReservedStore

# What an object store answers to one request for a list.
LISTED_TOGETHER = 1000

_PUT, _GET, _HEAD, _LIST, _DELETE, _SENT, _RECEIVED = range(7)
_CLASSES = {"create": _PUT, "read": _GET, "find": _HEAD, "list": _LIST, "delete": _DELETE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Requests by class (``head``: whether and how an object is there), and the bytes of objects that went each way."""

    put: int = 0
    get: int = 0
    head: int = 0
    list: int = 0
    delete: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    @property
    def total(self) -> int:
        return self.put + self.get + self.head + self.list + self.delete


class MeteredStore:
    """Passes every call on. Copies in worker processes count into the same numbers.

    ``pace`` holds for the bytes of objects, both ways; it is set before workers start.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.pace: Pace | None = None
        self._numbers = SharedNumbers(7)
        self._listen()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._listen()

    def _listen(self) -> None:
        self._is_told = isinstance(self.inner, TellsRequests)
        if isinstance(self.inner, TellsRequests):
            self.inner.on_request = self._hear

    def _hear(self, action: str, count: int) -> None:
        with self._numbers.change() as numbers:
            numbers[_CLASSES[action]] += count

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def requests(self) -> Requests:
        """What was asked so far, of all copies together."""
        put, get, head, listed, delete, sent, received = map(int, self._numbers.read())
        return Requests(
            put=put, get=get, head=head, list=listed, delete=delete, sent_bytes=sent, received_bytes=received
        )

    def _count(self, kind: int, direction: int = _SENT, size_bytes: int = 0) -> None:
        with self._numbers.change() as numbers:
            numbers[kind] += 0 if self._is_told else 1
            numbers[direction] += size_bytes
        if size_bytes and self.pace is not None:
            self.pace.take(size_bytes)

    def create(self, name: str, content: Buffers) -> None:
        self._count(_PUT, _SENT, sum(memoryview(part).nbytes for part in content))
        self.inner.create(name, content)

    def read(self, name: str) -> bytes:
        self._count(_GET)
        data = self.inner.read(name)
        with self._numbers.change() as numbers:
            numbers[_RECEIVED] += len(data)
        if self.pace is not None:
            self.pace.take(len(data))
        return data

    def read_range(self, name: str, offset: int, length: int) -> Buffer:
        self._count(_GET, _RECEIVED, length)
        return self.inner.read_range(name, offset, length)

    def find(self, name: str) -> ObjectInfo | None:
        self._count(_HEAD)
        return self.inner.find(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = self.inner.list(prefix)
        self._count(_LIST)
        return self._count_pages(found)

    def _count_pages(self, found: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        for number, info in enumerate(found, start=1):
            if number % LISTED_TOGETHER == 0:
                self._count(_LIST)
            yield info

    def list_children(self, prefix: str) -> tuple[str, ...]:
        found = self.inner.list_children(prefix)
        for _ in range(len(found) // LISTED_TOGETHER + 1):
            self._count(_LIST)
        return found

    def confirm(self, name: str) -> None:
        self._count(_HEAD)
        self.inner.confirm(name)

    def delete(self, name: str) -> None:
        self._count(_DELETE)
        self.inner.delete(name)

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()


def _innermost(store: Store) -> Store:
    while isinstance(store, MeteredStore | ReservedStore):
        store = store.inner
    return store


def find_leftover_keeper(store: Store) -> KeepsLeftovers | None:
    """The store itself, or the one that it meters, if it may hold what no listing shows."""
    innermost = _innermost(store)
    return innermost if isinstance(innermost, KeepsLeftovers) else None


def find_server_store(store: Store) -> DependsOnServer | None:
    """The store itself, or the one that it meters, if it is behind a network: then requests should overlap."""
    innermost = _innermost(store)
    return innermost if isinstance(innermost, DependsOnServer) else None


class Meters:
    """The metered stores of this process, for whoever tells at its end what was asked of them."""

    def __init__(self) -> None:
        self._stores: list[MeteredStore] = []

    def meter(self, store: Store) -> MeteredStore:
        metered = MeteredStore(store)
        self._stores.append(metered)
        return metered

    @property
    def stores(self) -> tuple[MeteredStore, ...]:
        return tuple(self._stores)


METERS = Meters()
