"""Which backups are copied, which are not and why, and what each copy may build on. Pure.

The one idea: a backup and its copies have one original, whose label tells them from all others in every repository. A
copy has a label of its own, that of the original with four more digits, so that no label is ever used twice in one
repository: the protocol of removal rests on that (``docs/design/removal.md``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository.entry import BackupEntry, BackupState, Purpose
from pghaven.repository.horizon import Horizon
from pghaven.repository.liveness import seems_dead
from pghaven.transfer.request import BackupFate, BackupOutcome

_TRIES_MAX = 3


def judge(
    entry: BackupEntry, there: Iterable[BackupEntry], horizons: Mapping[int, Horizon], now: datetime
) -> BackupOutcome | None:
    """Why this backup of the source is not to be copied, by what the target has; None when it is to be."""
    same = {one.state: one for one in there if one.original == entry.original}
    if (found := same.get(BackupState.COMMITTED)) is not None:
        return _outcome(entry, BackupFate.PRESENT, found.label, None)
    if (found := same.get(BackupState.RETIRED)) is not None:
        return _outcome(entry, BackupFate.EXPIRED, found.label, found.reason)
    for one in there:
        if one.original == entry.original and one.state is BackupState.UNDECIDED and not seems_dead(one, now):
            assert one.intent is not None
            reason = f'process {one.intent.who.pid} on host "{one.intent.who.host}"'
            return _outcome(entry, BackupFate.IN_PROGRESS, one.label, reason)
    return judge_age(entry, horizons.get(find_system(entry), Horizon()))


def judge_age(entry: BackupEntry, horizon: Horizon) -> BackupOutcome | None:
    """Whether the WAL that this backup begins with may be removed from the target at any moment; a dump needs none."""
    if entry.purpose is Purpose.DUMP:
        return None
    timeline = Timeline(int(entry.summary["timeline"]))
    if not horizon.is_past(timeline, find_start(entry)):
        return None
    reason = f"WAL of timeline {timeline} before {horizon.positions[timeline]} has been removed there"
    return _outcome(entry, BackupFate.TOO_OLD, None, reason)


def choose_neighbours(entry: BackupEntry, there: Sequence[BackupEntry]) -> tuple[BackupEntry, ...]:
    """The backups in the target that most likely share packs with this one: the next older and the next newer."""
    ours = [
        one
        for one in there
        if one.state is BackupState.COMMITTED
        and one.purpose is entry.purpose
        and find_system(one) == find_system(entry)
    ]
    start = find_start(entry)
    older = [one for one in ours if find_start(one) <= start]
    newer = [one for one in ours if find_start(one) > start]
    return (*older[-1:], *newer[:1])


def choose_tries(entry: BackupEntry, there: Sequence[BackupEntry], now: datetime) -> tuple[BackupEntry, ...]:
    """Copies of this backup that came to nothing, the latest ones: their packs are in the target already."""
    found = [
        one
        for one in there
        if one.original == entry.original
        and one.label != entry.original
        and (one.state is BackupState.ABANDONED or (one.state is BackupState.UNDECIDED and seems_dead(one, now)))
    ]
    return tuple(found[-_TRIES_MAX:])


def find_system(entry: BackupEntry) -> int:
    """The system identifier of a backup that is complete."""
    return int(entry.summary["system_identifier"])


def find_start(entry: BackupEntry) -> Lsn:
    return Lsn.parse(entry.summary["start_lsn"])


def find_begins(entries: Iterable[BackupEntry]) -> dict[int, Lsn]:
    """By system identifier, where the oldest of these backups begins."""
    begins: dict[int, Lsn] = {}
    for entry in entries:
        system = find_system(entry)
        begins[system] = min(begins.get(system, find_start(entry)), find_start(entry))
    return begins


def _outcome(entry: BackupEntry, fate: BackupFate, copy: str | None, reason: str | None) -> BackupOutcome:
    total = int(entry.summary.get("total_bytes", 0))
    return BackupOutcome(label=entry.label, fate=fate, copy=copy, reason=reason, total_bytes=total)
