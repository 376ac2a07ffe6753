"""The two calls around a physical copy: pg_backup_start and pg_backup_stop.

The one idea: a backup belongs to one session. Whoever leaves the bracket without having stopped it closes the session,
and the server then forgets the backup by itself; no clean-up can be left undone.
Manual, "Making a Base Backup Using the Low Level API"; xlogfuncs.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pghaven.errors import ServerUnsuitable, UsageError
from pghaven.postgres.label import BackupLabelFile, parse_backup_label
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.server.connection import Connection, fetch_one, server_errors

_LABEL_BYTES = 1024
_START = "EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean)"
_STOP = "EXECUTE ON FUNCTION pg_catalog.pg_backup_stop(boolean)"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedBackup:
    """What must be stored with the copy for it to be restorable.

    ``label_file`` and ``tablespace_map`` (None without tablespaces) are the contents of the files of those names;
    WAL is needed from ``label.start_lsn`` up to ``stop_lsn``, which is the end of the last byte needed.
    """

    stop_lsn: Lsn
    label_file: str
    label: BackupLabelFile
    tablespace_map: str | None


class OpenBackup:
    """A backup in progress. Files may be copied from the moment this exists until ``stop`` is called."""

    def __init__(self, connection: Connection, start_lsn: Lsn, timeline: Timeline, from_standby: bool) -> None:
        self.start_lsn = start_lsn
        self.timeline = timeline
        self.from_standby = from_standby
        self._connection = connection
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        return self._is_stopped

    def confirm(self) -> None:
        """Ask the server whether the session, and with it the backup, still exists. Raises ServerUnsuitable."""
        with server_errors(self._connection, "go on with the backup, its session has ended"):
            self._connection.execute("SELECT 1")

    def stop(self) -> StoppedBackup:
        """End the backup. Does not wait for the archive: that is the caller's, who knows the archive.

        Raises ServerUnsuitable when the session ended meanwhile, or the standby was promoted: the copy is worthless.
        """
        with server_errors(self._connection, "stop the backup", privilege=_STOP):
            stop_lsn, label_file, tablespace_map = fetch_one(
                self._connection,
                "SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(wait_for_archive => false)",
            )
        self._is_stopped = True
        label = parse_backup_label(label_file)
        if (label.start_lsn, label.start_timeline) != (self.start_lsn, self.timeline):
            raise ServerUnsuitable(
                f"the backup began at {self.start_lsn} of timeline {self.timeline}, but its label says "
                f"{label.start_lsn} of timeline {label.start_timeline}",
                hint="The standby changed its timeline while the backup began; take the backup again.",
            )
        return StoppedBackup(
            stop_lsn=Lsn.parse(stop_lsn), label_file=label_file, label=label, tablespace_map=tablespace_map or None
        )


@contextmanager
def backup_bracket(connection: Connection, label: str, *, fast: bool) -> Iterator[OpenBackup]:
    """Begin a backup; the block copies the files and calls ``stop()``.

    Beginning waits for a checkpoint: a spread one may take ``checkpoint_timeout`` times
    ``checkpoint_completion_target``, minutes; ``fast`` makes it at once, at the price of a burst of writes. On a
    standby the last restart point is used. Left without ``stop()``, ``connection`` is closed and the server gives the
    backup up. Raises UsageError for a label PostgreSQL cannot store, NotPermitted with the GRANT needed,
    ServerUnsuitable with the server's reason.
    """
    if len(label.encode()) > _LABEL_BYTES or not label.isprintable():
        raise UsageError(f"a backup label has at most {_LABEL_BYTES} bytes and no control characters")
    backup: OpenBackup | None = None
    try:
        with server_errors(connection, "start a backup", privilege=_START):
            (start_lsn,) = fetch_one(connection, "SELECT pg_backup_start(%s, %s)::text", label, fast)
            # Starting has just made, or on a standby read, the checkpoint that pg_control names.
            timeline, from_standby = fetch_one(
                connection, "SELECT timeline_id, pg_is_in_recovery() FROM pg_control_checkpoint()"
            )
        backup = OpenBackup(connection, Lsn.parse(start_lsn), Timeline(timeline), from_standby)
        yield backup
    finally:
        if backup is None or not backup.is_stopped:
            connection.close()
