"""Bytes that were moved are found where they are, and what is in use is counted once, whatever the maps look like."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.repository.blockmap import HOLE, BlockMap
from pghaven.repository.pack import PackRef
from pghaven.repository.relocate import LiveBytes, Moves, PackLine, relocate

Run = tuple[int, int, int]  # length, pack, offset


def make_pack(number: int, plain_length: int) -> PackRef:
    return PackRef(label="one", id=bytes([number]) * 32, size_bytes=1000, tail_bytes=200, plain_length=plain_length)


def make_map(files: list[list[Run]]) -> BlockMap:
    runs = [run for file in files for run in file]
    return BlockMap(
        runs_of_file=np.array([len(file) for file in files], np.uint32),
        length=np.array([run[0] for run in runs], np.uint64),
        pack=np.array([run[1] for run in runs], np.uint32),
        offset=np.array([run[2] for run in runs], np.uint64),
    )


def read(block_map: BlockMap, contents: list[bytes]) -> list[bytes]:
    """Every file, byte by byte."""
    files, run = [], 0
    for count in block_map.runs_of_file.tolist():
        parts = []
        for at in range(run, run + count):
            pack, offset, length = (int(column[at]) for column in (block_map.pack, block_map.offset, block_map.length))
            parts.append(bytes(length) if pack == HOLE else contents[pack][offset : offset + length])
        files.append(b"".join(parts))
        run += count
    return files


@st.composite
def maps(draw: st.DrawFn) -> tuple[list[int], list[list[list[Run]]]]:
    """The plain lengths of some packs, and maps over them."""
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))

    def run() -> st.SearchStrategy[Run]:
        def within(pack: int) -> st.SearchStrategy[Run]:
            if pack == len(lengths):
                return st.integers(1, 9).map(lambda length: (length, HOLE, 0))
            offsets = st.integers(0, lengths[pack] - 1)
            return offsets.flatmap(
                lambda offset: st.integers(1, lengths[pack] - offset).map(lambda length: (length, pack, offset))
            )

        return st.integers(0, len(lengths)).flatmap(within)

    files = st.lists(st.lists(run(), max_size=4), max_size=4)
    return lengths, draw(st.lists(files, min_size=1, max_size=3))


def used_bytes(lengths: list[int], found: list[list[list[Run]]], grain: int = 1) -> list[set[int]]:
    used: list[set[int]] = [set() for _ in lengths]
    for files in found:
        for length, pack, offset in (run for file in files for run in file):
            if pack != HOLE:
                first, last = offset // grain * grain, -(-(offset + length) // grain) * grain
                used[pack].update(range(first, min(last, lengths[pack])))
    return used


@given(maps(), st.sampled_from([1, 4, 8]))
def test_what_is_in_use_is_the_union_of_all_maps(drawn: tuple[list[int], list[list[list[Run]]]], grain: int) -> None:
    lengths, found = drawn
    packs = [make_pack(number, length) for number, length in enumerate(lengths)]
    line = PackLine()
    live = LiveBytes(line, grain=grain)
    for files in found:
        line.add(packs)
        live.add(make_map(files), packs)
    used = used_bytes(lengths, found, grain)
    assert live.bytes_of_sparse() == {number: len(one) for number, one in enumerate(used) if one}
    for number, one in enumerate(used):
        rows = live.intervals_of(number).tolist()
        assert {byte for begin, end in rows for byte in range(begin, end)} == one
        assert all(a[1] < b[0] for a, b in itertools.pairwise(rows))


@given(maps(), st.floats(0.1, 1))
def test_a_pack_that_is_dense_for_one_map_or_for_all_together_is_not_sparse(
    drawn: tuple[list[int], list[list[list[Run]]]], share: float
) -> None:
    lengths, found = drawn
    packs = [make_pack(number, length) for number, length in enumerate(lengths)]
    line = PackLine(packs)
    live = LiveBytes(line, dense_at=share)
    for files in found:
        live.add(make_map(files), packs)
    used = used_bytes(lengths, found)
    sparse = {n: len(one) for n, one in enumerate(used) if one and not len(one) >= share * lengths[n]}
    assert live.bytes_of_sparse() == sparse


def pieces_of(line: PackLine, used: list[set[int]], chance: random.Random) -> Iterator[tuple[int, int, int]]:
    """Everything in use as pieces (number, begin, end), cut anywhere."""
    for number, ref in enumerate(line.packs):
        begin = None
        for byte in range(ref.plain_length + 1):
            if begin is not None and (byte not in used[number] or chance.random() < 0.3):
                yield number, begin, byte
                begin = None
            if begin is None and byte in used[number]:
                begin = byte


@given(maps(), st.integers(0, 1 << 30), st.data())
def test_a_map_over_what_was_moved_gives_the_same_bytes(
    drawn: tuple[list[int], list[list[list[Run]]]], seed: int, data: st.DataObject
) -> None:
    lengths, found = drawn
    chance = random.Random(seed)
    packs = [make_pack(number, length) for number, length in enumerate(lengths)]
    contents = [chance.randbytes(length) for length in lengths]
    line = PackLine(data.draw(st.lists(st.sampled_from(packs), unique=True)))
    of_line = [packs.index(pack) for pack in line.packs]
    used = used_bytes(lengths, found)
    new = [bytearray(), bytearray()]
    columns: list[tuple[int, int, int, int]] = []
    for number, begin, end in pieces_of(line, [used[at] for at in of_line], chance):
        target = chance.randrange(2)
        new[target] += bytes(chance.randrange(3))
        columns.append((line.begin_of(number) + begin, end - begin, target, len(new[target])))
        new[target] += contents[of_line[number]][begin:end]
    moves = Moves(
        begin=np.array([row[0] for row in columns], np.uint64),
        length=np.array([row[1] for row in columns], np.uint64),
        pack=np.array([row[2] for row in columns], np.uint32),
        offset=np.array([row[3] for row in columns], np.uint64),
    )
    after = [b"?" * len(content) if at in of_line else content for at, content in enumerate(contents)]
    for files in found:
        block_map = make_map(files)
        moved = relocate(block_map, packs, line, moves)
        assert read(moved, [*after, *map(bytes, new)]) == read(block_map, contents)


@pytest.mark.parametrize("kept", [(0, 4), (5, 10), (0, 0)])
def test_a_byte_that_is_needed_and_was_not_moved_is_a_bug(kept: tuple[int, int]) -> None:
    pack = make_pack(1, 10)
    moves = Moves(
        begin=np.array([kept[0]], np.uint64),
        length=np.array([kept[1] - kept[0]], np.uint64),
        pack=np.array([0], np.uint32),
        offset=np.array([0], np.uint64),
    )
    for run in [(10, 0, 0), (2, 0, 3), (1, 0, 4)]:
        with pytest.raises(ValueError, match="not moved"):
            relocate(make_map([[run]]), [pack], PackLine([pack]), moves)


def test_packs_that_were_taken_off_the_line_are_left_where_they_are() -> None:
    packs = [make_pack(1, 10), make_pack(2, 10)]
    line = PackLine(packs)
    line.forget([0])
    moves = Moves(
        begin=np.array([line.begin_of(1)], np.uint64),
        length=np.array([10], np.uint64),
        pack=np.array([0], np.uint32),
        offset=np.array([100], np.uint64),
    )
    moved = relocate(make_map([[(10, 0, 0), (5, 1, 5)]]), packs, line, moves)
    assert (moved.pack.tolist(), moved.offset.tolist()) == ([0, 2], [0, 105])
