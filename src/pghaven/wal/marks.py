"""Marks: what says, for the price of one shell, that a file of ``pg_wal`` is archived already.

The one idea: a mark is an empty file of the WAL file's own name and *modification time*, in the same ``pg_wal``. The
configured ``archive_command`` takes it only when both times are equal, so a mark speaks of this very file as it was
when it was read and made durable: one that was rewritten since, by whatever server on whatever directory, has no mark.

It is left only when every repository holds the file, or those that do not are noted as behind and enough do. It is
never needed: without it the file is pushed, and found to be there. Beside these there are, for each repository, marks
of the files that it holds; they spare a push from giving it the same again while another one is down.

Sources: shell_archive.c (what runs the command), POSIX.1-2024 for ``-nt`` and ``-ot``, which compare nanoseconds in
dash and bash.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.light import pattern
from pghaven.postgres.datadir import PUSH_STATE_DIRECTORY, WAL_DIRECTORY
from pghaven.postgres.segment import is_valid_archive_name
from pghaven.runtime.durable import OwnerOf

_MARKS = "marks"
_HELD = "held-{}"
_OURS = pattern(r"marks|held-.+")
_HELD_SECONDS = 600.0
_READY = ".ready"
_HISTORY = ".history"

MARK_TEST = (
    f"m={WAL_DIRECTORY}/{PUSH_STATE_DIRECTORY}/{_MARKS}/%f p=%p; "
    '[ -f "$m" ] && [ -f "$p" ] && { [ "$p" -nt "$m" ]; [ $? = 1 ]; } && { [ "$p" -ot "$m" ]; [ $? = 1 ]; }'
)
"""In ``archive_command``: whether there is a mark for this very file. It is run in the data directory. A shell that
cannot compare times ends these with 2, which is not 1."""


class Marks:
    """The marks in one ``pg_wal``. Writing raises OSError."""

    def __init__(self, wal_directory: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._wal_directory = wal_directory
        self._directory = os.path.join(wal_directory, PUSH_STATE_DIRECTORY)

    def list_waiting(self) -> tuple[str, ...]:
        """The files that wait to be archived, in the order in which the server asks for them: histories, then by name
        (pgarch.c)."""
        try:
            entries = os.listdir(os.path.join(self._wal_directory, "archive_status"))
        except OSError:
            return ()
        names = [entry.removesuffix(_READY) for entry in entries if entry.endswith(_READY)]
        names = [name for name in names if is_valid_archive_name(name)]
        return tuple(sorted(names, key=lambda name: (not name.endswith(_HISTORY), name)))

    def is_marked(self, name: str) -> bool:
        """Whether the server would be told that this file is archived."""
        return self._is_current(_MARKS, name)

    def is_held(self, repository: str, name: str) -> bool:
        """Whether this repository held the file, as it is now, within the last minutes. Later it is asked again: a
        repository may have been made anew under the same name."""
        if not self.was_held(repository, name):
            return False
        path = os.path.join(self._directory, _HELD.format(repository), name)
        with suppress(OSError):
            age = self._clock.now().timestamp() - os.lstat(path).st_ctime
            return 0 <= age < _HELD_SECONDS
        return False

    def was_held(self, repository: str, name: str) -> bool:
        """As ``is_held``, however long ago that was."""
        return self._is_current(_HELD.format(repository), name)

    def mark(self, name: str, mtime_ns: int) -> None:
        """Leave a mark for the file as it was at ``mtime_ns``."""
        self._write(_MARKS, name, mtime_ns)

    def mark_held(self, repository: str, name: str, mtime_ns: int) -> None:
        """Leave a mark of one repository."""
        self._write(_HELD.format(repository), name, mtime_ns)

    def clear(self, repository: str) -> None:
        """Remove all that says that this repository holds anything, as when it is made anew under its name."""
        for folder in (_MARKS, _HELD.format(repository)):
            path = os.path.join(self._directory, folder)
            with suppress(FileNotFoundError):
                for name in os.listdir(path):
                    os.unlink(os.path.join(path, name))

    def sweep(self, waiting: Collection[str]) -> None:
        """Remove the marks of files that wait no longer."""
        try:
            folders = [entry for entry in os.listdir(self._directory) if _OURS.fullmatch(entry)]
        except OSError:
            return
        for folder in folders:
            path = os.path.join(self._directory, folder)
            with suppress(OSError):
                for name in os.listdir(path):
                    if name not in waiting:
                        os.unlink(os.path.join(path, name))

    def _is_current(self, folder: str, name: str) -> bool:
        try:
            marked = os.lstat(os.path.join(self._directory, folder, name)).st_mtime_ns
            return marked == os.stat(os.path.join(self._wal_directory, name)).st_mtime_ns
        except OSError:
            return False

    def _write(self, folder: str, name: str, mtime_ns: int) -> None:
        """Until its time is set a mark has that of its making, which no file has that was read before."""
        owner = OwnerOf.path(self._wal_directory)
        path = os.path.join(self._directory, folder)
        for directory in (self._directory, path):
            with suppress(FileExistsError):
                os.mkdir(directory, 0o700)
                owner.give(directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(os.path.join(path, name), flags, 0o600)
        try:
            owner.give(descriptor)
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(descriptor)
