"""Making a block map: what workers stored, laid over what files keep of their parent's map.

The one idea: all files of a part lie one after another on one line, so that overlaying intervals is sorting and two
searches in NumPy; and a map is made part by part, so that the memory it takes meanwhile does not grow with the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pghaven.repository.blockmap import HOLE, U4, U8, BlockMap, Placements, cut_files, sort_unique
from pghaven.runtime.columns import group_rows
from pghaven.runtime.spill import Spool, cumulate, in_parts, make_column


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What files keep of a parent's map. ``source`` has the number of each file's counterpart in the parent, or -1;
    ``size`` is how long a file with a counterpart is now. ``pack_of_parent`` numbers the parent's packs anew."""

    parent: BlockMap
    source: npt.NDArray[np.int64]
    size: U8
    pack_of_parent: U4


# A map is made for some files at a time, so that what is sorted and joined meanwhile stays small, some 300 bytes for
# each of these intervals, however many files there are.
INTERVALS_AT_ONCE = 1 << 16


def build_block_map(
    pieces: Placements, file_count: int, inheritance: Inheritance | None = None, *, at_once: int = INTERVALS_AT_ONCE
) -> tuple[BlockMap, U8]:
    """The map of these pieces over what files keep of a parent; also returns each file's size.

    What nobody stored and no parent has is a hole: a file was cut short under one reader and had grown again before the
    next, and WAL replay writes those pages anew. Raises ValueError where pieces overlap, which would be a bug of the
    writer.
    """
    sizes = _find_sizes(pieces, file_count, inheritance)
    columns = (pieces.file, pieces.file_offset, pieces.length, pieces.pack, pieces.pack_offset)
    by_file, ends = group_rows(pieces.file, columns, file_count)
    heir = _Heir(inheritance) if inheritance is not None else None
    made = [Spool() for _ in range(4)]
    for first, end in cut_files(_weigh(ends, heir), at_once):
        part = slice(int(ends[first - 1]) if first else 0, int(ends[end - 1]))
        file, *others = (np.array(column[part]) for column in by_file)
        ours = Placements(file - np.uint32(first), *others)
        kept = heir.give(first, end) if heir is not None else None
        columns_made: tuple[npt.NDArray[Any], ...] = _build_part(ours, sizes[first:end], kept)
        for spool, column in zip(made, columns_made, strict=True):
            spool.write(column)
    runs_of_file, pack = (made[number].to_array(np.uint32) for number in (0, 2))
    length, offset = (made[number].to_array(np.uint64) for number in (1, 3))
    return BlockMap(runs_of_file=runs_of_file, length=length, pack=pack, offset=offset), sizes


def _find_sizes(pieces: Placements, file_count: int, inheritance: Inheritance | None) -> U8:
    sizes: U8 = make_column(file_count, np.uint64)
    for part in in_parts(len(pieces.file)):
        np.maximum.at(sizes, pieces.file[part], pieces.file_offset[part] + pieces.length[part])
    if inheritance is not None:
        for part in in_parts(file_count):
            np.copyto(sizes[part], inheritance.size[part], where=inheritance.source[part] >= 0)
    return sizes


def _weigh(ends: npt.NDArray[np.int64], heir: _Heir | None) -> npt.NDArray[np.int64]:
    """How many intervals each file is made of, about."""
    weights: npt.NDArray[np.int64] = make_column(len(ends), np.int64)
    for part in in_parts(len(ends)):
        weights[part] = np.diff(ends[part], prepend=ends[part.start - 1] if part.start else 0) + 1
        if heir is not None:
            weights[part] += heir.count_runs(part)
    return weights


def _build_part(pieces: Placements, sizes: U8, inherited: Placements | None) -> tuple[U4, U8, U4, U8]:
    """The columns of the map of some files, numbered from 0."""
    line = _Line(sizes)
    new = line.lay(pieces)
    if np.any(new.begin[1:] < new.end[:-1]):
        raise ValueError("two pieces of one file overlap")
    kept = line.lay(inherited) if inherited is not None else _NOTHING
    ends = np.array([line.end], np.uint64)
    cuts = sort_unique(np.concatenate((line.begin, ends, new.begin, new.end, kept.begin, kept.end)))
    at, length = cuts[:-1], np.diff(cuts)
    pack, offset = np.full(len(at), HOLE, np.uint32), np.zeros(len(at), np.uint64)
    for layer in (kept, new):
        layer.paint(at, pack, offset)
    part = join_runs(line.file_at(at), length, pack, offset, len(sizes))
    return part.runs_of_file, part.length, part.pack, part.offset


class _Line:
    """All files one after another on one line, so that an interval needs no file: two searches find what covers it."""

    def __init__(self, sizes: U8) -> None:
        ends = np.cumsum(sizes, dtype=np.uint64)
        self.begin: U8 = ends - sizes
        self.end = ends[-1] if len(ends) else np.uint64(0)
        self._sizes = sizes

    def file_at(self, position: U8) -> npt.NDArray[np.uint32]:
        """The file at each position; empty files are passed over, as they have none."""
        return (np.searchsorted(self.begin, position, "right") - 1).astype(np.uint32)

    def lay(self, pieces: Placements) -> _Layer:
        """These pieces as intervals in order; what lies beyond a file's end is left out."""
        room = self._sizes[pieces.file]
        inside = pieces.file_offset < room
        length = np.minimum(pieces.length, room - np.minimum(pieces.file_offset, room))[inside]
        begin = (self.begin[pieces.file] + pieces.file_offset)[inside]
        order = np.argsort(begin, kind="stable")
        begin, length = begin[order], length[order]
        return _Layer(begin, begin + length, pieces.pack[inside][order], pieces.pack_offset[inside][order])


@dataclass(frozen=True, slots=True)
class _Layer:
    """Intervals that do not overlap, in order."""

    begin: U8
    end: U8
    pack: U4
    offset: U8

    def paint(self, at: U8, pack: U4, offset: U8) -> None:
        """Write where the bytes of each elementary interval lie, for those that begin inside one of ours."""
        if not len(self.begin):
            return
        which = np.searchsorted(self.begin, at, "right") - 1
        covered = (which >= 0) & (at < self.end[which])
        ours = which[covered]
        pack[covered] = self.pack[ours]
        inside = at[covered] - self.begin[ours]
        offset[covered] = np.where(self.pack[ours] == HOLE, np.uint64(0), self.offset[ours] + inside)


_EMPTY = np.zeros(0, np.uint64)
_EMPTY_PACKS = np.zeros(0, np.uint32)
_NOTHING = _Layer(_EMPTY, _EMPTY, _EMPTY_PACKS, _EMPTY)


class _Heir:
    """The parent's runs of the files that have a counterpart there, for some files at a time."""

    def __init__(self, inheritance: Inheritance) -> None:
        self._inheritance = inheritance
        self._counts = inheritance.parent.runs_of_file
        self._ends = cumulate(self._counts)

    def count_runs(self, part: slice) -> npt.NDArray[np.int64]:
        """How many each of these files has."""
        source = self._inheritance.source[part]
        counts = np.zeros(len(source), np.int64)
        has_one = source >= 0
        counts[has_one] = self._counts[source[has_one]]
        return counts

    def give(self, first: int, end: int) -> Placements:
        """The runs of these files, numbered from 0."""
        parent = self._inheritance.parent
        source = self._inheritance.source[first:end]
        files = np.flatnonzero(source >= 0)
        many = self._counts[source[files]].astype(np.int64)
        total = int(many.sum())
        begins = np.cumsum(many) - many
        runs = np.arange(total) + np.repeat(self._ends[source[files]] - many - begins, many)
        length, pack = parent.length[runs], parent.pack[runs]
        stored = pack != HOLE
        renumbered = np.full(total, HOLE, np.uint32)
        renumbered[stored] = self._inheritance.pack_of_parent[pack[stored]]
        lying = np.cumsum(length, dtype=np.uint64) - length
        has_runs = many > 0
        return Placements(
            file=np.repeat(files, many).astype(np.uint32),
            file_offset=lying - np.repeat(lying[begins[has_runs]], many[has_runs]),
            length=length,
            pack=renumbered,
            pack_offset=parent.offset[runs],
        )


def join_runs(file: U4, length: U8, pack: U4, offset: U8, file_count: int) -> BlockMap:
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
