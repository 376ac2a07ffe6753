"""Block maps: where every byte of every file lies. NumPy over whole backups; no loops over runs.

The one idea: a file is an ordered list of runs (length, pack, offset in the pack's plain bytes) that follow one another
without gap or overlap, so a run needs no file offset and "every byte exactly once" is a sum. A run may cross frames:
the pack's index tells where they end. Bytes that are zero are a run in no pack (``HOLE``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pghaven.errors import Damaged

HOLE = 0xFFFFFFFF

U8 = npt.NDArray[np.uint64]
U4 = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placements:
    """Pieces of files as workers stored them, in any order: columns of one length."""

    file: U4
    file_offset: U8
    length: U8
    pack: U4
    pack_offset: U8


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMap:
    """``runs_of_file`` has an entry a file; the other columns an entry a run, files one after another."""

    runs_of_file: U4
    length: U8
    pack: U4
    offset: U8


def build_block_map(pieces: Placements, file_count: int) -> tuple[BlockMap, U8]:
    """Order the pieces, join what follows on, fill what nobody stored with holes; also returns each file's size.

    A gap arises when a file was cut short under one reader and had grown again before the next: WAL replay writes
    those pages anew, zeros stand in for them. Raises ValueError on overlap, which would be a bug of the writer.
    """
    order = np.lexsort((pieces.file_offset, pieces.file))
    file, start, length = pieces.file[order], pieces.file_offset[order], pieces.length[order]
    pack, offset = pieces.pack[order], pieces.pack_offset[order]
    end = start + length
    first = np.ones(len(file), bool)
    first[1:] = file[1:] != file[:-1]
    previous_end = np.zeros(len(file), np.uint64)
    previous_end[1:] = end[:-1]
    previous_end[first] = 0
    if np.any(start < previous_end):
        raise ValueError("two pieces of one file overlap")

    gaps = np.flatnonzero(start > previous_end)
    if len(gaps):
        file = np.insert(file, gaps, file[gaps])
        length = np.insert(length, gaps, (start - previous_end)[gaps])
        pack = np.insert(pack, gaps, np.uint32(HOLE))
        offset = np.insert(offset, gaps, np.uint64(0))
    sizes = np.zeros(file_count, np.uint64)
    np.add.at(sizes, file, length)
    return _join(file, length, pack, offset, file_count), sizes


def _join(file: U4, length: U8, pack: U4, offset: U8, file_count: int) -> BlockMap:
    """Make one run of pieces that lie one after another in the file and in the pack."""
    joined = np.zeros(len(file), bool)
    same = (file[1:] == file[:-1]) & (pack[1:] == pack[:-1])
    follows = (offset[1:] == offset[:-1] + length[:-1]) | (pack[1:] == HOLE)
    joined[1:] = same & follows
    starts = np.flatnonzero(~joined)
    lengths = np.add.reduceat(length, starts) if len(starts) else length[:0]
    return BlockMap(
        runs_of_file=np.bincount(file[starts], minlength=file_count).astype(np.uint32),
        length=lengths.astype(np.uint64),
        pack=pack[starts],
        offset=np.where(pack[starts] == HOLE, np.uint64(0), offset[starts]),
    )


def check_block_map(block_map: BlockMap, sizes: U8, pack_plain: U8) -> None:
    """Raises Damaged unless the runs cover each file exactly once and lie within their packs."""
    columns = (block_map.length, block_map.pack, block_map.offset)
    if len({len(column) for column in columns}) != 1:
        raise Damaged("the columns of its block map differ in length")
    runs = block_map.runs_of_file.astype(np.int64)
    if len(runs) != len(sizes) or int(runs.sum()) != len(block_map.length):
        raise Damaged("its block map has another number of runs than its files say")
    if len(block_map.length) and int(block_map.length.min()) == 0:
        raise Damaged("its block map has an empty run")
    file = np.repeat(np.arange(len(sizes)), runs)
    totals = np.zeros(len(sizes), np.uint64)
    np.add.at(totals, file, block_map.length)
    covered = np.array_equal(totals, sizes) and not np.any(block_map.length > sizes[file])
    # A column's numbers wrap: no file's runs are fewer bytes than it has, so together they must not be more.
    if not covered or _exact_sum(block_map.length) != _exact_sum(sizes):
        raise Damaged("its block map does not cover every byte of every file exactly once")
    stored = block_map.pack != HOLE
    pack = block_map.pack[stored]
    if len(pack) and int(pack.max()) >= len(pack_plain):
        raise Damaged("its block map names a pack that it does not list")
    room = pack_plain[pack]
    offset, length = block_map.offset[stored], block_map.length[stored]
    if np.any(offset > room) or np.any(length > room - offset):
        raise Damaged("its block map reaches beyond the end of a pack")


def _exact_sum(column: U8) -> int:
    return (int((column >> np.uint64(32)).sum()) << 32) + int((column & np.uint64(0xFFFFFFFF)).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRuns:
    """What one pack is needed for: columns of one length, ordered by ``pack_offset``."""

    pack: int
    file: U4
    file_offset: U8
    length: U8
    pack_offset: U8


class PackSide:
    """A block map from the packs' side: what each needed pack holds, in the order of their numbers.

    Each is made when it is asked for: a cluster of ten terabytes has some eighty thousand packs.
    """

    def __init__(self, block_map: BlockMap) -> None:
        runs = block_map.runs_of_file
        self._map = block_map
        self._file = np.repeat(np.arange(len(runs), dtype=np.uint32), runs)
        self._file_offset = _file_offsets(block_map)
        kept = np.flatnonzero(block_map.pack != HOLE)
        self._order = kept[np.lexsort((block_map.offset[kept], block_map.pack[kept]))]
        cuts = np.flatnonzero(np.diff(block_map.pack[self._order])) + 1
        self._bounds = [0, *cuts.tolist(), len(self._order)] if len(self._order) else [0]

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> PackRuns:
        number = range(len(self))[index]
        part = self._order[self._bounds[number] : self._bounds[number + 1]]
        return PackRuns(
            pack=int(self._map.pack[part[0]]),
            file=self._file[part],
            file_offset=self._file_offset[part],
            length=self._map.length[part],
            pack_offset=self._map.offset[part],
        )


def _file_offsets(block_map: BlockMap) -> U8:
    """Where each run begins in its file."""
    starts = np.cumsum(block_map.length, dtype=np.uint64) - block_map.length
    runs = block_map.runs_of_file[block_map.runs_of_file > 0]
    first_run = np.cumsum(runs, dtype=np.int64) - runs
    offsets: U8 = starts - np.repeat(starts[first_run], runs)
    return offsets


def invert(block_map: BlockMap) -> PackSide:
    """The map from the packs' side, so that each pack is read once and in order."""
    return PackSide(block_map)
