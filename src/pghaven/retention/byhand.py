"""What people decide about one backup: expire it whatever the policy says, bring it back, hold it, release it.

The one idea: the policy protects what a rule could take by mistake, and a person who names a backup is no rule. So the
last backup of a lineage can be expired by its name, but only in the same two steps as any other, and told what is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pghaven.errors import NotFound, Refused
from pghaven.events import Listener, ignore
from pghaven.postgres.lsn import Lsn
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState, Purpose
from pghaven.repository.removal import BY_HAND, Removal, RetireOrder, refuse_held
from pghaven.retention.dumps import plan_dumps
from pghaven.retention.facts import KnownBackup
from pghaven.retention.full import draw_on_reserve
from pghaven.retention.gather import gather_lineages
from pghaven.retention.policy import RetentionPolicy, Rule, Verdict, plan_retention
from pghaven.units import render_time

_KEPT = (Purpose.BACKUP, Purpose.DUMP)
_CAN_BE_HELD = (BackupState.COMMITTED, BackupState.RETIRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalByHand:
    """One backup or dump that was expired by its name, or would be. ``kept_for`` is why the policy would keep it,
    ``lost`` what can no longer be restored when it is gone, each a clause."""

    label: str
    purpose: Purpose
    is_done: bool
    system_identifier: int
    kept_for: tuple[str, ...]
    lost: tuple[str, ...]
    undo_until: datetime


def find_named(
    catalogs: Mapping[str, BackupCatalog], label: str, state: BackupState
) -> tuple[dict[str, BackupEntry], tuple[str, ...]]:
    """What is meant by a label, or the unique beginning of one, in each repository that has it in this state, and the
    names of the repositories that have not.

    A copy is found by the label of its original, and the other way round. Raises NotFound when none has it, Refused
    when they have different ones.
    """
    found: dict[str, BackupEntry] = {}
    first: NotFound | None = None
    for name, catalog in catalogs.items():
        try:
            found[name] = catalog.find_entry(label, state, purposes=_KEPT)
        except NotFound as error:
            first = first or error
    if first is not None and not found:
        raise first
    originals = {entry.original for entry in found.values()}
    if len(originals) > 1:
        raise Refused(
            f'"{label}" begins the labels of different backups: {", ".join(sorted(originals))}',
            hint="Give more of the label, or name one repository with --repository.",
        )
    for name in catalogs.keys() - found.keys():
        for purpose in _KEPT:
            for entry in catalogs[name].list_entries(purpose):
                if entry.state is state and entry.original in originals:
                    found[name] = entry
    ordered = {name: found[name] for name in catalogs if name in found}
    return ordered, tuple(name for name in catalogs if name not in found)


def remove_backup(
    catalog: BackupCatalog,
    policy: RetentionPolicy,
    label: str,
    *,
    reason: str,
    dry_run: bool = False,
    listener: Listener = ignore,
) -> RemovalByHand:
    """Expire one backup or dump whatever the policy says of it; it can be brought back for the policy's grace.

    ``label`` may be the unique beginning of one. Raises NotFound, Refused for one that is held.
    """
    catalog.repository.require_readable("nothing can be expired from here")
    entry = catalog.find_entry(label, BackupState.COMMITTED, purposes=_KEPT)
    refuse_held(entry)
    now = catalog.repository.clock.now()
    judge = _judge_dump if entry.purpose is Purpose.DUMP else _judge_backup
    kept_for, lost = judge(catalog, policy, entry, now)
    undo_until = now + policy.grace
    if not dry_run:
        Removal(draw_on_reserve(catalog, listener)).retire(
            entry.label, RetireOrder(reason=BY_HAND + reason, not_before=undo_until)
        )
    return RemovalByHand(
        label=entry.label,
        purpose=entry.purpose,
        is_done=not dry_run,
        system_identifier=int(entry.summary["system_identifier"]),
        kept_for=kept_for,
        lost=lost,
        undo_until=undo_until,
    )


_Judged = tuple[tuple[str, ...], tuple[str, ...]]


def _judge_backup(catalog: BackupCatalog, policy: RetentionPolicy, entry: BackupEntry, now: datetime) -> _Judged:
    plan = plan_retention(policy, gather_lineages(catalog), now=now)
    verdict = next((one for one in plan.verdicts if one.backup.label == entry.label), None)
    if verdict is None:
        raise NotFound(f'backup "{entry.label}" has gone meanwhile')
    kept_for = tuple(one.text for one in verdict.reasons if verdict.is_kept and one.rule is not Rule.NO_POLICY)
    return kept_for, tuple(_iter_lost(verdict, plan.verdicts))


def _judge_dump(catalog: BackupCatalog, policy: RetentionPolicy, entry: BackupEntry, now: datetime) -> _Judged:
    """The same of a dump, which nothing else needs and which needs nothing else."""
    dumps = catalog.list_entries(Purpose.DUMP)
    kept_for: tuple[str, ...] = ()
    if not policy.is_empty:
        verdict = next(one for one in plan_dumps(policy, dumps, now=now) if one.label == entry.label)
        kept_for = verdict.reasons if verdict.is_kept else ()
    others = [one for one in dumps if one.state is BackupState.COMMITTED and one.label != entry.label]
    if not others:
        return kept_for, (f'it is the last dump of "{catalog.cluster}"',)
    there = {name for one in others for name in _list_databases(one)}
    alone = [name for name in _list_databases(entry) if name not in there]
    return kept_for, tuple(f'it is the last dump of database "{name}"' for name in alone)


def _list_databases(entry: BackupEntry) -> tuple[str, ...]:
    return tuple(entry.summary.get("dump", {}).get("databases", ()))


def _iter_lost(verdict: Verdict, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """What only this backup gives. Others that are expired already go too, so they do not count."""
    ours = verdict.backup
    others = [
        one.backup
        for one in verdicts
        if one.system_identifier == verdict.system_identifier
        and one.backup.label != ours.label
        and one.backup.state is BackupState.COMMITTED
    ]
    if not others:
        yield (
            f"it is the last backup of system {verdict.system_identifier}: nothing of that can be restored any more, "
            "whatever WAL there is of it"
        )
        return
    if ours.flaw is None and all(one.flaw is not None for one in others):
        yield "it is the last backup of its system in which nothing bad is known"
    if ours.verified and not any(one.verified for one in others):
        yield "it is the last backup of its system that was verified"
    start, when = ours.start_lsn, render_time(verdict.moment)
    if any(one.start_lsn <= start for one in others):
        yield f"moments after {when} must be replayed from an older backup, if that has all its WAL"
        return
    following = min(others, key=_stop_of)
    until = render_time(following.stopped_at or following.started_at)
    yield f'no moment from {when} until {until}, the end of backup "{following.label}", can be restored any more'


def _stop_of(backup: KnownBackup) -> Lsn:
    return backup.stop_lsn or backup.start_lsn


def undo_expiry(catalog: BackupCatalog, label: str, listener: Listener = ignore) -> str:
    """Bring a retired backup back; its label, of which ``label`` may be the beginning.

    Raises NotFound, Refused when it came too late.
    """
    entry = catalog.find_entry(label, BackupState.RETIRED, purposes=_KEPT)
    Removal(draw_on_reserve(catalog, listener)).undo(entry.label)
    return entry.label


def hold_backup(catalog: BackupCatalog, label: str, reason: str, listener: Listener = ignore) -> BackupEntry:
    """Exempt a backup from every policy, also one that is retired; it as it is then, with the hold that is in force.

    ``label`` may be the unique beginning of one. Raises NotFound, Refused when it came too late.
    """
    entry = catalog.find_entry(label, *_CAN_BE_HELD, purposes=_KEPT)
    Removal(draw_on_reserve(catalog, listener)).hold(entry.label, reason)
    return catalog.read_entry(entry.label)


def release_backup(catalog: BackupCatalog, label: str, listener: Listener = ignore) -> str:
    """End a hold; the backup's label, of which ``label`` may be the beginning. Raises NotFound, Refused."""
    entry = catalog.find_entry(label, *_CAN_BE_HELD, purposes=_KEPT)
    Removal(draw_on_reserve(catalog, listener)).release(entry.label)
    return entry.label


def find_next_expiry(catalog: BackupCatalog, policy: RetentionPolicy, label: str) -> str | None:
    """Why the policy would expire this backup or dump now; None if it would not. Raises Damaged, StoreUnreachable."""
    now = catalog.repository.clock.now()
    plan = plan_retention(policy, gather_lineages(catalog), now=now)
    dropped = {one.backup.label: one.words for one in plan.to_retire}
    if not policy.is_empty:
        dumps = plan_dumps(policy, catalog.list_entries(Purpose.DUMP), now=now)
        dropped.update((one.label, "; ".join(one.reasons)) for one in dumps if not one.is_kept)
    return dropped.get(label)
