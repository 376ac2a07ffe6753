"""How long is left of a restore: from what was measured so far, and from the plan for what has not begun.

The one idea: a rate that is measured now is worth more than one of an earlier drill, and after a tenth of a part
nothing else counts for that part; what comes after it is as the plan said, since nothing has been measured of it yet.
"""

from __future__ import annotations

from dataclasses import replace

from pghaven.cli.restore_text import Estimate
from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.events import Event, Listener, Progress
from pghaven.restore.following import REPLAYING

_TRUSTED_SHARE = 0.1


class Remaining:
    """A listener that adds to each progress how long all of the restore will still take. ``starts``: whether recovery
    is a part of it."""

    def __init__(self, expected: Estimate, listener: Listener, *, starts: bool, clock: Clock = SYSTEM_CLOCK) -> None:
        self._replay = expected.replay_seconds if starts else 0.0
        self._other = expected.other_seconds if starts else 0.0
        self._copy = expected.copy_seconds
        self._tell = listener
        self._clock = clock
        self._phase = ""
        self._began = clock.monotonic()
        self._before = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and event.total_bytes > 0:
            event = replace(event, seconds_left=self._estimate(event))
        self._tell(event)

    def _estimate(self, progress: Progress) -> float:
        now = self._clock.monotonic()
        if progress.phase != self._phase:
            is_first = not self._phase
            self._phase = progress.phase
            # The copying began with the restore; of replay it is known only from its first sign on.
            self._began, self._before = (self._began, 0) if is_first else (now, progress.done_bytes)
        is_replay = progress.phase == REPLAYING
        left = self._blend(progress, self._replay if is_replay else self._copy, now - self._began)
        return left + self._other * 0.5 if is_replay else left + self._replay + self._other

    def _blend(self, progress: Progress, expected: float, elapsed: float) -> float:
        """Of this part: by the plan at its beginning, by what is measured from a tenth on."""
        total = progress.total_bytes
        done = max(0, progress.done_bytes - self._before)
        rest = max(0, total - progress.done_bytes)
        planned = expected * rest / total
        if not done or elapsed <= 0:
            return planned
        trust = min(1.0, done / (_TRUSTED_SHARE * total))
        return trust * (elapsed * rest / done) + (1 - trust) * planned
