"""The simulation finds each planted mistake, and nothing where none is planted."""

from __future__ import annotations

import pytest

from tests.simulation.engine import Violation
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.scenes import play

_SEEDS_MAX = 1500
_SEEDS_WITHOUT = 8
_EACH = pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS])


@pytest.mark.timeout(1800)  # all seeds take a minute and a half on an idle machine
@_EACH
def test_a_planted_mistake_is_found(mutant: Mutant) -> None:
    for seed in range(mutant.first_seed, mutant.first_seed + _SEEDS_MAX):
        try:
            play(str(seed), parts=mutant.parts, scene=mutant.scene)
        except Violation as violation:
            assert violation.rule in mutant.breaks, f"seed {seed}"
            return
    pytest.fail(f"not found in {_SEEDS_MAX} seeds")


@_EACH
def test_nothing_is_found_where_nothing_is_planted(mutant: Mutant) -> None:
    for seed in range(mutant.first_seed, mutant.first_seed + _SEEDS_WITHOUT):
        play(str(seed), scene=mutant.scene)
