"""Which WAL there is, as continuous ranges, and how far it leads along a timeline's history. Pure.

The one idea: for each segment number PostgreSQL wants the file of the newest timeline on its path that reaches so far
back (XLogFileReadAnyTLI in xlogrecovery.c): where a timeline was left, the new one's file holds the old one's part too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRange:
    """Segments of one timeline that follow one another, both ends included."""

    first: SegmentName
    last: SegmentName

    @property
    def count(self) -> int:
        return self.last.number - self.first.number + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A way through the archive: the segments found one after another, the first one that is missing, and ranges that
    are held beyond it (a gap lies between)."""

    segments: tuple[SegmentName, ...]
    first_missing: SegmentName
    beyond: tuple[SegmentName, ...]


def find_ranges(segments: Iterable[SegmentName]) -> tuple[SegmentRange, ...]:
    """Continuous ranges, by timeline and position. The segments may come in any order, and more than once."""
    ranges: list[SegmentRange] = []
    for segment in sorted(set(segments)):
        if ranges and ranges[-1].last.next() == segment:
            ranges[-1] = SegmentRange(first=ranges[-1].first, last=segment)
        else:
            ranges.append(SegmentRange(first=segment, last=segment))
    return tuple(ranges)


def walk_path(history: History, start: SegmentName, held: Mapping[Timeline, AbstractSet[int]]) -> Walk:
    """Follow a timeline's history from ``start`` as far as the archive goes. ``held`` has the segment numbers of each
    timeline."""
    size = start.segment_size
    # Newest first: the timeline, and the number of the segment in which it begins.
    begins = [(history.timeline, history.entries[-1].switch_lsn // size if history.entries else 0)]
    for at in reversed(range(len(history.entries))):
        begin = history.entries[at - 1].switch_lsn // size if at else 0
        begins.append((history.entries[at].timeline, begin))

    def serving(number: int) -> SegmentName | None:
        for timeline, begin in begins:
            if number >= begin and number in held.get(timeline, ()):
                # An ancestor's file may serve the segment in which it was left, but nothing later.
                return SegmentName(timeline=timeline, number=number, segment_size=size)
        return None

    ends = _ends(begins)
    found: list[SegmentName] = []
    number = start.number
    while (segment := serving(number)) is not None and number <= ends[segment.timeline]:
        found.append(segment)
        number += 1
    owner = next(timeline for timeline, begin in begins if number >= begin)
    missing = SegmentName(timeline=owner, number=number, segment_size=size)
    beyond = sorted(
        (other, timeline)
        for timeline, begin in begins
        for other in held.get(timeline, ())
        if other > number and begin <= other <= ends[timeline]
    )
    return Walk(
        segments=tuple(found),
        first_missing=missing,
        beyond=tuple(SegmentName(timeline=timeline, number=other, segment_size=size) for other, timeline in beyond),
    )


def _ends(begins: list[tuple[Timeline, int]]) -> dict[Timeline, int]:
    """The last segment number of each timeline that is on the path; the newest one's is open."""
    ends: dict[Timeline, int] = {}
    limit = 1 << 62
    for timeline, begin in begins:
        ends[timeline] = limit
        limit = min(limit, begin)  # a later timeline may have left the path earlier than its parent did
    return ends
