"""Which repositories have missed WAL that counts as archived, as noted on the server's own host.

The one idea: these notes are a help and not the truth. What a repository lacks is found in any case by comparing it
with the others (``refill.list_missing``); the notes tell at once, while the repository is still away, and spare every
push that comparison.

They lie in ``pg_wal/pghaven``, which no tool copies along with a data directory. There are two files for each
repository: what is known of the trouble, and a line for each file that it missed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from pghaven.clock import SYSTEM_CLOCK
from pghaven.light import dataclass
from pghaven.postgres.datadir import PUSH_STATE_DIRECTORY
from pghaven.postgres.segment import WalFileKind, classify, is_valid_archive_name
from pghaven.runtime.durable import OwnerOf, write_durably, write_fully
from pghaven.units import parse_time_utc, render_time_utc

_STATE = "behind-{}.json"
_NAMES = "behind-{}.names"
_LOCK = "behind.lock"
_FORMAT = 1
# A change takes milliseconds. Whoever holds the lock for longer is frozen, and takes nobody with it.
_LOCK_SECONDS = 1.0
_LOCK_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """A repository that has missed something. ``names`` are files as PostgreSQL calls them, histories first, otherwise
    in the order in which they were missed; ``since`` is when the first was, ``tried_at`` when the last attempt failed.
    """

    repository: str
    since: datetime
    tried_at: datetime
    reason: str
    names: tuple[str, ...]

    def is_resting(self, now: datetime, rest: timedelta) -> bool:
        """Whether it was tried so recently that it is not tried again."""
        return timedelta(0) <= now - self.tried_at < rest


class BehindNotes:
    """The notes in one ``pg_wal``. Raises OSError where they cannot be written; what cannot be read is passed over.

    Pushes, refills and the agent may be at work at once: each change is made under a lock, which is waited for
    no longer than a moment (TimeoutError, an OSError).
    """

    def __init__(self, wal_directory: str) -> None:
        self._wal_directory = wal_directory
        self._directory = os.path.join(wal_directory, PUSH_STATE_DIRECTORY)

    def read(self, repository: str) -> Behind | None:
        """None when nothing is noted."""
        try:
            with open(self._path(_STATE, repository), encoding="utf-8") as file:
                body = json.load(file)
            since, tried_at = parse_time_utc(body["since"]), parse_time_utc(body["tried_at"])
            reason = str(body["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        names = self._read_names(repository)
        histories = tuple(name for name in names if classify(name) is WalFileKind.HISTORY)
        others = tuple(name for name in names if classify(name) is not WalFileKind.HISTORY)
        return Behind(repository=repository, since=since, tried_at=tried_at, reason=reason, names=(*histories, *others))

    def read_all(self, repositories: Sequence[str]) -> Mapping[str, Behind]:
        if not os.path.isdir(self._directory):
            return {}
        found = {name: self.read(name) for name in repositories}
        return {name: behind for name, behind in found.items() if behind is not None}

    def note(self, repository: str, names: Sequence[str], reason: str, now: datetime) -> None:
        """Note that ``repository`` missed these files (none: that it failed again). Durable when it returns."""
        with self._locked() as owner:
            known = self.read(repository)
            moment = render_time_utc(now)
            since = moment if known is None else render_time_utc(known.since)
            if names:
                self._append(repository, names, owner)
            body = {"format": _FORMAT, "since": since, "tried_at": moment, "reason": reason}
            write_durably(self._path(_STATE, repository), json.dumps(body).encode(), owner=owner)

    def settle(self, repository: str, names: Collection[str]) -> None:
        """Take out what has been filled in; without anything left there is no note any more."""
        with self._locked() as owner:
            left = [name for name in self._read_names(repository) if name not in names]
            if left:
                text = "".join(f"{name}\n" for name in left)
                write_durably(self._path(_NAMES, repository), text.encode(), owner=owner)
                return
            for form in (_STATE, _NAMES):
                with suppress(FileNotFoundError):
                    os.unlink(self._path(form, repository))

    def _path(self, form: str, repository: str) -> str:
        return os.path.join(self._directory, form.format(repository))

    def _read_names(self, repository: str) -> tuple[str, ...]:
        try:
            with open(self._path(_NAMES, repository), encoding="ascii", errors="replace") as file:
                lines = file.read().split("\n")
        except OSError:
            return ()
        # The last line may have been cut short by a crash; it was not acknowledged then.
        return tuple(dict.fromkeys(line for line in lines[:-1] if is_valid_archive_name(line)))

    def _append(self, repository: str, names: Sequence[str], owner: OwnerOf) -> None:
        path = self._path(_NAMES, repository)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o640)
        try:
            owner.give(descriptor)
            # A line that a crash cut short must not become one with ours.
            write_fully(descriptor, ["".join(f"\n{name}\n" for name in names).encode()])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[OwnerOf]:
        owner = OwnerOf.path(self._wal_directory)
        with suppress(FileExistsError):
            os.mkdir(self._directory, 0o700)
            owner.give(self._directory)
        lock = os.open(os.path.join(self._directory, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            owner.give(lock)
            _lock(lock)
            yield owner
        finally:
            os.close(lock)


def _lock(descriptor: int) -> None:
    deadline = SYSTEM_CLOCK.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if SYSTEM_CLOCK.monotonic() >= deadline:
                raise TimeoutError(f"another process has held {_LOCK} for {_LOCK_SECONDS:g} s") from None
        SYSTEM_CLOCK.sleep(_LOCK_POLL_SECONDS)


def find_wal_directory(path: str) -> str | None:
    """The ``pg_wal`` that a file to be archived lies in; None when its directory is not one."""
    directory = os.path.dirname(path) or "."
    return directory if os.path.isdir(os.path.join(directory, "archive_status")) else None
