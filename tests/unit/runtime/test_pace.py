"""A pace: no more passes than its rate, it can be changed while somebody waits, and workers share it."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from pghaven.clock import ManualClock
from pghaven.runtime.crew import Crew
from pghaven.runtime.pace import BURST_SECONDS, LOOK_AGAIN_SECONDS, Pace
from pghaven.runtime.shared import SharedNumbers, hold_shared
from tests.unit.runtime import crew_jobs


class Watched(ManualClock):
    """Calls something at each sleep, with how long it would be."""

    def __init__(self, on_sleep: Callable[[float], None]) -> None:
        super().__init__()
        self._on_sleep = on_sleep

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._on_sleep(seconds)


def test_without_a_rate_nothing_waits_and_all_is_counted() -> None:
    clock = ManualClock()
    pace = Pace(0, clock)
    for _ in range(1000):
        pace.take(1 << 30)
    assert clock.monotonic() == 0
    assert pace.passed_bytes == 1000 << 30


@pytest.mark.parametrize("part", [1, 999, 1000, 12_345])
def test_in_the_long_run_it_is_the_rate(part: int) -> None:
    clock = ManualClock()
    pace = Pace(1000, clock)
    count = 200_000 // part + 1
    for _ in range(count):
        pace.take(part)
    seconds = clock.monotonic()
    paid = (count - 1) * part / 1000
    assert paid - BURST_SECONDS <= seconds <= paid + 0.002 * count + 0.1


def test_what_was_not_used_is_made_up_for_only_within_bounds() -> None:
    clock = ManualClock()
    pace = Pace(1000, clock)
    pace.take(1)
    clock.advance(3600)
    for _ in range(10):
        pace.take(1000)
    assert clock.monotonic() - 3600 >= 10 - 1 - BURST_SECONDS - 0.01


def test_who_waits_notices_a_new_rate_soon() -> None:
    sleeps: list[float] = []

    def watch(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 3:
            pace.set_rate(0)

    clock = Watched(watch)
    pace = Pace(1, clock)
    pace.take(1_000_000)
    pace.take(1)
    assert len(sleeps) == 3, "eleven days of debt are forgotten when there is no limit any more"
    assert max(sleeps) <= LOOK_AGAIN_SECONDS


def test_who_waits_calls_whoever_may_set_another_rate() -> None:
    clock = ManualClock()
    pace = Pace(1, clock)
    pace.on_wait = lambda: pace.set_rate(0)
    pace.take(1_000_000)
    pace.take(1)
    assert clock.monotonic() <= LOOK_AGAIN_SECONDS
    assert pickle.loads(pickle.dumps(pace)).on_wait is None, "workers have it set for them"


def test_a_worker_s_bytes_count_for_all() -> None:
    pace = Pace(0)
    with Crew(size=2, setup=crew_jobs.Take, settings=pace) as crew:
        crew.run(iter([10] * 30), lambda _: None)
    assert pace.passed_bytes == 300
    pace.take(5)
    assert pace.passed_bytes == 305


def test_numbers_keep_what_they_had_when_they_are_shared() -> None:
    numbers = SharedNumbers(2)
    with numbers.change() as values:
        values[1] = 7
    assert pickle.loads(pickle.dumps(numbers)) is numbers
    assert numbers.read() == [0, 7]


def test_shared_numbers_leave_no_descriptor_behind() -> None:
    numbers = SharedNumbers(1)
    pickle.dumps(numbers)
    (descriptor,) = set(hold_shared()) - _others(numbers)
    del numbers
    assert descriptor not in hold_shared()


def _others(numbers: SharedNumbers) -> set[int]:
    own = numbers.__reduce__()[1][0]
    return set(hold_shared()) - {own}
