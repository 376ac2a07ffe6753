"""The gaps in what is held of a lineage's WAL, within each timeline and where one takes over from another. Pure.

The one idea: a timeline's WAL is needed from where it began to where it was left, so the tree of timelines tells what
is missing at a fork as well, which no list of one timeline's files can. What is missing before anything of a path is
held, or was removed on purpose, is no gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.ledger import Held, list_legs
from pghaven.runtime.ranges import NumberRanges

_NOTHING = NumberRanges()


@dataclass(frozen=True, slots=True, kw_only=True)
class WalGap:
    """WAL that is missing of one timeline, both segments included."""

    first: SegmentName
    last: SegmentName

    @property
    def count(self) -> int:
        return self.last.number - self.first.number + 1

    def __iter__(self) -> Iterator[SegmentName]:
        for number in range(self.first.number, self.last.number + 1):
            yield SegmentName(timeline=self.first.timeline, number=number, segment_size=self.first.segment_size)


def find_gaps(
    held: Held, histories: Mapping[Timeline, History], horizon: Mapping[Timeline, Lsn], segment_size: int
) -> tuple[WalGap, ...]:
    """All gaps, by timeline and position. ``histories`` are those that could be read."""
    missing: dict[Timeline, set[tuple[int, int]]] = {}
    for timeline, numbers in held.items():
        begun = _find_begin(histories.get(timeline), segment_size)
        missing.setdefault(timeline, set()).update(_iter_holes(numbers, begun))
    for timeline, history in histories.items():
        if held.get(timeline):
            for leg_timeline, first, last in _iter_at_forks(history, held, segment_size):
                missing.setdefault(leg_timeline, set()).add((first, last))
    found = []
    for timeline in sorted(missing):
        for first, last in _join(missing[timeline]):
            gap = WalGap(
                first=SegmentName(timeline=timeline, number=first, segment_size=segment_size),
                last=SegmentName(timeline=timeline, number=last, segment_size=segment_size),
            )
            if gap.last.end_lsn > horizon.get(timeline, Lsn(0)):
                found.append(gap)
    return tuple(found)


def _find_begin(history: History | None, segment_size: int) -> int:
    """The segment in which a timeline begins. What is held of it from before is of another one that had its number,
    begun by a server that was promoted by mistake."""
    return 0 if history is None else list_legs(history)[-1].begin_lsn // segment_size


def _iter_holes(numbers: NumberRanges, begun: int) -> Iterator[tuple[int, int]]:
    for before, after in pairwise(numbers.iter_rows(begun)):
        yield before.stop, after.start - 1


def _iter_at_forks(history: History, held: Held, segment_size: int) -> Iterator[tuple[Timeline, int, int]]:
    """What is missing before a fork of the ancestor, and behind it of the timeline that took over."""
    legs = list_legs(history)
    for leg, following in pairwise(legs):
        taken_over = following.begin_lsn // segment_size
        before = list(held.get(leg.timeline, _NOTHING).iter_rows(0, taken_over))
        if not before:
            continue
        if before[-1].stop < taken_over:
            yield leg.timeline, before[-1].stop, taken_over - 1
        after = next(held.get(following.timeline, _NOTHING).iter_rows(taken_over), None)
        if after is not None and after.start > taken_over:
            yield following.timeline, taken_over, after.start - 1


def _join(spans: AbstractSet[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans that overlap or touch, as one."""
    current: tuple[int, int] | None = None
    for first, last in sorted(spans):
        if current is not None and first <= current[1] + 1:
            current = current[0], max(current[1], last)
        else:
            if current is not None:
                yield current
            current = first, last
    if current is not None:
        yield current
