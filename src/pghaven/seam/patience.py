"""How long a hook that fills a data directory tries, and when it gives the directory up.

The one idea: Patroni removes the directory when such a hook fails, so failing is the last thing it does. What may pass
(a repository that does not answer, a configuration that somebody has to mend) is waited for, long where there is
something in the directory to save and shortly where there is not; what will not pass ends at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pghaven.clock import Clock
from pghaven.errors import (
    Cancelled,
    ConfigError,
    Locked,
    NotPermitted,
    PghavenError,
    ServerUnsuitable,
    StoreUnreachable,
)
from pghaven.events import Listener, Notice
from pghaven.units import render_duration

_Result = TypeVar("_Result")

_PASSING = (StoreUnreachable, Locked, NotPermitted, ConfigError, ServerUnsuitable)
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX, _PAUSE_GROWTH = 1.0, 60.0, 2.0
EMPTY_SECONDS = 30.0
"""How long an empty directory waits for a repository, when there is another way to fill it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """``seconds`` is how long to go on where there is something to save."""

    seconds: float
    has_data: Callable[[], bool]
    clock: Clock

    def try_on(self, work: Callable[[], _Result], listener: Listener) -> _Result:
        """The result of ``work``, tried until it succeeds; what it raised last when there is no use in going on."""
        began = self.clock.monotonic()
        pause = _PAUSE_SECONDS_MIN
        while True:
            try:
                return work()
            except PghavenError as error:
                has_data = self.has_data()
                if not may_pass(error) or (_is_nowhere(error) and not has_data):
                    raise
                left = began + (self.seconds if has_data else EMPTY_SECONDS) - self.clock.monotonic()
                if left <= 0:
                    raise
                pause = min(pause, left)
                text = f"{error.message}; trying again in {render_duration(pause)}"
                listener(Notice(level="warning", code="waiting", text=text, hint=error.hint))
            self.clock.sleep(pause)
            pause = min(pause * _PAUSE_GROWTH, _PAUSE_SECONDS_MAX)


def may_pass(error: PghavenError) -> bool:
    """Whether the same may succeed later, with nobody taking a backup first."""
    return isinstance(error, _PASSING) and not isinstance(error, Cancelled)


def _is_nowhere(error: PghavenError) -> bool:
    """Whether there is no repository at that place, as before a new cluster is registered: all its members would wait
    for what nobody makes meanwhile."""
    return isinstance(error, StoreUnreachable) and isinstance(error.__cause__, FileNotFoundError)
