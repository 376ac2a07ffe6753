"""The simulation itself: what a seed means, and what each fault does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from pghaven.errors import ObjectExists, StoreUnreachable
from tests.simulation.engine import DAY, HOUR, Actor, Choice, Rates, Simulation, Verdict, Violation, Witness
from tests.simulation.scenes import play, run
from tests.simulation.shrink import shrink
from tests.simulation.world import World
from tests.support.places import PROJECT

_DIGEST = """
import hashlib
from tests.simulation.scenes import play
lines = play("7").simulation.past.lines
print(len(lines), hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


def test_a_seed_is_a_history_whatever_python_hashes_by() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            cwd=PROJECT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(found) == 1


def test_another_seed_is_another_history() -> None:
    assert play("7").simulation.past.lines != play("8").simulation.past.lines


def test_choices_played_again_give_the_same_history() -> None:
    world = World("3")
    run(world)
    again = World("3", script=world.simulation.past.choices)
    run(again)
    calm = next(number for number, line in enumerate(world.simulation.past.lines) if " tidy.1: " in line)
    assert again.simulation.past.lines[:calm] == world.simulation.past.lines[:calm]


def run_script(*choices: Choice, **programs: Callable[[Actor], None]) -> Simulation:
    simulation = Simulation("x", script=choices)
    for name, program in programs.items():
        simulation.spawn(name, name, program)
    simulation.run()
    return simulation


def names_in(simulation: Simulation) -> list[str]:
    return [info.name for info in simulation.inner.list("")]


def test_after_a_crash_nothing_takes_effect_whatever_is_tried() -> None:
    def program(actor: Actor) -> None:
        try:
            actor.store.create("first", [b""])
            actor.store.create("second", [b""])
        except BaseException:
            actor.store.create("from a handler", [b""])
            raise
        finally:
            actor.store.create("from the end", [b""])

    def crash(number: int, verdict: Verdict) -> list[str]:
        return names_in(run_script(*[Choice("a")] * number, Choice("a", verdict), a=program))

    assert crash(1, Verdict.CRASH) == []
    assert crash(1, Verdict.CRASH_AFTER) == ["first"]
    assert crash(2, Verdict.CRASH) == ["first"]
    assert crash(2, Verdict.CRASH_AFTER) == ["first", "second"]


def test_a_call_that_fails_has_no_effect_and_one_whose_answer_is_lost_has() -> None:
    told: list[str] = []

    def program(actor: Actor) -> None:
        for name in ("fails", "loses"):
            try:
                actor.store.create(name, [b""])
            except StoreUnreachable as error:
                told.append(error.message)

    simulation = run_script(Choice("a"), Choice("a", Verdict.FAIL), Choice("a", Verdict.LOSE), a=program)
    assert names_in(simulation) == ["loses"]
    assert told == ["no answer to: create fails", "no answer to: create loses"]


def test_a_lost_answer_hides_a_refusal_too() -> None:
    def program(actor: Actor) -> None:
        actor.store.create("x", [b""])
        with pytest.raises(StoreUnreachable):
            actor.store.create("x", [b""])
        with pytest.raises(ObjectExists):
            actor.store.create("x", [b""])

    run_script(Choice("a"), Choice("a"), Choice("a", Verdict.LOSE), a=program)


def test_whoever_is_paused_finds_that_the_others_went_on() -> None:
    seen: list[str] = []

    def slow(actor: Actor) -> None:
        seen.extend(info.name for info in actor.store.list(""))

    def quick(actor: Actor) -> None:
        actor.clock.sleep(HOUR)
        actor.store.create("x", [b""])

    simulation = run_script(Choice("slow"), Choice("slow", Verdict.PAUSE, DAY), slow=slow, quick=quick)
    assert seen == ["x"]
    assert simulation.now > DAY


def test_a_clock_jumps_for_its_own_host_alone() -> None:
    times = {}

    def program(actor: Actor) -> None:
        actor.store.find("x")
        times[actor.name] = actor.clock.now()

    run_script(Choice("a"), Choice("b"), Choice("a", Verdict.JUMP, 3 * DAY), a=program, b=program)
    assert DAY < (times["a"] - times["b"]).total_seconds() < 4 * DAY


def test_a_listing_is_of_as_many_moments_as_it_has_pages() -> None:
    seen: list[str] = []

    def read(actor: Actor) -> None:
        for info in actor.store.list(""):
            seen.append(info.name)

    def change(actor: Actor) -> None:
        actor.store.create("0", [b""])
        actor.store.create("9", [b""])

    simulation = Simulation("x", script=[*[Choice("read")] * 2, *[Choice("change")] * 3])
    simulation.page = 2
    for name in ("1", "2", "3"):
        simulation.inner.create(name, [b""])
    simulation.spawn("read", "a", read)
    simulation.spawn("change", "b", change)
    simulation.run()
    assert seen == ["1", "2", "3", "9"]


def test_a_broken_promise_stops_everybody_at_once() -> None:
    class Strict(Witness):
        def on_created(self, name: str, data: bytes) -> None:
            if name == "bad":
                simulation.fail("no bad names", name)

    def program(actor: Actor) -> None:
        try:
            actor.store.create("bad", [b""])
        finally:
            actor.store.create("after", [b""])

    simulation = Simulation("x", script=[])
    simulation.witness = Strict()
    simulation.spawn("a", "a", program)
    with pytest.raises(Violation, match="no bad names: bad"):
        simulation.run()
    assert names_in(simulation) == ["bad"]


def test_what_an_actor_raises_comes_out() -> None:
    def program(actor: Actor) -> None:
        raise KeyError(actor.name)

    with pytest.raises(KeyError, match="a"):
        run_script(a=program)


def test_a_history_that_never_ends_is_a_broken_promise() -> None:
    def program(actor: Actor) -> None:
        while True:
            actor.store.find("x")

    with pytest.raises(Violation, match="it ends"):
        run_script(a=program)


def test_shrinking_leaves_what_is_needed() -> None:
    needed = {3, 40, 41}
    choices = [Choice(f"actor {number}", Verdict.PAUSE if number % 2 else Verdict.GO, 1.0) for number in range(64)]

    def breaks(some: Sequence[Choice]) -> bool:
        return {f"actor {number}" for number in needed} <= {choice.actor for choice in some}

    kept = shrink(choices, breaks, plays=1000)
    assert [choice.actor for choice in kept] == ["actor 3", "actor 40", "actor 41"]
    assert {choice.verdict for choice in kept} == {Verdict.GO}


def test_nothing_fails_at_rates_of_nothing() -> None:
    world = play("5", rates=Rates())
    assert {choice.verdict for choice in world.simulation.past.choices} == {Verdict.GO}
