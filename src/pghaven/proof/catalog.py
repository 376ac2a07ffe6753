"""The backups of a cluster as they are shown: complete ones, running ones, and what became of the others.

The one idea: a backup without a decision is running if its process lives, by the same signs that decide whether another
backup may begin (``repository.liveness``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from pghaven.errors import Damaged, ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.drills import DrillEvidence, find_drill_of, load_drills
from pghaven.repository.entry import BackupEntry, BackupState, Purpose, pick_entries
from pghaven.repository.evidence import NEVER_VERIFIED, Evidence, Verification, judge_backup, load_evidence
from pghaven.repository.liveness import seems_dead
from pghaven.units import parse_time_utc


class ShownState(StrEnum):
    COMPLETE = "complete"
    RUNNING = "running"
    UNFINISHED = "unfinished"
    GIVEN_UP = "given up"
    RETIRED = "retired"
    DAMAGED = "damaged"


_STATES = {
    BackupState.COMMITTED: ShownState.COMPLETE,
    BackupState.ABANDONED: ShownState.GIVEN_UP,
    BackupState.RETIRED: ShownState.RETIRED,
    BackupState.DAMAGED: ShownState.DAMAGED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drilled:
    """A drill that restored a backup."""

    passed: bool
    at: datetime
    is_stale: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedBackup:
    """One backup. What only a complete one has is None for the others; ``seconds`` is from its start to its stop.

    ``verified`` is what is known from when somebody last looked at all of it, ``drilled`` the last drill of it, as it
    lies now. ``held`` says why a backup that is held
    is; ``removed_after`` is until when a retired one can be brought back.
    """

    label: str
    state: ShownState
    system_identifier: int | None
    started_at: datetime | None
    stopped_at: datetime | None
    seconds: float | None
    total_bytes: int | None
    stored_bytes: int | None
    changes: str | None
    parent: str | None
    timeline: Timeline | None
    start_lsn: Lsn | None
    stop_lsn: Lsn | None
    from_standby: bool | None
    bad_pages: int | None
    server_version_num: int | None
    host: str | None
    process: int | None
    reason: str | None
    verified: Verification = NEVER_VERIFIED
    drilled: Drilled | None = None
    held: str | None = None
    held_since: datetime | None = None
    removed_after: datetime | None = None


def list_backups(catalog: BackupCatalog) -> tuple[ListedBackup, ...]:
    """Every backup of a cluster, oldest first. Raises Damaged, StoreUnreachable."""
    return list_all(catalog)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDump:
    """One SQL dump. What only a complete one has is None or empty for the others."""

    label: str
    state: str
    started_at: datetime | None
    seconds: float | None
    databases: tuple[str, ...]
    tables: int | None
    rows: int | None
    total_bytes: int | None
    stored_bytes: int | None
    program_version: str | None
    parent: str | None
    reason: str | None


def list_dumps(catalog: BackupCatalog) -> tuple[ListedDump, ...]:
    """Every dump of a cluster, oldest first. Raises Damaged, StoreUnreachable."""
    now = catalog.repository.clock.now()
    return tuple(_show_dump(entry, now) for entry in catalog.list_entries(Purpose.DUMP))


def list_all(catalog: BackupCatalog) -> tuple[tuple[ListedBackup, ...], tuple[ListedDump, ...]]:
    """Backups and dumps from one look at what has a label, each as by itself."""
    results = load_evidence(catalog.repository, catalog.cluster).results
    drills = load_drills(catalog.repository, catalog.cluster)
    labels, now = catalog.list_labels(), catalog.repository.clock.now()
    backups = show_entries(catalog, pick_entries(labels, Purpose.BACKUP), results, drills)
    return backups, tuple(_show_dump(entry, now) for entry in pick_entries(labels, Purpose.DUMP))


def _show_dump(entry: BackupEntry, now: datetime) -> ListedDump:
    shown, dumped = show_entry(entry, now), entry.summary.get("dump", {})
    return ListedDump(
        label=entry.label,
        state=str(shown.state) if entry.hold is None else f"{shown.state}, held: {entry.hold.reason}",
        started_at=shown.started_at,
        seconds=shown.seconds,
        databases=tuple(dumped.get("databases", ())),
        tables=dumped.get("tables"),
        rows=dumped.get("rows"),
        total_bytes=shown.total_bytes,
        stored_bytes=shown.stored_bytes,
        program_version=dumped.get("program_version"),
        parent=shown.parent,
        reason=entry.reason,
    )


def show_entries(
    catalog: BackupCatalog,
    entries: Sequence[BackupEntry],
    results: Sequence[Evidence],
    drills: Sequence[DrillEvidence] = (),
) -> tuple[ListedBackup, ...]:
    """The entries as they are shown; ``results`` of verifications and ``drills`` are the newest first.

    Raises StoreUnreachable.
    """
    now = catalog.repository.clock.now()
    return tuple(_with_proof(catalog, entry, show_entry(entry, now), results, drills) for entry in entries)


def _with_proof(
    catalog: BackupCatalog,
    entry: BackupEntry,
    shown: ListedBackup,
    results: Sequence[Evidence],
    drills: Sequence[DrillEvidence],
) -> ListedBackup:
    """What is known of the manifest that a restore would read now."""
    if entry.state not in (BackupState.COMMITTED, BackupState.RETIRED):
        return shown
    try:
        _, manifest_hash = catalog.find_manifest(entry)
    except (Damaged, ObjectMissing):
        return shown
    drill = find_drill_of(drills, entry.label, manifest_hash)
    now = catalog.repository.clock.now()
    drilled = None if drill is None else Drilled(passed=drill.passed, at=drill.began_at, is_stale=drill.is_stale(now))
    return replace(shown, verified=judge_backup(results, entry.label, manifest_hash), drilled=drilled)


def show_entry(entry: BackupEntry, now: datetime) -> ListedBackup:
    intent, summary = entry.intent, entry.summary
    started, stopped = _find_time(summary, "started_at"), _find_time(summary, "stopped_at")
    if started is None and intent is not None:
        started = intent.started_at
    identifier = summary.get("system_identifier", intent.system_identifier if intent else None)
    timeline = summary.get("timeline", intent.timeline if intent else None)
    start_lsn = summary.get("start_lsn", intent.start_lsn if intent else None)
    return ListedBackup(
        label=entry.label,
        state=_STATES[entry.state] if entry.state in _STATES else _judge_undecided(entry, now),
        system_identifier=None if identifier is None else int(identifier),
        started_at=started,
        stopped_at=stopped,
        seconds=(stopped - started).total_seconds() if stopped and started else None,
        total_bytes=summary.get("total_bytes"),
        stored_bytes=summary.get("stored_bytes"),
        changes=summary.get("changes"),
        parent=summary.get("parent"),
        timeline=None if timeline is None else Timeline(int(timeline)),
        start_lsn=None if start_lsn is None else Lsn.parse(start_lsn),
        stop_lsn=Lsn.parse(summary["stop_lsn"]) if "stop_lsn" in summary else None,
        from_standby=summary.get("from_standby"),
        bad_pages=summary.get("bad_pages"),
        server_version_num=summary.get("server_version_num"),
        host=summary.get("host", intent.who.host if intent else None),
        process=intent.who.pid if intent else None,
        reason=entry.reason,
        held=None if entry.hold is None else entry.hold.reason,
        held_since=None if entry.hold is None else entry.hold.written_at,
        removed_after=None if entry.retirement is None else entry.retirement.not_before,
    )


def _find_time(summary: Mapping[str, Any], name: str) -> datetime | None:
    return parse_time_utc(summary[name]) if name in summary else None


def _judge_undecided(entry: BackupEntry, now: datetime) -> ShownState:
    return ShownState.UNFINISHED if seems_dead(entry, now) else ShownState.RUNNING
