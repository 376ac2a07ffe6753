"""What WAL is held, as continuous ranges, and how far along a timeline's path it can be followed. Pure.

The one idea: on a path each segment number has one file that is needed, that of the timeline which owns its last byte,
because a new timeline's first segment begins as a copy of its ancestor's up to the fork (XLogInitNewTimeline in xlog.c
of PostgreSQL). An ancestor's own file of that number may go on past the fork, into what was left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pghaven.errors import NotFound
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline

_NOTHING: AbstractSet[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRange:
    """Segments of one timeline without a gap, from ``first`` to ``last``, both included."""

    first: SegmentName
    last: SegmentName

    @property
    def count(self) -> int:
        return self.last.number - self.first.number + 1

    def __iter__(self) -> Iterator[SegmentName]:
        for number in range(self.first.number, self.last.number + 1):
            yield _segment(self.first, self.first.timeline, number)


def find_ranges(segments: Iterable[SegmentName]) -> tuple[SegmentRange, ...]:
    """The continuous ranges of these segments, in any order and with repetitions, by timeline and number."""
    ranges: list[SegmentRange] = []
    first = last = None
    for segment in sorted(segments):
        if first is None or last is None:
            first = last = segment
        elif segment.timeline == last.timeline and segment.number <= last.number + 1:
            last = segment
        else:
            ranges.append(SegmentRange(first=first, last=last))
            first = last = segment
    if first is not None and last is not None:
        ranges.append(SegmentRange(first=first, last=last))
    return tuple(ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathLeg:
    """What a path uses of one timeline: the WAL from ``begin_lsn`` up to ``end_lsn``, where the next leg takes over.

    The last leg has no end.
    """

    timeline: Timeline
    begin_lsn: Lsn
    end_lsn: Lsn | None


def list_legs(history: History) -> tuple[PathLeg, ...]:
    """The path to a timeline as legs, oldest first, each beginning where the one before ends.

    A timeline that was left before it began (see ``History.fork_of``) has no part in the path and no leg.
    """
    begins = [(history.timeline, history.entries[-1].switch_lsn if history.entries else Lsn(0))]
    for at in range(len(history.entries) - 1, -1, -1):
        begin = history.entries[at - 1].switch_lsn if at else Lsn(0)
        if begin < begins[-1][1]:
            begins.append((history.entries[at].timeline, begin))
    legs: list[PathLeg] = []
    end: Lsn | None = None
    for timeline, begin in begins:
        legs.append(PathLeg(timeline=timeline, begin_lsn=begin, end_lsn=end))
        end = begin
    return tuple(reversed(legs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """How far the held WAL leads along a path.

    ``segments`` are in order and each is the file that is needed for its number; all their bytes are on the path.
    ``first_missing`` is the file whose absence ends the walk, ``beyond`` what is held of the path after it. Where a
    new timeline's first file is missing, ``tail`` is an ancestor's file of that number that still leads up to the
    fork; what it holds after ``end_lsn`` is not on the path. ``end_lsn`` is the first position that is not held.
    """

    segments: tuple[SegmentName, ...]
    tail: SegmentName | None
    end_lsn: Lsn
    first_missing: SegmentName
    beyond: tuple[SegmentName, ...]


def walk_path(history: History, start: SegmentName, held: Mapping[Timeline, AbstractSet[int]]) -> Walk:
    """Follow the path to ``history.timeline`` from the segment ``start`` for as long as its files are held.

    ``held`` gives the numbers of the segments held of each timeline. Raises NotFound if the path does not come
    through ``start``'s timeline.
    """
    if not history.includes(start.timeline):
        raise NotFound(f"timeline {start.timeline} is not in the history of timeline {history.timeline}")
    legs = list_legs(history)
    segments: list[SegmentName] = []
    number = start.number
    at = 0
    for at, leg in enumerate(legs):
        ours = held.get(leg.timeline, _NOTHING)
        following = _first_number_after(legs, at, start.segment_size)
        while (following is None or number < following) and number in ours:
            segments.append(_segment(start, leg.timeline, number))
            number += 1
        if following is None or number < following:
            break
    tail, end_lsn = _find_tail(legs[:at], number, start, held)
    return Walk(
        segments=tuple(segments),
        tail=tail,
        end_lsn=end_lsn,
        first_missing=_segment(start, legs[at].timeline, number),
        beyond=tuple(_iter_beyond(legs, at, _segment(start, legs[at].timeline, number), held)),
    )


def _first_number_after(legs: Sequence[PathLeg], at: int, segment_size: int) -> int | None:
    """The first segment number that belongs to the leg after this one: the one with that leg's first byte in it."""
    return legs[at + 1].begin_lsn // segment_size if at + 1 < len(legs) else None


def _find_tail(
    older: Sequence[PathLeg], number: int, start: SegmentName, held: Mapping[Timeline, AbstractSet[int]]
) -> tuple[SegmentName | None, Lsn]:
    begin = number * start.segment_size
    for leg in reversed(older):
        if leg.end_lsn is None or leg.end_lsn <= begin:
            break
        if number in held.get(leg.timeline, _NOTHING):
            return _segment(start, leg.timeline, number), leg.end_lsn
    return None, Lsn(begin)


def _iter_beyond(
    legs: Sequence[PathLeg], at: int, missing: SegmentName, held: Mapping[Timeline, AbstractSet[int]]
) -> Iterator[SegmentName]:
    first = missing.number + 1
    for position in range(at, len(legs)):
        following = _first_number_after(legs, position, missing.segment_size)
        ours = held.get(legs[position].timeline, _NOTHING)
        for number in sorted(n for n in ours if n >= first and (following is None or n < following)):
            yield _segment(missing, legs[position].timeline, number)
        first = first if following is None else max(first, following)


def _segment(like: SegmentName, timeline: Timeline, number: int) -> SegmentName:
    return SegmentName(timeline=timeline, number=number, segment_size=like.segment_size)
