"""Which WAL its own timeline's history has left behind."""

from __future__ import annotations

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, HistoryEntry, Timeline
from pghaven.wal.fence import Fork, find_current_fork, find_last_fork

SIZE = 1 << 20


def seg(number: int, timeline: int = 1) -> SegmentName:
    return SegmentName(timeline=Timeline(timeline), number=number, segment_size=SIZE)


def history(timeline: int, *left: tuple[int, int]) -> History:
    entries = tuple(HistoryEntry(timeline=Timeline(t), switch_lsn=Lsn(where), reason="") for t, where in left)
    return History(timeline=Timeline(timeline), entries=entries)


def test_a_timeline_that_nobody_left_has_no_fork() -> None:
    assert find_last_fork(Timeline(2), []) is None
    assert find_last_fork(Timeline(2), [history(2, (1, 500))]) is None
    assert find_last_fork(Timeline(2), [history(3, (1, 700))]) is None


def test_a_child_tells_where_its_parent_was_left() -> None:
    fork = find_last_fork(Timeline(1), [history(2, (1, 500))])
    assert fork == Fork(timeline=Timeline(1), lsn=Lsn(500), heir=Timeline(2))


def test_what_lies_before_the_last_fork_is_still_some_timeline_s_past() -> None:
    fork = find_last_fork(Timeline(1), [history(2, (1, 500)), history(3, (1, 900)), history(4, (1, 500), (2, 800))])
    assert fork == Fork(timeline=Timeline(1), lsn=Lsn(900), heir=Timeline(3))


def test_the_current_fork_is_the_newest_timeline_s() -> None:
    assert find_current_fork(Timeline(1), []) is None
    assert find_current_fork(Timeline(1), [history(2, (1, 900)), history(3, (1, 500))]) == Fork(
        timeline=Timeline(1), lsn=Lsn(500), heir=Timeline(3)
    )
    assert find_current_fork(Timeline(2), [history(3, (1, 500))]) is None


def test_a_segment_that_holds_the_fork_is_cut_off_but_not_left_behind() -> None:
    fork = Fork(timeline=Timeline(1), lsn=Lsn(4 * SIZE + 1), heir=Timeline(2))
    assert [fork.has_left_behind(seg(n)) for n in (3, 4, 5)] == [False, False, True]
    assert [fork.cuts_off(seg(n)) for n in (3, 4, 5)] == [False, True, True]


def test_a_fork_between_segments_leaves_the_next_behind_and_cuts_none_before() -> None:
    fork = Fork(timeline=Timeline(1), lsn=Lsn(4 * SIZE), heir=Timeline(2))
    assert [fork.has_left_behind(seg(n)) for n in (3, 4)] == [False, True]
    assert [fork.cuts_off(seg(n)) for n in (3, 4)] == [False, True]
