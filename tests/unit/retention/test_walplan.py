"""Which WAL stays with the backups that stay."""

from __future__ import annotations

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.repository.entry import BackupState
from pghaven.repository.walcollect import WalNeed
from pghaven.retention.policy import RetentionPolicy, plan_retention
from pghaven.retention.walplan import WalPlan, plan_wal
from tests.unit.retention.backups import NOW, SIZE, backup, days, lineage, plan, stays

WEEK = RetentionPolicy(window=days(7))


def numbers_gone(made: WalPlan, numbers: range) -> set[int]:
    return {number for number in numbers if not stays(made.need, number)}


def test_wal_from_before_the_base_goes_and_from_there_on_stays() -> None:
    made = plan_wal(plan(WEEK, backup("base", 8, 5), backup("new", 1, 9)), 7)
    assert made.need == WalNeed(system_identifier=7, horizon=Lsn(5 * SIZE + 40))
    assert numbers_gone(made, range(1, 12)) == {1, 2, 3, 4}
    assert made.reason == 'backup "base" begins there (base of the 7-day window)'


def test_a_held_backup_keeps_its_own_wal_and_no_other() -> None:
    held = backup("held", 99, 3, held="since then", stop_lsn=Lsn(4 * SIZE + 9))
    made = plan_wal(plan(WEEK, held, backup("base", 8, 9), backup("new", 1, 12)), 7)
    assert made.need is not None
    assert made.need.spans == ((Lsn(3 * SIZE + 40), Lsn(4 * SIZE + 9)),)
    assert numbers_gone(made, range(1, 14)) == {1, 2, 5, 6, 7, 8}


def test_a_monthly_backup_keeps_its_own_wal_and_no_other() -> None:
    policy = RetentionPolicy(window=days(7), monthly=3)
    made = plan_wal(plan(policy, backup("october", 40, 3), backup("base", 8, 9), backup("new", 1, 12)), 7)
    assert numbers_gone(made, range(1, 14)) == {1, 2, 4, 5, 6, 7, 8}


def test_without_window_or_count_the_last_backup_leads_on() -> None:
    made = plan_wal(plan(RetentionPolicy(daily=2), backup("a", 2, 3), backup("b", 1, 9)), 7)
    assert numbers_gone(made, range(1, 14)) == {1, 2, 4, 5, 6, 7, 8}


def test_the_last_clean_backup_leads_on() -> None:
    made = plan_wal(plan(RetentionPolicy(count=1), backup("clean", 2, 3), backup("bad", 1, 9, bad_pages=1)), 7)
    assert numbers_gone(made, range(1, 14)) == {1, 2}


def test_a_backup_that_can_be_brought_back_keeps_all_wal_after_it() -> None:
    """The plan that retires it does not take away what would make bringing it back worth while."""
    backups = [backup("dropped", 9, 3), backup("base", 8, 5), backup("new", 1, 9)]
    made = plan_wal(plan(WEEK, *backups), 7)
    assert numbers_gone(made, range(1, 12)) == {1, 2}
    assert made.reason == 'backup "dropped" begins there (it can still be brought back)'
    retired = backup("dropped", 9, 3, state=BackupState.RETIRED, retired="now")
    assert plan_wal(plan(WEEK, retired, *backups[1:]), 7) == made
    after = plan_wal(plan(WEEK, retired, *backups[1:]), 7, going={"dropped"})
    assert numbers_gone(after, range(1, 12)) == {1, 2, 3, 4}


def test_a_backup_that_is_being_taken_keeps_all_wal_from_its_start() -> None:
    going = backup("going", 0, 2, state=BackupState.UNDECIDED, stop_lsn=None, stopped_at=None)
    made = plan_wal(plan(WEEK, backup("base", 8, 5), backup("new", 1, 9), going), 7)
    assert numbers_gone(made, range(1, 12)) == {1}


def test_a_span_that_ends_at_a_segment_s_first_byte_keeps_that_segment_too() -> None:
    held = backup("held", 99, 3, held="since then", stop_lsn=Lsn(4 * SIZE))
    made = plan_wal(plan(WEEK, held, backup("base", 8, 9), backup("new", 1, 12)), 7)
    assert numbers_gone(made, range(1, 9)) == {1, 2, 5, 6, 7, 8}


def test_each_lineage_has_its_own_horizon() -> None:
    old = lineage(backup("old", 60, 70), system=7)
    new = lineage(backup("base", 8, 5), backup("new", 1, 9), system=8)
    made = plan_retention(WEEK, [old, new], now=NOW)
    assert plan_wal(made, 7).need == WalNeed(system_identifier=7, horizon=Lsn(70 * SIZE + 40))
    assert plan_wal(made, 8).need == WalNeed(system_identifier=8, horizon=Lsn(5 * SIZE + 40))


def test_no_wal_goes_when_the_backup_that_leads_on_has_gone_since_the_plan_was_made() -> None:
    """Expired by hand and removed by another run: what takes its place, the next plan tells."""
    backups = [backup("held", 9, 3, held="since then"), backup("newest", 1, 9)]
    made = plan_wal(plan(RetentionPolicy(count=1), *backups), 7, going={"newest"})
    assert everything_stays(made)
    assert "was expired by hand since" in made.reason


def everything_stays(made: WalPlan) -> bool:
    return made.need is None and not numbers_gone(made, range(20))


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
