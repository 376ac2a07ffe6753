"""Two repositories in one store, so that whoever is at work on either can be played in every order.

The one idea: a store below a prefix of another one is a store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pghaven.runtime.durable import Buffer
from pghaven.store.api import Buffers, ObjectInfo, Store


class StoreBelow:
    """What lies below ``prefix`` ("a/") of another store, as a store of its own."""

    def __init__(self, inner: Store, prefix: str) -> None:
        self._inner = inner
        self._prefix = prefix

    @property
    def url(self) -> str:
        return f"{self._inner.url}{self._prefix}"

    def _ours(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, name=info.name.removeprefix(self._prefix))

    def create(self, name: str, content: Buffers) -> None:
        self._inner.create(self._prefix + name, content)

    def read(self, name: str) -> bytes:
        return self._inner.read(self._prefix + name)

    def read_range(self, name: str, offset: int, length: int) -> Buffer:
        return self._inner.read_range(self._prefix + name, offset, length)

    def find(self, name: str) -> ObjectInfo | None:
        info = self._inner.find(self._prefix + name)
        return None if info is None else self._ours(info)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return map(self._ours, self._inner.list(self._prefix + prefix))

    def list_children(self, prefix: str) -> tuple[str, ...]:
        return self._inner.list_children(self._prefix + prefix)

    def confirm(self, name: str) -> None:
        self._inner.confirm(self._prefix + name)

    def delete(self, name: str) -> None:
        self._inner.delete(self._prefix + name)

    def free_bytes(self) -> int | None:
        return self._inner.free_bytes()
