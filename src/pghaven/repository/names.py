"""Names of files, a million of them in little memory.

The one idea: all names are one string, a NUL after each, just as a manifest stores them, and a column of where each ends.
So a name costs its length and nine bytes, where an object of its own would cost more than fifty.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from pghaven.errors import Damaged


class PackedNames(Sequence[bytes]):
    """A sequence of names without NUL, to which others can be appended."""

    __slots__ = ("_ends", "_text")

    def __init__(self, names: Iterable[bytes] = ()) -> None:
        self._text = bytearray()
        self._ends = array("Q", [0])  # where each name begins, and where the next one would
        for name in names:
            self.append(name)

    @classmethod
    def parse(cls, text: bytes) -> PackedNames:
        """Names from what ``to_bytes`` gave. Raises Damaged when it does not end with a name's end."""
        if text and text[-1]:
            raise Damaged("its last name has no end")
        names = cls()
        names._text = bytearray(text)
        names._ends.frombytes((np.flatnonzero(np.frombuffer(text, np.uint8) == 0) + 1).astype(np.uint64).tobytes())
        return names

    def append(self, name: bytes) -> None:
        self._text += name
        self._text.append(0)
        self._ends.append(len(self._text))

    def to_bytes(self) -> bytes:
        return bytes(self._text)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        return bytes(self._text[self._ends[number] : self._ends[number + 1] - 1])

    def __iter__(self) -> Iterator[bytes]:
        begin = 0
        for end in self._ends[1:]:
            yield bytes(self._text[begin : end - 1])
            begin = end

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(bytes.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # it can grow


def join_names(names: Sequence[bytes]) -> bytes:
    """Any names as ``PackedNames.to_bytes`` has them."""
    return names.to_bytes() if isinstance(names, PackedNames) else b"".join(name + b"\0" for name in names)
