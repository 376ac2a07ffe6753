"""Nothing that is promised is ever broken: many histories, each with faults of its own."""

from __future__ import annotations

import pytest

from tests.simulation.check import check_seed

_BATCHES = 8
_SEEDS = 6
_CALLS_MIN = 100_000


@pytest.mark.parametrize("batch", range(_BATCHES))
def test_no_history_breaks_a_promise(batch: int) -> None:
    worlds = [check_seed(str(seed)) for seed in range(batch * _SEEDS, (batch + 1) * _SEEDS)]
    assert sum(world.simulation.calls for world in worlds) > _CALLS_MIN / _BATCHES
    assert sum(world.oracle.committed_count for world in worlds) > _SEEDS
