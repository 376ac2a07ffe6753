"""How long is left of a restore: from what was measured so far, and from the plan for what has not begun.

The one idea: a rate that is measured now is worth more than one of an earlier drill, and after a tenth of a part and a
few results of it nothing else counts for that part; what comes after it is as the plan said, since nothing has been
measured of it yet. Work is told in pieces, several of which are under way at once, so between two results the time that
is left goes down with the clock, and stands still when the next one is overdue.
"""

from __future__ import annotations

from dataclasses import replace

from pghaven.cli.restore_text import Estimate
from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.events import Event, Listener, Progress
from pghaven.restore.following import REPLAYING

_TRUSTED_SHARE = 0.1
_OVERDUE = 2.0  # times the longest that a result took so far


class Remaining:
    """A listener that adds to each progress how long all of the restore will still take. ``starts``: whether recovery
    is a part of it."""

    def __init__(self, expected: Estimate, listener: Listener, *, starts: bool, clock: Clock = SYSTEM_CLOCK) -> None:
        self._replay = expected.replay_seconds if starts else 0.0
        self._other = expected.other_seconds if starts else 0.0
        self._copy = expected.copy_seconds
        self._tell = listener
        self._clock = clock
        self._part = _Part("", 0.0, clock.monotonic(), 0.0)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and event.total_bytes > 0:
            event = replace(event, seconds_left=self._estimate(event))
        self._tell(event)

    def _estimate(self, progress: Progress) -> float:
        now = self._clock.monotonic()
        is_replay = progress.phase == REPLAYING
        if progress.phase != self._part.phase:
            # The copying began with the restore; of replay it is known only from its first sign on.
            is_first = not self._part.phase
            began, before = (self._part.began, 0.0) if is_first else (now, _measure(progress))
            self._part = _Part(progress.phase, self._replay if is_replay else self._copy, began, before)
        left = self._part.estimate(progress, now)
        return left + self._other * 0.5 if is_replay else left + self._replay + self._other


class _Part:
    """One part of the work: ``expected`` seconds by the plan, ``began`` at a moment of the monotonic clock, when
    the share ``before`` was done already."""

    def __init__(self, phase: str, expected: float, began: float, before: float) -> None:
        self.phase = phase
        self.began = began
        self._expected = expected
        self._before = before
        self._results = 0
        self._done = before
        self._at = began
        self._longest = expected / 4
        self._left = expected

    def estimate(self, progress: Progress, now: float) -> float:
        """Seconds left of it."""
        share = _measure(progress)
        if share > self._done or not self._results:
            self._take(share, now)
        return max(0.0, self._left - min(now - self._at, _OVERDUE * self._longest))

    def _take(self, share: float, now: float) -> None:
        rest = max(0.0, 1.0 - share)
        done, elapsed = share - self._before, now - self.began
        planned = self._expected * rest
        if done <= 0 or elapsed <= 0:
            self._left = planned
            return
        waited = now - self._at
        self._longest = waited if not self._results else max(self._longest, waited)
        self._results += 1
        self._done, self._at = share, now
        # The first results are those of workers that began together: the next will follow sooner.
        several = (self._results - 1) ** 2
        trust = min(1.0, done / _TRUSTED_SHARE) * several / (several + 1)
        self._left = trust * (elapsed * rest / done) + (1 - trust) * planned


def _measure(progress: Progress) -> float:
    """The share of the work that is done."""
    return progress.done_bytes / progress.total_bytes if progress.share is None else progress.share
