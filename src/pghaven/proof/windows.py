"""How far back, and how close to now, a cluster can be restored: windows and gaps.

The one idea: a window begins where a backup ends and goes as far as the WAL that follows it without a break, along one
timeline's history. Backups whose WAL runs on into that of the next one share a window. Only what a window ends with is
looked into, so that damage anywhere else is for ``verify`` to find.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from pghaven.errors import Damaged, ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.entry import BackupEntry
from pghaven.repository.ledger import Held, Walk, walk_path, without_segments
from pghaven.repository.partials import Partial, extend_walk, find_partials
from pghaven.repository.walstore import WalArchive
from pghaven.restore.walsearch import read_written_time
from pghaven.units import parse_time_utc

_NO_HORIZON: Mapping[Timeline, Lsn] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Every moment from ``begin`` to ``end`` can be restored to on this timeline.

    ``end`` is when the last archived segment was last written, None when that was not recorded. ``backups`` are the
    labels it can be reached from, oldest first.
    """

    timeline: Timeline
    begin: datetime
    begin_lsn: Lsn
    end: datetime | None
    end_lsn: Lsn
    last_segment: SegmentName
    backups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """WAL that is missing between what is held before and behind it; both segments included."""

    first: SegmentName
    last: SegmentName

    @property
    def count(self) -> int:
        return self.last.number - self.first.number + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """All that can be restored. ``unusable`` are backups whose own WAL is incomplete, with the first segment missing;
    ``unknown`` are timelines whose history is missing or damaged, so that nothing can be said about them.
    ``damaged`` are segments that a window would end with and that cannot be read, with what is wrong with each."""

    windows: tuple[Window, ...]
    gaps: tuple[Gap, ...]
    unusable: tuple[tuple[str, SegmentName], ...]
    unknown: tuple[Timeline, ...]
    damaged: tuple[tuple[SegmentName, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What windows are made of: numbers of segments, and what is kept of the one after the last."""

    segments: Held
    partials: Mapping[Timeline, Partial]


def find_reach(
    archive: WalArchive, entries: Sequence[BackupEntry], horizon: Mapping[Timeline, Lsn] = _NO_HORIZON
) -> Reach:
    """What the backups (committed ones of this archive's system identifier, oldest first) and the WAL allow.

    What is missing before the ``horizon`` of its timeline was removed on purpose and is no gap.
    A window ends before a segment that cannot be read. Lists the whole archive. Raises StoreUnreachable, NotPermitted.
    """
    held = archive.list_numbers()
    partials = find_partials(archive, held)
    damaged: dict[SegmentName, str] = {}
    while True:
        known = len(damaged)
        good = without_segments(held, damaged)
        ends = {timeline: one for timeline, one in partials.items() if one.segment not in damaged}
        reach = _find_reach(archive, entries, horizon, _Held(segments=good, partials=ends), damaged)
        if len(damaged) == known:
            return replace(reach, damaged=tuple(sorted(damaged.items())))


def _find_reach(
    archive: WalArchive,
    entries: Sequence[BackupEntry],
    horizon: Mapping[Timeline, Lsn],
    held: _Held,
    damaged: dict[SegmentName, str],
) -> Reach:
    """What these segments allow. If a window ends with damaged ones they are added, and the answer does not count."""
    windows: list[Window] = []
    gaps: dict[str, Gap] = {}
    unusable: dict[str, SegmentName] = {}
    unknown: list[Timeline] = []
    reached: set[str] = set()
    for timeline in sorted(set(held.segments) | set(held.partials) | {_timeline_of(entry) for entry in entries}):
        try:
            history = archive.read_history(timeline)
        except (ObjectMissing, Damaged):
            unknown.append(timeline)
            continue
        ways = _find_ways(archive, history, entries, held)
        usable = [(entry, walk) for entry, walk in ways if _covers(entry, walk)]
        reached |= {entry.label for entry, _ in usable}
        unusable.update((entry.label, walk.first_missing) for entry, walk in ways if not _covers(entry, walk))
        windows += _group(archive, history, usable, damaged)
        for _, walk in ways:
            gap = _find_gap(walk, damaged)
            if gap is not None and gap.last.end_lsn > horizon.get(gap.last.timeline, Lsn(0)):
                gaps.setdefault(str(gap.first), gap)
    return Reach(
        windows=tuple(windows),
        gaps=tuple(gaps.values()),
        unusable=tuple((label, missing) for label, missing in unusable.items() if label not in reached),
        unknown=tuple(unknown),
    )


def _timeline_of(entry: BackupEntry) -> Timeline:
    return Timeline(int(entry.summary["timeline"]))


def _stop_of(entry: BackupEntry) -> Lsn:
    return Lsn.parse(entry.summary["stop_lsn"])


def _find_ways(
    archive: WalArchive, history: History, entries: Sequence[BackupEntry], held: _Held
) -> list[tuple[BackupEntry, Walk]]:
    """The WAL that follows each backup that lies on this history.

    A backup that begins in the midst of an earlier one's WAL shares its walk: an archive is walked once, not once a
    backup.
    """
    ways: list[tuple[BackupEntry, Walk]] = []
    for entry in entries:
        own = _timeline_of(entry)
        if not history.contains_end(own, _stop_of(entry)):
            continue
        start = SegmentName.containing(own, Lsn.parse(entry.summary["start_lsn"]), archive.segment_size)
        if ways and ways[-1][1].passes(start):
            ways.append((entry, ways[-1][1]))
        else:
            walk = walk_path(history, start, held.segments)
            ways.append((entry, extend_walk(walk, history, held.partials)))
    return ways


def _covers(entry: BackupEntry, walk: Walk) -> bool:
    return walk.end_lsn >= _stop_of(entry)


def _find_gap(walk: Walk, damaged: Collection[SegmentName]) -> Gap | None:
    """What is not there of a walk; damaged segments that it ended with are, and are told as such."""
    if not walk.beyond:
        return None
    first = walk.first_missing
    last = max(first, replace(first, number=walk.beyond[0].number - 1))
    while first in damaged:
        if first == last:
            return None
        first = replace(first, number=first.number + 1)
    return Gap(first=first, last=last)


def _read_end(archive: WalArchive, walk: Walk, damaged: dict[SegmentName, str]) -> datetime | None:
    """When the last segment of a walk was written. Damaged ones at its end are added to those known."""
    for segment in reversed(walk.files):
        try:
            return read_written_time(archive, segment)
        except Damaged as error:
            damaged[segment] = error.message
    return None


def _group(
    archive: WalArchive,
    history: History,
    ways: Sequence[tuple[BackupEntry, Walk]],
    damaged: dict[SegmentName, str],
) -> list[Window]:
    """One window for all backups whose WAL ends with the same segment."""
    by_end: dict[tuple[SegmentName, Lsn], list[BackupEntry]] = {}
    walks: dict[SegmentName, Walk] = {}
    for entry, walk in ways:
        last = walk.tail or walk.segments[-1]
        by_end.setdefault((last, walk.end_lsn), []).append(entry)
        walks.setdefault(last, walk)
    return [
        Window(
            timeline=history.timeline,
            begin=parse_time_utc(entries[0].summary["stopped_at"]),
            begin_lsn=_stop_of(entries[0]),
            end=_read_end(archive, walks[last], damaged),
            end_lsn=end_lsn,
            last_segment=last,
            backups=tuple(entry.label for entry in entries),
        )
        for (last, end_lsn), entries in by_end.items()
    ]
