"""Configuration files, read when nobody is writing them.

The one idea: what lies in tables may be caught half written, because WAL replay makes it whole; configuration is in no
WAL, and Patroni and people rewrite it in place: empty first, then line by line. So a file counts only when nothing
changed it while it was read and shortly before.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from pghaven.backup.pagecheck import open_file, read_into
from pghaven.clock import Clock

QUIET_SECONDS: Final = 0.5
"""So long nobody has written it. A rewrite takes milliseconds; the clock of a file's times moves in steps of some."""

_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Settled:
    """How many bytes there were, and whether they are what somebody had finished writing."""

    length: int
    is_settled: bool


def read_settled(path: str, view: memoryview, clock: Clock) -> Settled | None:
    """A whole file into the view, read again until it is at rest, for two seconds at most; None when it is gone.

    One that is too long for the view is cut, and not settled. Raises NotPermitted, StoreUnreachable.
    """
    length = 0
    for number in range(_TRIES):
        if number:
            clock.sleep(_PAUSE_SECONDS)
        # Opened anew each time: another file may have been put in its place.
        fd = open_file(path)
        if fd is None:
            return None
        try:
            before = os.fstat(fd)
            length = read_into(fd, path, view, 0)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        is_same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        if is_same and length == after.st_size and not _is_fresh(after, clock):
            return Settled(length, is_settled=True)
    return Settled(length, is_settled=False)


def _is_fresh(found: os.stat_result, clock: Clock) -> bool:
    """Whether it was written just now. A time in the future says nothing, and is no reason to wait."""
    return 0 <= clock.now().timestamp() - found.st_mtime < QUIET_SECONDS
