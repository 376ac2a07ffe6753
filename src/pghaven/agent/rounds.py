"""Rounds: what waits in a ``pg_wal`` is pushed into every repository, many files at once, and marked file by file.

The one idea: a round is the looking ahead of a push without the push. It may fail, stop or be killed at any moment, and
then the server's own request for each file tells why. So a round says nothing; what it could not do is simply not done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from pghaven.clock import Clock
from pghaven.repository.place import RepositoryPlace
from pghaven.wal.ahead import Ahead, choose_ahead, count_affordable
from pghaven.wal.children import Child
from pghaven.wal.marks import Marks


class Round:
    """One round, under way."""

    def __init__(self, ahead: Ahead, marks: Marks, names: Sequence[str], clock: Clock) -> None:
        self._ahead = ahead
        self._marks = marks
        self._clock = clock
        self._heard = clock.monotonic()
        self._left = set(names)
        self._count = len(self._left)

    @property
    def open_children(self) -> list[Child]:
        return self._ahead.open_children

    @property
    def done(self) -> int:
        """How many files every repository has by now."""
        return self._count - len(self._left)

    def has(self, name: str) -> bool:
        """Whether a file is still on its way."""
        return name in self._left

    def take(self, child: Child) -> None:
        """Hear a child, and mark what every repository has by now."""
        self._heard = self._clock.monotonic()
        self._mark(self._ahead.take(child))

    def _mark(self, names: Collection[str] | None) -> None:
        with suppress(OSError):  # without a mark the file is pushed again, and found to be there
            for name, mtime_ns in self._ahead.list_done(without=(), among=names):
                if name in self._left:
                    self._left.remove(name)
                    self._marks.mark(name, mtime_ns)

    def leave_if_silent(self, seconds: float) -> None:
        """Let go of a round of which nothing was heard for so long: a store hangs."""
        if self._clock.monotonic() - self._heard >= seconds:
            self._ahead.leave()

    def end(self) -> bool:
        """Let go of what is still at work; whether all was done."""
        self._ahead.leave()
        self._ahead.close()
        self._mark(None)
        return not self._left


def start_round(
    marks: Marks,
    wal_directory: str,
    places: Sequence[RepositoryPlace],
    in_hand: Collection[str],
    *,
    cluster: str,
    look_ahead: int,
    processes: int,
    clock: Clock,
    enter: Callable[[], None],
) -> Round | None:
    """Begin with what waits and is not in hand already; None when there is nothing that may be begun. ``enter`` is
    called in each process that is started."""
    waiting = marks.list_waiting()
    marks.sweep(waiting)
    names = [name for name in choose_ahead(waiting, "", marks, look_ahead) if name not in in_hand]
    workers = count_affordable(wal_directory, names, processes)
    if not names or not workers:
        return None
    ahead = Ahead(marks, wal_directory, names, cluster=cluster, clock=clock, waiting=waiting, enter=enter)
    ahead.start(places, workers, None)
    return Round(ahead, marks, names, clock)
