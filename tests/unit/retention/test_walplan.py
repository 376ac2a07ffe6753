"""Which WAL stays with the backups that stay."""

from __future__ import annotations

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.entry import BackupState
from pghaven.retention.policy import RetentionPolicy, plan_retention
from pghaven.retention.walplan import WalPlan, WalSpan, plan_wal
from tests.unit.retention.backups import NOW, SIZE, backup, days, lineage, plan

WEEK = RetentionPolicy(window=days(7))


def name(number: int, timeline: int = 1) -> str:
    return str(SegmentName(timeline=Timeline(timeline), number=number, segment_size=SIZE))


def numbers_gone(made: WalPlan, numbers: range, timeline: int = 1) -> set[int]:
    return {number for number in numbers if made.find_reason(name(number, timeline), SIZE) is None}


def test_wal_from_before_the_base_goes_and_from_there_on_stays() -> None:
    retired = backup("a", 9, 3)
    made = plan_wal(plan(WEEK, backup("base", 8, 5), backup("new", 1, 9)), 7)
    assert retired.stop_lsn is not None
    assert made.horizon == Lsn(5 * SIZE + 40)
    assert numbers_gone(made, range(1, 12)) == {1, 2, 3, 4}
    assert made.find_reason(name(5), SIZE) == 'at or after the start of backup "base" (base of the 7-day window)'


def test_a_held_backup_keeps_its_own_wal_and_no_other() -> None:
    held = backup("held", 99, 3, held="since then", stop_lsn=Lsn(4 * SIZE + 9))
    made = plan_wal(plan(WEEK, held, backup("base", 8, 9), backup("new", 1, 12)), 7)
    assert made.spans == (WalSpan(label="held", begin_lsn=Lsn(3 * SIZE + 40), end_lsn=Lsn(4 * SIZE + 9)),)
    assert numbers_gone(made, range(1, 14)) == {1, 2, 5, 6, 7, 8}
    assert made.find_reason(name(4), SIZE) == 'needed by backup "held"'


def test_a_monthly_backup_keeps_its_own_wal_and_no_other() -> None:
    policy = RetentionPolicy(window=days(7), monthly=3)
    made = plan_wal(plan(policy, backup("october", 40, 3), backup("base", 8, 9), backup("new", 1, 12)), 7)
    assert numbers_gone(made, range(1, 14)) == {1, 2, 4, 5, 6, 7, 8}


def test_without_window_or_count_the_last_backup_leads_on() -> None:
    made = plan_wal(plan(RetentionPolicy(daily=2), backup("a", 2, 3), backup("b", 1, 9)), 7)
    assert made.horizon == Lsn(9 * SIZE + 40)
    assert numbers_gone(made, range(1, 14)) == {1, 2, 4, 5, 6, 7, 8}


def test_the_last_clean_backup_leads_on() -> None:
    made = plan_wal(plan(RetentionPolicy(count=1), backup("clean", 2, 3), backup("bad", 1, 9, bad_pages=1)), 7)
    assert numbers_gone(made, range(1, 14)) == {1, 2}


def test_wal_is_kept_alike_on_every_timeline() -> None:
    made = plan_wal(plan(WEEK, backup("base", 8, 5, timeline=2), backup("new", 1, 9, timeline=11)), 7)
    for timeline in (1, 2, 11, 300):
        assert numbers_gone(made, range(1, 12), timeline) == {1, 2, 3, 4}


def test_a_backup_that_can_be_brought_back_keeps_all_wal_after_it() -> None:
    """The plan that retires it does not take away what would make bringing it back worth while."""
    backups = [backup("dropped", 9, 3), backup("base", 8, 5), backup("new", 1, 9)]
    made = plan_wal(plan(WEEK, *backups), 7)
    assert numbers_gone(made, range(1, 12)) == {1, 2}
    assert made.reason == 'at or after the start of backup "dropped" (it can still be brought back)'
    retired = backup("dropped", 9, 3, state=BackupState.RETIRED, retired="now")
    assert plan_wal(plan(WEEK, retired, *backups[1:]), 7) == made


def test_a_backup_that_is_being_taken_keeps_all_wal_from_its_start() -> None:
    going = backup("going", 0, 2, state=BackupState.UNDECIDED, stop_lsn=None, stopped_at=None)
    made = plan_wal(plan(WEEK, backup("base", 8, 5), backup("new", 1, 9), going), 7)
    assert numbers_gone(made, range(1, 12)) == {1}


def test_a_span_that_ends_at_a_segment_s_first_byte_keeps_that_segment_too() -> None:
    held = backup("held", 99, 3, held="since then", stop_lsn=Lsn(4 * SIZE))
    made = plan_wal(plan(WEEK, held, backup("base", 8, 9), backup("new", 1, 12)), 7)
    assert numbers_gone(made, range(1, 9)) == {1, 2, 5, 6, 7, 8}


def test_history_files_are_always_kept() -> None:
    made = plan_wal(plan(WEEK, backup("base", 8, 5), backup("new", 1, 9)), 7)
    assert made.find_reason("00000002.history", SIZE) == "history files are always kept"
    assert made.find_reason(f"{name(1)}.00000028.backup", SIZE) == "backup history files are always kept"
    assert made.find_reason("something", SIZE) == "other files are always kept"


def test_a_partial_segment_goes_with_its_segment() -> None:
    made = plan_wal(plan(WEEK, backup("base", 8, 5), backup("new", 1, 9)), 7)
    assert made.find_reason(f"{name(4)}.partial", SIZE) is None
    assert made.find_reason(f"{name(5)}.partial", SIZE) is not None


def test_a_name_that_cannot_be_of_this_cluster_is_kept() -> None:
    made = plan_wal(plan(WEEK, backup("base", 8, 5), backup("new", 1, 9)), 7)
    assert made.find_reason("0000000100000000FFFFFFFF", SIZE) == "its name does not fit the cluster's segment size"


def test_each_lineage_has_its_own_horizon() -> None:
    old = lineage(backup("old", 60, 70), system=7)
    new = lineage(backup("base", 8, 5), backup("new", 1, 9), system=8)
    made = plan_retention(WEEK, [old, new], now=NOW)
    assert plan_wal(made, 7).horizon == Lsn(70 * SIZE + 40)
    assert plan_wal(made, 8).horizon == Lsn(5 * SIZE + 40)


def everything_stays(made: WalPlan) -> bool:
    return made.horizon is None and not numbers_gone(made, range(20))


def test_wal_before_the_first_backups_stays_until_they_fill_the_window() -> None:
    made = plan_wal(plan(WEEK, backup("a", 6, 5), backup("b", 1, 9)), 7)
    assert everything_stays(made)
    assert made.reason == "no backup is as old as the 7-day window yet"


def test_wal_before_the_first_backups_stays_until_there_are_as_many_as_wanted() -> None:
    made = plan_wal(plan(RetentionPolicy(count=3), backup("a", 6, 5), backup("b", 1, 9)), 7)
    assert everything_stays(made)
    assert made.reason == "there are not 3 backups yet"


@pytest.mark.parametrize("ages", [(90, 80, -2), ()])
def test_no_wal_goes_when_no_backup_may_or_none_is_there(ages: tuple[float, ...]) -> None:
    backups = [backup(f"b{age}", age, number) for number, age in enumerate(ages, start=5)]
    assert everything_stays(plan_wal(plan(WEEK, *backups), 7))


def test_no_wal_goes_without_a_policy() -> None:
    made = plan_wal(plan(RetentionPolicy(), backup("a", 90, 5), backup("b", 80, 6)), 7)
    assert everything_stays(made)
    assert made.reason == "no retention policy is configured"


def test_no_wal_goes_while_a_backup_s_needs_are_not_known() -> None:
    made = plan_retention(WEEK, [lineage(backup("a", 9, 5), backup("b", 8, 6))], now=NOW, unreadable=["torn"])
    assert everything_stays(plan_wal(made, 7))
    assert plan_wal(made, 7).reason == 'what backup "torn" needs is not known: its records are damaged'
