"""How a manifest's columns lie in its plain bytes.

The one idea: a column is cut into planes, all lowest bytes first, because neighbouring numbers share their high bytes
and zstd likes that; it is written and read some rows at a time, so that no column is in memory as a whole. Where a run
lies in its pack is written as how far that is from the end of the run before it there, which mostly says nothing new.
Many runs whose lengths are few different ones, as between rows of a table, have the numbers of these: of what hardly
varies but in its multiples, both bytes of a length look random, and the higher one of a number hardly does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pghaven.errors import Damaged
from pghaven.repository.codec import Buffer
from pghaven.repository.container import FRAME_BYTES
from pghaven.runtime.spill import in_parts, make_column

U4 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Columns = dict[str, npt.NDArray[Any]]

# What may stand in place of a column: instead of run_length both of the first two.
OTHER_TYPES: dict[str, str] = {"run_rank": "<u2", "run_lengths": "<u8", "run_offset": "<u8"}
_INSTEAD_OF = {"run_rank": "run_length", "run_offset": "run_step"}
_RANKS = 1 << 16
# Of fewer runs there is nothing to gain, and none where each different length is met only a few times.
RANKED_RUNS_MIN = 4096
_RUNS_PER_LENGTH_MIN = 8


def iter_byte_planes(column: npt.NDArray[Any], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """All lowest bytes, then all second ones, …, a frame's worth at a time."""
    frame = bytearray()
    for plane in range(dtype.itemsize):
        for part in in_parts(len(column)):
            numbers = column[part].astype(dtype, copy=False)
            frame += numbers.view(np.uint8)[plane :: dtype.itemsize].tobytes()
            if len(frame) >= FRAME_BYTES:
                yield bytes(frame[:FRAME_BYTES])
                del frame[:FRAME_BYTES]
    if frame:
        yield bytes(frame)


def read_column(plain: Buffer, place: tuple[int, int], dtype: str) -> npt.NDArray[Any]:
    """``place`` is where it begins and how many numbers it has. Raises ValueError."""
    offset, count = place
    width = np.dtype(dtype).itemsize
    if offset < 0 or count < 0 or offset + count * width > len(plain):
        raise ValueError("a column lies outside the manifest")
    planes = np.frombuffer(plain, np.uint8, count * width, offset).reshape(width, count)
    column = make_column(count, dtype)
    as_bytes = column.view(np.uint8).reshape(count, width)
    for part in in_parts(count):
        as_bytes[part] = planes[:, part].T
    return column


def choose_types(described: Mapping[str, object], types: Mapping[str, str]) -> dict[str, str]:
    """The columns that a manifest has, with their types: of those in ``types``, or what it has in their place."""
    replaced = {column for other, column in _INSTEAD_OF.items() if other in described}
    others = {name: dtype for name, dtype in OTHER_TYPES.items() if name in described}
    return {name: dtype for name, dtype in types.items() if name not in replaced} | others


def complete_runs(columns: Columns) -> None:
    """Have ``run_length`` and ``run_offset``, whatever was in their place. Raises Damaged, KeyError, IndexError."""
    if "run_rank" in columns:
        ranks, lengths = columns.pop("run_rank"), columns.pop("run_lengths")
        columns["run_length"] = found = make_column(len(ranks), np.uint64)
        for part in in_parts(len(ranks)):
            found[part] = lengths[ranks[part]]
    if "run_offset" not in columns:
        length, pack, step = (columns[name] for name in ("run_length", "run_pack", "run_step"))
        if not len(length) == len(pack) == len(step):
            raise Damaged("its runs have columns of different lengths")
        columns["run_offset"] = add_steps(length, pack, step, len(columns["pack_size"]))


def rank_lengths(columns: Columns) -> Columns:
    """The columns with ``run_rank`` and ``run_lengths`` in place of ``run_length``, where that is smaller."""
    ranked = _rank(columns["run_length"]) if len(columns["run_length"]) >= RANKED_RUNS_MIN else None
    if ranked is None:
        return columns
    others = {name: column for name, column in columns.items() if name != "run_length"}
    return others | {"run_rank": ranked[0], "run_lengths": ranked[1]}


def _rank(column: U8) -> tuple[npt.NDArray[np.uint16], U8] | None:
    """The different numbers, the most frequent ones first, and for each its place among them; None if they are many."""
    most = min(_RANKS, len(column) // _RUNS_PER_LENGTH_MIN)
    values, counts = column[:0], np.zeros(0, np.int64)
    for part in in_parts(len(column)):
        found, many = np.unique(column[part], return_counts=True)
        values, place = np.unique(np.concatenate((values, found)), return_inverse=True)
        if len(values) > most:
            return None
        joined = np.zeros(len(values), np.int64)
        np.add.at(joined, place, np.concatenate((counts, many)))
        counts = joined
    order = np.argsort(-counts, kind="stable")
    rank_of = np.empty(len(order), np.uint16)
    rank_of[order] = np.arange(len(order), dtype=np.uint16)
    ranks: npt.NDArray[np.uint16] = make_column(len(column), np.uint16)
    for part in in_parts(len(column)):
        ranks[part] = rank_of[np.searchsorted(values, column[part])]
    return ranks, values[order]


def make_steps(length: U8, pack: U4, offset: U8, pack_count: int) -> U8:
    """How far each run lies behind the end of the last run before it in the same pack, modulo 2**64; the first of a
    pack, behind its beginning. Runs in no pack that there is have their offset."""
    steps: U8 = make_column(len(length), np.uint64)
    ends = np.zeros(pack_count + 1, np.uint64)
    for part, order, packs, is_first, is_last in _iter_by_pack(pack, pack_count):
        offsets = offset[part][order]
        reached = offsets + length[part][order]
        before = np.roll(reached, 1)
        before[is_first] = ends[packs[is_first]]
        before[packs == pack_count] = 0
        ends[packs[is_last]] = reached[is_last]
        made = np.empty(len(order), np.uint64)
        made[order] = offsets - before
        steps[part] = made
    return steps


def add_steps(length: U8, pack: U4, step: U8, pack_count: int) -> U8:
    """The reverse: the offsets."""
    found: U8 = make_column(len(length), np.uint64)
    ends = np.zeros(pack_count + 1, np.uint64)
    for part, order, packs, is_first, is_last in _iter_by_pack(pack, pack_count):
        lengths, steps = length[part][order], step[part][order]
        reached = np.cumsum(lengths + steps, dtype=np.uint64)
        firsts = np.flatnonzero(is_first)
        base = ends[packs[firsts]] - (reached[firsts] - lengths[firsts] - steps[firsts])
        reached += np.repeat(base, np.diff(firsts, append=len(order)))
        ends[packs[is_last]] = reached[is_last]
        made = np.empty(len(order), np.uint64)
        made[order] = np.where(packs == pack_count, steps, reached - lengths)
        found[part] = made
    return found


def _iter_by_pack(pack: U4, pack_count: int) -> Iterator[tuple[slice, Rows, U4, Mask, Mask]]:
    """Some runs at a time, ordered by their packs: their places, the packs, and which are the first and the last of
    theirs. All that are in no pack that there is count as in the one behind the last."""
    for part in in_parts(len(pack)):
        packs = np.minimum(pack[part], np.uint32(pack_count))
        order = np.argsort(packs, kind="stable")
        packs = packs[order]
        is_first = np.ones(len(packs), bool)
        is_first[1:] = packs[1:] != packs[:-1]
        yield part, order, packs, is_first, np.roll(is_first, -1)


def read_blob(plain: memoryview, place: tuple[int, int]) -> memoryview:
    """``place`` is where it begins and how long it is. Raises ValueError."""
    offset, length = place
    if offset < 0 or length < 0 or offset + length > len(plain):
        raise ValueError("a column lies outside the manifest")
    return plain[offset : offset + length]


def iter_lines(relations: Buffer) -> Iterator[bytes]:
    """The lines of a manifest's relations, without their ends."""
    rest = b""
    for part in in_parts(len(relations), FRAME_BYTES):
        *lines, rest = (rest + bytes(relations[part])).split(b"\n")
        yield from lines
    if rest:
        yield rest
