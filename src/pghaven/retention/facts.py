"""What retention judges: backups, timelines and lineages as plain values, and the order they came in.

The one idea: order is by time, never by label or timeline number; and where the WAL contradicts a clock, no clock is
believed. A backup cannot be older than one of the same timeline that it follows in the WAL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.entry import BackupEntry, BackupState


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBackup:
    """A backup that is undecided, committed or retired; no other state is retention's concern.

    ``stop_lsn`` and ``stopped_at`` are None while it is undecided. ``held`` says since when and why it is exempt,
    ``retired`` when and why it was retired, both in words that go on after "held" and "retired"; None if it is not.
    ``verified`` is what the last verification found, None if there was none. ``missing_wal`` is the first file that is
    not there of the WAL from its start to its stop, without which it cannot be restored; None if all is.
    """

    label: str
    state: BackupState
    timeline: Timeline
    start_lsn: Lsn
    stop_lsn: Lsn | None
    started_at: datetime
    stopped_at: datetime | None
    from_standby: bool = False
    bad_pages: int = 0
    verified: bool | None = None
    missing_wal: str | None = None
    held: str | None = None
    retired: str | None = None

    @property
    def flaw(self) -> str | None:
        """What is known to be bad about it, in words that go on after "which"; None if nothing is."""
        if self.missing_wal is not None:
            return f"lacks WAL segment {self.missing_wal}"
        if self.verified is False:
            return "failed its verification"
        return "has bad pages" if self.bad_pages else None


def know_announced(entry: BackupEntry) -> KnownBackup:
    """What its intent says of a backup, or of a dump, which is all there is to know while it is being made."""
    assert entry.intent is not None
    return KnownBackup(
        label=entry.label,
        state=entry.state,
        timeline=Timeline(entry.intent.timeline),
        start_lsn=Lsn.parse(entry.intent.start_lsn),
        stop_lsn=None,
        started_at=entry.intent.started_at,
        stopped_at=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTimeline:
    """A timeline the archive knows. ``history`` is None if it is missing or damaged.

    ``last_sign`` is when WAL of it last came in; None if that is not known, and then it may be in use.
    """

    timeline: Timeline
    history: History | None
    last_sign: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLineage:
    """One life of a cluster: its backups and timelines, in any order."""

    system_identifier: int
    backups: tuple[KnownBackup, ...]
    timelines: tuple[KnownTimeline, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatedBackup:
    """A backup and its place in time. ``moment`` is when it stopped, or began if it has not stopped.

    ``follows`` is None, or a later moment at which the WAL that this backup ends with was not written yet: its own
    clock, or that of another backup, was wrong.
    """

    backup: KnownBackup
    system_identifier: int
    moment: datetime
    follows: datetime | None


def date_backups(lineages: Sequence[KnownLineage]) -> tuple[DatedBackup, ...]:
    """All backups, oldest first. ``lineages`` are in the order they were registered, which decides between equals."""
    numbered = [(number, one) for number, lineage in enumerate(lineages) for one in _date_lineage(lineage)]
    numbered.sort(key=lambda pair: (pair[1].follows or pair[1].moment, pair[0], _position(pair[1].backup)))
    return tuple(one for _, one in numbered)


def _date_lineage(lineage: KnownLineage) -> Iterator[DatedBackup]:
    latest: dict[Timeline, datetime] = {}
    for backup in sorted(lineage.backups, key=_position):
        moment = _moment_of(backup)
        before = latest.get(backup.timeline, moment)
        yield DatedBackup(
            backup=backup,
            system_identifier=lineage.system_identifier,
            moment=moment,
            follows=before if before > moment else None,
        )
        # A standby may lag: what it held when its backup stopped was written before that.
        if backup.state is not BackupState.UNDECIDED and not backup.from_standby:
            latest[backup.timeline] = max(before, moment)


def _moment_of(backup: KnownBackup) -> datetime:
    return max(backup.started_at, backup.stopped_at or backup.started_at)


def _position(backup: KnownBackup) -> tuple[Lsn, datetime, str]:
    return (backup.stop_lsn or backup.start_lsn, _moment_of(backup), backup.label)
