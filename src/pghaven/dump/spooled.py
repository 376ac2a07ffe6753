"""A file that pg_dump writes, as far as it has been taken: where it is cut, what its rows are, what its hash is.

The one idea: whatever is known of a file is found as its bytes pass by, once and in their order, however they come.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from blake3 import blake3

from pghaven.dump.anchors import Anchor, hash_anchor
from pghaven.dump.contents import END_OF_DATA
from pghaven.dump.cutting import LOOK_BYTES, count_rows, find_cuts
from pghaven.dump.rows import sketch_rows
from pghaven.repository.manifest import HASH_BYTES

TOC_FILE = "toc.dat"
SKETCH_BYTES = 1 << 20
_NEWLINE = 10


@dataclass(slots=True)
class SpooledFile:
    """A file that pg_dump writes or has written. ``done_bytes`` of it have been made jobs and hashed; ``cuts`` are
    those of the last part, None for what is no table's data; ``anchors`` are the rows at all cuts so far."""

    number: int
    name: str
    path: str
    other_path: str = ""
    done_bytes: int = 0
    rows: int = 0
    hash: bytes = b""
    sketch: tuple[bytes, ...] = ()
    anchors: list[Anchor] = field(default_factory=list)
    cuts: tuple[int, ...] | None = None
    last_bytes: bytes = b""
    hasher: blake3 | None = field(default_factory=blake3)

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the file, first the one by which workers open it."""
        return (self.other_path, self.path) if self.other_path else (self.path,)

    @property
    def is_whole(self) -> bool:
        """Whether it ends as the data of a table does that was written with COPY."""
        return self.last_bytes == END_OF_DATA

    @property
    def is_table_data(self) -> bool:
        return self.name.endswith(".dat") and self.name[:-4].isdecimal()

    def take(self, data: memoryview, *, is_last: bool = True) -> int:
        """Take the next bytes: all, or where more will come those before the last cut. Returns how many."""
        length = self.cut(data, is_last=is_last)
        self.digest(data[:length])
        return length

    def cut(self, data: memoryview, *, is_last: bool) -> int:
        """Find the cuts in the next bytes; returns as ``take`` does. They are digested by themselves, in any parts."""
        length = len(data)
        if self.is_table_data:
            cuts = find_cuts(data)
            for begin in cuts:
                if data[begin - 1] == _NEWLINE:
                    row = bytes(data[begin : begin + LOOK_BYTES]).partition(b"\n")[0]
                    self.anchors.append((hash_anchor(row), self.done_bytes + begin))
            if not is_last and cuts:
                length = cuts.pop()
            self.cuts = tuple(cuts)
            if not self.done_bytes:
                self.sketch = sketch_rows(bytes(data[:SKETCH_BYTES]))
        self.done_bytes += length
        return length

    def digest(self, data: memoryview) -> None:
        """Hash and count the next bytes."""
        assert self.hasher is not None
        if self.is_table_data:
            self.rows += count_rows(data)
        self.hasher.update(data)
        self.last_bytes = (self.last_bytes + bytes(data[-len(END_OF_DATA) :]))[-len(END_OF_DATA) :]

    def finish(self) -> None:
        assert self.hasher is not None
        self.hash = self.hasher.digest(HASH_BYTES)
        self.hasher = None
        if self.is_whole:
            self.rows -= END_OF_DATA.count(b"\n")
