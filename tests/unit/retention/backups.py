"""Backups for the tests of retention, described by little: a label, a day, a position."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, HistoryEntry, Timeline
from pghaven.repository.entry import BackupState
from pghaven.repository.walcollect import WalNeed
from pghaven.retention.facts import KnownBackup, KnownLineage, KnownTimeline
from pghaven.retention.policy import RetentionPlan, RetentionPolicy, plan_retention

SIZE = 1 << 20
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def days(number: float) -> timedelta:
    return timedelta(days=number)


def backup(label: str, age_days: float, segment: int, timeline: int = 1, **more: Any) -> KnownBackup:
    """A backup that stopped so many days before NOW and lies within one WAL segment."""
    stopped_at = NOW - days(age_days)
    facts: dict[str, Any] = {
        "label": label,
        "state": BackupState.COMMITTED,
        "timeline": Timeline(timeline),
        "start_lsn": Lsn(segment * SIZE + 40),
        "stop_lsn": Lsn(segment * SIZE + 400),
        "started_at": stopped_at - timedelta(minutes=10),
        "stopped_at": stopped_at,
    }
    return KnownBackup(**{**facts, **more})


def fork(timeline: int, *ancestors: tuple[int, int], sign_age_days: float | None = 0) -> KnownTimeline:
    """A timeline with its ancestors as (timeline, segment at whose middle it was left)."""
    entries = tuple(
        HistoryEntry(timeline=Timeline(one), switch_lsn=Lsn(segment * SIZE + SIZE // 2), reason="")
        for one, segment in ancestors
    )
    return KnownTimeline(
        timeline=Timeline(timeline),
        history=History(timeline=Timeline(timeline), entries=entries),
        last_sign=None if sign_age_days is None else NOW - days(sign_age_days),
    )


def lineage(*backups: KnownBackup, system: int = 7, timelines: tuple[KnownTimeline, ...] = ()) -> KnownLineage:
    return KnownLineage(system_identifier=system, backups=backups, timelines=timelines)


def plan(policy: RetentionPolicy, *backups: KnownBackup, timelines: tuple[KnownTimeline, ...] = ()) -> RetentionPlan:
    """The plan for one lineage."""
    return plan_retention(policy, [lineage(*backups, timelines=timelines)], now=NOW)


def words(made: RetentionPlan) -> dict[str, str]:
    return {verdict.backup.label: str(verdict) for verdict in made.verdicts}


def labels_kept(made: RetentionPlan) -> set[str]:
    return {verdict.backup.label for verdict in made.kept}


def stays(need: WalNeed | None, number: int, segment_size: int = SIZE) -> bool:
    """Whether the segments of this number stay, by what a need says of itself."""
    if need is None:
        return True
    begin, end = number * segment_size, (number + 1) * segment_size
    return end > need.horizon or any(first < end and begin <= last for first, last in need.spans)
