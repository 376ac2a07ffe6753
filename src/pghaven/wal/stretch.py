"""How long a push of a large file may take after it has run out of time.

The one idea: a push that is ended begins anew with the next, so one limit for files of 16 MB and of 1 GB would keep a
store that is merely slow from ever getting the large one. Each time such a file runs out of time the next try has twice
as long, up to the limit for each 16 MB of it. A store that hangs is left as soon as ever at the first try, and a file
of the usual size has the limit itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import PghavenError
from pghaven.postgres.datadir import PUSH_STATE_DIRECTORY
from pghaven.runtime.durable import OwnerOf, write_durably
from pghaven.wal.behind import find_wal_directory

_NAME = "late"
_USUAL_BYTES = 16 << 20


def find_limit(path: str, seconds: float) -> float:
    """How long a push of this file may take, where one of the usual size may take so many seconds."""
    late = _read(path)
    return seconds if late is None else min(max(2 * late, seconds), _find_most(path, seconds))


@contextmanager
def stretched(path: str, seconds: float, spent_seconds: float, clock: Clock = SYSTEM_CLOCK) -> Iterator[float]:
    """A push of this file: how long it may take in all, of which some is spent; remembered if that was too short."""
    limit, began = find_limit(path, seconds), clock.monotonic() - spent_seconds
    try:
        yield limit
    except PghavenError:
        if clock.monotonic() - began >= limit and _find_most(path, seconds) > limit:
            _note(path, limit)
        raise
    if _read(path) is not None:
        _forget(path)


def _find_most(path: str, seconds: float) -> float:
    try:
        return seconds * max(1.0, os.stat(path).st_size / _USUAL_BYTES)
    except OSError:
        return seconds


def _state_path(path: str) -> str | None:
    directory = find_wal_directory(path)
    return None if directory is None else os.path.join(directory, PUSH_STATE_DIRECTORY, _NAME)


def _read(path: str) -> float | None:
    """The limit within which this file was not archived last."""
    state = _state_path(path)
    if state is not None:
        with suppress(OSError, ValueError), open(state, encoding="ascii") as file:
            name, _, late = file.read().partition(" ")
            if name == os.path.basename(path):
                return float(late)
    return None


def _note(path: str, limit: float) -> None:
    state = _state_path(path)
    if state is not None:
        # What cannot be noted is tried within the limit again.
        with suppress(OSError):
            owner = OwnerOf.path(os.path.dirname(path) or os.curdir)
            with suppress(FileExistsError):
                os.mkdir(os.path.dirname(state), 0o700)
                owner.give(os.path.dirname(state))
            write_durably(state, f"{os.path.basename(path)} {limit:.3f}\n".encode(), owner=owner)


def _forget(path: str) -> None:
    state = _state_path(path)
    if state is not None:
        with suppress(OSError):
            os.unlink(state)
