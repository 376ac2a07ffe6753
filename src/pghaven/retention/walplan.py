"""Which WAL stays: what the backups that stay need. Pure.

The one idea: what is wanted is told in WAL positions of one system identifier and holds for every timeline of it. A
path through several timelines only goes up in position, so if everything at or after the start of a backup that leads
on, and everything within the spans of the others, is kept on whichever timeline it lies, no path is ever cut.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pghaven.repository.entry import BackupState
from pghaven.repository.walcollect import WalNeed
from pghaven.retention.policy import RetentionPlan, Rule, Verdict, render_window

_BASES = (Rule.WINDOW_BASE, Rule.UNKNOWN_PATH)


@dataclass(frozen=True, slots=True, kw_only=True)
class WalPlan:
    """What of a lineage's WAL stays, and why its horizon is where it is. ``need`` is None if nothing may go."""

    system_identifier: int
    need: WalNeed | None
    reason: str


def plan_wal(plan: RetentionPlan, system_identifier: int, *, going: Collection[str] = ()) -> WalPlan:
    """What of a lineage's WAL stays when this retention plan is carried out and the labels in ``going`` are no more.

    Where ``is_lone`` says that there is no backup of it then, ``lonewal`` plans.

    A backup that the plan drops counts as long as it can be brought back, with all WAL after it, since it may have been
    the base of a window.
    """
    ours = [
        verdict
        for verdict in plan.verdicts
        if verdict.system_identifier == system_identifier and verdict.backup.label not in going
    ]
    if reason := _why_nothing_goes(plan, ours):
        return WalPlan(system_identifier=system_identifier, need=None, reason=reason)
    first = min(filter(_goes_on, ours), key=lambda verdict: verdict.backup.start_lsn, default=None)
    if first is None:
        reason = "the backup that leads on was expired by hand since, and which one takes its place is not judged yet"
        return WalPlan(system_identifier=system_identifier, need=None, reason=reason)
    horizon = first.backup.start_lsn
    spans = [
        (verdict.backup.start_lsn, verdict.backup.stop_lsn)
        for verdict in ours
        if verdict.backup.stop_lsn is not None and verdict.backup.start_lsn < horizon
    ]
    return WalPlan(
        system_identifier=system_identifier,
        need=WalNeed(system_identifier=system_identifier, horizon=horizon, spans=tuple(sorted(spans))),
        reason=f'backup "{first.backup.label}" begins there ({_describe(first)})',
    )


def is_lone(plan: RetentionPlan, system_identifier: int, *, going: Collection[str] = ()) -> bool:
    """Whether there is no backup of a lineage, nor any under way, when the labels in ``going`` are no more."""
    ours = (one.backup.label for one in plan.verdicts if one.system_identifier == system_identifier)
    return plan.refusal is None and all(label in going for label in ours)


def _goes_on(verdict: Verdict) -> bool:
    """Whether all WAL from its start on is wanted."""
    return verdict.leads_on or not verdict.is_kept or verdict.backup.state is not BackupState.COMMITTED


def _describe(verdict: Verdict) -> str:
    return verdict.reasons[0].text if verdict.is_kept else "it can still be brought back"


def _why_nothing_goes(plan: RetentionPlan, ours: Sequence[Verdict]) -> str | None:
    if plan.refusal is not None:
        return plan.refusal.text
    if not any(verdict.backup.state is BackupState.COMMITTED for verdict in ours):
        if any(verdict.backup.state is BackupState.RETIRED for verdict in ours):
            return "the last backup of this lineage can still be brought back"
        return "no backup of this lineage is finished yet" if ours else "there is no backup of this lineage"
    policy = plan.policy
    # Until backups reach back as far as they should, WAL from before the first may be all there is of that time; a
    # backup that is kept elsewhere may lead to it.
    if policy.window is not None and not any(reason.rule in _BASES for one in ours for reason in one.reasons):
        return f"no backup is as old as the {render_window(policy.window)} window yet"
    count = sum(
        verdict.backup.state is BackupState.COMMITTED and verdict.backup.missing_wal is None
        for verdict in plan.verdicts
    )
    if policy.count is not None and count < policy.count:
        return f"there are not {policy.count} backups yet"
    return None
