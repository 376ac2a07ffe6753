"""Expiring: what the policy no longer wants is retired, and what nobody can bring back any more is removed.

The one idea: a backup goes in two steps. It is retired by the policy, and can be brought back for a while; when that
is over the collectors remove it, its packs and its WAL. A preview makes the same plan and asks the collectors for
theirs, so what it shows is what a run at that moment does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from pghaven.errors import Cancelled, Damaged, Locked, NotFound, Refused, StoreFull
from pghaven.events import Listener, Notice, Step
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collect import BackupCollector, CollectResult, CollectRules
from pghaven.repository.compact import CompactionPlan, CompactionResult, CompactionRules, Compactor
from pghaven.repository.entry import Purpose
from pghaven.repository.layout import make_label
from pghaven.repository.oldevidence import find_old_drills, find_old_evidence, find_old_markers
from pghaven.repository.oldincidents import find_old_incidents
from pghaven.repository.removal import BY_HAND, Removal, RetireOrder
from pghaven.repository.walcollect import WalCollector, WalRemoval
from pghaven.retention.dumps import DumpVerdict, expire_dumps
from pghaven.retention.full import draw_on_reserve
from pghaven.retention.gather import gather_lineages
from pghaven.retention.lonewal import gather_lone_wal, plan_lone_wal
from pghaven.retention.policy import RetentionPlan, RetentionPolicy, Rule, plan_retention
from pghaven.retention.walplan import WalPlan, is_lone, plan_wal
from pghaven.runtime.whoami import ProcessIdentity, read_own_identity
from pghaven.store.reserve import keep_reserve

COMPACTION_RULES: Final = CompactionRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Which process does it, and what it calls a compaction that it makes at a moment."""

    identity: ProcessIdentity
    new_label: Callable[[datetime], str] = make_label


_Means = tuple[CompactionRules, Worker]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalOutcome:
    """The WAL of one lineage: what was wanted of it, and what was removed; None if nothing may be."""

    plan: WalPlan
    removal: WalRemoval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionOutcome:
    """Packs that are mostly dead, and what became of them; ``result`` is None where nothing was done."""

    plan: CompactionPlan
    result: CompactionResult | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireResult:
    """What was done, or would be. ``retired`` are labels that can be brought back until ``undo_until``.

    ``obstacle`` is why the collectors removed nothing although there was something to remove: what backups need could
    not be read. ``collected`` is None then, without a policy, and where another process is collecting at this moment.
    ``evidence`` are results of verifications of which newer ones say the same, and ``drills`` those of drills;
    ``markers`` are those whose WAL is gone; ``incidents`` those of the WAL that are over, and states of audits that
    newer ones go on from.
    """

    cluster: str
    is_done: bool
    plan: RetentionPlan
    undo_until: datetime
    retired: tuple[str, ...] = ()
    dumps: tuple[DumpVerdict, ...] = ()
    collected: CollectResult | None = None
    wal: tuple[WalOutcome, ...] = ()
    compaction: CompactionOutcome | None = None
    evidence: tuple[str, ...] = ()
    drills: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    incidents: tuple[str, ...] = ()
    obstacle: Damaged | None = None


def run_expire(
    catalog: BackupCatalog,
    policy: RetentionPolicy,
    listener: Listener,
    *,
    dry_run: bool = False,
    compaction: CompactionRules = COMPACTION_RULES,
    who: Worker | None = None,
) -> ExpireResult:
    """Retire what the policy drops, remove whatever is due, and write packs that are mostly dead anew.

    Without a policy nothing is retired, and only what somebody has expired by hand is removed. ``who`` does it, this
    process if nobody else is named.

    Raises NotFound for a cluster that is not registered, Refused when a clock is wrong, Damaged when the facts of a
    backup are, StoreUnreachable, NotPermitted. Whatever stops it, running it again goes on.
    """
    if not dry_run:
        catalog = draw_on_reserve(catalog, listener)
    means = (compaction, who or Worker(identity=read_own_identity()))
    result = _run(catalog, policy, listener, means, dry_run=dry_run)
    if not dry_run:
        keep_reserve(catalog.repository.store, layout.RESERVE_PREFIX)
    return result


def _run(
    catalog: BackupCatalog, policy: RetentionPolicy, listener: Listener, means: _Means, *, dry_run: bool
) -> ExpireResult:
    if not catalog.repository.list_lineages(catalog.cluster):
        raise NotFound(
            f'cluster "{catalog.cluster}" is not registered in repository {catalog.repository.store.url}',
            hint=f"Register it with: pghaven init {catalog.cluster}",
        )
    # What is needed of packs is written in manifests, and who can thin out what is kept should not be every writer.
    catalog.repository.require_readable("nothing can be expired from here")
    listener(Step(text="reading what there is"))
    lineages = gather_lineages(catalog)
    plan = plan_retention(policy, lineages, now=catalog.repository.clock.now())
    if plan.refusal is not None and plan.refusal.rule is Rule.CLOCK:
        raise Refused(
            f"nothing was expired: {plan.refusal.text}",
            hint="Compare the clocks of this host and of the one that took the backup.",
        )
    result = ExpireResult(cluster=catalog.cluster, is_done=not dry_run, plan=plan, undo_until=plan.now + policy.grace)
    if plan.refusal is not None and not _is_only_by_hand(catalog):
        return result
    if dry_run:
        result = replace(result, retired=tuple(verdict.backup.label for verdict in plan.to_retire))
    else:
        result = replace(result, retired=tuple(_retire(catalog, result, listener)))
    dumps = (
        () if plan.refusal is not None else expire_dumps(catalog, policy, result.undo_until, listener, dry_run=dry_run)
    )
    result = replace(result, dumps=dumps)
    listener(Step(text="looking for what is due" if dry_run else "removing what is due"))
    try:
        result = _collect(catalog, [lineage.system_identifier for lineage in lineages], result, means[1])
    except (Locked, Cancelled) as error:
        listener(Notice(level="info", code="not_collected", text=error.message))
        return result
    if result.obstacle is not None or plan.refusal is not None:
        return result
    return _compact(catalog, means, listener, _trim_evidence(catalog, result))


def _trim_evidence(catalog: BackupCatalog, result: ExpireResult) -> ExpireResult:
    """The result with what was removed of the results of verifications and drills, of markers, audits and incidents, or
    would be."""
    assert result.collected is not None
    going = {one.label for one in (*result.collected.abandoned, *result.collected.condemned)}
    labels = {one.backup.label for one in result.plan.verdicts} - going
    repository, cluster = catalog.repository, catalog.cluster
    old = find_old_evidence(repository, cluster, labels)
    drills = find_old_drills(repository, cluster, labels)
    lineages = repository.list_lineages(cluster)
    incidents = [name for one in lineages for name in find_old_incidents(repository, cluster, one)]
    markers = [name for one in lineages for name in find_old_markers(repository, cluster, one.system_identifier)]
    if result.is_done:
        for name in (*old, *drills, *incidents, *markers):
            repository.store.delete(name)
    return replace(result, evidence=old, drills=drills, incidents=tuple(incidents), markers=tuple(markers))


def _is_only_by_hand(catalog: BackupCatalog) -> bool:
    """Whether all that is expired was expired by its name: what a policy has expired, which is gone now, stays."""
    entries = [*catalog.list_entries(), *catalog.list_entries(Purpose.DUMP)]
    retired = [one.retirement for one in entries if one.retirement is not None]
    return bool(retired) and all(one.reason.startswith(BY_HAND) for one in retired)


def _compact(catalog: BackupCatalog, means: _Means, listener: Listener, result: ExpireResult) -> ExpireResult:
    """The result with what was written anew, or would be; what that supersedes goes when the grace is over."""
    assert result.collected is not None
    rules, who = means
    compactor = Compactor(catalog, rules)
    try:
        plan = compactor.plan(frozenset(one.label for one in result.collected.condemned))
        if not result.is_done or not plan.packs:
            return replace(result, compaction=CompactionOutcome(plan=plan, result=None))
        listener(Step(text=f"writing the live parts of {len(plan.packs)} packs anew"))
        done = compactor.run(plan, who.new_label(catalog.repository.clock.now()), who.identity)
    except (Locked, Cancelled, StoreFull) as error:
        listener(Notice(level="info", code="not_compacted", text=error.message))
        return result
    except Damaged as error:
        return replace(result, obstacle=error)
    return replace(result, compaction=CompactionOutcome(plan=plan, result=done))


def _retire(catalog: BackupCatalog, result: ExpireResult, listener: Listener) -> Iterator[str]:
    """The labels that were retired; not those that somebody has held or removed since the plan was made."""
    for verdict in result.plan.to_retire:
        order = RetireOrder(reason=verdict.words, not_before=result.undo_until)
        try:
            Removal(catalog).retire(verdict.backup.label, order)
        except (Refused, NotFound) as error:
            listener(Notice(level="info", code="not_expired", text=error.message))
        else:
            yield verdict.backup.label


def _collect(
    catalog: BackupCatalog, system_identifiers: Sequence[int], result: ExpireResult, who: Worker
) -> ExpireResult:
    """The result with what the collectors removed, or would remove."""
    collector = BackupCollector(catalog, CollectRules(grace=result.plan.policy.grace))
    try:
        collected = collector.run(who.identity) if result.is_done else collector.preview()
    except Damaged as error:
        return replace(result, obstacle=error)
    # What no longer is a backup when the collector has been at work needs no WAL any more.
    going = frozenset(one.label for one in (*collected.abandoned, *collected.condemned))
    wal_collector = WalCollector(catalog)
    wal = []
    for system_identifier in system_identifiers:
        if is_lone(result.plan, system_identifier, going=going):
            is_current = system_identifier == system_identifiers[-1]
            lone = gather_lone_wal(wal_collector.open_archive(system_identifier), is_current=is_current)
            wanted = plan_lone_wal(lone, result.plan.policy, now=result.plan.now)
        else:
            wanted = plan_wal(result.plan, system_identifier, going=going)
        removal = None
        if wanted.need is not None:
            need = wanted.need
            removal = wal_collector.run(need) if result.is_done else wal_collector.preview(need, going=going)
        wal.append(WalOutcome(plan=wanted, removal=removal))
    return replace(result, collected=collected, wal=tuple(wal))
