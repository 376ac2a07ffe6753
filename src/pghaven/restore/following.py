"""How far the recovery of a server has come, as its own process tells it to the whole host.

The one idea: the process that replays WAL shows in its title which segment it is at (update_process_title), also while
nobody may connect; so nothing has to be configured, logged or asked for it. It is as exact as a segment is long.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

from pghaven.clock import Clock
from pghaven.events import Listener, Progress
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.restore.request import RestorePlan
from pghaven.server.postmaster import is_running

REPLAYING = "replaying WAL"
"""The phase of the progress that is told."""

SETTINGS = {"update_process_title": "on"}
_LOOK_SECONDS = 0.1
_TITLE = re.compile(r"startup +(?:process +)?recovering ([0-9A-F]{24})")


class ReplayWatch:
    """Tells a listener how much of the planned WAL is replayed. Call it as often as you like; it looks now and then."""

    def __init__(self, plan: RestorePlan, listener: Listener, clock: Clock) -> None:
        self._directory = plan.request.target_dir
        self._segment_size = plan.manifest.facts.wal_segment_size
        self._start = plan.manifest.facts.start_lsn
        self._end = plan.wal.end_lsn
        self._tell = listener
        self._clock = clock
        self._next = 0.0
        self._startup: int | None = None

    def __call__(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next:
            self._next = now + _LOOK_SECONDS
            position = self._look()
            if position is not None:
                self.tell(position)

    def tell(self, position: Lsn) -> None:
        total = max(0, self._end - self._start)
        done = min(max(0, position - self._start), total)
        self._tell(Progress(phase=REPLAYING, done_bytes=done, total_bytes=total))

    def _look(self) -> Lsn | None:
        for pid in [self._startup] if self._startup is not None else self._list_children():
            title = _read_title(pid)
            found = _TITLE.search(title)
            if found is not None:
                self._startup = pid
                return SegmentName.parse(found[1], self._segment_size).start_lsn
        self._startup = None
        return None

    def _list_children(self) -> list[int]:
        running = is_running(self._directory)
        if running is None:
            return []
        with suppress(OSError, ValueError), open(f"/proc/{running.pid}/task/{running.pid}/children") as file:
            return [int(word) for word in file.read().split()]
        return []


def _read_title(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read())
    except OSError:
        return ""
