"""Where a receiver keeps WAL until the repositories have it: a directory that looks like a ``pg_wal``.

The one idea: what is received waits here as a server's own files do, a finished segment with a ``.ready`` beside it, so
that ``wal push`` with all it knows (looking ahead, repositories that are behind, refilling) takes it from here
unchanged. An unfinished segment is named ``.partial``. Everything that must survive lies in these files; what else is
noted here only tells more.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from pghaven.errors import Conflict, Damaged, Locked, NotPermitted, StoreUnreachable
from pghaven.postgres.segment import SegmentName, WalFileKind, classify
from pghaven.postgres.timeline import Timeline
from pghaven.runtime.durable import fsync_directory, make_directories_durably, write_durably, write_fully
from pghaven.units import since_epoch

_STATUS = "archive_status"
_LOCK = "receiver.lock"
_NOTES = "receiver.json"
_PARTIAL = ".partial"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolNotes:
    """Whose WAL is spooled; ``receiver`` are the eight hexadecimal digits that this receiver's pieces are named by."""

    receiver: str
    system_identifier: int
    segment_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A segment of which ``length`` bytes are here, the last since ``written_at``; none will follow if it is not the
    one that is streamed."""

    segment: SegmentName
    length: int
    written_at: datetime


class Spool:
    """An open one, made with ``open_spool``. Raises StoreUnreachable where the disk fails or is full."""

    def __init__(self, directory: str, lock: int) -> None:
        self.directory = directory
        self.lock = lock
        self.notes = _read_notes(directory)
        for name in os.listdir(directory):
            if classify(name) in (WalFileKind.SEGMENT, WalFileKind.HISTORY):
                self._mark_ready(name)  # a crash may have come before this

    def path(self, name: object) -> str:
        return os.path.join(self.directory, str(name))

    def adopt(self, system_identifier: int, segment_size: int) -> None:
        """Take the spool for this server's. Raises Conflict when it holds another's."""
        notes = self.notes
        if notes is None:
            notes = SpoolNotes(
                receiver=os.urandom(4).hex(), system_identifier=system_identifier, segment_size=segment_size
            )
            body = {"format": _FORMAT, **{name: str(getattr(notes, name)) for name in SpoolNotes.__slots__}}
            with spool_errors(self.directory):
                write_durably(self.path(_NOTES), json.dumps(body).encode())
            self.notes = notes
        if (notes.system_identifier, notes.segment_size) != (system_identifier, segment_size):
            raise Conflict(
                f'"{self.directory}" holds WAL of system identifier {notes.system_identifier} with segments of '
                f"{notes.segment_size} bytes, but the server is {system_identifier} with {segment_size}",
                hint="Another server answers under the name of the one that was received from, or this one was made "
                "anew. If the old one is gone and its WAL is in the repository, remove that directory.",
            )

    def list_unfinished(self) -> list[Unfinished]:
        """In order of timeline and position."""
        found = []
        for name in os.listdir(self.directory):
            segment = self._parse(name.removesuffix(_PARTIAL)) if name.endswith(_PARTIAL) else None
            if segment is not None:
                status = os.stat(self.path(name))
                written_at = since_epoch(status.st_mtime)
                found.append(Unfinished(segment=segment, length=status.st_size, written_at=written_at))
        return sorted(found, key=lambda one: one.segment)

    def list_finished(self) -> list[SegmentName]:
        """The finished segments that are still here, in order."""
        return sorted(segment for name in os.listdir(self.directory) if (segment := self._parse(name)) is not None)

    def measure(self) -> int:
        """The bytes that wait here."""
        total = 0
        for entry in os.scandir(self.directory):
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
        return total

    def has_waiting(self) -> bool:
        return any(name.endswith(".ready") for name in os.listdir(self.path(_STATUS)))

    def put_history(self, timeline: Timeline, content: bytes) -> None:
        """Keep a history file until it is archived; it goes before every segment."""
        with spool_errors(self.directory):
            write_durably(self.path(timeline.history_name), content)
            self._mark_ready(timeline.history_name)

    def open_unfinished(self, segment: SegmentName) -> SpoolWriter:
        with spool_errors(self.directory):
            return SpoolWriter(self, segment)

    def mark_finished(self, segment: SegmentName) -> None:
        """Give a whole, durable file its name. Durable when it returns."""
        os.rename(self.path(f"{segment}{_PARTIAL}"), self.path(segment))
        fsync_directory(self.directory)
        self._mark_ready(str(segment))

    def settle(self, name: str) -> None:
        """Let go of a file that the repositories have."""
        for path in (self.path(name), os.path.join(self.path(_STATUS), f"{name}.ready")):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def drop_unfinished(self, segment: SegmentName) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path(f"{segment}{_PARTIAL}"))

    def _mark_ready(self, name: str) -> None:
        with open(os.path.join(self.path(_STATUS), f"{name}.ready"), "wb"):
            pass

    def _parse(self, name: str) -> SegmentName | None:
        if self.notes is None or classify(name) is not WalFileKind.SEGMENT:
            return None
        with suppress(ValueError):
            return SegmentName.parse(name, self.notes.segment_size)
        return None


class SpoolWriter:
    """The unfinished segment that is streamed. It is received from its start on, over what an earlier receiver has
    left of it: ``known`` bytes, of which those that differ are counted in ``rewritten``."""

    def __init__(self, spool: Spool, segment: SegmentName) -> None:
        self._spool = spool
        self.segment = segment
        path = spool.path(f"{segment}{_PARTIAL}")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.known = os.fstat(self._file).st_size
        self.written = 0
        self.rewritten = 0
        os.fsync(self._file)
        fsync_directory(spool.directory)
        self.synced = self.known

    @property
    def length(self) -> int:
        """How much of the segment is here, from its start."""
        return max(self.known, self.written)

    @property
    def room(self) -> int:
        return self.segment.segment_size - self.written

    def write(self, data: memoryview) -> None:
        """Append to what was received; no more than there is ``room`` for."""
        with spool_errors(self._spool.directory):
            if self.written < self.known:
                there = os.pread(self._file, len(data), self.written)
                if there != bytes(data[: len(there)]):
                    self.rewritten += 1
                    self.known = self.synced = self.written
            if self.written + len(data) > self.known:
                os.lseek(self._file, self.written, os.SEEK_SET)
                write_fully(self._file, [data])
        self.written += len(data)

    def sync(self) -> None:
        """Make durable what was written."""
        if self.synced < self.written:
            with spool_errors(self._spool.directory):
                os.fdatasync(self._file)
            self.synced = self.written

    def finish(self, sent_at: datetime) -> None:
        """The segment is whole: let it wait to be archived. No commit in it is later than ``sent_at``."""
        with spool_errors(self._spool.directory):
            moment = int(sent_at.timestamp() * 1e6) * 1000
            os.utime(self._file, ns=(moment, moment))
            os.fsync(self._file)
            self._spool.mark_finished(self.segment)
        self.close()

    def close(self, sent_at: datetime | None = None) -> None:
        """Leave it as it is; ``sent_at`` is when the server sent the last of it."""
        if sent_at is not None and self.written >= self.known > 0:
            moment = int(sent_at.timestamp() * 1e6) * 1000
            os.utime(self._file, ns=(moment, moment))
        os.close(self._file)


@contextmanager
def open_spool(directory: str) -> Iterator[Spool]:
    """The spool, for nobody else at the same time. Raises Locked, NotPermitted, StoreUnreachable, Damaged."""
    with spool_errors(directory):
        make_directories_durably(os.path.join(directory, _STATUS), 0o700)
        lock = os.open(os.path.join(directory, _LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f'another receiver uses "{directory}"',
                hint="One receiver of a cluster is enough on a host; a second one needs another slot and directory.",
            ) from None
        with spool_errors(directory):
            spool = Spool(directory, lock)
        yield spool
    finally:
        os.close(lock)


@contextmanager
def spool_errors(directory: str) -> Iterator[None]:
    """Errors of the disk become ours."""
    try:
        yield
    except PermissionError as error:
        raise NotPermitted(f'could not write in "{directory}": permission denied') from error
    except OSError as error:
        raise StoreUnreachable(f'could not write in "{directory}": {error.strerror}') from error


def _read_notes(directory: str) -> SpoolNotes | None:
    path = os.path.join(directory, _NOTES)
    try:
        with open(path, encoding="utf-8") as file:
            body = json.load(file)
        return SpoolNotes(
            receiver=str(body["receiver"]),
            system_identifier=int(body["system_identifier"]),
            segment_size=int(body["segment_size"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f'"{path}" cannot be read: {error!r}', hint="Remove it; the next start writes it anew."
        ) from error
