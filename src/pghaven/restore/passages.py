"""How often a moment came by the clock of the server, which stamps commits: more than once where it was set back.

The one idea: in WAL that was written under a clock that jumped, times are not in the order of positions, and PostgreSQL
stops at the first commit that is later than its target, which may be hours before the one that was meant. Where that
can be is seen from the few facts beside segments; what is said then is read from the records.

Facts are read around the moment, around its backup, and spread over all of the WAL: a jump that none of these places
shows, such as a short one inside of a segment far away, is not seen. It does no harm: the server is given a position.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from pghaven.errors import Damaged, NotPermitted, ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.walevent import decode_xact
from pghaven.postgres.walrecord import RM_XACT, iter_records
from pghaven.restore.walsearch import FoundRecord, WalPath, find_first_written

_SPREAD = 64
"""At so many segments of the whole path facts are looked at, and at so many on either side of a place of interest:"""
_BESIDE = 8
_READ = 4
"""At most so many segments are read from where the moment is looked for, up to the end of the one that has it."""
_STEP = timedelta(seconds=5)
"""Commits that go on side by side may be out of order by moments; by so much only if the clock was set back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Where the moment came: ``record`` is the first commit or abort after it, None for the end of the WAL;
    ``before`` is the time of one before it, of the last one where records were read."""

    record: FoundRecord | None
    before: datetime


@dataclass(frozen=True, slots=True)
class _Point:
    """A time that is known of a position in segment ``at``; of a segment's facts it is as good as ``limit``. ``record``
    is the end of a transaction that it was read from; a mark is none of one."""

    lsn: Lsn
    limit: Lsn
    at: int
    time: datetime
    record: FoundRecord | None = None
    is_mark: bool = False


def find_passages(
    path: WalPath, moment: datetime, backups: Sequence[tuple[Lsn, datetime]], *, inclusive: bool
) -> tuple[Passage, ...]:
    """Each time that the moment came; none at all if the clock was not seen to be set back across it: that is the rule.

    ``backups`` are where and when backups ended, in the order of WAL. Raises Damaged.
    """

    def is_late(time: datetime) -> bool:
        return time > moment or (time == moment and not inclusive)

    path = path.part(0, len(path.segments))  # what is damaged is for others to tell
    points = sorted(_iter_points(path, moment, backups), key=lambda one: one.lsn)
    brackets, ends_early = _find_brackets(points, is_late)
    if not brackets or (len(brackets) == 1 and not ends_early):
        return ()
    # What is late from the beginning on came before the backup.
    found = [_resolve(path, moment, early, late, is_late) for early, late in brackets if early is not None]
    passages = [one for one in found if one is not None]
    if ends_early:
        written = path.read_written_time()
        if written is not None and written >= moment:
            passages.append(Passage(record=None, before=points[-1].time))
    return tuple(passages)


def _find_brackets(
    points: Sequence[_Point], is_late: Callable[[datetime], bool]
) -> tuple[list[tuple[_Point | None, _Point]], bool]:
    """Between which points the moment passed, and whether the clock was behind it again at the end."""
    brackets: list[tuple[_Point | None, _Point]] = []
    early: _Point | None = None
    latest: datetime | None = None  # since the moment has passed
    for point in points:
        if is_late(point.time):
            if latest is None:
                brackets.append((early, point))
            elif brackets[-1][1].is_mark:
                brackets[-1] = (brackets[-1][0], point)
            latest = point.time if latest is None else max(latest, point.time)
        elif latest is None or latest - point.time > _STEP:
            early, latest = point, None
    return brackets, latest is None


def _iter_points(path: WalPath, moment: datetime, backups: Sequence[tuple[Lsn, datetime]]) -> Iterator[_Point]:
    """What is looked at. A backup tells only that the moment was over: a standby's clock may be behind for itself."""
    first, count = find_first_written(path, moment), len(path.segments)
    begin = end = max(first - 1, 0)
    with suppress(Damaged):  # who needs it tells of it
        late_at: int | None = None
        for point in _iter_ends(path, begin, min(first + _READ, count)):
            if late_at is not None and point.at > late_at:
                break
            if late_at is None and point.time > moment:
                late_at = point.at
            yield point
            end = point.at + 1
    yield from (_Point(lsn, lsn, _find(path, lsn), time, is_mark=True) for lsn, time in backups if time > moment)
    taken = next((lsn for lsn, time in reversed(backups) if time <= moment), path.segments[0].start_lsn)
    wanted = {count * number // _SPREAD for number in range(_SPREAD)} | {count - 1}
    for place in (first, _find(path, taken)):
        wanted |= set(range(place - _BESIDE, place + _BESIDE + 1))
    for at in sorted((wanted & set(range(count))) - set(range(begin, end))):
        yield from _read_facts(path, at)


def _find(path: WalPath, lsn: Lsn) -> int:
    """The index of the segment that a position lies in."""
    return max(bisect_right(path.segments, lsn, key=lambda one: one.start_lsn) - 1, 0)


def _read_facts(path: WalPath, at: int) -> Iterator[_Point]:
    segment = path.segments[at]
    with suppress(Damaged, ObjectMissing, NotPermitted):
        span = path.read_span(at)
        if span.first_commit is not None:
            yield _Point(segment.start_lsn, segment.end_lsn, at, span.first_commit)
        if span.last_commit is not None:
            yield _Point(Lsn(segment.end_lsn - 1), segment.end_lsn, at, span.last_commit)


def _iter_ends(path: WalPath, begin: int, end: int | None = None) -> Iterator[_Point]:
    """Every end of a transaction whose record is in these segments. Raises Damaged."""
    for record in iter_records(path.read(begin, end), resource_managers=(RM_XACT,)):
        event = decode_xact(record)
        if event is not None and event.kind != "prepare":
            found = FoundRecord(start_lsn=record.start_lsn, end_lsn=record.end_lsn, time=event.time)
            yield _Point(record.start_lsn, record.start_lsn, _find(path, record.start_lsn), event.time, found)


def _resolve(
    path: WalPath, moment: datetime, early: _Point, late: _Point, is_late: Callable[[datetime], bool]
) -> Passage | None:
    """The record itself; None when no transaction ended there while the clock was past the moment. Raises Damaged."""
    if late.record is not None and early.record is not None:
        return Passage(record=late.record, before=early.time)
    low = early.at
    near = low + find_first_written(path.part(low, late.at + 1), moment)
    found: FoundRecord | None = None
    before = early.time
    for point in _iter_ends(path, max(near - 1, low)):
        if point.lsn > late.limit or (found is not None and point.at > low):
            break
        if not is_late(point.time):
            before = point.time
            if point.at == low:
                found = None  # in the segment in which the clock was set back the last passage is meant
        elif found is None:
            found = point.record
    return None if found is None else Passage(record=found, before=before)
