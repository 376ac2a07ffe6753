"""Pages from all over, gathered into frames worth compressing; and frames that the store has already.

The one idea: one changed page alone compresses badly and makes a frame of its own, so changed pages of many files wait
in one buffer until it is full. Where they lie is known only then, so their places are reported with whatever job is at
work at that moment.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

from pghaven.repository.blockmap import HOLE
from pghaven.repository.codec import Buffer, Compressor
from pghaven.repository.container import CELL_BYTES, FRAME_BYTES, hash_cells
from pghaven.repository.known import KnownFrames
from pghaven.repository.pack import PackWriter

# Packs of an interrupted backup are counted from here on; a worker's own from 0.
KNOWN_PACKS = 1 << 31


class Pieces:
    """Columns of pieces; a piece that follows the last one in file and pack makes that one longer."""

    def __init__(self) -> None:
        self.file = array("I")
        self.offset = array("Q")
        self.length = array("Q")
        self.pack = array("I")
        self.pack_offset = array("Q")

    def add(self, file: int, offset: int, length: int, place: tuple[int, int]) -> None:
        """``place`` is the pack (HOLE for zeros that are stored nowhere) and the offset in it."""
        pack, pack_offset = place
        if (
            self.file
            and self.file[-1] == file
            and self.pack[-1] == pack
            and self.offset[-1] + self.length[-1] == offset
            and (pack == HOLE or self.pack_offset[-1] + self.length[-1] == pack_offset)
        ):
            self.length[-1] += length
            return
        self.file.append(file)
        self.offset.append(offset)
        self.length.append(length)
        self.pack.append(pack)
        self.pack_offset.append(pack_offset)

    def extend(self, columns: Sequence[Buffer]) -> None:
        """Add many at once: columns of numbers as wide as ours, which are ``add``'s arguments in order."""
        for ours, theirs in zip(self._all(), columns, strict=True):
            ours.frombytes(theirs)

    def _all(self) -> tuple[array[int], ...]:
        return self.file, self.offset, self.length, self.pack, self.pack_offset

    def columns(self) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        return (
            self.file.tobytes(),
            self.offset.tobytes(),
            self.length.tobytes(),
            self.pack.tobytes(),
            self.pack_offset.tobytes(),
        )


class FrameStore:
    """Stores frames in packs, unless an interrupted backup did; proven by the hash of what is to be stored."""

    def __init__(self, packs: PackWriter, known: KnownFrames | None, compressor: Compressor | None = None) -> None:
        """``compressor`` is taken instead of the packs' own."""
        self.packs = packs
        self._known = known
        self._compressor = compressor

    def append(self, frame: Buffer) -> tuple[int, int]:
        """Where the frame lies: the number of a pack, KNOWN_PACKS and more for a known one, and the offset in it."""
        if self._known is None:
            return self.packs.append(frame, compressor=self._compressor)
        cells = hash_cells(frame)
        found = self._known.find(cells, len(frame))
        if found is not None:
            return KNOWN_PACKS + found[0], found[1]
        return self.packs.append(frame, cells, self._compressor)

    def split(self, data: memoryview) -> Iterator[tuple[memoryview, tuple[int, int] | None]]:
        """Pages in runs of those that are stored already, each run with its place, and of those that are not."""
        if self._known is None or not len(self._known.pages) or len(data) % CELL_BYTES:
            yield data, None
            return
        begin, place = 0, self._find_page(data[:CELL_BYTES])
        for at in range(CELL_BYTES, len(data), CELL_BYTES):
            found = self._find_page(data[at : at + CELL_BYTES])
            follows = place is not None and found == (place[0], place[1] + at - begin)
            if not follows and (found is not None or place is not None):
                yield data[begin:at], place
                begin, place = at, found
        yield data[begin:], place

    def _find_page(self, page: memoryview) -> tuple[int, int] | None:
        assert self._known is not None
        found = self._known.pages.find(page)
        return (KNOWN_PACKS + found[0], found[1]) if found is not None else None


class Gatherer:
    """One frame that is being filled with pages of many files."""

    def __init__(self, frames: FrameStore) -> None:
        self._frames = frames
        self._buffer = bytearray(FRAME_BYTES)
        self._view = memoryview(self._buffer)
        self._fill = 0
        self._waiting: list[tuple[int, int, int, int]] = []

    def add(self, pieces: Pieces, file: int, offset: int, data: memoryview) -> None:
        """Bytes of a file from ``offset`` on; whole pages, so that pages lie aligned in the frame."""
        for part, place in self._frames.split(data):
            if place is not None:
                pieces.add(file, offset, len(part), place)
            else:
                self._wait(pieces, file, offset, part)
            offset += len(part)

    def _wait(self, pieces: Pieces, file: int, offset: int, data: memoryview) -> None:
        while data:
            size = min(len(data), FRAME_BYTES - self._fill)
            self._view[self._fill : self._fill + size] = data[:size]
            self._waiting.append((file, offset, size, self._fill))
            self._fill += size
            data, offset = data[size:], offset + size
            if self._fill == FRAME_BYTES:
                self.flush(pieces)

    def add_parts(self, pieces: Pieces, file: int, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Many small parts of a file, each with its offset; they are gathered as they are, and not looked for."""
        for offset, data in parts:
            fill, size = self._fill, len(data)
            if fill + size < FRAME_BYTES:
                self._view[fill : fill + size] = data
                self._waiting.append((file, offset, size, fill))
                self._fill = fill + size
            else:
                self._wait(pieces, file, offset, data)

    def flush(self, pieces: Pieces) -> None:
        """Store what has been gathered, and say where it lies."""
        if not self._fill:
            return
        pack, start = self._frames.append(self._view[: self._fill])
        for file, offset, size, at in self._waiting:
            pieces.add(file, offset, size, (pack, start + at))
        self._fill = 0
        self._waiting = []
