"""What ``pghaven expire`` shows: every backup with its verdict, and what went.

The one idea: a dry run and a run show the same, but for the line that says which of the two it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pghaven.cli.render import render_block, render_table
from pghaven.repository.entry import BackupState
from pghaven.retention.dumps import DumpVerdict
from pghaven.retention.expire import CompactionOutcome, ExpireResult, WalOutcome
from pghaven.retention.policy import Verdict
from pghaven.units import render_size, render_time


def render_text(repository: str, result: ExpireResult) -> str:
    title = f"cluster {result.cluster}, repository {repository}"
    if not result.is_done:
        title += ": nothing is changed, this is what would be done"
    if result.plan.refusal is not None and result.collected is None and result.obstacle is None:
        hint = f"    HINT:  Add a section [cluster.{result.cluster}.retention] to the configuration.\n"
        return f"{title}\n  nothing expires: {result.plan.refusal.text}\n{hint}"
    text = f"{title}\n"
    if result.plan.refusal is not None:
        text += f"  nothing but what was expired by hand expires: {result.plan.refusal.text}\n"
    if result.plan.verdicts:
        rows = [_row(verdict, result) for verdict in result.plan.verdicts]
        text += render_table(["backup", "taken", "verdict", "why"], rows)
    if result.dumps:
        dumps = [(one.label, render_time(one.taken), _name_dump(one), "; ".join(one.reasons)) for one in result.dumps]
        text += render_table(["dump", "taken", "verdict", "why"], dumps)
    text += render_block(_iter_pairs(result), indent="  ")
    if result.obstacle is not None:
        text += f"  ERROR: {result.obstacle.message}\n"
        if result.obstacle.hint:
            text += f"    HINT:  {result.obstacle.hint}\n"
    return text


def _row(verdict: Verdict, result: ExpireResult) -> tuple[object, ...]:
    why = "; ".join(reason.text for reason in verdict.reasons)
    return (verdict.backup.label, render_time(verdict.moment), _name_verdict(verdict, result), why)


def _name_dump(verdict: DumpVerdict) -> str:
    return "kept" if verdict.is_kept else "expired"


def _name_verdict(verdict: Verdict, result: ExpireResult) -> str:
    label = verdict.backup.label
    if result.collected is not None:
        if any(label == one.label for one in result.collected.condemned):
            return "removed"
        if any(label == one.label for one in result.collected.abandoned):
            return "given up"
    if verdict.is_kept:
        return "kept"
    if verdict.backup.state is BackupState.RETIRED:
        return "expired before"
    return "expired" if label in result.retired else "not expired"


def _iter_pairs(result: ExpireResult) -> Iterator[tuple[str, str]]:
    expired = "none"
    if result.retired:
        undo = f"pghaven expire {result.cluster} --undo LABEL"
        expired = f"{len(result.retired)}, until {render_time(result.undo_until)} this brings one back: {undo}"
    yield "expired backups", expired
    if result.collected is not None:
        packs = len(result.collected.packs)
        removed = f"{len(result.collected.labels)}" if result.collected.labels else "none"
        if packs:
            size = render_size(sum(pack.size_bytes for pack in result.collected.packs))
            removed += f", {packs} pack{'s' if packs > 1 else ''} of {size}"
        yield "removed backups", removed
    if result.compaction is not None and result.compaction.plan.packs:
        yield "compacted", _describe_compaction(result.compaction)
    if result.incidents:
        yield "removed WAL incidents", f"{len(result.incidents)}, with states of audits, that are over"
    if result.evidence:
        yield "removed results of verify", f"{len(result.evidence)}, of which newer ones say the same"
    if result.drills:
        yield "removed results of drills", f"{len(result.drills)}, of which newer ones say the same"
    if result.markers:
        yield "removed markers", f"{len(result.markers)}, whose WAL is gone"
    several = sum(1 for one in result.wal if one.removal is not None) > 1
    for one in result.wal:
        where = f" of system {one.plan.system_identifier}" if several else ""
        yield f"removed WAL{where}", _describe_removal(one)
        yield f"kept WAL{where}", _describe_need(one)


def _describe_compaction(outcome: CompactionOutcome) -> str:
    """The same words for what is done and for what would be."""
    plan = outcome.plan
    return (
        f"{len(plan.packs)} packs that are mostly dead, {render_size(plan.live_bytes)} in use; "
        f"about {render_size(plan.freed_bytes)} become free when the grace is over"
    )


def _describe_removal(outcome: WalOutcome) -> str:
    removal = outcome.removal
    if removal is None or not removal.files:
        return "none"
    count = len(removal.files)
    names = removal.files[0] if count == 1 else f"{removal.files[0]} to {removal.files[-1]}, {count} files"
    return f"{names}, {render_size(removal.freed_bytes)}"


def _describe_need(outcome: WalOutcome) -> str:
    need = outcome.plan.need
    if need is None:
        return f"all: {outcome.plan.reason}"
    spans = len(need.spans)
    others = "" if not spans else f", and what {spans} older backup{' needs' if spans == 1 else 's need'}"
    return f"from {need.horizon} on{others}: {outcome.plan.reason}"


def render_body(repository: str, result: ExpireResult) -> Mapping[str, object]:
    collected = result.collected
    return {
        "cluster": result.cluster,
        "repository": repository,
        "is_done": result.is_done,
        "now": result.plan.now,
        "refusal": result.plan.refusal,
        "backups": [_verdict_body(verdict, result) for verdict in result.plan.verdicts],
        "expired": result.retired,
        "undo_until": result.undo_until,
        "removed": None
        if collected is None
        else {
            "given_up": collected.abandoned,
            "condemned": collected.condemned,
            "labels": collected.labels,
            "pack_count": len(collected.packs),
            "pack_bytes": sum(pack.size_bytes for pack in collected.packs),
            "leftover_bytes": collected.leftover_bytes,
        },
        "wal": [_wal_body(one) for one in result.wal],
        "compacted": None
        if result.compaction is None
        else {
            "packs": len(result.compaction.plan.packs),
            "live_bytes": result.compaction.plan.live_bytes,
            "freed_bytes": result.compaction.plan.freed_bytes,
            "backups": result.compaction.plan.backups,
        },
        "evidence": result.evidence,
        "drills": result.drills,
        "markers": result.markers,
        "incidents": result.incidents,
        "obstacle": None
        if result.obstacle is None
        else {"code": result.obstacle.code, "message": result.obstacle.message, "hint": result.obstacle.hint},
    }


def _verdict_body(verdict: Verdict, result: ExpireResult) -> Mapping[str, object]:
    return {
        "label": verdict.backup.label,
        "system_identifier": str(verdict.system_identifier),
        "moment": verdict.moment,
        "state": verdict.backup.state,
        "is_kept": verdict.is_kept,
        "verdict": _name_verdict(verdict, result),
        "reasons": verdict.reasons,
    }


def _wal_body(outcome: WalOutcome) -> Mapping[str, object]:
    need, removal = outcome.plan.need, outcome.removal
    return {
        "system_identifier": str(outcome.plan.system_identifier),
        "horizon": None if need is None else need.horizon,
        "spans": [] if need is None else [{"begin_lsn": begin, "end_lsn": end} for begin, end in need.spans],
        "reason": outcome.plan.reason,
        "files": [] if removal is None else removal.files,
        "freed_bytes": 0 if removal is None else removal.freed_bytes,
    }
