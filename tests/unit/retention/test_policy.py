"""Which backups stay and which go, and the words it is told in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.repository.entry import BackupState
from pghaven.retention.policy import RetentionPolicy, Rule, plan_retention, render_window
from pghaven.units import render_time
from tests.unit.retention.backups import NOW, backup, days, fork, labels_kept, lineage, plan, words

WEEK = RetentionPolicy(window=days(7))


def test_without_a_policy_nothing_expires_and_it_says_so() -> None:
    made = plan(RetentionPolicy(), backup("old", 4000, 1), backup("new", 1, 2))
    assert words(made) == {
        "old": "kept: no retention policy is configured",
        "new": "kept: the last backup of this lineage; no retention policy is configured",
    }
    assert made.refusal is not None
    assert made.refusal.rule is Rule.NO_POLICY
    assert made.to_retire == ()


def test_a_grace_period_alone_is_no_policy() -> None:
    assert RetentionPolicy(grace=days(1)).is_empty
    assert not RetentionPolicy(yearly=1).is_empty


def test_a_window_keeps_what_lies_in_it_and_its_base() -> None:
    made = plan(WEEK, backup("a", 9, 1), backup("b", 7.5, 2), backup("c", 6.5, 3), backup("d", 0.5, 4))
    assert words(made) == {
        "a": "dropped: older than the 7-day window and its base",
        "b": "kept: base of the 7-day window",
        "c": "kept: within the 7-day window",
        "d": "kept: within the 7-day window",
    }
    assert [verdict.backup.label for verdict in made.to_retire] == ["a"]


def test_a_backup_that_stopped_as_the_window_begins_is_its_base() -> None:
    made = plan(WEEK, backup("a", 8, 1), backup("b", 7, 2), backup("c", 1, 3))
    assert labels_kept(made) == {"b", "c"}


def test_a_backup_that_began_before_the_window_and_stopped_in_it_is_not_its_base() -> None:
    long = replace(backup("b", 6.9, 2), started_at=NOW - days(8))
    assert labels_kept(plan(WEEK, backup("a", 9, 1), long, backup("c", 1, 3))) == {"a", "b", "c"}


def test_a_count_keeps_the_newest() -> None:
    made = plan(RetentionPolicy(count=2), backup("a", 3, 1), backup("b", 2, 2), backup("c", 1, 3))
    assert words(made) == {
        "a": "dropped: not among the 2 newest",
        "b": "kept: number 2 of the 2 newest",
        "c": "kept: number 1 of the 2 newest",
    }


def test_a_count_of_one_is_told_as_such() -> None:
    made = plan(RetentionPolicy(count=1), backup("a", 3, 1), backup("b", 2, 2))
    assert words(made) == {"a": "dropped: not the newest", "b": "kept: the newest"}


def test_the_newest_of_each_month_that_has_one_is_kept() -> None:
    moments = ["2026-07-31", "2026-09-01", "2026-09-30", "2026-11-01", "2026-11-20"]
    backups = [
        replace(backup(text, 0, number), started_at=moment, stopped_at=moment)
        for number, text in enumerate(moments, start=1)
        for moment in [datetime.fromisoformat(text).replace(tzinfo=UTC)]
    ]
    assert words(plan(RetentionPolicy(monthly=2), *backups)) == {
        "2026-07-31": "dropped: not kept as monthly backup",
        "2026-09-01": "dropped: not kept as monthly backup",
        "2026-09-30": "kept: newest of 2026-09 (monthly 2 of 2)",
        "2026-11-01": "dropped: not kept as monthly backup",
        "2026-11-20": "kept: newest of 2026-11 (monthly 1 of 2)",
    }


def test_rules_add_up_and_each_tells_its_reason() -> None:
    policy = RetentionPolicy(window=days(2), count=1, daily=1, weekly=1, yearly=1)
    made = plan(policy, backup("a", 30, 1), backup("b", 1, 2))
    assert words(made) == {
        "a": "kept: base of the 2-day window",
        "b": "kept: within the 2-day window; the newest; newest of 2026-11-22 (daily 1 of 1); "
        "newest of 2026-W47 (weekly 1 of 1); newest of 2026 (yearly 1 of 1)",
    }
    made = plan(policy, backup("z", 31, 1), backup("a", 30, 2), backup("b", 1, 3))
    assert words(made)["z"] == (
        "dropped: older than the 2-day window and its base, not the newest, "
        "not kept as daily or weekly or yearly backup"
    )


def test_a_hold_outlives_policy() -> None:
    held = backup("a", 99, 1, held="since 2026-01-01: before the migration")
    made = plan(WEEK, held, backup("b", 8, 2), backup("c", 1, 3))
    assert words(made)["a"] == "kept: held since 2026-01-01: before the migration"


def test_a_hold_counts_for_others_as_if_it_were_none() -> None:
    policy = RetentionPolicy(count=2, monthly=2)
    backups = [backup(f"b{age}", age, 100 - age) for age in range(90, 0, -10)]
    free = labels_kept(plan(policy, *backups))
    some = [replace(one, held="since then") if one.label in ("b90", "b20", "b10") else one for one in backups]
    assert labels_kept(plan(policy, *some)) == free | {"b90"}


def test_the_last_backup_of_a_lineage_is_never_dropped() -> None:
    made = plan_retention(
        RetentionPolicy(count=1),
        [lineage(backup("old-a", 300, 1), backup("old-b", 200, 9), system=7), lineage(backup("new", 1, 1), system=8)],
        now=NOW,
    )
    assert words(made) == {
        "old-a": "dropped: not the newest",
        "old-b": "kept: the last backup of this lineage",
        "new": "kept: the newest",
    }


def test_after_a_major_upgrade_the_window_still_reaches_back_into_the_old_cluster() -> None:
    old = lineage(
        backup("old-a", 12, 70), backup("old-b", 8, 80), backup("old-c", 6, 90), system=7, timelines=(fork(1),)
    )
    new = lineage(backup("new-a", 5, 1), backup("new-b", 1, 2), system=8)
    assert words(plan_retention(WEEK, [old, new], now=NOW)) == {
        "old-a": "dropped: older than the 7-day window and its base",
        "old-b": "kept: base of the 7-day window",
        "old-c": "kept: within the 7-day window",
        "new-a": "kept: within the 7-day window",
        "new-b": "kept: within the 7-day window",
    }


def test_a_cluster_that_went_back_to_its_old_version_keeps_its_newest_backups() -> None:
    old = lineage(backup("before", 9, 70), backup("after-a", 3, 80), backup("after-b", 1, 90), system=7)
    tried = lineage(backup("tried", 6, 1), system=8)
    made = plan_retention(RetentionPolicy(count=2), [old, tried], now=NOW)
    assert labels_kept(made) == {"after-a", "after-b", "tried"}


def test_labels_and_timeline_numbers_say_nothing_about_age() -> None:
    policy = RetentionPolicy(count=1)
    assert labels_kept(plan(policy, backup("z", 2, 1, timeline=16), backup("a", 1, 2, timeline=9))) == {"a"}
    assert labels_kept(plan(policy, backup("z", 2, 1, timeline=9), backup("a", 1, 2, timeline=10))) == {"a"}


def test_of_two_backups_of_one_second_the_later_in_the_wal_is_the_newer() -> None:
    policy = RetentionPolicy(count=1)
    assert labels_kept(plan(policy, backup("20261122T120000Z-b", 1, 5), backup("20261122T120000Z-a", 1, 6))) == {
        "20261122T120000Z-a"
    }


def test_the_last_backup_without_bad_pages_is_kept() -> None:
    bad = [backup(f"bad-{age}", age, 100 - age, bad_pages=2) for age in (3, 2, 1)]
    made = plan(RetentionPolicy(count=2), backup("clean-a", 6, 1), backup("clean-b", 5, 2), *bad)
    assert words(made) == {
        "clean-a": "dropped: not among the 2 newest",
        "clean-b": "kept: the last backup of this lineage in which nothing bad is known",
        "bad-3": "dropped: not among the 2 newest",
        "bad-2": "kept: number 2 of the 2 newest",
        "bad-1": "kept: number 1 of the 2 newest",
    }
    (clean,) = [verdict for verdict in made.verdicts if verdict.backup.label == "clean-b"]
    assert clean.leads_on


def test_the_last_verified_backup_is_kept_until_a_newer_one_is_verified() -> None:
    policy = RetentionPolicy(count=1)
    made = plan(policy, backup("a", 3, 1, verified=True), backup("b", 2, 2), backup("c", 1, 3))
    assert words(made)["a"] == "kept: the last backup of this lineage that was verified"
    made = plan(policy, backup("a", 3, 1, verified=True), backup("b", 2, 2), backup("c", 1, 3, verified=True))
    assert labels_kept(made) == {"c"}


def test_a_base_that_is_known_to_be_bad_gets_another_beside_it() -> None:
    made = plan(
        WEEK,
        backup("a", 11, 1),
        backup("b", 10, 2),
        backup("c", 9, 3, verified=False),
        backup("d", 8, 4, bad_pages=1),
        backup("e", 1, 5),
    )
    assert words(made)["d"] == "kept: base of the 7-day window"
    assert words(made)["c"] == "dropped: older than the 7-day window and its base"
    assert words(made)["b"] == 'kept: base of the 7-day window in place of "d", which has bad pages'
    assert words(made)["a"] == "dropped: older than the 7-day window and its base"


def test_a_window_that_a_restore_divided_has_a_base_on_each_side() -> None:
    """Restored 6 days ago to before "later" was taken: only "early" leads to what came since."""
    timelines = (fork(1, sign_age_days=6.1), fork(2, (1, 20)))
    backups = [
        backup("oldest", 10, 5),
        backup("early", 9, 10),
        backup("later", 8, 30),
        backup("since", 5, 25, timeline=2),
    ]
    assert words(plan(WEEK, *backups, timelines=timelines)) == {
        "oldest": "dropped: older than the 7-day window and its base",
        "early": "kept: base of the 7-day window on timeline 2",
        "later": "kept: base of the 7-day window",
        "since": "kept: within the 7-day window",
    }


def test_a_branch_that_was_left_before_the_window_expires_as_anything_else() -> None:
    timelines = (fork(1, sign_age_days=20), fork(2, (1, 20)))
    backups = [backup("left", 21, 30), backup("base", 8, 25, timeline=2), backup("new", 1, 26, timeline=2)]
    made = plan(WEEK, *backups, timelines=timelines)
    assert labels_kept(made) == {"base", "new"}


def test_a_timeline_that_has_no_backup_yet_has_its_base_on_its_ancestor() -> None:
    timelines = (fork(1, sign_age_days=6.1), fork(11, (1, 20), sign_age_days=0))
    made = plan(WEEK, backup("early", 9, 10), backup("later", 8, 30), timelines=timelines)
    assert words(made)["early"] == "kept: base of the 7-day window on timeline 11"


def test_a_timeline_of_which_nothing_is_known_but_its_name_may_be_in_use() -> None:
    timelines = (fork(1, sign_age_days=6.1), fork(2, (1, 20), sign_age_days=None))
    assert labels_kept(plan(WEEK, backup("early", 9, 10), backup("later", 8, 30), timelines=timelines)) == {
        "early",
        "later",
    }


def test_whatever_may_lead_to_a_timeline_without_its_history_is_kept() -> None:
    lost = replace(fork(3), history=None)
    backups = [backup("a", 30, 10), backup("b", 20, 30), backup("c", 1, 40, timeline=3)]
    made = plan(WEEK, *backups, timelines=(fork(1, sign_age_days=6.1), lost))
    assert words(made)["a"] == "kept: may lead to timeline 3, whose history is missing"
    own = backup("own", 8, 35, timeline=3)
    made = plan(WEEK, *backups, own, timelines=(fork(1, sign_age_days=6.1), lost))
    assert labels_kept(made) == {"b", "own", "c"}


def test_nothing_is_dropped_while_a_backup_comes_from_the_future() -> None:
    made = plan(WEEK, backup("a", 90, 1), backup("b", 80, 2), backup("future", -1.1, 3))
    assert made.to_retire == ()
    assert made.refusal is not None
    assert made.refusal.text == (
        f'backup "future" was taken at {render_time(NOW + days(1.1))}, but the clock here says {render_time(NOW)}: '
        "one of them is wrong"
    )
    assert words(made)["a"] == f"kept: {made.refusal.text}"


def test_clocks_that_differ_by_less_than_a_day_are_none_from_the_future() -> None:
    made = plan(WEEK, backup("a", 90, 1), backup("b", 80, 2), backup("ahead", -0.9, 3))
    assert labels_kept(made) == {"b", "ahead"}


@pytest.mark.parametrize("policy", [RetentionPolicy(count=2), RetentionPolicy(daily=2)])
def test_backups_that_claim_to_be_newer_than_now_take_no_other_one_s_place(policy: RetentionPolicy) -> None:
    """Whoever writes them, with a wrong clock or to have the others dropped."""
    fakes = [backup(f"fake{number}", -0.1 * number, 10 + number) for number in range(1, 5)]
    made = plan(policy, backup("old", 9, 1), backup("a", 5, 2), backup("b", 3, 3), *fakes)
    assert labels_kept(made) == {"a", "b", *(fake.label for fake in fakes)}
    assert "which is still to come: it stands for no other backup" in words(made)["fake1"]


@pytest.mark.parametrize("state", [BackupState.RETIRED, BackupState.UNDECIDED])
def test_any_backup_from_the_future_is_a_sign_of_a_wrong_clock(state: BackupState) -> None:
    made = plan(WEEK, backup("a", 90, 1), backup("b", 80, 2), backup("future", -2, 3, state=state))
    assert made.to_retire == ()


def test_a_backup_whose_date_the_wal_contradicts_is_kept_and_counts_for_nothing() -> None:
    made = plan(WEEK, backup("a", 20, 1), backup("b", 8, 2), backup("slow", 4000, 3), backup("c", 3, 4))
    slow = f"dated {render_time(NOW - days(4000))}, but in the WAL it comes after one of {render_time(NOW - days(8))}"
    assert words(made) == {
        "a": "dropped: older than the 7-day window and its base",
        "b": "kept: base of the 7-day window",
        "slow": f"kept: {slow}",
        "c": "kept: within the 7-day window",
    }


def test_a_standby_that_lags_casts_no_doubt_on_the_dates_of_others() -> None:
    """Its backup is the newest by time, and holds less WAL than older ones of the primary."""
    made = plan(
        RetentionPolicy(count=1), backup("a", 3, 8), backup("b", 2, 9), backup("behind", 1, 4, from_standby=True)
    )
    assert labels_kept(made) == {"behind"}


def test_a_clock_that_went_back_during_a_backup_makes_it_no_older_than_its_start() -> None:
    odd = replace(backup("odd", 9, 2), started_at=NOW - days(3))
    assert words(plan(WEEK, backup("a", 10, 1), odd))["odd"] == "kept: within the 7-day window"


def test_what_is_not_finished_stays_and_counts_for_nothing() -> None:
    going = backup("going", 0, 9, state=BackupState.UNDECIDED, stop_lsn=None, stopped_at=None)
    made = plan(RetentionPolicy(count=1), backup("a", 2, 1), backup("b", 1, 2), going)
    assert words(made)["going"] == "kept: not finished yet"
    assert words(made)["b"] == "kept: the newest"
    assert labels_kept(made) == {"b", "going"}


def test_what_was_retired_before_stays_so_and_counts_for_nothing() -> None:
    gone = backup("gone", 1, 3, state=BackupState.RETIRED, retired="2026-11-22: not the newest")
    made = plan(RetentionPolicy(count=1), backup("a", 3, 1), backup("b", 2, 2), gone)
    assert words(made)["gone"] == "dropped: retired 2026-11-22: not the newest"
    assert labels_kept(made) == {"b"}
    assert [verdict.backup.label for verdict in made.to_retire] == ["a"]


def test_a_position_far_along_counts_as_a_position() -> None:
    """Positions compare as numbers: 9/0 comes before 10/0."""
    low = backup("low", 1, 1, start_lsn=Lsn.parse("9/0"), stop_lsn=Lsn.parse("9/FF"))
    high = backup("high", 1, 1, start_lsn=Lsn.parse("10/0"), stop_lsn=Lsn.parse("10/FF"))
    assert labels_kept(plan(RetentionPolicy(count=1), low, high)) == {"high"}


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (timedelta(days=7), "7-day"),
        (timedelta(weeks=2), "14-day"),
        (timedelta(hours=36), "36-hour"),
        (timedelta(minutes=90), "90-minute"),
        (timedelta(seconds=1), "1-second"),
        (timedelta(milliseconds=1500), "1.5-second"),
    ],
)
def test_a_window_is_named_in_its_own_unit(window: timedelta, text: str) -> None:
    assert render_window(window) == text


def test_a_backup_that_lacks_its_wal_takes_no_other_one_s_place() -> None:
    lacking = backup("new", 1, 9, missing_wal="000000010000000000000009")
    made = plan(RetentionPolicy(count=2), backup("old", 9, 1), backup("mid", 5, 3), backup("late", 3, 6), lacking)
    assert labels_kept(made) == {"mid", "late", "new"}
    assert words(made)["mid"] == "kept: number 2 of the 2 newest, among those with all their WAL"
    assert words(made)["new"].endswith(
        "WAL segment 000000010000000000000009, which it needs, is missing: it stands for no other backup"
    )


def test_a_backup_that_lacks_its_wal_expires_in_its_turn_and_says_so() -> None:
    lacking = backup("old", 9, 1, missing_wal="000000010000000000000001")
    made = plan(RetentionPolicy(count=1), lacking, backup("new", 1, 9))
    assert labels_kept(made) == {"new"}
    assert words(made)["old"].startswith("dropped: not the newest; WAL segment 000000010000000000000001")


def test_a_window_has_a_base_that_has_its_wal() -> None:
    lacking = backup("base", 8, 3, missing_wal="000000010000000000000003")
    made = plan(RetentionPolicy(window=days(7)), backup("old", 9, 1), lacking, backup("new", 1, 9))
    assert labels_kept(made) == {"old", "base", "new"}
    assert 'in place of "base", which lacks WAL segment 000000010000000000000003' in words(made)["old"]
