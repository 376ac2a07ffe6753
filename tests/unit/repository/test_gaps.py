"""Gaps within timelines and at forks."""

from __future__ import annotations

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, Timeline, parse_history
from pghaven.repository.gaps import find_gaps
from pghaven.runtime.ranges import NumberRanges

SIZE = 1 << 20
ROOT = {Timeline(1): History.root(Timeline(1))}


def fork(timeline: int, parent: int, at: int) -> dict[Timeline, History]:
    text = f"{parent}\t{Lsn(at)}\tno reason\n"
    return {**ROOT, Timeline(timeline): parse_history(text, Timeline(timeline))}


def gaps(held: dict[int, set[int]], histories: dict[Timeline, History], horizon: dict[int, int] | None = None):  # type: ignore[no-untyped-def]
    found = find_gaps(
        {Timeline(timeline): NumberRanges(numbers) for timeline, numbers in held.items()},
        histories,
        {Timeline(timeline): Lsn(at) for timeline, at in (horizon or {}).items()},
        SIZE,
    )
    return [(int(gap.first.timeline), gap.first.number, gap.last.number) for gap in found]


def test_nothing_is_missing_of_what_is_continuous() -> None:
    assert gaps({1: {3, 4, 5}}, ROOT) == []
    assert gaps({1: {3, 4, 5}, 2: {5, 6}}, fork(2, 1, 5 * SIZE + 100)) == []


def test_holes_within_a_timeline() -> None:
    assert gaps({1: {3, 6, 7, 9}}, ROOT) == [(1, 4, 5), (1, 8, 8)]
    assert gaps({1: {3, 6, 7, 9}}, ROOT, {1: 6 * SIZE}) == [(1, 8, 8)]


def test_what_the_old_primary_had_not_archived_when_another_took_over() -> None:
    assert gaps({1: {3, 4}, 2: {7, 8}}, fork(2, 1, 7 * SIZE + 100)) == [(1, 5, 6)]


def test_the_first_segments_of_the_one_that_took_over() -> None:
    assert gaps({1: {3, 4, 5}, 2: {7}}, fork(2, 1, 5 * SIZE + 100)) == [(2, 5, 6)]


def test_what_comes_before_everything_that_is_held_is_no_gap() -> None:
    assert gaps({2: {7, 8}}, fork(2, 1, 5 * SIZE)) == []


def test_a_stray_of_another_timeline_of_the_same_number_opens_no_gap() -> None:
    """One begun by mistake at segment 3, and the one that took over at 7."""
    assert gaps({1: {1, 2, 3, 4, 5, 6, 7}, 2: {3, 7, 8}}, fork(2, 1, 7 * SIZE + 100)) == []
    assert gaps({1: {1, 2, 3, 4, 5, 6, 7}, 2: {3, 7, 9}}, fork(2, 1, 7 * SIZE + 100)) == [(2, 8, 8)]
