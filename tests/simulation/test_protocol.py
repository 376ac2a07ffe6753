"""Nothing that is promised is ever broken: many histories, each with faults of its own."""

from __future__ import annotations

from itertools import count

import pytest

from tests.simulation.check import check_seed

_BATCHES = 8
_SEEDS_MIN = 4
_CALLS_MIN = 100_000


@pytest.mark.parametrize("batch", range(_BATCHES))
def test_no_history_breaks_a_promise(batch: int) -> None:
    calls = committed = 0
    for played in count():
        if played >= _SEEDS_MIN and calls > _CALLS_MIN / _BATCHES:
            break
        world = check_seed(str(batch + played * _BATCHES))
        calls += world.simulation.calls
        committed += world.oracle.committed_count
    assert committed > _SEEDS_MIN
