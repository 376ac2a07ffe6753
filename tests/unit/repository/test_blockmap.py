"""Block maps: every byte of every file exactly once. The laws are in tests/property/test_blockmap.py."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from pghaven.errors import Damaged
from pghaven.repository.blockmap import HOLE, BlockMap, Placements, check_block_map, invert
from pghaven.repository.mapmaking import build_block_map

Piece = tuple[int, int, int, int, int]  # file, offset, length, pack, offset in the pack
Run = tuple[int, int, int]


def place(pieces: Iterable[Piece]) -> Placements:
    columns = np.array(list(pieces), np.uint64).reshape(-1, 5)
    return Placements(
        file=columns[:, 0].astype(np.uint32),
        file_offset=columns[:, 1],
        length=columns[:, 2],
        pack=columns[:, 3].astype(np.uint32),
        pack_offset=columns[:, 4],
    )


def make(runs: list[list[Run]]) -> BlockMap:
    flat = [run for one in runs for run in one]
    return BlockMap(
        runs_of_file=np.array([len(one) for one in runs], np.uint32),
        length=np.array([run[0] for run in flat], np.uint64),
        pack=np.array([run[1] for run in flat], np.uint32),
        offset=np.array([run[2] for run in flat], np.uint64),
    )


def runs_of(block_map: BlockMap) -> list[list[Run]]:
    flat = list(
        zip(block_map.length.tolist(), block_map.pack.tolist(), block_map.offset.tolist(), strict=True),
    )
    ends = np.cumsum(block_map.runs_of_file).tolist()
    return [flat[end - count : end] for end, count in zip(ends, block_map.runs_of_file.tolist(), strict=True)]


def build(pieces: Iterable[Piece], file_count: int) -> tuple[list[list[Run]], list[int]]:
    block_map, sizes = build_block_map(place(pieces), file_count)
    return runs_of(block_map), sizes.tolist()


def sizes(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_nothing_stored_is_empty_files() -> None:
    assert build([], 3) == ([[], [], []], [0, 0, 0])
    assert build([], 0) == ([], [])


def test_pieces_in_any_order_are_put_in_the_file_s() -> None:
    found, lengths = build([(1, 10, 5, 0, 100), (0, 0, 4, 0, 50), (1, 0, 10, 3, 7)], 2)
    assert found == [[(4, 0, 50)], [(10, 3, 7), (5, 0, 100)]]
    assert lengths == [4, 15]


def test_pieces_that_follow_on_in_file_and_pack_become_one_run() -> None:
    assert build([(0, 4, 4, 1, 14), (0, 0, 4, 1, 10), (0, 8, 4, 2, 18)], 1)[0] == [[(8, 1, 10), (4, 2, 18)]]


def test_pieces_of_two_files_are_never_joined() -> None:
    assert build([(0, 0, 4, 1, 10), (1, 0, 4, 1, 14)], 2)[0] == [[(4, 1, 10)], [(4, 1, 14)]]


def test_holes_that_follow_each_other_are_one_and_have_no_offset() -> None:
    assert build([(0, 0, 4, HOLE, 0), (0, 4, 4, HOLE, 9), (0, 8, 1, 0, 0)], 1)[0] == [[(8, HOLE, 0), (1, 0, 0)]]


def test_a_gap_is_filled_with_zeros_also_at_the_beginning() -> None:
    found, lengths = build([(0, 5, 5, 0, 0), (0, 20, 1, 0, 5), (1, 0, 1, 0, 6)], 2)
    assert found == [[(5, HOLE, 0), (5, 0, 0), (10, HOLE, 0), (1, 0, 5)], [(1, 0, 6)]]
    assert lengths == [21, 1]


def test_pieces_that_overlap_are_a_bug_and_raised() -> None:
    for second in (0, 3):
        with pytest.raises(ValueError, match="overlap"):
            build([(0, 0, 4, 0, 0), (0, second, 4, 1, 0)], 1)


def test_positions_beyond_four_gigabytes_are_kept() -> None:
    big = 1 << 40
    found, lengths = build([(0, 0, big, 0, 0), (0, big, 8192, 1, big)], 1)
    assert (found, lengths) == ([[(big, 0, 0), (8192, 1, big)]], [big + 8192])


def test_a_good_map_passes() -> None:
    check_block_map(make([[(4, 0, 6)], [], [(3, HOLE, 0), (7, 1, 0)]]), sizes(4, 0, 10), sizes(10, 7))
    check_block_map(make([]), sizes(), sizes())


@pytest.mark.parametrize(
    ("runs", "of_files", "of_packs"),
    [
        pytest.param([[(4, 0, 0)]], [5], [9], id="too short"),
        pytest.param([[(4, 0, 0)]], [3], [9], id="too long"),
        pytest.param([[(4, 0, 0)], []], [4, 1], [9], id="a file without runs"),
        pytest.param([[]], [1], [], id="no runs at all"),
        pytest.param([[(4, 0, 0)]], [4, 0], [9], id="a file more"),
        pytest.param([[(4, 0, 0), (0, 0, 0)]], [4], [9], id="an empty run"),
        pytest.param([[(4, 1, 0)]], [4], [9], id="a pack that is not listed"),
        pytest.param([[(4, HOLE - 1, 0)]], [4], [9], id="nearly a hole"),
        pytest.param([[(4, 0, 6)]], [4], [9], id="beyond the pack's end"),
        pytest.param([[(4, 0, 10)]], [4], [9], id="all beyond the pack's end"),
        pytest.param([[(4, 0, (1 << 64) - 2)]], [4], [9], id="an offset that wraps"),
        pytest.param([[((1 << 64) - 1, HOLE, 0), (5, HOLE, 0)]], [4], [], id="lengths that wrap"),
        pytest.param([[(1 << 63, HOLE, 0)] * 3], [1 << 63], [], id="lengths that wrap to the right size"),
        pytest.param([[(4, 0, 0)], [(1 << 63, HOLE, 0)] * 3], [4, 1 << 63], [9], id="lengths that wrap further on"),
    ],
)
def test_a_map_that_does_not_cover_every_byte_once_is_damage(
    runs: list[list[Run]], of_files: list[int], of_packs: list[int]
) -> None:
    with pytest.raises(Damaged):
        check_block_map(make(runs), sizes(*of_files), sizes(*of_packs))


def test_columns_of_different_lengths_are_damage() -> None:
    good = make([[(4, 0, 0), (2, HOLE, 0)]])
    for column in ("length", "pack", "offset"):
        short = {name: getattr(good, name) for name in ("runs_of_file", "length", "pack", "offset")}
        short[column] = short[column][:-1]
        with pytest.raises(Damaged, match="differ in length"):
            check_block_map(BlockMap(**short), sizes(6), sizes(9))
    with pytest.raises(Damaged, match="another number of runs"):
        check_block_map(BlockMap(**{**short, "offset": good.offset, "runs_of_file": sizes(1)}), sizes(6), sizes(9))


def test_the_map_from_the_packs_side_is_in_the_order_of_the_packs() -> None:
    block_map = make([[(5, 1, 30), (5, 0, 7)], [], [(1, HOLE, 0), (2, 1, 10), (3, 1, 0)]])
    first, second = invert(block_map)
    assert (first.pack, second.pack) == (0, 1)
    assert list(zip(first.file.tolist(), first.file_offset.tolist(), strict=True)) == [(0, 5)]
    assert second.file.tolist() == [2, 2, 0]
    assert second.file_offset.tolist() == [3, 1, 0]
    assert second.length.tolist() == [3, 2, 5]
    assert second.pack_offset.tolist() == [0, 10, 30]


def test_holes_and_empty_files_need_no_pack() -> None:
    assert list(invert(make([[(5, HOLE, 0)], []]))) == []
    assert list(invert(make([]))) == []
