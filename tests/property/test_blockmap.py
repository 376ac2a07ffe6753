"""Block maps against a model that keeps every single byte of every file."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pghaven.repository.blockmap import (
    EXTENT_BYTES,
    EXTENT_RUNS_MAX,
    HOLE,
    BlockMap,
    Placements,
    check_block_map,
    find_fragmented,
    invert,
    invert_in_two,
    used_packs,
)
from pghaven.repository.mapmaking import Inheritance, build_block_map

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


@st.composite
def any_child(draw: st.DrawFn) -> tuple[Pieces, Pieces, list[int], list[int]]:
    """A parent, a child's own pieces, and for each of its files the parent's file it continues (or -1) and its size."""
    parent, child = draw(any_pieces()), draw(any_pieces())
    sources = [draw(st.sampled_from([-1, *range(parent.file_count)])) for _ in range(child.file_count)]
    sizes = [draw(st.integers(len(content), len(content) + 30)) for content in model(child)]
    return parent, child, sources, sizes


@given(any_child())
def test_a_child_holds_its_own_bytes_and_its_parent_s_elsewhere(
    case: tuple[Pieces, Pieces, list[int], list[int]],
) -> None:
    parent, child, sources, sizes = case
    parent_map, _ = build(parent)
    columns = np.array(child.pieces, np.uint64).reshape(-1, 5)
    placements = Placements(
        file=columns[:, 0].astype(np.uint32),
        file_offset=columns[:, 1],
        length=columns[:, 2],
        pack=columns[:, 3].astype(np.uint32),
        pack_offset=columns[:, 4],
    )
    inheritance = Inheritance(
        parent=parent_map,
        source=np.array(sources, np.int64),
        size=np.array(sizes, np.uint64),
        pack_of_parent=np.arange(PACKS, 2 * PACKS, dtype=np.uint32),
    )
    block_map, found = build_block_map(placements, child.file_count, inheritance)
    for at_once in (1, 3):
        in_parts, sizes_in_parts = build_block_map(placements, child.file_count, inheritance, at_once=at_once)
        assert expand(in_parts) == expand(block_map)
        assert len(in_parts.length) == len(block_map.length)
        assert sizes_in_parts.tolist() == found.tolist()

    parents = model(parent)
    expected = []
    for own, source, size in zip(model(child), sources, sizes, strict=True):
        content: list[Source] = [None] * (size if source >= 0 else len(own))
        if source >= 0:
            for at, byte in enumerate(parents[source][:size]):
                content[at] = None if byte is None else (byte[0] + PACKS, byte[1])
        expected.append(content)
    for file, offset, length, pack, pack_offset in child.pieces:
        expected[file][offset : offset + length] = [
            None if pack == HOLE else (pack, pack_offset + byte) for byte in range(length)
        ]
    assert expand(block_map) == expected
    assert found.tolist() == [len(content) for content in expected]

    smaller, kept = used_packs(block_map, 2 * PACKS)
    back = [[byte and (int(kept[byte[0]]), byte[1]) for byte in content] for content in expand(smaller)]
    assert back == expected
    assert {byte[0] for content in expected for byte in content if byte} == set(kept.tolist())


@given(any_pieces(), st.integers(1, 9), st.integers(0, 12))
def test_two_passes_over_new_files_leave_nothing_stale(pieces: Pieces, bulk: int, stale: int) -> None:
    """Whatever is taken for an old pack, and however much is written that is written over: zeros stay zeros too."""
    block_map, sizes = build(pieces)
    files: list[list[Source]] = [[None] * size for size in sizes]
    written = 0
    for packs in invert_in_two(block_map, bulk_bytes=bulk, stale_bytes_max=stale):
        for part in packs if packs is not None else ():
            for file, start, length, offset in zip(
                *(column.tolist() for column in (part.file, part.file_offset, part.length, part.pack_offset)),
                strict=True,
            ):
                files[file][start : start + length] = [(part.pack, offset + byte) for byte in range(length)]
                written += length
    assert files == model(pieces)
    assert written >= int(block_map.length[block_map.pack != HOLE].sum())


def test_what_lies_between_pieces_of_an_old_pack_is_written_with_them() -> None:
    """One write for an extent of which pages have changed since, one for each of these."""
    page = 8192
    old = [(0, number * page, page, 0, number * page) for number in range(128) if number % 4 != 3]
    new = [(0, number * page, page, 1, number // 4 * page) for number in range(3, 128, 4)]
    block_map, _ = build(Pieces(1, [*old, *new]))
    first, second = invert_in_two(block_map, bulk_bytes=2 * page)
    assert second is not None
    assert [(part.pack, part.length.tolist()) for part in first] == [(0, [127 * page])]
    assert [(part.pack, len(part.length)) for part in second] == [(1, 32)]


def test_files_without_large_pieces_do_not_wait_for_the_others() -> None:
    """Nothing stale is written to them. So small files and large ones can be written side by side."""
    large = [(0, 0, 32, 0, 0), (0, 36, 32, 0, 36), (0, 32, 4, 1, 0)]
    small = [(1, 0, 4, 2, 0), (2, 0, 4, 1, 4), (2, 4, 4, 2, 4)]
    block_map, _ = build(Pieces(3, [*large, *small]))
    first, second = invert_in_two(block_map, bulk_bytes=16)
    assert second is not None
    assert [(part.pack, part.file.tolist()) for part in first] == [(0, [0]), (1, [2]), (2, [1, 2])]
    assert [(part.pack, part.file.tolist()) for part in second] == [(1, [0])]


def test_only_packs_of_what_lies_over_stale_pages_are_read_in_a_second_pass() -> None:
    """The ends of large files are written with all else of their pack: of a full backup each is read once."""
    page = 8192
    large = [(0, number * page, page, 0, number * page) for number in range(64) if number != 9]
    small = [(file, 0, page, 0, (63 + file) * page) for file in (1, 2, 3)]
    end = (0, 64 * page, page, 1, 0)
    elsewhere = (4, 0, page, 1, page)
    changed, beside = (0, 9 * page, page, 2, 0), (5, 0, page, 2, page)
    block_map, _ = build(Pieces(6, [*large, *small, end, elsewhere, changed, beside]))
    first, second = invert_in_two(block_map, bulk_bytes=2 * page)
    assert second is not None
    assert [(part.pack, part.file.tolist()) for part in first] == [(0, [0, 1, 2, 3]), (1, [0, 4]), (2, [5])]
    assert [(part.pack, part.file.tolist()) for part in second] == [(2, [0])]

    whole, _ = build(Pieces(6, [*large, (0, 9 * page, page, 0, 9 * page), *small, end, elsewhere]))
    assert invert_in_two(whole, bulk_bytes=2 * page)[1] is None


@given(st.lists(st.lists(st.integers(1, EXTENT_RUNS_MAX * 3), max_size=3), max_size=4))
def test_extents_of_too_many_runs_are_found(runs_of_extents: list[list[int]]) -> None:
    """Each extent is made of the given number of runs, in different packs so that none can be joined."""
    pieces = [
        (file, extent * EXTENT_BYTES + run * 8192, 8192 if run < runs - 1 else EXTENT_BYTES - run * 8192, run % 2, 0)
        for file, extents in enumerate(runs_of_extents)
        for extent, runs in enumerate(extents)
        for run in range(runs)
    ]
    block_map, _ = build(Pieces(len(runs_of_extents), pieces))
    expected = [
        (file, extent)
        for file, counts in enumerate(runs_of_extents)
        for extent, runs in enumerate(counts)
        if runs > EXTENT_RUNS_MAX
    ]
    assert [divmod(key, 1 << 32) for key in find_fragmented(block_map).tolist()] == expected
