"""Where in the archived WAL a recovery target lies: found before anything is restored.

The one idea: PostgreSQL notices that a target cannot be reached after hours of replay; the archive can be asked first.
Each segment's file was last written at a known time, which bounds the commits in it, so a moment is found by halving;
transactions and restore points are found by looking for their bytes and reading only the segments that have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.waldata import LONG_HEADER_SIZE, SHORT_HEADER_SIZE, may_contain_restore_point, may_contain_xid
from pghaven.postgres.walevent import decode_restore_point, decode_xact
from pghaven.postgres.walpage import EndReason
from pghaven.postgres.walrecord import RM_XACT, RM_XLOG, LastRecord, WalRecord, find_last_record, iter_records
from pghaven.postgres.walspan import WalSpan
from pghaven.repository.partials import get_or_partial, read_facts_or_partial
from pghaven.repository.walfacts import parse_span
from pghaven.repository.walstore import WalArchive
from pghaven.units import parse_time_utc

# File times and commit times come from one clock, but not in one instant.
_SLACK = timedelta(seconds=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRecord:
    """A record that decides where recovery stops. ``time`` is what is written in it."""

    start_lsn: Lsn
    end_lsn: Lsn
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WalPath:
    """Continuous WAL in the archive, the files in the order in which a recovery needs them (not empty).

    What the last file holds after ``end_lsn`` was left behind by a later timeline and is not part of it. ``unreadable``
    are the indices of files that turned out to be damaged when somebody wanted to read them.
    """

    archive: WalArchive
    segments: Sequence[SegmentName]
    end_lsn: Lsn
    unreadable: list[int] = field(default_factory=list, compare=False)

    def read(self, first: int, after: int | None = None) -> Iterator[tuple[SegmentName, bytes]]:
        """The contents of the files from index ``first`` up to ``after``. Raises Damaged."""
        for at in range(len(self.segments))[first:after]:
            segment = self.segments[at]
            with self._noting(at):
                content = get_or_partial(self.archive, segment)
            yield segment, content if segment.end_lsn <= self.end_lsn else content[: self.end_lsn - segment.start_lsn]

    def read_written_time(self, at: int = -1) -> datetime | None:
        """``read_written_time`` of one of its files. Raises Damaged."""
        with self._noting(at % len(self.segments)):
            return read_written_time(self.archive, self.segments[at])

    def read_last_time(self, at: int) -> datetime | None:
        """The time of the last commit in one of its files, or any time after that; None when that is not known."""
        with self._noting(at % len(self.segments)):
            facts = read_facts_or_partial(self.archive, self.segments[at])
        span = parse_span(facts)
        return span.last_commit or _parse_written(facts)

    def read_span(self, at: int) -> WalSpan:
        """What is kept beside one of its files of what it covers. Raises Damaged."""
        return parse_span(read_facts_or_partial(self.archive, self.segments[at]))

    def part(self, first: int, after: int) -> WalPath:
        """Its files from index ``first`` up to ``after``."""
        segments = self.segments[first:after]
        return WalPath(archive=self.archive, segments=segments, end_lsn=min(segments[-1].end_lsn, self.end_lsn))

    def before(self, at: int) -> WalPath | None:
        """What comes before one of its files, None for the first."""
        if not at:
            return None
        return WalPath(archive=self.archive, segments=self.segments[:at], end_lsn=self.segments[at - 1].end_lsn)

    @contextmanager
    def _noting(self, at: int) -> Iterator[None]:
        try:
            yield
        except Damaged:
            self.unreadable.append(at)
            raise


def read_written_time(archive: WalArchive, segment: SegmentName) -> datetime | None:
    """When the server last wrote this segment's file; no commit in it is later. None when it was not recorded."""
    return _parse_written(read_facts_or_partial(archive, segment))


def _parse_written(facts: Mapping[str, Any]) -> datetime | None:
    text = facts.get("source_mtime")
    return parse_time_utc(text) if isinstance(text, str) else None


def find_archive_end(path: WalPath) -> LastRecord:
    """The last whole record of a path. Raises Damaged."""
    last: LastRecord | None = None
    for back in range(1, len(path.segments) + 1):
        last = find_last_record(path.read(len(path.segments) - back))
        if last.start_lsn is not None:
            return last
    assert last is not None
    return last


def find_first_commit_after(path: WalPath, moment: datetime, *, inclusive: bool) -> FoundRecord | None:
    """The first commit or abort that recovery to ``moment`` must not replay; None when there is none.

    With ``inclusive`` it is later than the moment, otherwise at or after it (recoveryStopsBefore in xlogrecovery.c).
    """
    first = find_first_written(path, moment)
    # The record may begin in the segment before.
    reader = iter_records(path.read(max(first - 1, 0)), resource_managers=(RM_XACT,))
    for record in reader:
        event = decode_xact(record)
        if event is None or event.time is None or not _ends(event.kind):
            continue
        if event.time > moment or (event.time == moment and not inclusive):
            return _found(record, event.time)
    if reader.end is not None and reader.end.reason is EndReason.DAMAGED:
        raise Damaged(f"the archived WAL cannot be read beyond {reader.end.lsn}: {reader.end.message}")
    return None


def find_last_commit(path: WalPath) -> datetime | None:
    """When the last transaction of a path ended; looks back a few segments only."""
    latest: datetime | None = None
    for back in range(1, min(len(path.segments), 4) + 1):
        for record in iter_records(path.read(len(path.segments) - back), resource_managers=(RM_XACT,)):
            event = decode_xact(record)
            if event is not None and event.time is not None and (latest is None or event.time > latest):
                latest = event.time
        if latest is not None:
            return latest
    return None


def find_transaction_end(path: WalPath, xid: int) -> FoundRecord | None:
    """Where this transaction committed or aborted; the last one of that number, as numbers are used again."""
    for at in reversed(range(len(path.segments))):
        _, content = next(path.read(at))
        if not may_contain_xid(content, xid & 0xFFFFFFFF):
            continue
        found: FoundRecord | None = None
        for record in _records_of(path, at, RM_XACT):
            event = decode_xact(record)
            if event is not None and event.time is not None and _ends(event.kind) and event.xid == xid & 0xFFFFFFFF:
                found = _found(record, event.time)
        if found is not None:
            return found
    return None


def find_restore_points(path: WalPath, name: str) -> tuple[FoundRecord, ...]:
    """All restore points of this name, oldest first."""
    found: dict[Lsn, FoundRecord] = {}
    for at, (_, content) in enumerate(path.read(0)):
        if may_contain_restore_point(content, name):
            for record in _records_of(path, at, RM_XLOG):
                point = decode_restore_point(record)
                if point is not None and point.name == name:
                    found[record.start_lsn] = _found(record, point.time)
    return tuple(found[lsn] for lsn in sorted(found))


def _records_of(path: WalPath, at: int, rmid: int) -> Iterator[WalRecord]:
    """The records of one resource manager that have any byte in one segment; those of the one before come too."""
    limit = path.segments[at].end_lsn
    for record in iter_records(path.read(max(at - 1, 0), at + 2), resource_managers=(rmid,)):
        if record.start_lsn >= limit:
            return
        yield record


def find_first_written(path: WalPath, moment: datetime) -> int:
    """The index of the first segment that may have a commit at or after a moment; 0 when times are not known."""
    moment -= _SLACK
    low, high = 0, len(path.segments)
    while low < high:
        middle = (low + high) // 2
        last = path.read_last_time(middle)
        if last is None:
            return 0
        if last < moment:
            low = middle + 1
        else:
            high = middle
    return low


def _ends(kind: str) -> bool:
    return kind != "prepare"


def _found(record: WalRecord, time: datetime) -> FoundRecord:
    return FoundRecord(start_lsn=record.start_lsn, end_lsn=record.end_lsn, time=time)


def before_page_header(lsn: Lsn, segment_size: int, block_size: int) -> Lsn:
    """A position just behind a page's header as the page's beginning.

    The record that follows begins behind the header, the one before ended ahead of it, and that is what a recovery
    that stops in between reports.
    """
    if lsn % segment_size <= LONG_HEADER_SIZE:
        return Lsn(lsn - lsn % segment_size)
    return Lsn(lsn - lsn % block_size) if lsn % block_size <= SHORT_HEADER_SIZE else lsn
