"""What the pages of some of a parent's files were, by the hashes that its packs keep of them.

The one idea: a pack has a hash of every 8 KiB cell of its frames, and pages lie aligned in these; so whether a page is
still the parent's is known from a few bytes of it, without an LSN to believe and without fetching what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pghaven.errors import Damaged, NotPermitted, ObjectMissing
from pghaven.repository.blockmap import HOLE, BlockMap
from pghaven.repository.container import CELL_BYTES, CELL_HASH_BYTES
from pghaven.repository.manifest import Manifest
from pghaven.repository.pack import PackPlace, PackRef, load_pack_cells, load_pack_index
from pghaven.runtime.spill import cumulate

# Below this a file is stored whole if it has changed at all, and a pack is not asked about fewer pages: what it keeps
# of all its pages, some 300 KB in two requests, would cost more than it spares.
PAGES_MIN = 32
PAGES_MIN_BYTES = PAGES_MIN * CELL_BYTES
# Two requests each; the packs with the most of these pages come first. Ten terabytes of tables have 3 GB of such
# files, and with 12 MB of them a pack all are asked.
_PACKS_MAX = 256


@dataclass(frozen=True, slots=True)
class _Pages:
    """Pages that the parent has stored, in columns of one length: which of the files, which page of it, where."""

    file: npt.NDArray[np.int64]
    page: npt.NDArray[np.int64]
    pack: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.int64]

    def choose(self, which: npt.NDArray[Any]) -> _Pages:
        return _Pages(self.file[which], self.page[which], self.pack[which], self.offset[which])


def hash_parent_pages(place: PackPlace, parent: Manifest, numbers: Sequence[int]) -> dict[int, bytes]:
    """For files of the parent (by their number) a hash of CELL_HASH_BYTES a page of 8 KiB, zeros where it is not known.

    Files of which nothing is known are left out: on a host that only writes all of them. Packs that are damaged tell
    nothing. Raises StoreUnreachable.
    """
    if not numbers or not place.keyring.can_read:
        return {}
    pages = _join(list(_list_pages(parent.block_map, numbers)))
    counts = [int(parent.files.size[number]) // CELL_BYTES for number in numbers]
    found = [np.zeros((count, CELL_HASH_BYTES), np.uint8) for count in counts]
    told: set[int] = set()
    for pack, asked in _group(pages):
        try:
            which, hashes = _ask(place, parent.packs[pack], asked.offset)
        except (Damaged, NotPermitted, ObjectMissing):
            continue
        answered = asked.choose(which)
        for file in np.unique(answered.file).tolist():
            mine = answered.file == file
            found[file][answered.page[mine]] = hashes[mine]
            told.add(file)
    return {numbers[file]: found[file].tobytes() for file in told}


def _list_pages(block_map: BlockMap, numbers: Sequence[int]) -> Iterator[_Pages]:
    ends = cumulate(block_map.runs_of_file)
    for at, number in enumerate(numbers):
        runs = slice(int(ends[number]) - int(block_map.runs_of_file[number]), int(ends[number]))
        length = block_map.length[runs].astype(np.int64)
        begins = np.cumsum(length) - length
        usable = np.flatnonzero((block_map.pack[runs] != HOLE) & (begins % CELL_BYTES == 0))
        counts = length[usable] // CELL_BYTES
        run = np.repeat(usable, counts)
        within = np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield _Pages(
            file=np.full(len(run), at, np.int64),
            page=begins[run] // CELL_BYTES + within,
            pack=block_map.pack[runs][run],
            offset=block_map.offset[runs][run].astype(np.int64) + within * CELL_BYTES,
        )


def _join(parts: Sequence[_Pages]) -> _Pages:
    columns = zip(*((one.file, one.page, one.pack, one.offset) for one in parts), strict=True)
    file, page, pack, offset = (np.concatenate(column) for column in columns)
    return _Pages(file, page, pack, offset)


def _group(pages: _Pages) -> Iterator[tuple[int, _Pages]]:
    """The packs worth asking, those with the most pages first."""
    packs, counts = np.unique(pages.pack, return_counts=True)
    for which in np.argsort(-counts, kind="stable")[:_PACKS_MAX].tolist():
        if counts[which] >= PAGES_MIN:
            yield int(packs[which]), pages.choose(np.flatnonzero(pages.pack == packs[which]))


def _ask(
    place: PackPlace, ref: PackRef, offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Which of these places in a pack are cells of it, and the hashes of these."""
    index = load_pack_index(place, ref)
    cells = load_pack_cells(place, ref, index)
    starts = np.array(index.plain_offsets, np.int64)
    firsts = np.cumsum([0, *(len(part) // CELL_HASH_BYTES for part in cells)])
    frame = np.searchsorted(starts, offsets, "right") - 1
    inside = offsets - starts[frame]
    is_cell = (inside % CELL_BYTES == 0) & (offsets + CELL_BYTES <= starts[frame + 1])
    which = np.flatnonzero(is_cell)
    hashes = np.frombuffer(b"".join(cells), np.uint8).reshape(-1, CELL_HASH_BYTES)
    return which, hashes[firsts[frame[which]] + inside[which] // CELL_BYTES]
