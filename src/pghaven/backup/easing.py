"""Giving way to a server that has enough to do: a backup reads more slowly while standbys or the archive fall behind.

The one idea: speed is halved at each look while there is a reason and doubled at each look when there is none, never
below a sixteenth of what it was. So a standby that never catches up makes a backup long, and not endless.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pghaven.clock import Clock
from pghaven.events import Listener, Notice
from pghaven.runtime.pace import Pace
from pghaven.server.pressure import Pressure
from pghaven.units import render_rate, render_size

LOOK_SECONDS = 5.0
# What is taken for the speed of a backup that has not read anything yet.
SPEED_AT_FIRST = 64 << 20
SLOWEST = 1 << 20
SLOWEST_SHARE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EaseRules:
    """From which lag of a standby's replay, and from how many WAL files that wait for the archive, on a backup gives
    way; 0 is never."""

    standby_lag_bytes: int = 0
    waiting_files: int = 0


NEVER_EASE = EaseRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Eased:
    """That a backup has given way: for how long, down to how many bytes a second, and the reasons as first told."""

    seconds: float
    slowest_rate: float
    reasons: tuple[str, ...]


class Easing:
    """Of one backup. ``poll`` is called often and looks now and then; ``read`` asks the server, with True also
    for what waits to be archived."""

    def __init__(
        self, pace: Pace, rules: EaseRules, read: Callable[[bool], Pressure | None], tell: Listener, clock: Clock
    ) -> None:
        self.pace = pace
        self._rules = rules
        self._read = read
        self._tell = tell
        self._clock = clock
        self._is_on = rules != NEVER_EASE
        self._next = float("-inf")
        self._seen = (clock.monotonic(), pace.passed_bytes)
        self._full = 0.0  # bytes a second, before it gave way
        self._cap = 0.0
        self._since = 0.0
        self._seconds = 0.0
        self._slowest = 0.0
        self._reasons: list[str] = []

    def poll(self) -> None:
        now = self._clock.monotonic()
        if not self._is_on or now < self._next:
            return
        self._next = now + LOOK_SECONDS
        speed = self._measure(now)
        pressure = self._read(self._rules.waiting_files > 0)
        if pressure is None:
            return
        reasons = find_reasons(pressure, self._rules)
        if reasons:
            self._slow_down(now, speed, reasons)
        elif self._cap:
            self._speed_up(now)

    def finish(self) -> Eased | None:
        """What it came to; the pace is free again."""
        if self._cap:
            self._lift(self._clock.monotonic())
        if not self._reasons:
            return None
        return Eased(seconds=self._seconds, slowest_rate=self._slowest, reasons=tuple(self._reasons))

    def _measure(self, now: float) -> float:
        (moment, before), passed = self._seen, self.pace.passed_bytes
        self._seen = now, passed
        return (passed - before) / (now - moment) if now > moment else 0.0

    def _slow_down(self, now: float, speed: float, reasons: list[str]) -> None:
        if not self._cap:
            self._full = self._cap = speed or SPEED_AT_FIRST
            self._since = now
            text = f"reading more slowly: {'; '.join(reasons)}"
            self._tell(Notice(level="info", code="eased", text=text, hint="The options slow_at_… say from when on."))
            self._reasons += [one for one in reasons if one not in self._reasons]
        self._cap = max(self._cap / 2, self._full / SLOWEST_SHARE, SLOWEST)
        self._slowest = min(self._slowest or self._cap, self._cap)
        self.pace.set_cap(self._cap)

    def _speed_up(self, now: float) -> None:
        self._cap *= 2
        if self._cap < self._full:
            self.pace.set_cap(self._cap)
            return
        self._lift(now)
        text = f"reading at full speed again, after {render_rate(self._slowest)} at the least"
        self._tell(Notice(level="info", code="eased", text=text))

    def _lift(self, now: float) -> None:
        self._cap = 0.0
        self._seconds += now - self._since
        self.pace.set_cap(0.0)


def find_reasons(pressure: Pressure, rules: EaseRules) -> list[str]:
    """Why to give way; empty when there is no reason to."""
    found = []
    if rules.standby_lag_bytes and pressure.standby_lag_bytes >= rules.standby_lag_bytes:
        found.append(f"the replay of standby {pressure.standby} is {render_size(pressure.standby_lag_bytes)} behind")
    if rules.waiting_files and pressure.waiting_files >= rules.waiting_files:
        found.append(f"{pressure.waiting_files} WAL files wait to be archived")
    return found
