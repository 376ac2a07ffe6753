"""How long ``pg_wal`` has room while nothing is archived: what waits, how fast it grows, what is free.

The one idea: the waiting segments themselves say how fast WAL is written, by when each was finished; so the rate is
that of the very time in which archiving failed, and needs no record of its own.
"""

from __future__ import annotations

import os

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.events import Listener, Notice
from pghaven.light import dataclass
from pghaven.postgres.segment import WalFileKind, classify
from pghaven.units import render_duration, render_rate, render_size
from pghaven.wal.marks import Marks

# Two files say nothing about a rate when they were finished by one command.
_SECONDS_MIN = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WalRoom:
    """``bytes_per_second`` is None when too little waits, or for too short a time, to tell."""

    waiting: int
    waiting_bytes: int
    free_bytes: int
    bytes_per_second: float | None

    @property
    def seconds(self) -> float | None:
        """Until the file system is full, at this rate."""
        return self.free_bytes / self.bytes_per_second if self.bytes_per_second else None

    def describe(self) -> str:
        """One clause for people."""
        if self.seconds is None:
            return f"pg_wal has room for {render_size(self.free_bytes)} more"
        rate = render_rate(self.bytes_per_second or 0)
        return f"pg_wal has room for {render_duration(self.seconds)} at the present {rate}"


def measure_room(wal_directory: str, clock: Clock = SYSTEM_CLOCK) -> WalRoom | None:
    """Look at a ``pg_wal`` on this host; None where that is not possible."""
    try:
        volume = os.statvfs(wal_directory)
    except OSError:
        return None
    found: list[tuple[float, int]] = []
    waiting = Marks(wal_directory).list_waiting()
    for name in waiting:
        if classify(name) is WalFileKind.SEGMENT:
            try:
                status = os.stat(os.path.join(wal_directory, name))
            except OSError:
                continue
            found.append((status.st_mtime, status.st_size))
    return WalRoom(
        waiting=len(waiting),
        waiting_bytes=sum(size for _, size in found),
        free_bytes=volume.f_bavail * volume.f_frsize,
        bytes_per_second=find_rate(found, clock.now().timestamp()),
    )


def find_rate(finished: list[tuple[float, int]], now: float) -> float | None:
    """Bytes a second, from when each segment was finished (seconds since 1970) and its size. Pure.

    What was written since the oldest one was finished, by the time since then: a server that has fallen silent is slow.
    """
    if len(finished) < 2:
        return None
    oldest, size = min(finished)
    seconds = now - oldest
    return (sum(size for _, size in finished) - size) / seconds if seconds >= _SECONDS_MIN else None


def tell_room(wal_directory: str | None, clock: Clock, listener: Listener) -> None:
    """What fails goes on filling the disk: tell for how long."""
    room = None if wal_directory is None else measure_room(wal_directory, clock)
    if room is not None and room.waiting > 1:
        text = f"{room.waiting} WAL files wait to be archived; {room.describe()}"
        hint = "The server keeps them until they are archived, and stops when the disk is full. Nothing removes them."
        listener(Notice(level="warning", code="wal_waits", text=text, hint=hint))
