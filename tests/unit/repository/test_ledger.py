"""Ranges of held segments, and following a timeline's path through them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.errors import NotFound
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, HistoryEntry, Timeline
from pghaven.repository.ledger import Segments, find_ranges, list_legs, range_of, walk_path
from pghaven.runtime.ranges import NumberRanges

SIZE = 1 << 20


def seg(number: int, timeline: int = 1) -> SegmentName:
    return SegmentName(timeline=Timeline(timeline), number=number, segment_size=SIZE)


def at(segments: float) -> Lsn:
    """A position measured in segments."""
    return Lsn(round(segments * SIZE))


def history(timeline: int, *left: tuple[int, float]) -> History:
    entries = tuple(HistoryEntry(timeline=Timeline(t), switch_lsn=at(where), reason="") for t, where in left)
    return History(timeline=Timeline(timeline), entries=entries)


def held(**numbers: list[int]) -> dict[Timeline, NumberRanges]:
    return {Timeline(int(name[1:])): NumberRanges(found) for name, found in numbers.items()}


def names(segments: Iterable[SegmentName]) -> list[tuple[int, int]]:
    return [(int(segment.timeline), segment.number) for segment in segments]


# -- ranges ------------------------------------------------------------------------------------------------------------


def test_no_segments_are_no_ranges() -> None:
    assert find_ranges([]) == ()


def test_a_gap_and_a_timeline_part_ranges() -> None:
    ranges = find_ranges([seg(5), seg(3), seg(4), seg(4), seg(8), seg(9, 2), seg(8, 2)])
    assert [(r.first, r.last, r.count) for r in ranges] == [
        (seg(3), seg(5), 3),
        (seg(8), seg(8), 1),
        (seg(8, 2), seg(9, 2), 2),
    ]


@given(st.sets(st.tuples(st.integers(1, 3), st.integers(0, 30))))
def test_ranges_hold_exactly_the_segments_given_and_never_touch(members: set[tuple[int, int]]) -> None:
    ranges = find_ranges(seg(number, timeline) for timeline, number in members)
    found = [segment for one in ranges for segment in one]
    assert names(tuple(found)) == sorted(members)
    for one, following in pairwise(ranges):
        assert one.last.timeline != following.first.timeline or one.last.number + 1 < following.first.number


# -- legs --------------------------------------------------------------------------------------------------------------


def test_legs_follow_one_another() -> None:
    legs = list_legs(history(4, (1, 2.5), (3, 7)))
    assert [(leg.timeline, leg.begin_lsn, leg.end_lsn) for leg in legs] == [
        (1, at(0), at(2.5)),
        (3, at(2.5), at(7)),
        (4, at(7), None),
    ]


def test_a_timeline_that_was_left_before_it_began_has_no_leg() -> None:
    legs = list_legs(history(3, (1, 9), (2, 5)))
    assert [(leg.timeline, leg.begin_lsn, leg.end_lsn) for leg in legs] == [(1, at(0), at(5)), (3, at(5), None)]


@given(st.lists(st.integers(0, 40), max_size=5), st.integers(0, 50))
def test_legs_agree_with_the_history_about_whose_a_position_is(forks: list[int], position: int) -> None:
    path = history(len(forks) + 1, *((number + 1, fork) for number, fork in enumerate(forks)))
    owners = [
        leg.timeline
        for leg in list_legs(path)
        if leg.begin_lsn <= at(position) and (leg.end_lsn is None or at(position) < leg.end_lsn)
    ]
    assert owners == [path.timeline_at(at(position))]


# -- walks -------------------------------------------------------------------------------------------------------------


def test_a_walk_ends_at_the_first_gap_and_knows_what_lies_beyond() -> None:
    walk = walk_path(history(1), seg(3), held(t1=[1, 2, 3, 4, 6, 8]))
    assert names(walk.segments) == [(1, 3), (1, 4)]
    assert walk.first_missing == seg(5)
    assert names(walk.beyond) == [(1, 6), (1, 8)]
    assert walk.end_lsn == at(5)
    assert walk.tail is None


def test_a_walk_that_cannot_begin_is_empty() -> None:
    walk = walk_path(history(1), seg(3), held(t1=[4]))
    assert walk.segments == ()
    assert walk.first_missing == seg(3)
    assert walk.end_lsn == at(3)
    assert names(walk.beyond) == [(1, 4)]


def test_the_segment_of_a_fork_comes_from_the_new_timeline() -> None:
    walk = walk_path(history(2, (1, 4.5)), seg(3), held(t1=[3, 4, 5], t2=[4, 5]))
    assert names(walk.segments) == [(1, 3), (2, 4), (2, 5)]
    assert walk.first_missing == seg(6, 2)
    assert walk.beyond == ()


def test_a_fork_between_segments_leaves_each_to_its_own() -> None:
    walk = walk_path(history(2, (1, 4)), seg(3), held(t1=[3, 4], t2=[3, 4]))
    assert names(walk.segments) == [(1, 3), (2, 4)]
    assert walk.tail is None


def test_without_the_new_timeline_s_file_the_ancestor_s_leads_up_to_the_fork() -> None:
    walk = walk_path(history(2, (1, 4.5)), seg(3), held(t1=[3, 4, 5], t2=[6]))
    assert names(walk.segments) == [(1, 3)]
    assert walk.first_missing == seg(4, 2)
    assert walk.tail == seg(4)
    assert walk.end_lsn == at(4.5)
    assert names(walk.beyond) == [(2, 6)]


def test_of_several_forks_in_one_segment_the_newest_ancestor_leads_furthest() -> None:
    path = history(3, (1, 4.25), (2, 4.75))
    assert walk_path(path, seg(4), held(t1=[4], t2=[4])).tail == seg(4, 2)
    only_first = walk_path(path, seg(4), held(t1=[4]))
    assert (only_first.tail, only_first.end_lsn) == (seg(4), at(4.25))
    assert names(walk_path(path, seg(4), held(t1=[4], t2=[4], t3=[4])).segments) == [(3, 4)]


def test_what_was_left_behind_is_not_beyond() -> None:
    walk = walk_path(history(2, (1, 4.5)), seg(1), held(t1=[1, 3, 4, 5, 6], t2=[4, 7]))
    assert walk.first_missing == seg(2)
    assert names(walk.beyond) == [(1, 3), (2, 4), (2, 7)]


def test_a_start_on_a_later_timeline_does_not_ask_for_earlier_ones() -> None:
    walk = walk_path(history(3, (1, 2), (2, 5)), seg(6, 3), held(t3=[6]))
    assert names(walk.segments) == [(3, 6)]


def test_a_start_that_is_not_on_the_path_is_refused() -> None:
    with pytest.raises(NotFound, match="timeline 2 is not in the history of timeline 3"):
        walk_path(history(3, (1, 4)), seg(3, 2), held(t2=[3]))


@given(
    st.lists(st.floats(0, 12), max_size=3),
    st.dictionaries(st.integers(1, 4).map(Timeline), st.sets(st.integers(0, 14)).map(NumberRanges)),
    st.integers(0, 14),
)
def test_every_byte_of_a_walk_is_on_the_path(
    forks: list[float], files: dict[Timeline, NumberRanges], start: int
) -> None:
    path = history(len(forks) + 1, *((number + 1, fork) for number, fork in enumerate(sorted(forks))))
    walk = walk_path(path, seg(start), files)
    assert [segment.number for segment in walk.segments] == list(range(start, start + len(walk.segments)))
    for segment in walk.segments:
        assert segment.number in files[segment.timeline]
        assert path.timeline_at(Lsn(segment.end_lsn - 1)) == segment.timeline
    assert path.timeline_at(Lsn(walk.first_missing.end_lsn - 1)) == walk.first_missing.timeline
    assert walk.first_missing.number not in files.get(walk.first_missing.timeline, ())
    if walk.tail is not None:
        assert path.fork_of(walk.tail.timeline) == walk.end_lsn
        assert walk.tail.start_lsn < walk.end_lsn < walk.tail.end_lsn


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20), st.integers(1, 4)), max_size=5), st.data())
def test_segments_read_like_a_list_of_them(rows: list[tuple[int, int, int]], data: st.DataObject) -> None:
    ranges = [range_of(Timeline(timeline), range(first, first + count), SIZE) for timeline, first, count in rows]
    plain = [segment for one in ranges for segment in one]
    segments = Segments(ranges)
    assert (list(segments), len(segments), segments) == (plain, len(plain), plain)
    assert list(reversed(segments)) == plain[::-1]
    assert [segments[at] for at in range(-len(plain), len(plain))] == plain + plain
    first, after = (data.draw(st.none() | st.integers(-25, 25)) for _ in range(2))
    assert list(segments[first:after]) == plain[first:after]
    assert list(segments.followed_by(seg(7))) == [*plain, seg(7)]
    assert segments.followed_by(None) == segments
