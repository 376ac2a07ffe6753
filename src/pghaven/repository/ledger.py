"""What WAL is held, as continuous ranges, and how far along a timeline's path it can be followed. Pure.

The one idea: on a path each segment number has one file that is needed, that of the timeline which owns its last byte,
because a new timeline's first segment begins as a copy of its ancestor's up to the fork (XLogInitNewTimeline in xlog.c
of PostgreSQL). An ancestor's own file of that number may go on past the fork, into what was left behind.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import eq
from typing import overload

from pghaven.errors import NotFound
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.runtime.ranges import NumberRanges

Held = Mapping[Timeline, NumberRanges]
"""The numbers of the segments that are held of each timeline."""

_NOTHING = NumberRanges()


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRange:
    """Segments of one timeline without a gap, from ``first`` to ``last``, both included."""

    first: SegmentName
    last: SegmentName

    @property
    def count(self) -> int:
        return self.last.number - self.first.number + 1

    def __contains__(self, segment: SegmentName) -> bool:
        return self.first.timeline == segment.timeline and self.first.number <= segment.number <= self.last.number

    def __iter__(self) -> Iterator[SegmentName]:
        for number in range(self.first.number, self.last.number + 1):
            yield _segment(self.first, self.first.timeline, number)


def range_of(timeline: Timeline, row: range, segment_size: int) -> SegmentRange:
    """The segments with these numbers, of which there is one at least."""
    first, last = (
        SegmentName(timeline=timeline, number=number, segment_size=segment_size) for number in (row.start, row[-1])
    )
    return SegmentRange(first=first, last=last)


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


def without_segments(held: Held, segments: Iterable[SegmentName]) -> dict[Timeline, NumberRanges]:
    """What is held but for these."""
    left = {timeline: numbers.copy() for timeline, numbers in held.items()}
    for segment in segments:
        left.get(segment.timeline, _NOTHING).discard(segment.number)
    return left


class Segments(Sequence[SegmentName]):
    """Segments that are made when somebody asks for them, of ranges in a row: a path has a million at times."""

    __slots__ = ("_ends", "_ranges")

    def __init__(self, ranges: Iterable[SegmentRange] = ()) -> None:
        self._ranges = tuple(ranges)
        self._ends = tuple(accumulate(one.count for one in self._ranges))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, at: int) -> SegmentName: ...
    @overload
    def __getitem__(self, at: slice) -> Segments: ...
    def __getitem__(self, at: int | slice) -> SegmentName | Segments:
        if isinstance(at, slice):
            first, after, step = at.indices(len(self))
            if step != 1:
                raise ValueError("segments can only be taken in a row")
            return Segments(self._iter_between(first, after))
        number = range(len(self))[at]
        which = bisect_right(self._ends, number)
        found = self._ranges[which]
        return _segment(found.first, found.first.timeline, found.last.number - (self._ends[which] - 1 - number))

    def _iter_between(self, first: int, after: int) -> Iterator[SegmentRange]:
        for found, end in zip(self._ranges, self._ends, strict=True):
            begin = end - found.count
            if max(begin, first) < min(end, after):
                yield SegmentRange(first=self[max(begin, first)], last=self[min(end, after) - 1])

    def __iter__(self) -> Iterator[SegmentName]:
        for found in self._ranges:
            yield from found

    def __reversed__(self) -> Iterator[SegmentName]:
        return (self[number] for number in reversed(range(len(self))))

    def followed_by(self, segment: SegmentName | None) -> Segments:
        """These and one more, or only these."""
        return self if segment is None else Segments((*self._ranges, SegmentRange(first=segment, last=segment)))

    def iter_ranges(self) -> Iterator[SegmentRange]:
        yield from self._ranges

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Segments({', '.join(f'{one.first}..{one.last}' for one in self._ranges)})"


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

    segments: Segments
    tail: SegmentName | None
    end_lsn: Lsn
    first_missing: SegmentName
    beyond: Segments

    @property
    def files(self) -> Segments:
        """All that it leads through."""
        return self.segments.followed_by(self.tail)

    def passes(self, segment: SegmentName) -> bool:
        """Whether a walk that began earlier is this segment's too: an archive is walked once, not once a backup."""
        at = segment.number - self.segments[0].number if self.segments else -1
        return 0 <= at < len(self.segments) and self.segments[at] == segment


def walk_path(history: History, start: SegmentName, held: Held) -> Walk:
    """Follow the path to ``history.timeline`` from the segment ``start`` for as long as its files are held.

    Raises NotFound if the path does not come through ``start``'s timeline.
    """
    if not history.includes(start.timeline):
        raise NotFound(f"timeline {start.timeline} is not in the history of timeline {history.timeline}")
    legs = list_legs(history)
    ranges: list[SegmentRange] = []
    number = start.number
    at = 0
    for at, leg in enumerate(legs):
        following = _first_number_after(legs, at, start.segment_size)
        row = next(held.get(leg.timeline, _NOTHING).iter_rows(number, following), None)
        if row is not None and row.start == number:
            ranges.append(range_of(leg.timeline, row, start.segment_size))
            number = row.stop
        if following is None or number < following:
            break
    tail, end_lsn = _find_tail(legs[:at], number, start, held)
    return Walk(
        segments=Segments(ranges),
        tail=tail,
        end_lsn=end_lsn,
        first_missing=_segment(start, legs[at].timeline, number),
        beyond=Segments(_iter_beyond(legs, at, _segment(start, legs[at].timeline, number), held)),
    )


def _first_number_after(legs: Sequence[PathLeg], at: int, segment_size: int) -> int | None:
    """The first segment number that belongs to the leg after this one: the one with that leg's first byte in it."""
    return legs[at + 1].begin_lsn // segment_size if at + 1 < len(legs) else None


def _find_tail(older: Sequence[PathLeg], number: int, start: SegmentName, held: Held) -> tuple[SegmentName | None, Lsn]:
    begin = number * start.segment_size
    for leg in reversed(older):
        if leg.end_lsn is None or leg.end_lsn <= begin:
            break
        if number in held.get(leg.timeline, _NOTHING):
            return _segment(start, leg.timeline, number), leg.end_lsn
    return None, Lsn(begin)


def _iter_beyond(legs: Sequence[PathLeg], at: int, missing: SegmentName, held: Held) -> Iterator[SegmentRange]:
    first = missing.number + 1
    for position in range(at, len(legs)):
        following = _first_number_after(legs, position, missing.segment_size)
        for row in held.get(legs[position].timeline, _NOTHING).iter_rows(first, following):
            yield range_of(legs[position].timeline, row, missing.segment_size)
        first = first if following is None else max(first, following)


def _segment(like: SegmentName, timeline: Timeline, number: int) -> SegmentName:
    return SegmentName(timeline=timeline, number=number, segment_size=like.segment_size)
