"""What an archive holds, as it is shown: ranges of segments by timeline with their times, forks, gaps, quarantine.

The one idea: only names and the few facts beside the first and last segments of each range are read, so that this is
quick for any archive; what the bytes are is the business of ``verify`` and ``wal audit``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pghaven.errors import Damaged, NotPermitted, ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.postgres.walevent import list_commit_times
from pghaven.repository.gaps import WalGap, find_gaps
from pghaven.repository.horizon import Horizon, find_horizon
from pghaven.repository.ledger import SegmentRange, Segments
from pghaven.repository.partials import Partial, find_partials
from pghaven.repository.walfacts import parse_span
from pghaven.repository.walstore import StoredSegment, WalArchive
from pghaven.runtime.ranges import NumberRanges
from pghaven.units import parse_time_utc

# How many segments are looked into from either end of a range for one with a commit.
_LOOKED_INTO = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRange:
    """A continuous range; ``stored_bytes`` as they lie in the store, ``last_stored`` by the store's clock.

    ``first_commit`` and ``last_commit`` are the times of commits in it, near its ends and by the servers' clocks;
    ``written`` is when the server last wrote the last segment. None is not known.
    """

    segments: SegmentRange
    stored_bytes: int
    last_stored: datetime
    first_commit: datetime | None = None
    last_commit: datetime | None = None
    written: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPartial:
    """Part of an unfinished segment, up to ``end_lsn``; ``sent`` is when the server sent the last of it."""

    segment: SegmentName
    end_lsn: Lsn
    first_commit: datetime | None = None
    last_commit: datetime | None = None
    sent: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTimeline:
    """Everything held of one timeline. ``history`` is None when its file is not in the archive, or damaged.

    Between two ranges there is a gap, or WAL that was removed on purpose. ``partial`` is what a receiver has of the
    segment that follows the last one.
    """

    timeline: Timeline
    history: History | None
    ranges: tuple[HeldRange, ...]
    partial: HeldPartial | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """``quarantine`` has the names of the files that history has left behind."""

    timelines: tuple[HeldTimeline, ...]
    quarantine: tuple[str, ...]
    gaps: tuple[WalGap, ...] = ()


def take_stock(archive: WalArchive, *, reads_segments: bool = True) -> Holdings:
    """List the whole archive. Of a segment that nobody has looked into, the times of commits are read unless told not
    to: then they are left out."""
    timelines, held, histories = [], {}, {}
    with_segments = archive.list_timelines()
    partials = find_partials(archive, with_segments)
    for timeline in sorted({*with_segments, *partials}):
        try:
            history = histories[timeline] = archive.read_history(timeline)
        except (ObjectMissing, Damaged):
            history = None
        ranges = _measure(archive, archive.list_segments(timeline), reads_segments)
        held[timeline] = NumberRanges(segment.number for one in ranges for segment in one.segments)
        timelines.append(
            HeldTimeline(
                timeline=timeline,
                history=history,
                ranges=ranges,
                partial=_show_partial(partials.get(timeline), held[timeline].last),
            )
        )
    horizon = find_horizon(archive.repository, archive.cluster, archive.system_identifier) or Horizon()
    return Holdings(
        timelines=tuple(timelines),
        quarantine=archive.list_quarantine(),
        gaps=find_gaps(held, histories, horizon.positions, archive.segment_size),
    )


def _show_partial(partial: Partial | None, last_number: int) -> HeldPartial | None:
    """What is told of a partial; None for one that its own segment, or a later one, has taken the place of."""
    if partial is None or partial.segment.number <= last_number:
        return None
    facts: Mapping[str, Any] = {}
    with suppress(Damaged, ObjectMissing, NotPermitted):  # verify tells of damage; a newer piece may have come
        facts = partial.read_facts()
    span, sent = parse_span(facts), facts.get("source_mtime")
    return HeldPartial(
        segment=partial.segment,
        end_lsn=partial.end_lsn,
        first_commit=span.first_commit,
        last_commit=span.last_commit,
        sent=parse_time_utc(sent) if isinstance(sent, str) else None,
    )


def _measure(archive: WalArchive, stored: Iterable[StoredSegment], reads_segments: bool) -> tuple[HeldRange, ...]:
    """``stored`` are of one timeline and in order."""
    ranges = []
    for found, stored_bytes, last_stored in _iter_rows(stored):
        names = Segments([found])
        last_names = tuple(reversed(names[-_LOOKED_INTO:]))
        ranges.append(
            HeldRange(
                segments=found,
                stored_bytes=stored_bytes,
                last_stored=last_stored,
                first_commit=_find_commit(archive, names[:_LOOKED_INTO], is_first=True, reads_segments=reads_segments),
                last_commit=_find_commit(archive, last_names, is_first=False, reads_segments=reads_segments),
                written=_read_written(archive, found.last),
            )
        )
    return tuple(ranges)


def _iter_rows(stored: Iterable[StoredSegment]) -> Iterator[tuple[SegmentRange, int, datetime]]:
    """Segments without a gap with their stored size and when the last of them was stored."""
    row: tuple[SegmentRange, int, datetime] | None = None
    for one in stored:
        if row is not None and one.name.number == row[0].last.number + 1:
            row = SegmentRange(first=row[0].first, last=one.name), row[1] + one.size_bytes, max(row[2], one.modified)
            continue
        if row is not None:
            yield row
        row = SegmentRange(first=one.name, last=one.name), one.size_bytes, one.modified
    if row is not None:
        yield row


def _find_commit(
    archive: WalArchive, names: Sequence[SegmentName], *, is_first: bool, reads_segments: bool
) -> datetime | None:
    """The time in the first of these segments that has a commit. A segment of which it is not known is read."""
    for name in names:
        try:
            span = parse_span(archive.read_facts(str(name)))
            time = span.first_commit if is_first else span.last_commit
            if time is None and span.has_commits is not False and reads_segments:
                times = list_commit_times(name, archive.get(str(name)))
                time = times[0 if is_first else -1] if times else None
        except (Damaged, ObjectMissing, NotPermitted):
            return None
        if time is not None:
            return time
    return None


def _read_written(archive: WalArchive, name: SegmentName) -> datetime | None:
    try:
        text = archive.read_facts(str(name)).get("source_mtime")
        return parse_time_utc(text) if isinstance(text, str) else None
    except (Damaged, ObjectMissing, ValueError):
        return None
