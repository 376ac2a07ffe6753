"""An earlier dump of the same cluster: what of it a new one goes on from.

The one idea: nothing is taken over on the strength of names. A frame is known by the hash of what it holds, a small
file by that of its contents, and rows by being compared with those that were stored, read back and proven.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pghaven.repository.blockmap import HOLE
from pghaven.repository.codec import Buffer
from pghaven.repository.container import Index
from pghaven.repository.pack import PackPlace, PackRef, iter_pack_frames, load_pack_index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pghaven.repository.manifest import Manifest  # workers need nothing of it

# What is at hand of an earlier file at once; and how much of that lies behind where it was gone on to.
_TEXT_BYTES = 2 << 20
_BEHIND_BYTES = 128 << 10

U4 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierFile:
    """A file of an earlier dump: its runs in order, as columns of one length. ``begin`` is where each lies in it."""

    begin: U8
    length: U8
    pack: U4
    offset: U8
    size: int

    def near(self, begin: int, end: int) -> EarlierFile:
        """The same file, but of its runs only those that reach into these bytes."""
        first = max(int(np.searchsorted(self.begin, max(begin, 0), "right")) - 1, 0)
        part = slice(first, int(np.searchsorted(self.begin, min(max(end, 0), self.size), "left")))
        return EarlierFile(
            begin=self.begin[part],
            length=self.length[part],
            pack=self.pack[part],
            offset=self.offset[part],
            size=self.size,
        )

    def places(self, begin: int, length: int) -> list[tuple[int, int, int]]:
        """Where these bytes of the file lie, in order: a pack, an offset in it, how many."""
        if length <= 0:
            return []
        _, pack, offset, size = self.place_all(np.array([begin], np.uint64), np.array([length], np.uint64))
        return list(zip(pack.tolist(), offset.tolist(), size.tolist(), strict=True))

    def place_all(self, begin: U8, length: U8) -> tuple[npt.NDArray[np.int64], U4, U8, U8]:
        """The same of many places at once, of one byte at least each, as columns: which of them, pack, offset, how
        many. The offset in a hole means nothing."""
        first = np.searchsorted(self.begin, begin, "right") - 1
        many = np.searchsorted(self.begin, begin + length, "left") - first
        which = np.repeat(np.arange(len(begin)), many)
        run = np.arange(len(which)) + np.repeat(first - (np.cumsum(many) - many), many)
        at = np.maximum(self.begin[run], begin[which])
        end = np.minimum(self.begin[run] + self.length[run], begin[which] + length[which])
        return which, self.pack[run], self.offset[run] + (at - self.begin[run]), end - at


def cut_out_file(manifest: Manifest, number: int) -> EarlierFile:
    """One file of a manifest, by itself."""
    block_map = manifest.block_map
    first = int(block_map.runs_of_file[:number].sum(dtype=np.int64))
    part = slice(first, first + int(block_map.runs_of_file[number]))
    length = block_map.length[part]
    return EarlierFile(
        begin=np.cumsum(length, dtype=np.uint64) - length,
        length=length,
        pack=block_map.pack[part],
        offset=block_map.offset[part],
        size=int(manifest.files.size[number]),
    )


class EarlierReader:
    """Reads bytes of earlier files back, each proven by its frame's hash, or with ``is_compared`` not, because they are
    compared with what the caller has; frames are kept for the next time, those that the last two reads were made of."""

    def __init__(self, place: PackPlace, packs: Sequence[PackRef], *, is_compared: bool = False) -> None:
        self._place = place
        self._packs = packs
        self._is_compared = is_compared
        self._indexes: dict[int, Index] = {}
        self._frames: dict[tuple[int, int], Buffer] = {}
        self._used: set[tuple[int, int]] = set()

    def read(self, file: EarlierFile, begin: int, length: int) -> bytes:
        """These bytes of a file. Raises Damaged naming the pack, ObjectMissing."""
        return b"".join(self.read_parts(file, begin, length))

    def read_parts(self, file: EarlierFile, begin: int, length: int) -> list[Buffer]:
        """The same as parts that follow one another, none copied, none empty."""
        parts = file.places(begin, length)
        wanted: dict[int, set[int]] = {}
        for pack, offset, size in parts:
            if pack != HOLE:
                wanted.setdefault(pack, set()).update(self._frames_of(pack, offset, size))
        for pack, frames in wanted.items():
            missing = sorted(frame for frame in frames if (pack, frame) not in self._frames)
            if missing:
                ref, index = self._packs[pack], self._index(pack)
                for number, plain in iter_pack_frames(self._place, ref, index, missing, is_compared=self._is_compared):
                    self._frames[pack, number] = plain
        content = [one for part in parts for one in self._slice(*part)]
        used = {(pack, frame) for pack, frames in wanted.items() for frame in frames}
        for key in self._frames.keys() - used - self._used:
            del self._frames[key]
        self._used = used
        return content

    def _index(self, pack: int) -> Index:
        if pack not in self._indexes:
            self._indexes[pack] = load_pack_index(self._place, self._packs[pack])
        return self._indexes[pack]

    def _frames_of(self, pack: int, offset: int, size: int) -> range:
        offsets = self._index(pack).plain_offsets
        return range(bisect_right(offsets, offset) - 1, bisect_left(offsets, offset + size))

    def _slice(self, pack: int, offset: int, size: int) -> Iterator[Buffer]:
        if pack == HOLE:
            yield bytes(size)
            return
        offsets = self._index(pack).plain_offsets
        for frame in self._frames_of(pack, offset, size):
            plain = memoryview(self._frames[pack, frame])
            yield plain[max(offset - offsets[frame], 0) : offset + size - offsets[frame]]


class EarlierText:
    """An earlier file as ``rows`` looks at it: a part of it at hand, that moves on. Nothing is read far beyond
    ``until``. What cannot be read raises as ``EarlierReader`` does.

    Memory: 2 MiB, and the frames that these were in.
    """

    def __init__(self, reader: EarlierReader, file: EarlierFile, until: int) -> None:
        self.content: bytes | bytearray = bytearray(_TEXT_BYTES)
        self._view = memoryview(self.content)
        self.start = self.fill = 0
        # Of the file some runs may be known alone.
        self._floor = int(file.begin[0]) if len(file.begin) else 0
        self.size = int(file.begin[-1] + file.length[-1]) if len(file.begin) else 0
        self._reader, self._file, self._until = reader, file, until

    def hold(self, begin: int, length: int) -> None:
        begin, end = max(begin, self._floor), min(begin + length, self.size)
        if begin >= end or (self.start <= begin and end <= self.start + self.fill):
            return
        first = max(begin - _BEHIND_BYTES, self._floor)
        kept = self.start + self.fill - first if self.start <= first < self.start + self.fill else 0
        if kept:
            self._view[:kept] = self._view[first - self.start : self.fill]
        self.start, self.fill = first, kept
        stop = min(first + _TEXT_BYTES, max(self._until, end), self.size)
        for part in self._reader.read_parts(self._file, first + kept, stop - first - kept):
            self._view[self.fill : self.fill + len(part)] = part
            self.fill += len(part)
