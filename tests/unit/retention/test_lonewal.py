"""Which WAL stays where there is no backup that it could follow."""

from __future__ import annotations

from datetime import datetime

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.entry import BackupState
from pghaven.retention.lonewal import TAIL_BYTES, LoneWal, plan_lone_wal
from pghaven.retention.policy import RetentionPolicy
from pghaven.retention.walplan import WalPlan, is_lone
from tests.unit.retention.backups import NOW, SIZE, backup, days, plan, stays

WEEK = RetentionPolicy(window=days(7))
TAIL = TAIL_BYTES // SIZE
Held = list[tuple[SegmentName, datetime | None]]


def held(first: int, last: int, age_days: float, timeline: int = 1) -> Held:
    """Segments that came in so many days before NOW."""
    name = (SegmentName(timeline=Timeline(timeline), number=one, segment_size=SIZE) for one in range(first, last + 1))
    return [(one, NOW - days(age_days)) for one in name]


def plan_of(
    segments: Held, policy: RetentionPolicy = WEEK, *, is_current: bool = False, snapshots_from: Lsn | None = None
) -> WalPlan:
    lone = LoneWal(system_identifier=7, segments=tuple(segments), is_current=is_current, snapshots_from=snapshots_from)
    return plan_lone_wal(lone, policy, now=NOW)


def gone(made: WalPlan, numbers: range) -> set[int]:
    return {number for number in numbers if not stays(made.need, number)}


def test_what_came_in_within_the_window_stays_and_what_is_older_goes() -> None:
    made = plan_of(held(1, 9, 8) + held(10, 12, 6))
    assert gone(made, range(1, 13)) == set(range(1, 10))
    assert made.need is not None
    assert made.need.is_alone
    assert made.reason == (
        "there is no backup of this lineage, and a later one has taken its place; "
        "what came in within the 7-day window stays"
    )


def test_all_goes_of_a_life_that_ended_before_the_window() -> None:
    assert gone(plan_of(held(1, 9, 30) + held(5, 12, 20, timeline=2)), range(1, 13)) == set(range(1, 13))


def test_grace_counts_where_it_is_longer_than_the_window() -> None:
    policy = RetentionPolicy(window=days(1), grace=days(10))
    made = plan_of(held(1, 9, 12) + held(10, 12, 6), policy)
    assert gone(made, range(1, 13)) == set(range(1, 10))
    assert "the 10-day grace" in made.reason


def test_a_first_backup_on_an_idle_standby_finds_the_end_of_the_life_in_use() -> None:
    made = plan_of(held(1, 9 + TAIL, 30), is_current=True)
    assert gone(made, range(1, 10 + TAIL)) == set(range(1, 10))
    assert "the last 1.00 GiB, in which a first backup may begin" in made.reason


def test_a_new_timeline_is_the_one_in_use_although_another_reached_further() -> None:
    """After a promotion to the past whose first backup is not taken yet."""
    made = plan_of(held(1, 5 * TAIL, 30) + held(TAIL, TAIL + 3, 20, timeline=2), is_current=True)
    assert gone(made, range(1, TAIL + 4)) == set(range(1, 4))


def test_a_kept_snapshot_keeps_the_wal_it_needs() -> None:
    made = plan_of(held(1, 9, 30), snapshots_from=Lsn(4 * SIZE + 40))
    assert gone(made, range(1, 10)) == {1, 2, 3}
    assert "what kept snapshots need" in made.reason


def test_nothing_is_asked_for_where_nothing_would_go() -> None:
    for segments in (held(1, 9, 6), []):
        assert plan_of(segments).need is None


def test_a_lineage_is_alone_only_without_any_backup() -> None:
    running = backup("b", 0, 3, state=BackupState.UNDECIDED, stop_lsn=None, stopped_at=None)
    assert is_lone(plan(WEEK), 7)
    assert not is_lone(plan(WEEK, backup("a", 90, 3)), 7)
    assert not is_lone(plan(WEEK, running), 7)
    assert is_lone(plan(WEEK, backup("a", 90, 3), running), 7, going={"a", "b"})
    assert is_lone(plan(WEEK, backup("a", 90, 3)), 8)


def test_no_lineage_is_alone_where_nothing_may_be_judged() -> None:
    assert not is_lone(plan(RetentionPolicy()), 7)
    assert not is_lone(plan(WEEK, backup("a", -2, 3)), 8)
