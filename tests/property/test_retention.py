"""Laws of retention: whatever backups there are and whatever is wanted, nothing that is needed goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, HistoryEntry, Timeline
from pghaven.repository.entry import BackupState
from pghaven.repository.walcollect import WalNeed
from pghaven.retention.facts import KnownBackup, KnownLineage, KnownTimeline
from pghaven.retention.periods import Period, name_period
from pghaven.retention.policy import RetentionPlan, RetentionPolicy, plan_retention
from pghaven.retention.walplan import plan_wal
from tests.unit.retention.backups import NOW, SIZE, stays

SEGMENTS = 40
COMMITTED = BackupState.COMMITTED

Lineages = list[KnownLineage]


def ages(maximum_days: int = 60) -> st.SearchStrategy[timedelta]:
    """Hours, so that several backups share a day, and some an hour."""
    return st.integers(0, maximum_days * 24).map(lambda hours: timedelta(hours=hours))


@st.composite
def policies(draw: st.DrawFn) -> RetentionPolicy:
    """One rule or two: with more of them hardly anything would be dropped."""
    names = ["window", "count", "daily", "weekly", "monthly", "yearly"]
    chosen = draw(st.sets(st.sampled_from(names), min_size=1, max_size=2))
    numbers: dict[str, Any] = {name: draw(st.integers(1, 4)) for name in sorted(chosen - {"window"})}
    return RetentionPolicy(window=draw(windows()) if "window" in chosen else None, **numbers)


def windows() -> st.SearchStrategy[timedelta]:
    return st.integers(1, 40).map(lambda number: timedelta(days=number))


@st.composite
def any_timelines(draw: st.DrawFn) -> tuple[KnownTimeline, ...]:
    """Up to four, each but the first leaving an earlier one's path somewhere; some of them across 9 and 10."""
    first = draw(st.sampled_from([1, 8]))
    made = [History.root(Timeline(first))]
    for number in range(first + 1, first + draw(st.integers(1, 4))):
        parent = draw(st.sampled_from(made))
        switch = Lsn(draw(st.integers(1, SEGMENTS * 4)) * SIZE // 4)
        entries = (*parent.entries, HistoryEntry(timeline=parent.timeline, switch_lsn=switch, reason=""))
        made.append(History(timeline=Timeline(number), entries=entries))
    return tuple(
        KnownTimeline(
            timeline=history.timeline,
            history=draw(st.sampled_from([history, history, history, None])),
            last_sign=draw(st.none() | ages().map(lambda age: NOW - age)),
        )
        for history in made
    )


@st.composite
def any_lineage(draw: st.DrawFn, system: int, *, states: Iterable[BackupState] = (COMMITTED,)) -> KnownLineage:
    timelines = draw(any_timelines())
    backups = []
    for number in range(draw(st.integers(0, 9))):
        start = draw(st.integers(0, SEGMENTS * SIZE))
        stopped_at = NOW - draw(ages())
        state = draw(st.sampled_from(list(states)))
        done = state is not BackupState.UNDECIDED
        backups.append(
            KnownBackup(
                label=f"{system}-{draw(st.integers(0, 99)):02}-{number}",
                state=state,
                timeline=draw(st.sampled_from([one.timeline for one in timelines])),
                start_lsn=Lsn(start),
                stop_lsn=Lsn(start + draw(st.integers(1, 3 * SIZE))) if done else None,
                started_at=stopped_at - draw(ages(1)),
                stopped_at=stopped_at if done else None,
                from_standby=draw(st.booleans()),
                bad_pages=draw(st.sampled_from([0, 0, 0, 1])),
                verified=draw(st.sampled_from([None, None, True, False])),
                held=draw(st.sampled_from([None, None, None, "since then"])),
            )
        )
    return KnownLineage(system_identifier=system, backups=tuple(backups), timelines=timelines)


def any_lineages(*states: BackupState) -> st.SearchStrategy[Lineages]:
    one, two = (any_lineage(system, states=(COMMITTED, *states)) for system in (7, 3))
    return st.tuples(one, two).map(list) | one.map(lambda lineage: [lineage])


ANY = any_lineages()
ANY_STATE = any_lineages(BackupState.RETIRED, BackupState.UNDECIDED)


def make_plan(policy: RetentionPolicy, lineages: Lineages, now: datetime = NOW) -> RetentionPlan:
    return plan_retention(policy, lineages, now=now)


def dropped(plan: RetentionPlan) -> set[str]:
    return {verdict.backup.label for verdict in plan.to_retire}


def carry_out(plan: RetentionPlan, lineages: Lineages) -> Lineages:
    gone = dropped(plan)
    return [
        replace(
            lineage,
            backups=tuple(
                replace(one, state=BackupState.RETIRED) if one.label in gone else one for one in lineage.backups
            ),
        )
        for lineage in lineages
    ]


def remove_retired(lineages: Lineages) -> Lineages:
    return [
        replace(lineage, backups=tuple(one for one in lineage.backups if one.state is not BackupState.RETIRED))
        for lineage in lineages
    ]


@given(policies(), ANY_STATE)
def test_every_backup_has_one_verdict_and_a_reason(policy: RetentionPolicy, lineages: Lineages) -> None:
    plan = make_plan(policy, lineages)
    assert sorted(verdict.backup.label for verdict in plan.verdicts) == sorted(
        backup.label for lineage in lineages for backup in lineage.backups
    )
    assert all(verdict.reasons for verdict in plan.verdicts)


@given(policies(), ANY_STATE)
def test_only_what_is_committed_and_not_held_is_retired(policy: RetentionPolicy, lineages: Lineages) -> None:
    for verdict in make_plan(policy, lineages).to_retire:
        assert verdict.backup.state is COMMITTED
        assert verdict.backup.held is None


@given(policies(), ANY_STATE)
def test_each_lineage_keeps_its_last_backup_its_last_good_one_and_its_last_verified_one(
    policy: RetentionPolicy, lineages: Lineages
) -> None:
    plan = make_plan(policy, lineages)
    for lineage in lineages:
        ours = [v for v in plan.verdicts if v.system_identifier == lineage.system_identifier]
        committed = [verdict for verdict in ours if verdict.backup.state is COMMITTED]
        good = [verdict for verdict in committed if verdict.backup.flaw is None]
        verified = [verdict for verdict in committed if verdict.backup.verified]
        assert all(some[-1].is_kept for some in (committed, good, verified) if some)


@given(policies(), ANY)
def test_the_newest_by_date_is_kept(policy: RetentionPolicy, lineages: Lineages) -> None:
    dated = [replace(one, backups=tuple(with_dates_that_agree_with_the_wal(one.backups))) for one in lineages]
    gone = dropped(make_plan(policy, dated))
    for lineage in dated:
        places = {(one.stopped_at or NOW, one.stop_lsn or 0): one.label for one in lineage.backups}
        twins = len(places) < len(lineage.backups)  # of two at one place in time and WAL either may be the newer
        assert not places or twins or places[max(places)] not in gone


@given(policies(), ANY_STATE)
def test_as_many_as_wanted_are_kept(policy: RetentionPolicy, lineages: Lineages) -> None:
    plan = make_plan(policy, lineages)
    committed = [verdict for verdict in plan.verdicts if verdict.backup.state is COMMITTED]
    kept = [verdict for verdict in committed if verdict.is_kept]
    assert len(kept) >= min(policy.count or 0, len(committed))
    for period, wanted in policy.periods:
        there = {name_period(period, verdict.moment) for verdict in committed}
        left = {name_period(period, verdict.moment) for verdict in kept}
        assert len(left) >= min(wanted, len(there)), (period, there, left)


@given(policies(), ANY_STATE)
def test_a_hold_changes_nothing_for_others(policy: RetentionPolicy, lineages: Lineages) -> None:
    free = [replace(one, backups=tuple(replace(b, held=None) for b in one.backups)) for one in lineages]
    held = {backup.label for lineage in lineages for backup in lineage.backups if backup.held}
    assert dropped(make_plan(policy, lineages)) == dropped(make_plan(policy, free)) - held


@given(policies(), ANY_STATE, ages())
def test_time_brings_nothing_back(policy: RetentionPolicy, lineages: Lineages, later: timedelta) -> None:
    assert dropped(make_plan(policy, lineages)) <= dropped(make_plan(policy, lineages, NOW + later))


@given(policies(), ANY_STATE)
def test_a_plan_that_was_carried_out_drops_nothing_more(policy: RetentionPolicy, lineages: Lineages) -> None:
    after = carry_out(make_plan(policy, lineages), lineages)
    assert not dropped(make_plan(policy, after))


@given(policies(), ANY)
def test_nor_does_it_when_what_it_dropped_is_gone(policy: RetentionPolicy, lineages: Lineages) -> None:
    dated = [replace(one, backups=tuple(with_dates_that_agree_with_the_wal(one.backups))) for one in lineages]
    after = remove_retired(carry_out(make_plan(policy, dated), dated))
    assert not dropped(make_plan(policy, after))


def with_dates_that_agree_with_the_wal(backups: Iterable[KnownBackup]) -> Iterator[KnownBackup]:
    moments = sorted(backup.stopped_at for backup in backups if backup.stopped_at)
    in_order = sorted(backups, key=lambda backup: backup.stop_lsn or backup.start_lsn)
    for backup, moment in zip(in_order, moments, strict=True):
        yield replace(backup, started_at=moment, stopped_at=moment)


@given(policies(), ANY_STATE, st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_listed_does_not_matter(
    policy: RetentionPolicy, lineages: Lineages, shuffler: Random
) -> None:
    def shuffle(lineage: KnownLineage) -> KnownLineage:
        backups, timelines = list(lineage.backups), list(lineage.timelines)
        shuffler.shuffle(backups)
        shuffler.shuffle(timelines)
        return replace(lineage, backups=tuple(backups), timelines=tuple(timelines))

    assert make_plan(policy, [shuffle(lineage) for lineage in lineages]) == make_plan(policy, lineages)


@given(policies(), ANY_STATE)
def test_nothing_is_dropped_when_the_newest_comes_from_the_future(policy: RetentionPolicy, lineages: Lineages) -> None:
    moments = [backup.started_at for lineage in lineages for backup in lineage.backups]
    now = max(moments, default=NOW) - timedelta(days=1, seconds=1)
    assert not dropped(make_plan(policy, lineages, now))


@given(windows(), ANY_STATE)
def test_no_moment_of_the_window_is_lost(window: timedelta, lineages: Lineages) -> None:
    """On every timeline that was in use within the window, a restore to any moment still begins somewhere, and all WAL
    from there on is kept."""
    begin = NOW - window
    plan = make_plan(RetentionPolicy(window=window), lineages)
    by_label = {verdict.backup.label: verdict for verdict in plan.verdicts}
    for lineage in lineages:
        wal = plan_wal(plan, lineage.system_identifier)
        committed = [backup for backup in lineage.backups if backup.state is COMMITTED]
        for known in lineage.timelines:
            if known.history is None or (known.last_sign is not None and known.last_sign <= begin):
                continue
            ways = [one for one in committed if one.stop_lsn and known.history.contains_end(one.timeline, one.stop_lsn)]
            for moment in (begin, *(by_label[one.label].moment for one in ways)):
                before = [one for one in ways if by_label[one.label].moment <= max(moment, begin)]
                kept = [one for one in before if by_label[one.label].is_kept]
                assert bool(before) == bool(kept)
                assert any(one.flaw is None for one in before) == any(one.flaw is None for one in kept)
                leading = [one for one in kept if keeps_all_from(wal.need, one)]
                misdated = any(reason.rule == "misdated" for one in before for reason in by_label[one.label].reasons)
                assert not before or leading or misdated


def keeps_all_from(need: WalNeed | None, backup: KnownBackup) -> bool:
    return need is None or need.horizon <= backup.start_lsn


@given(policies(), ANY_STATE)
def test_the_wal_of_every_backup_that_is_there_is_kept(policy: RetentionPolicy, lineages: Lineages) -> None:
    """Also of those that are retired or being taken; and of the ones that lead on, all that follows."""
    plan = make_plan(policy, lineages)
    for verdict in plan.verdicts:
        wal = plan_wal(plan, verdict.system_identifier)
        backup = verdict.backup
        goes_on = verdict.leads_on or backup.stop_lsn is None or not verdict.is_kept
        first = backup.start_lsn // SIZE
        last = first + SEGMENTS if goes_on or backup.stop_lsn is None else backup.stop_lsn // SIZE
        assert all(stays(wal.need, number) for number in range(first, last + 1))


@given(policies(), ANY_STATE)
def test_wal_that_nothing_needs_goes(policy: RetentionPolicy, lineages: Lineages) -> None:
    plan = make_plan(policy, lineages)
    for lineage in lineages:
        wal = plan_wal(plan, lineage.system_identifier)
        if wal.need is None:
            continue
        for number in range(wal.need.horizon // SIZE):
            needed = any(
                one.start_lsn // SIZE <= number <= one.stop_lsn // SIZE for one in lineage.backups if one.stop_lsn
            )
            assert stays(wal.need, number) == needed


def test_the_periods_of_a_policy_are_in_the_order_of_their_options() -> None:
    policy = RetentionPolicy(daily=1, weekly=2, monthly=3, yearly=4)
    assert policy.periods == ((Period.DAILY, 1), (Period.WEEKLY, 2), (Period.MONTHLY, 3), (Period.YEARLY, 4))
