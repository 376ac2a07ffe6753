"""Which WAL stays: what the backups that stay need. Pure.

The one idea: what is wanted is told in WAL positions of one system identifier and holds for every timeline of it. A
path through several timelines only goes up in position, so a segment at or after the start of a backup that leads on,
or within the span of another, is kept on whichever timeline it lies, and no path is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName, WalFileKind, classify
from pghaven.repository.entry import BackupState
from pghaven.retention.policy import RetentionPlan, Rule, Verdict, render_window


@dataclass(frozen=True, slots=True, kw_only=True)
class WalSpan:
    """What one backup needs to be restored at all. Both ends are kept, the segments they lie in whole."""

    label: str
    begin_lsn: Lsn
    end_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class WalPlan:
    """What may go: whatever lies before ``horizon`` and outside all ``spans``; nothing if ``horizon`` is None.

    ``reason`` says why the horizon is where it is. ``spans`` all begin before it and are in the order of their begin.
    """

    system_identifier: int
    horizon: Lsn | None
    reason: str
    spans: tuple[WalSpan, ...]

    def find_reason(self, file_name: str, segment_size: int) -> str | None:
        """Why this file of ``pg_wal`` stays; None if it may go.

        History files and backup histories always stay: they are small, and without a history file no path to its
        timeline is known. So does whatever is not a segment or the beginning of one.
        """
        kind = classify(file_name)
        if kind not in (WalFileKind.SEGMENT, WalFileKind.PARTIAL):
            return f"{kind.value.replace('_', ' ')} files are always kept"
        try:
            number = SegmentName.parse(file_name[:24], segment_size).number
        except ValueError:
            return "its name does not fit the cluster's segment size"
        begin, end = number * segment_size, (number + 1) * segment_size
        if self.horizon is None or end > self.horizon:
            return self.reason
        for span in self.spans:
            if begin <= span.end_lsn and span.begin_lsn < end:
                return f'needed by backup "{span.label}"'
        return None


def plan_wal(plan: RetentionPlan, system_identifier: int) -> WalPlan:
    """What of a lineage's WAL stays when this retention plan is carried out.

    A backup that the plan drops counts as long as it can be brought back, with all WAL after it, since it may have been
    the base of a window.
    """
    ours = [verdict for verdict in plan.verdicts if verdict.system_identifier == system_identifier]
    leading = [verdict for verdict in ours if _goes_on(verdict)]
    if reason := _why_nothing_goes(plan, ours):
        return WalPlan(system_identifier=system_identifier, horizon=None, reason=reason, spans=())
    first = min(leading, key=lambda verdict: verdict.backup.start_lsn)
    horizon = first.backup.start_lsn
    spans = [
        WalSpan(label=verdict.backup.label, begin_lsn=verdict.backup.start_lsn, end_lsn=verdict.backup.stop_lsn)
        for verdict in ours
        if verdict.backup.stop_lsn is not None and verdict.backup.start_lsn < horizon
    ]
    return WalPlan(
        system_identifier=system_identifier,
        horizon=horizon,
        reason=f'at or after the start of backup "{first.backup.label}" ({_describe(first)})',
        spans=tuple(sorted(spans, key=lambda span: (span.begin_lsn, span.label))),
    )


def _goes_on(verdict: Verdict) -> bool:
    """Whether all WAL from its start on is wanted."""
    return verdict.leads_on or not verdict.is_kept or verdict.backup.state is not BackupState.COMMITTED


def _describe(verdict: Verdict) -> str:
    return "it can still be brought back" if not verdict.is_kept else verdict.reasons[0].text


def _why_nothing_goes(plan: RetentionPlan, ours: Sequence[Verdict]) -> str | None:
    if plan.refusal is not None:
        return plan.refusal.text
    if plan.unreadable:
        return f'what backup "{plan.unreadable[0]}" needs is not known: its records are damaged'
    committed = [verdict for verdict in ours if verdict.backup.state is BackupState.COMMITTED]
    if not committed:
        return "there is no backup of this lineage"
    policy = plan.policy
    # Until backups reach back as far as they should, WAL from before the first may be all there is of that time; a
    # backup that is kept elsewhere may lead to it.
    bases = {Rule.WINDOW_BASE, Rule.UNKNOWN_PATH}
    if policy.window is not None and not any(reason.rule in bases for verdict in ours for reason in verdict.reasons):
        return f"no backup is as old as the {render_window(policy.window)} window yet"
    count = sum(verdict.backup.state is BackupState.COMMITTED for verdict in plan.verdicts)
    if policy.count is not None and count < policy.count:
        return f"there are not {policy.count} backups yet"
    return None
