"""The only caller of the system's clocks.

The one idea: time reaches the rest of the program through a ``Clock`` value, so that tests and simulations own it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

CLOCK_TOLERANCE = timedelta(minutes=5)
"""So far the clocks of two hosts may differ; what seems to lie further in the future than that is of no known age."""


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock in UTC, with microseconds. May jump; never used where safety depends on it."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Block for this long."""


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock:
    """A clock that moves only when told, or when somebody sleeps on it."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


SYSTEM_CLOCK: Clock = SystemClock()
