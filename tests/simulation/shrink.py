"""A history that breaks a promise, with everything left out of it that is not needed for that.

The one idea: a history is a list of choices and may be played with some of them missing, so parts are left out, large
ones first, for as long as the same promise is still broken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.simulation.engine import Choice, Verdict, Violation
from tests.simulation.scenes import run
from tests.simulation.world import REAL, Parts, World

_PLAYS_MAX = 150
Breaks = Callable[[Sequence[Choice]], bool]


def shrink(choices: Sequence[Choice], breaks: Breaks, plays: int = _PLAYS_MAX) -> list[Choice]:
    """Fewer choices for which ``breaks`` still holds; it is asked ``plays`` times at most.

    First whole kinds of faults are left out, then parts that get smaller and smaller.
    """
    kept = list(choices)

    def try_out(smaller: list[Choice]) -> bool:
        nonlocal kept, plays
        plays -= 1
        if plays < 0 or smaller == kept or not breaks(smaller):
            return False
        kept = smaller
        return True

    for verdict in Verdict:
        try_out([_calm(choice, verdict) for choice in kept])
    size = len(kept)
    while size > 0:
        start = 0
        while start < len(kept) and plays > 0:
            if not try_out(kept[:start] + kept[start + size :]):
                start += size
        size //= 2
    return kept


def _calm(choice: Choice, verdict: Verdict) -> Choice:
    return replace(choice, verdict=Verdict.GO, seconds=0.0) if choice.verdict is verdict else choice


def explain(seed: str, violation: Violation, choices: Sequence[Choice], parts: Parts = REAL) -> str:
    """What to tell of a seed that breaks a promise: the promise, and the end of the shortest history found."""
    last: list[str] = []

    def breaks(some: Sequence[Choice]) -> bool:
        world = World(seed, parts=parts, script=some)
        try:
            run(world)
        except Violation as other:
            if other.rule == violation.rule:
                last[:] = world.simulation.past.lines
                return True
        return False

    kept = shrink(choices, breaks) if breaks(choices) else list(choices)
    shown = "\n".join(last[-60:]) or "it does not happen again when its choices are played"
    enough = f"{len(kept)} of {len(choices)} choices are enough"
    return f"seed {seed}: {violation}\n{enough}; the last of what happens:\n{shown}"
