"""Room for a few large pieces of data that this process fills and its workers read.

The one idea: the same memory is mapped here and in every worker, and is used again and again, so what arrives is
copied once, by whoever receives it, and no page is ever made anew or given back on the way.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable

from pghaven.runtime.shared import find_shared, share, unshare


class SharedSlots:
    """``count`` slots of ``size_bytes``. Only the process that made them takes them and gives them back.

    Memory: all of it, once for all processes, and no more of it than was used at one time.
    """

    def __init__(self, count: int, size_bytes: int) -> None:
        descriptor = os.memfd_create("pghaven-slots")
        try:
            os.ftruncate(descriptor, count * size_bytes)
        except BaseException:
            os.close(descriptor)
            raise
        self._adopt(descriptor, count, size_bytes)

    def _adopt(self, descriptor: int, count: int, size_bytes: int) -> None:
        self._descriptor, self._count, self.size_bytes = descriptor, count, size_bytes
        self._view = memoryview(mmap.mmap(descriptor, count * size_bytes))
        self._free = list(reversed(range(count)))
        share(descriptor, self)
        self._ending = weakref.finalize(self, os.close, descriptor)
        self._ending.atexit = False

    def close(self) -> None:
        """No worker that starts from now on finds them. What is mapped of them goes with its last use."""
        unshare(self._descriptor)
        self._ending()

    def take(self) -> int | None:
        """A free slot's number, if there is one: that which was given back last, whose memory is nearest."""
        return self._free.pop() if self._free else None

    def give_back(self, number: int) -> None:
        self._free.append(number)

    def view(self, number: int) -> memoryview:
        """The memory of a slot."""
        return self._view[number * self.size_bytes : (number + 1) * self.size_bytes]

    def __reduce__(self) -> tuple[Callable[[int, int, int], SharedSlots], tuple[int, int, int]]:
        return _find, (self._descriptor, self._count, self.size_bytes)


def _find(descriptor: int, count: int, size_bytes: int) -> SharedSlots:
    """Those behind a descriptor: this process's own, or in a worker those of the one that started it."""
    found = find_shared(descriptor)
    if not isinstance(found, SharedSlots):
        found = SharedSlots.__new__(SharedSlots)
        found._adopt(descriptor, count, size_bytes)
    return found
