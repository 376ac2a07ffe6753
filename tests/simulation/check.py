"""One seed after another; what breaks a promise is told with the shortest history that does it.

python -m tests.simulation SECONDS [FIRST_SEED]          make simulate SECONDS=600 SEED=1000
"""

from __future__ import annotations

import time
from itertools import count

from tests.simulation.engine import Violation
from tests.simulation.scenes import run
from tests.simulation.shrink import explain
from tests.simulation.world import World


def check_seed(seed: str) -> World:
    """Play one history. Raises AssertionError that explains what was broken."""
    world = World(seed)
    try:
        run(world)
    except Violation as violation:
        raise AssertionError(explain(seed, violation, world.simulation.past.choices)) from None
    return world


def main(seconds: float, first_seed: int) -> int:
    """Check seeds for so long; the number of those that broke a promise, of which each is printed."""
    end = time.monotonic() + seconds
    calls = broken = 0
    for seed in count(first_seed):
        if time.monotonic() > end:
            break
        try:
            calls += check_seed(str(seed)).simulation.calls
        except AssertionError as error:
            print(error, end="\n\n")
            broken += 1
    print(f"seeds {first_seed} to {seed - 1}: {calls} calls of the store, {broken} broken promises")
    return broken
