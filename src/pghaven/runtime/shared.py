"""What this process and its workers have together: a few numbers that all of them change, and files of columns.

The one idea: what is shared lies behind a descriptor of something that has no name, which every worker inherits under
the same number. So nothing is left on any file system, whoever is killed. Numbers are private until they are first
pickled, which is when a worker is about to need them; a program without workers pays nothing.
"""

from __future__ import annotations

import os
import weakref
from _thread import allocate_lock  # what threading.Lock is, without the rest of threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NUMBER_BYTES = 8

_shared: weakref.WeakValueDictionary[int, object] = weakref.WeakValueDictionary()


def hold_shared() -> dict[int, object]:
    """The descriptors that a worker must inherit to find what this process shares. They stay open for as long as the
    owners are held that they are given with: one may be garbage that is collected at any moment."""
    # Not dict(_shared): it looks up each descriptor that it has seen, and fails where the owner of one has gone since.
    owners = [(reference.key, reference()) for reference in _shared.valuerefs()]
    return {descriptor: owner for descriptor, owner in owners if owner is not None}


def share(descriptor: int, owner: object) -> None:
    """Have workers inherit this descriptor for as long as its owner is there."""
    _shared[descriptor] = owner


def unshare(descriptor: int) -> None:
    """Workers that start from now on do not inherit it."""
    _shared.pop(descriptor, None)


def find_shared(descriptor: int) -> object | None:
    """What this process has made of a descriptor."""
    return _shared.get(descriptor)


class SharedNumbers:
    """``count`` numbers, zero at first, which ``change`` gives for as long as nobody else has them.

    Threads and worker processes may share them. They are floats, exact for whole numbers below 2**53.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._view = memoryview(bytearray(NUMBER_BYTES * count)).cast("d")
        self._descriptor: int | None = None
        self._lock = allocate_lock()

    @contextmanager
    def change(self) -> Iterator[memoryview[float]]:
        with self._lock:
            if self._descriptor is None:
                yield self._view
                return
            import fcntl

            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
            try:
                yield self._view
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def read(self) -> list[float]:
        with self.change() as numbers:
            return list(numbers)

    def __reduce__(self) -> tuple[Callable[[int, int], SharedNumbers], tuple[int, int]]:
        with self._lock:
            if self._descriptor is None:
                descriptor = os.memfd_create("pghaven")
                os.ftruncate(descriptor, NUMBER_BYTES * self._count)
                before = list(self._view)
                self._adopt(descriptor)
                for number, value in enumerate(before):
                    self._view[number] = value
            assert self._descriptor is not None
            return _find_shared, (self._descriptor, self._count)

    def _adopt(self, descriptor: int) -> None:
        import mmap

        self._view = memoryview(mmap.mmap(descriptor, NUMBER_BYTES * self._count)).cast("d")
        self._descriptor = descriptor
        share(descriptor, self)
        weakref.finalize(self, os.close, descriptor).atexit = False


def _find_shared(descriptor: int, count: int) -> SharedNumbers:
    """The numbers behind a descriptor: those of this process, or in a worker those of the one that started it."""
    found = find_shared(descriptor)
    if not isinstance(found, SharedNumbers):
        found = SharedNumbers(count)
        found._adopt(descriptor)
    return found
