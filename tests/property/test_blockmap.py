"""Block maps against a model that keeps every single byte of every file."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pghaven.repository.blockmap import HOLE, BlockMap, Placements, build_block_map, check_block_map, invert

# Where one byte comes from: (pack, offset in the pack), or None for a zero that is nowhere.
Source = tuple[int, int] | None
Piece = tuple[int, int, int, int, int]
PACKS = 3


@dataclass(frozen=True)
class Pieces:
    file_count: int
    pieces: list[Piece]


@st.composite
def any_pieces(draw: st.DrawFn) -> Pieces:
    """Files cut into pieces, some of them missing (a file cut short under one reader and grown under the next)."""
    pieces: list[Piece] = []
    ends = [0] * PACKS
    file_count = draw(st.integers(0, 5))
    for file in range(file_count):
        at = 0
        for length, kind, pack in draw(
            st.lists(
                st.tuples(st.integers(1, 9), st.sampled_from(["stored", "stored", "hole", "gap"]), st.integers(0, 2)),
                max_size=6,
            )
        ):
            if kind == "stored":
                skipped = draw(st.sampled_from([0, 0, 0, 3]))
                pieces.append((file, at, length, pack, ends[pack] + skipped))
                ends[pack] += skipped + length
            elif kind == "hole":
                pieces.append((file, at, length, HOLE, 0))
            at += length
    return Pieces(file_count, draw(st.permutations(pieces)))


def model(given_pieces: Pieces) -> list[list[Source]]:
    """Each file as a list of bytes' sources."""
    files: list[list[Source]] = [[] for _ in range(given_pieces.file_count)]
    for file, offset, length, pack, pack_offset in given_pieces.pieces:
        content = files[file]
        content.extend([None] * (offset + length - len(content)))
        if pack != HOLE:
            content[offset : offset + length] = [(pack, pack_offset + byte) for byte in range(length)]
    return files


def build(given_pieces: Pieces) -> tuple[BlockMap, list[int]]:
    columns = np.array(given_pieces.pieces, np.uint64).reshape(-1, 5)
    placements = Placements(
        file=columns[:, 0].astype(np.uint32),
        file_offset=columns[:, 1],
        length=columns[:, 2],
        pack=columns[:, 3].astype(np.uint32),
        pack_offset=columns[:, 4],
    )
    block_map, sizes = build_block_map(placements, given_pieces.file_count)
    return block_map, sizes.tolist()


def expand(block_map: BlockMap) -> list[list[Source]]:
    files: list[list[Source]] = []
    at = 0
    for count in block_map.runs_of_file.tolist():
        content: list[Source] = []
        for run in range(at, at + count):
            pack, offset = int(block_map.pack[run]), int(block_map.offset[run])
            for byte in range(int(block_map.length[run])):
                content.append(None if pack == HOLE else (pack, offset + byte))
        files.append(content)
        at += count
    return files


@given(any_pieces())
def test_every_byte_of_every_file_is_there_exactly_once(pieces: Pieces) -> None:
    block_map, sizes = build(pieces)
    assert expand(block_map) == model(pieces)
    assert sizes == [len(content) for content in model(pieces)]


@given(any_pieces())
def test_what_was_built_passes_the_check(pieces: Pieces) -> None:
    block_map, sizes = build(pieces)
    ends = [0] * PACKS
    for _, _, length, pack, offset in pieces.pieces:
        if pack != HOLE:
            ends[pack] = max(ends[pack], offset + length)
    check_block_map(block_map, np.array(sizes, np.uint64), np.array(ends, np.uint64))


@given(any_pieces())
def test_the_packs_side_holds_the_same_bytes_once_and_in_the_order_of_the_packs(pieces: Pieces) -> None:
    block_map, sizes = build(pieces)
    found: list[list[Source]] = [[None] * size for size in sizes]
    packs = invert(block_map)
    assert [part.pack for part in packs] == sorted({part.pack for part in packs})
    for part in packs:
        assert part.pack_offset.tolist() == sorted(part.pack_offset.tolist())
        for file, start, length, offset in zip(
            part.file.tolist(), part.file_offset.tolist(), part.length.tolist(), part.pack_offset.tolist(), strict=True
        ):
            assert found[file][start : start + length] == [None] * length, "written twice"
            found[file][start : start + length] = [(part.pack, offset + byte) for byte in range(length)]
    assert found == model(pieces)


@given(any_pieces())
def test_runs_are_as_few_as_they_can_be(pieces: Pieces) -> None:
    """No two neighbours of one file could be one run."""
    for content, count in zip(model(pieces), build(pieces)[0].runs_of_file.tolist(), strict=True):
        breaks = sum(not _follows(one, other) for one, other in itertools.pairwise(content))
        assert count == (breaks + 1 if content else 0)


def _follows(one: Source, other: Source) -> bool:
    if one is None or other is None:
        return one is other
    return other == (one[0], one[1] + 1)
