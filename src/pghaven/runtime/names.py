"""A million short byte strings in one piece of memory, or of a file.

The one idea: a Python string costs some fifty bytes beside its own; joined by NUL, with their ends in a column, names
of files cost their bytes and eight more, and many of them need not be in memory (``spill``). Read like any sequence,
filled by ``append``.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from operator import eq
from typing import overload

from pghaven.runtime.spill import SMALL_BYTES, Buffer, Spool, in_parts, make_column

_CHUNK = 4096
_SORTED_AT_ONCE = 1 << 16


class Names(Sequence[bytes]):
    """Byte strings without NUL. A slice is a list; going through all of them makes a few thousand at a time.

    ``settle`` now and then moves what there is much of out of memory, after which ``seal`` comes before reading.
    """

    __slots__ = ("_appended", "_blob", "_ends", "_length", "_spool", "_tail")

    def __init__(self, names: Iterable[bytes] = ()) -> None:
        from pghaven.runtime.columns import Column

        self._tail = bytearray()
        self._blob: Buffer = self._tail
        self._spool: Spool | None = None
        self._appended = Column("Q")
        self._ends: Sequence[int] = self._appended
        self._length = 0
        for number, name in enumerate(names, 1):
            self.append(name)
            if not number % _CHUNK:
                self.settle()
        self.seal()

    @classmethod
    def parse(cls, blob: Buffer, count: int) -> Names:
        """From names that are each followed by NUL; ``blob`` is kept. Raises ValueError if these are not ``count``."""
        import numpy as np

        plain = np.frombuffer(blob, np.uint8)
        ends = make_column(count, np.uint64)
        found = 0
        for part in in_parts(len(plain), SMALL_BYTES):
            here = np.flatnonzero(plain[part] == 0) + (part.start + 1)
            if found + len(here) <= count:
                ends[found : found + len(here)] = here
            found += len(here)
        if found != count or (int(ends[-1]) if count else 0) != len(blob):
            raise ValueError(f"{found} names where there should be {count}")
        names = cls()
        names._blob, names._ends = blob, ends.data
        return names

    def append(self, name: bytes) -> None:
        self._tail += name
        self._tail += b"\0"
        self._length += len(name) + 1
        self._appended.append(self._length)

    def settle(self) -> None:
        if len(self._tail) > SMALL_BYTES:
            self._spill()
        self._appended.settle()

    def seal(self) -> None:
        """Have all of them ready to be read."""
        if self._spool is not None:
            self._spill()
            self._blob = self._spool.view()
        self._appended.seal()

    def _spill(self) -> None:
        if self._spool is None:
            self._spool = Spool()
        self._spool.write(self._tail)
        self._tail.clear()

    @property
    def joined(self) -> Buffer:
        """All names, each followed by NUL."""
        return self._blob

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        if isinstance(at, slice):
            first, end, step = at.indices(len(self._ends))
            if end <= first:
                return []
            return bytes(self._blob[self._begin(first) : self._ends[end - 1] - 1]).split(b"\0")[::step]
        number = range(len(self._ends))[at]
        return bytes(self._blob[self._begin(number) : self._ends[number] - 1])

    def _begin(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._ends), _CHUNK):
            yield from self[start : start + _CHUNK]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self._blob == other._blob
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({list(self[:5])!r}{', …' if len(self) > 5 else ''})"


class Paths(Sequence[str]):
    """The same of paths: strings, as they are. ``seal`` comes between appending and reading."""

    __slots__ = ("_names",)

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._names = Names(map(os.fsencode, paths))

    def append(self, path: str) -> None:
        self._names.append(os.fsencode(path))
        if not len(self._names) % _CHUNK:
            self._names.settle()

    def seal(self) -> None:
        self._names.seal()

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        return list(map(os.fsdecode, self._names[at])) if isinstance(at, slice) else os.fsdecode(self._names[at])

    def __iter__(self) -> Iterator[str]:
        return map(os.fsdecode, self._names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Paths({self[:5]!r}{', …' if len(self) > 5 else ''})"


def list_names(directory: str) -> Sequence[bytes]:
    """The names of everything in a directory, in order of their bytes. Raises OSError."""
    parts: list[Sequence[bytes]] = []
    names: list[bytes] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            names.append(os.fsencode(entry.name))
            if len(names) == _SORTED_AT_ONCE:
                names.sort()
                parts.append(Names(names))
                names = []
    names.sort()
    return Names(heapq.merge(*parts, names)) if parts else names
