"""How long is said to be left of a restore, against how long it then takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pghaven.cli.remaining import Remaining
from pghaven.cli.restore_text import Estimate
from pghaven.clock import ManualClock
from pghaven.drill.profile import ProfileTaker
from pghaven.events import Event, Progress
from pghaven.restore.following import REPLAYING
from tests.support.synthetic import START

EXPECTED = Estimate(copy_seconds=10, compare_seconds=0, replay_seconds=50, other_seconds=2, basis="")


def run(copy_seconds: int, replay_seconds: int, *, starts: bool = True) -> list[tuple[float, float]]:
    """A restore that takes so long: (when it was told, what was said to be left) of each progress."""
    clock = ManualClock(START)
    began, told = clock.monotonic(), []

    def listen(event: Event) -> None:
        assert isinstance(event, Progress)
        assert event.seconds_left is not None
        told.append((clock.monotonic() - began, event.seconds_left))

    remaining = Remaining(EXPECTED, listen, starts=starts, clock=clock)
    for phase, seconds in (("restoring", copy_seconds), (REPLAYING, replay_seconds)):
        for step in range(101):
            remaining(Progress(phase=phase, done_bytes=step * 1000, total_bytes=100_000))
            clock.advance(seconds / 100)
    return told


def test_what_goes_as_planned_is_told_as_planned() -> None:
    told = run(10, 50)
    assert told[0] == (0.0, 62.0)
    assert all(abs(at + left - 61) <= 2 for at, left in told)


def test_after_a_tenth_a_part_is_told_by_what_is_measured() -> None:
    """Copying takes three times as long as planned, and replay a half."""
    told = run(30, 25)
    copying, replaying = told[:101], told[101:]
    assert all(abs(at + left - (30 + 50 + 2)) < 1 for at, left in copying[10:])
    assert all(abs(at + left - (30 + 25 + 1)) < 2 for at, left in replaying[10:])
    late = [(at, left) for at, left in told if at > 0.1 * 55 and at > 30 + 2.5]
    assert all(abs(at + left - 56) <= 0.3 * 56 for at, left in late)


def test_between_two_results_the_time_goes_down_and_stands_still_when_one_is_overdue() -> None:
    """Four rounds of two workers, each of ten seconds; the plan is right. Then nothing more comes."""
    clock = ManualClock(START)
    began, told = clock.monotonic(), []
    expected = replace(EXPECTED, copy_seconds=40, replay_seconds=0, other_seconds=0)

    def listen(event: Event) -> None:
        assert isinstance(event, Progress)
        assert event.seconds_left is not None
        told.append((clock.monotonic() - began, event.seconds_left))

    remaining = Remaining(expected, listen, starts=False, clock=clock)
    done = 0
    for second in range(31):
        for _ in range(2 if second and second % 10 == 0 else 1):
            done += second > 0 and second % 10 == 0
            remaining(Progress(phase="restoring", done_bytes=done * 100, total_bytes=800))
        clock.advance(1)
    assert all(abs(at + left - 40) <= 0.3 * 40 for at, left in told if at > 4), told
    for _ in range(100):
        remaining(Progress(phase="restoring", done_bytes=done * 100, total_bytes=800))
        clock.advance(1)
    assert told[-1][1] == told[-2][1], "it does not say that all is done soon"


def test_files_that_are_small_and_many_are_work_too() -> None:
    """All bytes but few are there after four seconds of ten; the share tells how far the work is."""
    clock = ManualClock(START)
    began, told = clock.monotonic(), []

    def listen(event: Event) -> None:
        assert isinstance(event, Progress)
        assert event.seconds_left is not None
        told.append((clock.monotonic() - began, event.seconds_left))

    remaining = Remaining(replace(EXPECTED, copy_seconds=5), listen, starts=False, clock=clock)
    for step in range(101):
        done = min(99, step * 100 // 40)
        remaining(Progress(phase="restoring", done_bytes=done, total_bytes=100, share=step / 100))
        clock.advance(0.1)
    assert all(abs(at + left - 10) < 1 for at, left in told if at >= 1)


def test_a_restore_that_is_not_started_ends_with_the_files() -> None:
    told = run(10, 1, starts=False)
    assert told[0] == (0.0, 10.0)
    assert told[100][1] == 0.0


# -- restores as they went -------------------------------------------------------------------------------------------

_RECORDED = Path(__file__).with_name("recorded_restores.json")
"""Two of one cluster on a machine at rest, one of it among others' work; and two that made small files beside large
ones. As ``bench.estimate`` recorded them."""
_PLANNING_SECONDS = 0.75


class Recorded:
    """One of them: what was told when, in seconds from its beginning."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.seconds: float = values["seconds"]
        self.heard: list[tuple[float, str, float]] = [tuple(one) for one in values["heard"]]
        self.copied_at = max(at for at, phase, _ in self.heard if phase == "copy")
        self.replayed_at = max(at for at, phase, _ in self.heard if phase == "replay")

    def expect(self, factor: float) -> Estimate:
        """What a plan says after a drill that went just as this, but that all took so many times as long."""
        ending = self.seconds - self.replayed_at
        clock = ManualClock(START)
        began = clock.monotonic() - _PLANNING_SECONDS
        profile = ProfileTaker(lambda _: None, clock)
        for at, phase, share in self.heard:
            if phase == "copy":
                clock.advance(at - (clock.monotonic() - began))
                profile(Progress(phase="restoring", done_bytes=0, total_bytes=1, share=share))
        return Estimate(
            copy_seconds=factor * (self.copied_at - _PLANNING_SECONDS),
            compare_seconds=0,
            replay_seconds=factor * (self.replayed_at - self.copied_at),
            other_seconds=factor * ending,
            basis="",
            ending_seconds=factor * ending,
            copy_profile=profile.take(),
            is_measured=(True, True),
        )

    def tell(self, expected: Estimate) -> list[tuple[float, float]]:
        """How far each estimate is off, as a share of all the time, and how much of that time was over."""
        clock = ManualClock(START)
        began, told = clock.monotonic() - _PLANNING_SECONDS, []

        def listen(event: Event) -> None:
            assert isinstance(event, Progress)
            assert event.seconds_left is not None
            at = clock.monotonic() - began
            told.append(((at + event.seconds_left - self.seconds) / self.seconds, at / self.seconds))

        remaining = Remaining(expected, listen, starts=True, clock=clock)
        for at, phase, share in self.heard:
            clock.advance(max(0.0, at - (clock.monotonic() - began)))
            name = REPLAYING if phase == "replay" else "restoring"
            remaining(Progress(phase=name, done_bytes=0, total_bytes=1, share=share))
        return told


RESTORES = [Recorded(one) for one in json.loads(_RECORDED.read_text())]


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.0, 1.1, 1.25])
@pytest.mark.parametrize(
    "restore", RESTORES, ids=["first", "second", "among others", "side by side", "side by side, slower"]
)
def test_a_restore_after_a_drill_is_told_within_thirty_percent(restore: Recorded, factor: float) -> None:
    """After the first tenth, as the drill of the same cluster took up to a quarter longer or shorter."""
    worst = max(abs(off) for off, when in restore.tell(restore.expect(factor)) if when >= 0.1)
    assert worst <= 0.3


def test_the_restores_differ_by_more_than_what_is_allowed() -> None:
    """So that a plan alone, or a straight line, would not pass."""
    first, second, *_ = RESTORES
    assert first.seconds > 1.3 * second.seconds
    straight = replace(second.expect(1.0), copy_profile=(), is_measured=(False, False))
    assert max(abs(off) for off, when in second.tell(straight) if when >= 0.1) > 0.3


@pytest.mark.parametrize("factor", [0.33, 3.0])
def test_a_host_that_is_another_than_the_drill_s_is_found_out(factor: float) -> None:
    for restore in RESTORES:
        told = restore.tell(restore.expect(factor))
        begin, end = restore.copied_at / restore.seconds, restore.replayed_at / restore.seconds
        late = [off for off, when in told if when >= (begin + 2 * end) / 3]
        assert max(map(abs, late)) <= 0.3
