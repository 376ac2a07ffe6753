"""How long is left of a restore: from what was measured so far, and from the plan for what has not begun.

The one idea: the plan and what is measured are two witnesses of how long a part takes, and each counts by how far such
a witness is usually off (a factor; so what is told is their geometric mean). What is measured gets surer as the part
goes on; the plan counts for less the further the two are apart, since a host that is three times as quick or slow is no
accident. What comes after the part is as the plan said, on a host of which this one has told half. Work is told in
pieces, several of which are under way at once, so between two results the time that is left goes down with the clock,
and stands still when the next one is overdue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import exp, log, sqrt

from pghaven.cli.restore_text import Estimate
from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.events import Event, Listener, Progress
from pghaven.restore.following import REPLAYING

# How far a drill is usually off, as a logarithm; an assumed rate is next to nothing to go by. And how much more for
# each factor of e by which it disagrees with what is measured.
_PLAN_DEVIATION = 0.2
_ASSUMED_DEVIATION = 10.0
_DISAGREEMENT = 0.3
# How far off what is measured is when half of a part is done.
_MEASURED_DEVIATION = 0.35
_OVERDUE = 2.0  # times the longest that a result took so far
_HOST_FACTORS = (0.5, 2.0)


class Remaining:
    """A listener that adds to each progress how long all of the restore will still take. ``starts``: whether recovery
    is a part of it."""

    def __init__(self, expected: Estimate, listener: Listener, *, starts: bool, clock: Clock = SYSTEM_CLOCK) -> None:
        self._expected = expected
        self._starts = starts
        self._tell = listener
        self._clock = clock
        self._part: _Part | None = None
        self._began = clock.monotonic()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and event.total_bytes > 0:
            event = replace(event, seconds_left=self._estimate(event))
        self._tell(event)

    def _estimate(self, progress: Progress) -> float:
        now, expected = self._clock.monotonic(), self._expected
        is_replay = progress.phase == REPLAYING
        if self._part is None or progress.phase != self._part.phase:
            self._part = self._begin(progress, now, self._part)
        left = self._part.estimate(progress, now)
        if is_replay:
            return left + expected.ending_seconds * self._part.host_factor
        if not self._starts:
            return left
        return left + (expected.replay_seconds + expected.other_seconds) * self._part.host_factor

    def _begin(self, progress: Progress, now: float, before: _Part | None) -> _Part:
        copied, replayed = self._expected.is_measured
        if progress.phase != REPLAYING:
            # The copying began with the restore.
            began = self._began if before is None else now
            profile = self._expected.copy_profile
            return _Part(progress.phase, self._expected.copy_seconds, began, 0.0, is_measured=copied, profile=profile)
        # Of replay it is known only from its first sign on.
        host = 1.0 if before is None else before.host_factor
        seconds = self._expected.replay_seconds
        return _Part(progress.phase, seconds * host, now, _measure(progress), is_measured=replayed, host_factor=host)


class _Part:
    """One part of the work: ``expected`` seconds by the plan, ``began`` at a moment of the monotonic clock, when
    the share ``before`` was done already; ``profile`` as in ``Estimate``. ``host_factor`` is by how much longer than by
    the plan other parts will take on a host where this one goes as it does, and the parts before it went as they did:
    those are in ``expected`` already."""

    def __init__(
        self,
        phase: str,
        expected: float,
        began: float,
        before: float,
        *,
        is_measured: bool,
        profile: Sequence[float] = (),
        host_factor: float = 1.0,
    ) -> None:
        self.phase = phase
        self.host_factor = self._host_before = host_factor
        self._profile = (0.0, *profile, 1.0)
        self._expected = expected
        self._deviation = _PLAN_DEVIATION if is_measured else _ASSUMED_DEVIATION
        self._is_measured = is_measured
        self._began = began
        self._before = self._straighten(before)
        self._results = 0
        self._done = self._before
        self._at = began
        self._longest = expected / 4
        self._left = expected

    def estimate(self, progress: Progress, now: float) -> float:
        """Seconds left of it."""
        done = self._straighten(_measure(progress))
        if done > self._done or not self._results:
            self._take(done, now)
        return max(0.0, self._left - min(now - self._at, _OVERDUE * self._longest))

    def _take(self, done: float, now: float) -> None:
        rest = max(0.0, 1.0 - done)
        fresh, elapsed = done - self._before, now - self._began
        if fresh <= 0 or elapsed <= 0:
            self._left = self._expected * rest
            return
        waited = now - self._at
        self._longest = waited if not self._results else max(self._longest, waited)
        self._results += 1
        self._done, self._at = done, now
        whole = self._weigh(fresh, elapsed / fresh)
        self._left = whole * rest
        if self._is_measured and self._expected > 0:
            least, most = _HOST_FACTORS
            self.host_factor = min(max(self._host_before * sqrt(whole / self._expected), least), most)

    def _weigh(self, fresh: float, measured: float) -> float:
        """How long the whole part takes, by the plan and by what a share of it took."""
        if self._expected <= 0:
            return measured
        distance = log(measured / self._expected)
        plan = self._deviation**2 + (_DISAGREEMENT * distance) ** 2
        doubt = _MEASURED_DEVIATION**2 * (1 - fresh) / fresh
        # The first results are those of workers that began together: the next will follow sooner.
        several = (self._results - 1) ** 2
        return self._expected * exp(distance * plan / (plan + doubt) * several / (several + 1))

    def _straighten(self, share: float) -> float:
        """The share of the time that goes with a share of the work."""
        tenths = len(self._profile) - 1
        for number, (low, high) in enumerate(pairwise(self._profile)):
            if share < high:
                return (number + (max(share, low) - low) / (high - low)) / tenths
        return 1.0


def _measure(progress: Progress) -> float:
    """The share of the work that is done."""
    return progress.done_bytes / progress.total_bytes if progress.share is None else progress.share
