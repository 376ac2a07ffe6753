"""An earlier dump of the same cluster: what of it a new one goes on from.

The one idea: nothing is taken over on the strength of names. A frame is known by the hash of what it holds, a small
file by that of its contents, and rows by being compared with those that were stored, read back and proven.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pghaven.repository.blockmap import HOLE
from pghaven.repository.codec import Buffer
from pghaven.repository.container import Index
from pghaven.repository.manifest import Manifest
from pghaven.repository.pack import PackPlace, PackRef, iter_pack_frames, load_pack_index

_FRAMES_KEPT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierFile:
    """A file of an earlier dump: its runs in order, as columns of one length. ``begin`` is where each lies in it."""

    begin: npt.NDArray[np.uint64]
    length: npt.NDArray[np.uint64]
    pack: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.uint64]
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
        return Places(self).find(begin, length)


class Places:
    """Where bytes of a file lie, for many questions about one file: plain numbers are found faster than columns'."""

    def __init__(self, file: EarlierFile) -> None:
        self._begin: list[int] = file.begin.tolist()
        self._runs: list[tuple[int, int, int]] = list(
            zip(file.length.tolist(), file.pack.tolist(), file.offset.tolist(), strict=True)
        )

    def find(self, begin: int, length: int) -> list[tuple[int, int, int]]:
        """As ``EarlierFile.places``."""
        found = []
        number = bisect_right(self._begin, begin) - 1
        while length > 0:
            run_length, pack, offset = self._runs[number]
            skipped = begin - self._begin[number]
            size = min(length, run_length - skipped)
            found.append((pack, offset + skipped, size))
            begin, length, number = begin + size, length - size, number + 1
        return found


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
    """Reads bytes of earlier files back, each proven by its frame's hash; some frames are kept for the next time."""

    def __init__(self, place: PackPlace, packs: Sequence[PackRef]) -> None:
        self._place = place
        self._packs = packs
        self._indexes: dict[int, Index] = {}
        self._frames: OrderedDict[tuple[int, int], Buffer] = OrderedDict()

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
                for number, plain in iter_pack_frames(self._place, self._packs[pack], self._index(pack), missing):
                    self._frames[pack, number] = plain
        content = [one for part in parts for one in self._slice(*part)]
        while len(self._frames) > _FRAMES_KEPT:
            self._frames.popitem(last=False)
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
