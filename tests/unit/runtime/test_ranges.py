"""Ranges of numbers behave as the set of them, and cost what they have gaps."""

from __future__ import annotations

import sys
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pghaven.runtime.ranges import NumberRanges

NUMBERS = st.integers(0, 12)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "discard"]), NUMBERS), max_size=40)


@given(STEPS, NUMBERS, st.none() | NUMBERS)
def test_they_are_a_set(steps: list[tuple[str, int]], first: int, after: int | None) -> None:
    ranges, plain = NumberRanges(), set[int]()
    for step, number in steps:
        getattr(ranges, step)(number)
        getattr(plain, step)(number)
        assert list(ranges) == sorted(plain)
    assert (ranges, len(ranges), ranges.last) == (plain, len(plain), max(plain, default=-1))
    assert [number in ranges for number in range(14)] == [number in plain for number in range(14)]
    rows = list(ranges.iter_rows(first, after))
    wanted = [number for number in sorted(plain) if number >= first and (after is None or number < after)]
    assert [number for row in rows for number in row] == wanted
    assert all(rows), "no row is empty"
    assert all(one.stop < other.start for one, other in pairwise(rows)), "nor do any touch"


@given(st.sets(NUMBERS), st.sets(NUMBERS))
def test_two_of_them_join_and_part_as_sets_do(one: set[int], other: set[int]) -> None:
    assert NumberRanges(one) | NumberRanges(other) == one | other
    assert NumberRanges(one) - NumberRanges(other) == one - other
    assert NumberRanges(one) & NumberRanges(other) == one & other
    copied = NumberRanges(one).copy()
    copied |= other
    assert copied == one | other


def test_a_copy_is_another_set() -> None:
    ranges = NumberRanges([1, 2])
    ranges.copy().add(5)
    assert list(ranges) == [1, 2]


def test_a_million_numbers_that_follow_one_another_take_no_more_than_one() -> None:
    many = NumberRanges(range(1_000_000))
    assert sum(map(sys.getsizeof, (many._begins, many._ends))) < 500
    assert len(many) == 1_000_000
