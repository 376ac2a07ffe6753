"""How long is said to be left of a restore, against how long it then takes."""

from __future__ import annotations

from dataclasses import replace

from pghaven.cli.remaining import Remaining
from pghaven.cli.restore_text import Estimate
from pghaven.clock import ManualClock
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
