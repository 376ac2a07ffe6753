"""Frames that are in the store already, found by what they hold.

The one idea: a backup that was interrupted left packs whose indexes prove what their frames hold. A later one reads its
files anew all the same; where a frame turns out to hold just what one of those holds, there is nothing to compress and
nothing to store. Nothing is taken over on the strength of names, sizes or times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from pghaven.errors import Damaged, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.pack import PackPlace, PackRef, find_pack

# Some 30 bytes of memory each in every worker; a terabyte of an interrupted backup.
_FRAMES_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFrames:
    """Packs and their frames; the columns are ordered by the beginning of the frames' hashes."""

    packs: tuple[PackRef, ...]
    head: npt.NDArray[np.uint64]
    tail: npt.NDArray[np.uint8]
    pack: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.uint64]
    length: npt.NDArray[np.uint32]

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
    )
