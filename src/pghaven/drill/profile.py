"""How the copying of files went along: how much of it was done after each tenth of its time.

The one idea: a share of the work is not that share of the time. Workers start, large files go by bytes and small ones
by the piece, the last pieces wait for one another; so a later restore of such files is compared with this one at the
same share, instead of with a straight line.
"""

from __future__ import annotations

from pghaven.clock import Clock
from pghaven.events import Event, Listener, Progress

_TENTHS = 10


class ProfileTaker:
    """A listener that passes on all that it hears."""

    def __init__(self, listener: Listener, clock: Clock) -> None:
        self._tell = listener
        self._clock = clock
        self._began = clock.monotonic()
        self._heard: list[tuple[float, float]] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and event.total_bytes > 0:
            share = event.done_bytes / event.total_bytes if event.share is None else event.share
            if not self._heard or share > self._heard[-1][1]:
                self._heard.append((self._clock.monotonic() - self._began, share))
        self._tell(event)

    def take(self) -> tuple[float, ...]:
        """The shares after one tenth of the time until now, after two, and so on: nine, from 0 to 1, that never fall;
        none where nothing was told."""
        if not self._heard:
            return ()
        whole = self._clock.monotonic() - self._began
        ends = [whole * tenth / _TENTHS for tenth in range(1, _TENTHS)]
        return tuple(max((share for at, share in self._heard if at <= end), default=0.0) for end in ends)
