"""Where runs lie, written as steps."""

from __future__ import annotations

import numpy as np
import pytest

from pghaven.repository.blockmap import HOLE
from pghaven.repository.manifest_columns import add_steps, make_steps
from pghaven.runtime.spill import PART_ROWS

PACKS = 5


def test_steps_lead_back_to_offsets_over_parts_and_beyond_all_numbers() -> None:
    dice = np.random.default_rng(1)
    count = 2 * PART_ROWS + 17
    pack = dice.integers(0, PACKS + 2, count, np.uint32)
    pack[pack > PACKS] = HOLE
    length = dice.integers(1, 1 << 40, count, np.uint64)
    offset = dice.integers(0, 1 << 64, count, np.uint64, endpoint=False)
    steps = make_steps(length, pack, offset, PACKS)
    assert (steps != offset).any()
    assert (add_steps(length, pack, steps, PACKS) == offset).all()


def test_runs_that_leave_out_a_row_each_have_steps_of_its_length() -> None:
    """In whatever order the packs come."""
    length = np.array([1000, 30, 2000, 30, 3000], np.uint64)
    pack = np.array([1, 0, 1, 0, 1], np.uint32)
    offset = np.array([0, 0, 1097, 30, 3194], np.uint64)
    assert make_steps(length, pack, offset, 2).tolist() == [0, 0, 97, 0, 97]


@pytest.mark.parametrize("pack", [HOLE, PACKS, PACKS + 1])
def test_what_is_in_no_pack_is_as_it_is_written(pack: int) -> None:
    """A reader must not fall over a pack that is not there before it has found so."""
    found = add_steps(np.full(3, 8, np.uint64), np.full(3, pack, np.uint32), np.full(3, 7, np.uint64), PACKS)
    assert found.tolist() == [7, 7, 7]
