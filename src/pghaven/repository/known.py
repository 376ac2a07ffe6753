"""Frames and pages that are in the store already, found by what they hold.

The one idea: a backup that was interrupted left packs whose indexes prove what their frames hold. A later one reads its
files anew all the same; where a frame turns out to hold just what one of those holds, there is nothing to compress and
nothing to store. Pages that were gathered from many files do not come together in the same frame again, so they are
found one by one. Nothing is taken over on the strength of names, sizes or times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from pghaven.errors import Damaged, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.container import CELL_BYTES, CELL_HASH_BYTES, Index
from pghaven.repository.pack import PackPlace, PackRef, find_pack, load_pack_cells, load_pack_index

# Some 30 bytes of memory each in every worker; a terabyte of an interrupted backup.
_FRAMES_MAX = 1 << 20
# As much memory again; 8 GiB of pages.
_PAGES_MAX = 1 << 20


class KnownPages:
    """Cells of frames, which are pages where these have 8 KiB; ordered by the beginning of their hashes."""

    def __init__(self, hashes: bytes, pack: npt.NDArray[np.uint32], offset: npt.NDArray[np.uint64]) -> None:
        halves = np.frombuffer(hashes, ">u8").reshape(-1, 2).astype(np.uint64)
        order = np.argsort(halves[:, 0], kind="stable")
        self._head, self._tail = np.ascontiguousarray(halves[order, 0]), np.ascontiguousarray(halves[order, 1])
        self._pack, self._offset = pack[order], offset[order]

    def __len__(self) -> int:
        return len(self._head)

    def find(self, page: memoryview) -> tuple[int, int] | None:
        """The pack's number and the offset of a page in it, or None."""
        digest = blake3(page).digest(CELL_HASH_BYTES)
        head, tail = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        at = int(np.searchsorted(self._head, np.uint64(head)))
        while at < len(self._head) and int(self._head[at]) == head:
            if int(self._tail[at]) == tail:
                return int(self._pack[at]), int(self._offset[at])
            at += 1
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFrames:
    """Packs, their frames and pages; the columns are ordered by the beginning of the frames' hashes."""

    packs: tuple[PackRef, ...]
    head: npt.NDArray[np.uint64]
    tail: npt.NDArray[np.uint8]
    pack: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.uint64]
    length: npt.NDArray[np.uint32]
    pages: KnownPages

    def find(self, cells: bytes, length: int) -> tuple[int, int] | None:
        """The pack's number and the offset of a frame with these cells' hashes, or None."""
        digest = blake3(cells).digest()
        head = int.from_bytes(digest[:8], "big")
        at = int(np.searchsorted(self.head, np.uint64(head)))
        while at < len(self.head) and int(self.head[at]) == head:
            if self.tail[at].tobytes() == digest[8:] and int(self.length[at]) == length:
                return int(self.pack[at]), int(self.offset[at])
            at += 1
        return None


def load_known_frames(place: PackPlace, labels: Iterable[str]) -> KnownFrames | None:
    """The frames of all whole packs that these labels have stored; None when there are none.

    Reads the end of each pack. One that is damaged, or goes meanwhile, is passed over.
    """
    packs: list[PackRef] = []
    cells = _Cells()
    hashes = bytearray()
    numbers: list[int] = []
    offsets: list[int] = []
    lengths: list[int] = []
    for label in labels:
        for info in place.store.list(layout.packs_prefix(place.cluster, label)):
            if len(numbers) >= _FRAMES_MAX:
                break
            try:
                ref, index = find_pack(place, label, info)
                cells.add(len(packs), index, load_pack_cells(place, ref, index) if cells.have_room else ())
            except (Damaged, ObjectMissing):
                continue
            # Its writer may have died before it knew whether this is on disk.
            place.store.confirm(info.name)
            hashes += index.plain_hashes
            numbers += [len(packs)] * len(index.plain_lengths)
            offsets += index.plain_offsets[:-1]
            lengths += index.plain_lengths
            packs.append(ref)
    if not packs:
        return None
    return _order_frames(packs, (hashes, numbers, offsets, lengths), cells.finish())


def load_frames_of(place: PackPlace, packs: Sequence[PackRef]) -> KnownFrames:
    """The frames of packs that a manifest names, numbered as it does, and no single pages; reads the end of each.

    Raises Damaged, ObjectMissing naming the pack: whoever goes on from a manifest refers to all of them.
    """
    columns: tuple[bytearray, list[int], list[int], list[int]] = (bytearray(), [], [], [])
    for number, ref in enumerate(packs):
        index = load_pack_index(place, ref)
        columns[0].extend(index.plain_hashes)
        columns[1].extend([number] * len(index.plain_lengths))
        columns[2].extend(index.plain_offsets[:-1])
        columns[3].extend(index.plain_lengths)
    return _order_frames(packs, columns, _Cells().finish())


def _order_frames(
    packs: Sequence[PackRef], columns: tuple[bytearray, list[int], list[int], list[int]], pages: KnownPages
) -> KnownFrames:
    """From the hashes, packs, offsets and lengths of frames."""
    hashes, numbers, offsets, lengths = columns
    digests = np.frombuffer(bytes(hashes), np.uint8).reshape(-1, 32)
    head = np.ascontiguousarray(digests[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
    order = np.argsort(head, kind="stable")
    return KnownFrames(
        packs=tuple(packs),
        head=head[order],
        tail=digests[order, 8:],
        pack=np.array(numbers, np.uint32)[order],
        offset=np.array(offsets, np.uint64)[order],
        length=np.array(lengths, np.uint32)[order],
        pages=pages,
    )


class _Cells:
    """Collects the whole cells of packs, as many as there is room for."""

    def __init__(self) -> None:
        self._hashes = bytearray()
        self._packs: list[npt.NDArray[np.uint32]] = []
        self._offsets: list[npt.NDArray[np.uint64]] = []

    @property
    def have_room(self) -> bool:
        return len(self._hashes) < _PAGES_MAX * CELL_HASH_BYTES

    def add(self, pack: int, index: Index, cells: tuple[bytes, ...]) -> None:
        for start, length, hashes in zip(index.plain_offsets, index.plain_lengths, cells, strict=False):
            count = length // CELL_BYTES
            self._hashes += hashes[: count * CELL_HASH_BYTES]
            self._packs.append(np.full(count, pack, np.uint32))
            self._offsets.append(np.arange(count, dtype=np.uint64) * np.uint64(CELL_BYTES) + np.uint64(start))

    def finish(self) -> KnownPages:
        packs, offsets = np.zeros(0, np.uint32), np.zeros(0, np.uint64)
        return KnownPages(
            bytes(self._hashes), np.concatenate([packs, *self._packs]), np.concatenate([offsets, *self._offsets])
        )
