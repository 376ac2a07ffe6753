"""A million short byte strings in one piece of memory.

The one idea: a Python string costs some fifty bytes beside its own; joined by NUL, with their ends in an array, names
of files cost their bytes and eight more. Read like any sequence, filled by ``append``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

_CHUNK = 4096


class Names(Sequence[bytes]):
    """Byte strings without NUL. A slice is a list; going through all of them makes a few thousand at a time."""

    __slots__ = ("_blob", "_ends")

    def __init__(self, names: Iterable[bytes] = ()) -> None:
        self._blob = bytearray()
        self._ends = array("Q")
        for name in names:
            self.append(name)

    @classmethod
    def parse(cls, blob: bytes, count: int) -> Names:
        """From names that are each followed by NUL. Raises ValueError when these are not ``count`` names."""
        import numpy as np

        ends = np.flatnonzero(np.frombuffer(blob, np.uint8) == 0).astype(np.uint64) + np.uint64(1)
        if len(ends) != count or (int(ends[-1]) if count else 0) != len(blob):
            raise ValueError(f"{len(ends)} names where there should be {count}")
        names = cls()
        names._blob += blob
        names._ends.frombytes(ends.tobytes())
        return names

    def append(self, name: bytes) -> None:
        self._blob += name
        self._blob += b"\0"
        self._ends.append(len(self._blob))

    def to_bytes(self) -> bytes:
        """All names, each followed by NUL."""
        return bytes(self._blob)

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
