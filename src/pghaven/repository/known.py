"""Frames and pages that are in the store already, found by what they hold.

The one idea: a backup that was interrupted left packs whose indexes prove what their frames hold. A later one reads its
files anew all the same; where a frame turns out to hold just what one of those holds, there is nothing to compress and
nothing to store. Pages that were gathered from many files do not come together in the same frame again, so they are
found one by one. Nothing is taken over on the strength of names, sizes or times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from pghaven.errors import Damaged, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.container import CELL_BYTES, CELL_HASH_BYTES, Index
from pghaven.repository.pack import PackPlace, PackRef, find_pack, load_pack_cells, load_pack_index
from pghaven.repository.packtable import PackRows, PackTable
from pghaven.runtime.columns import Column
from pghaven.runtime.sharedcolumns import SharedColumns
from pghaven.runtime.spill import Spool, in_parts, let_go, make_column

# Some 50 bytes each in a working file that all workers read; a terabyte of an interrupted backup.
_FRAMES_MAX = 1 << 20
# 28 bytes; 8 GiB of pages.
_PAGES_MAX = 1 << 20

# A hash begins with the number by which it is found.
_PAGE_HASH = np.dtype([("head", ">u8"), ("tail", ">u8")])
_FRAME_HASH = np.dtype([("head", ">u8"), ("tail", "V24")])


class KnownPages:
    """Cells of frames, which are pages where these have 8 KiB; ordered by the beginning of their hashes."""

    def __init__(self, hashes: Spool, pack: Column, offset: Column) -> None:
        rows = np.frombuffer(hashes.view(), _PAGE_HASH)
        head = rows["head"].astype(np.uint64)
        order = np.argsort(head, kind="stable")
        tail, packs, offsets = rows["tail"], pack.to_array(), offset.to_array()
        self._columns = SharedColumns([_pick(one, order) for one in (head, tail.astype(np.uint64), packs, offsets)])

    def __len__(self) -> int:
        return len(self._columns.arrays[0])

    def find(self, page: memoryview) -> tuple[int, int] | None:
        """The pack's number and the offset of a page in it, or None."""
        digest = blake3(page).digest(CELL_HASH_BYTES)
        head, tail, pack, offset = self._columns.arrays
        wanted, rest = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        at = int(np.searchsorted(head, np.uint64(wanted)))
        while at < len(head) and int(head[at]) == wanted:
            if int(tail[at]) == rest:
                return int(pack[at]), int(offset[at])
            at += 1
        return None


class KnownFrames:
    """Packs, their frames and pages; the columns are ordered by the beginning of the frames' hashes.

    Workers that it is sent to read the columns of the process that made it.
    """

    def __init__(self, packs: PackTable, frames: _Frames, pages: KnownPages) -> None:
        rows = np.frombuffer(frames.hashes.view(), _FRAME_HASH)
        head = rows["head"].astype(np.uint64)
        order = np.argsort(head, kind="stable")
        others = (frames.pack.to_array(), frames.offset.to_array(), frames.length.to_array())
        self.packs, self.pages = packs, pages
        self._columns = SharedColumns([_pick(one, order) for one in (head, rows["tail"], *others)])

    def find(self, cells: bytes, length: int) -> tuple[int, int] | None:
        """The pack's number and the offset of a frame with these cells' hashes, or None."""
        digest = blake3(cells).digest()
        head, tail, pack, offset, lengths = self._columns.arrays
        wanted = int.from_bytes(digest[:8], "big")
        at = int(np.searchsorted(head, np.uint64(wanted)))
        while at < len(head) and int(head[at]) == wanted:
            if tail[at].tobytes() == digest[8:] and int(lengths[at]) == length:
                return int(pack[at]), int(offset[at])
            at += 1
        return None


def load_known_frames(place: PackPlace, labels: Iterable[str]) -> KnownFrames | None:
    """The frames of all whole packs that these labels have stored; None when there are none.

    Reads the end of each pack. One that is damaged, or goes meanwhile, is passed over.
    """
    packs, frames, cells = PackRows(), _Frames(), _Cells()
    for label in labels:
        for info in place.store.list(layout.packs_prefix(place.cluster, label)):
            if len(frames) >= _FRAMES_MAX:
                break
            try:
                ref, index = find_pack(place, label, info)
                cells.add(len(packs), index, load_pack_cells(place, ref, index) if cells.have_room else ())
            except (Damaged, ObjectMissing):
                continue
            # Its writer may have died before it knew whether this is on disk.
            place.store.confirm(info.name)
            frames.add(len(packs), index)
            packs.extend([ref])
            let_go()
    return KnownFrames(packs.finish(), frames, cells.finish()) if len(packs) else None


def load_frames_of(place: PackPlace, packs: Sequence[PackRef]) -> KnownFrames:
    """The frames of packs that a manifest names, numbered as it does, and no single pages; reads the end of each.

    Raises Damaged, ObjectMissing naming the pack: whoever goes on from a manifest refers to all of them.
    """
    frames = _Frames()
    for number, ref in enumerate(packs):
        frames.add(number, load_pack_index(place, ref))
    return KnownFrames(PackTable.of(packs), frames, _Cells().finish())


def _pick(column: npt.NDArray[Any], order: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    picked = make_column(len(order), column.dtype)
    for part in in_parts(len(order)):
        picked[part] = column[order[part]]
    return picked


class _Frames:
    """Collects the frames of packs."""

    def __init__(self) -> None:
        self.hashes = Spool()
        self.pack, self.offset, self.length = Column("I"), Column("Q"), Column("I")

    def __len__(self) -> int:
        return len(self.length)

    def add(self, pack: int, index: Index) -> None:
        count = len(index.plain_lengths)
        self.hashes.write(index.plain_hashes)
        self.pack.extend(np.full(count, pack, np.uint32).tobytes())
        self.offset.extend(np.array(index.plain_offsets[:-1], np.uint64).tobytes())
        self.length.extend(np.array(index.plain_lengths, np.uint32).tobytes())


class _Cells:
    """Collects the whole cells of packs, as many as there is room for."""

    def __init__(self) -> None:
        self._hashes = Spool()
        self._pack, self._offset = Column("I"), Column("Q")

    @property
    def have_room(self) -> bool:
        return len(self._pack) < _PAGES_MAX

    def add(self, pack: int, index: Index, cells: tuple[bytes, ...]) -> None:
        for start, length, hashes in zip(index.plain_offsets, index.plain_lengths, cells, strict=False):
            count = length // CELL_BYTES
            self._hashes.write(hashes[: count * CELL_HASH_BYTES])
            self._pack.extend(np.full(count, pack, np.uint32).tobytes())
            offsets = np.arange(count, dtype=np.uint64) * np.uint64(CELL_BYTES) + np.uint64(start)
            self._offset.extend(offsets.tobytes())

    def finish(self) -> KnownPages:
        return KnownPages(self._hashes, self._pack, self._offset)
