"""One piece of work by several ways in turn: a way that takes long is not waited for alone.

The one idea: only the first way looks at everything, so its answer counts whatever it is; but it may hang in a place
that the others do not need. After a while the second is begun beside it, which does without that place, then the third.
What they find is as good; that they find nothing proves nothing.

As in ``limit``, whoever PostgreSQL waits for forks before anything else, and leaves behind what hangs.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Sequence
from functools import partial

from pghaven.clock import SYSTEM_CLOCK
from pghaven.light import dataclass
from pghaven.wal.limit import end_as_child, fork_child, reap, unblock_interrupts

_GRACE_SECONDS = 2.0
_POLL_MAX_MS = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """``ways`` are begun one ``patience_seconds`` after the other, and all are left after ``limit_seconds``.

    ``decides`` is asked about the status with which a way but the first has ended. ``report`` makes a status of what a
    way raises; ``tell_late`` is called with the number of each way that is not waited for alone any more.
    """

    ways: Sequence[Callable[[], int]]
    limit_seconds: float
    patience_seconds: float
    decides: Callable[[int], bool]
    report: Callable[[BaseException], int]
    tell_late: Callable[[int], None]


def run_in_turn(turns: Turns) -> tuple[int | None, int]:
    """The status that decides, and the number of the way that ended with it. It is minus a signal for a way that was
    killed, and None when time was up. Raises Cancelled if no process can be made."""
    running: dict[int, tuple[int, int]] = {}
    begun = 0
    try:
        start = SYSTEM_CLOCK.monotonic()
        deadline = start + turns.limit_seconds
        while True:
            now = SYSTEM_CLOCK.monotonic()
            if now >= deadline:
                return None, 0
            next_at = start + begun * turns.patience_seconds
            if begun < len(turns.ways) and now >= next_at:
                if begun:
                    turns.tell_late(begun - 1)
                child, reader = fork_child(partial(_run, turns, begun))
                running[reader] = (child, begun)
                unblock_interrupts()
                begun += 1
                continue
            until = deadline if begun == len(turns.ways) else min(deadline, next_at)
            for reader in _wait(running, until - now):
                child, number = running[reader]
                status = reap(child, deadline)
                if status is None:
                    continue
                os.close(reader)
                del running[reader]
                if number == 0 or turns.decides(status):
                    return status, number
    except KeyboardInterrupt:
        _ask_to_end(running)
        raise
    finally:
        for reader, (child, _) in running.items():
            os.kill(child, signal.SIGKILL)
            os.close(reader)


def _run(turns: Turns, number: int, _writer: int) -> None:
    end_as_child(turns.ways[number], turns.report)


def _wait(running: dict[int, tuple[int, int]], seconds: float) -> list[int]:
    poll = select.poll()
    for reader in running:
        poll.register(reader, select.POLLHUP)
    return [reader for reader, _ in poll.poll(min(max(seconds, 0.0) * 1000, _POLL_MAX_MS))]


def _ask_to_end(running: dict[int, tuple[int, int]]) -> None:
    """Give all a moment to clean up."""
    for child, _ in running.values():
        os.kill(child, signal.SIGTERM)
    deadline = SYSTEM_CLOCK.monotonic() + _GRACE_SECONDS
    waited = dict(running)
    while waited and (ended := _wait(waited, deadline - SYSTEM_CLOCK.monotonic())):
        for reader in ended:
            del waited[reader]
