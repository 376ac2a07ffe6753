"""A backup gives way while the server has enough to do, by so much and no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from pghaven.backup.easing import (
    LOOK_SECONDS,
    SLOWEST,
    SLOWEST_SHARE,
    SPEED_AT_FIRST,
    Eased,
    EaseRules,
    Easing,
    find_reasons,
)
from pghaven.clock import ManualClock
from pghaven.events import Event, Notice
from pghaven.runtime.pace import Pace
from pghaven.server.pressure import Pressure

RULES = EaseRules(standby_lag_bytes=1000, waiting_files=10)
CALM = Pressure(standby="s1", standby_lag_bytes=999, waiting_files=9)
LAGGING = Pressure(standby="s1", standby_lag_bytes=1000, waiting_files=0)
SPEED = 160 << 20


@dataclass
class Stage:
    """A backup that reads at SPEED when it may, and the pressure that its server tells of."""

    rules: EaseRules = RULES
    pressure: Pressure | None = CALM
    asked: list[bool] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.pace = Pace(0, self.clock)
        self.easing = Easing(self.pace, self.rules, self.read, self.told.append, self.clock)

    def read(self, with_archive: bool) -> Pressure | None:
        self.asked.append(with_archive)
        return self.pressure

    def go_on(self, looks: int = 1) -> None:
        for _ in range(looks):
            end = self.clock.monotonic() + LOOK_SECONDS
            while self.clock.monotonic() < end:
                self.pace.take(SPEED // 10)
                self.clock.advance(0.1)
                self.easing.poll()

    @property
    def texts(self) -> list[str]:
        return [event.text for event in self.told if isinstance(event, Notice)]


def test_without_pressure_nothing_happens() -> None:
    stage = Stage()
    stage.go_on(5)
    assert (stage.pace.rate, stage.told, stage.easing.finish()) == (0, [], None)
    assert 4 <= len(stage.asked) <= 7, "the server is asked now and then, not at each result"


def test_it_is_halved_while_there_is_pressure_and_never_stops() -> None:
    stage = Stage()
    stage.go_on(2)
    stage.pressure = LAGGING
    rates = []
    for _ in range(30):
        stage.go_on()
        rates.append(stage.pace.rate)
    assert rates[0] == pytest.approx(SPEED / 2, rel=0.1)
    assert all(after <= before for before, after in pairwise(rates))
    assert rates[-1] == pytest.approx(SPEED / SLOWEST_SHARE, rel=0.1)
    assert len(stage.texts) == 1, "it is told once"
    assert "standby s1 is 1000 B behind" in stage.texts[0]
    eased = stage.easing.finish()
    assert isinstance(eased, Eased)
    assert eased.slowest_rate == rates[-1]
    assert eased.seconds >= 29 * LOOK_SECONDS
    assert stage.pace.rate == 0


def test_it_is_doubled_when_the_pressure_has_gone_until_it_is_as_before() -> None:
    stage = Stage(pressure=LAGGING)
    stage.go_on(10)
    stage.pressure = CALM
    slowest = stage.pace.rate
    stage.go_on()
    assert stage.pace.rate == pytest.approx(slowest * 2)
    stage.go_on(10)
    assert stage.pace.rate == 0
    assert stage.texts[-1].startswith("reading at full speed again")
    eased = stage.easing.finish()
    assert eased is not None
    assert eased.seconds < 20 * LOOK_SECONDS


def test_before_anything_was_read_a_speed_is_assumed() -> None:
    stage = Stage(pressure=LAGGING)
    stage.easing.poll()
    assert stage.pace.rate == SPEED_AT_FIRST / 2


def test_a_slow_backup_is_not_made_slower_than_a_floor() -> None:
    stage = Stage()
    stage.easing.poll()
    stage.pace.take(10)
    stage.pressure = LAGGING
    stage.clock.advance(LOOK_SECONDS)
    stage.easing.poll()
    assert stage.pace.rate == SLOWEST


def test_a_configured_limit_holds_as_well() -> None:
    stage = Stage(pressure=LAGGING)
    stage.pace.set_rate(1000)
    stage.easing.poll()
    assert stage.pace.rate == 1000
    stage.pace.set_rate(0)
    assert stage.pace.rate == SPEED_AT_FIRST / 2


def test_a_server_that_does_not_tell_changes_nothing() -> None:
    stage = Stage(pressure=LAGGING)
    stage.easing.poll()
    before = stage.pace.rate
    stage.pressure = None
    stage.clock.advance(LOOK_SECONDS)
    stage.easing.poll()
    assert stage.pace.rate == before


def test_without_rules_the_server_is_not_even_asked() -> None:
    stage = Stage(rules=EaseRules(), pressure=LAGGING)
    stage.go_on(3)
    assert (stage.asked, stage.pace.rate) == ([], 0)


def test_each_rule_can_be_switched_off() -> None:
    both = Pressure(standby="s1", standby_lag_bytes=5000, waiting_files=50)
    assert len(find_reasons(both, RULES)) == 2
    assert find_reasons(both, EaseRules(standby_lag_bytes=1000)) == ["the replay of standby s1 is 4.88 KiB behind"]
    assert find_reasons(both, EaseRules(waiting_files=10)) == ["50 WAL files wait to be archived"]
    stage = Stage(rules=EaseRules(standby_lag_bytes=1000))
    stage.easing.poll()
    assert stage.asked == [False], "what nothing depends on is not asked for"
