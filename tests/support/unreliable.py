"""A store that fails at one call, before it takes effect or after: the answer was lost.

The one idea: N = 1, 2, 3 … until the operation gets through reaches every call there is, and no more is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from pghaven.errors import StoreUnreachable
from pghaven.runtime.durable import Buffer
from pghaven.store.api import Buffers, ObjectInfo, Store

Result = TypeVar("Result")
When = Literal["before", "after"]


class UnreliableStore:
    """Fails at call ``number`` (counted from 1) and works again afterwards. ``failed`` is that call, once it came."""

    def __init__(self, inner: Store, number: int, when: When) -> None:
        self.inner = inner
        self.failed: str | None = None
        self._left = number
        self._when = when

    @property
    def url(self) -> str:
        return self.inner.url

    def _do(self, what: str, call: Callable[[], Result]) -> Result:
        self._left -= 1
        if self._left == 0:
            self.failed = what
            if self._when == "after":
                call()
            raise StoreUnreachable(f"no answer to: {what}")
        return call()

    def create(self, name: str, content: Buffers) -> None:
        self._do(f"create {name}", lambda: self.inner.create(name, content))

    def read(self, name: str) -> bytes:
        return self._do(f"read {name}", lambda: self.inner.read(name))

    def read_range(self, name: str, offset: int, length: int) -> Buffer:
        return self._do(f"read {name}", lambda: self.inner.read_range(name, offset, length))

    def find(self, name: str) -> ObjectInfo | None:
        return self._do(f"find {name}", lambda: self.inner.find(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._do(f"list {prefix}", lambda: self.inner.list(prefix))

    def list_children(self, prefix: str) -> tuple[str, ...]:
        return self._do(f"list {prefix}", lambda: self.inner.list_children(prefix))

    def confirm(self, name: str) -> None:
        self._do(f"confirm {name}", lambda: self.inner.confirm(name))

    def delete(self, name: str) -> None:
        self._do(f"delete {name}", lambda: self.inner.delete(name))

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()
