"""A restore's plan and its result, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pghaven.cli.render import render_block
from pghaven.postgres.recovery import TargetKind, render_target
from pghaven.restore.request import Existing, RestorePlan, Root
from pghaven.units import render_duration, render_rate, render_size, render_time

if TYPE_CHECKING:
    from pghaven.proof.drilled import Rates
    from pghaven.restore.execute import RestoreResult
    from pghaven.restore.recover import Recovery
    from pghaven.restore.sources import SourcedPlan

# For an estimate until a drill has measured rates: a modest disk, and redo by one process.
ASSUMED_COMPARE_BYTES_PER_SECOND = 400 * 1024.0**2
ASSUMED_RESTORE_BYTES_PER_SECOND = 200 * 1024.0**2
ASSUMED_REPLAY_BYTES_PER_SECOND = 64 * 1024.0**2
ASSUMED_OVERHEAD_SECONDS = 3.0
# Of what becomes of paths in the target, this many are named each; a dropped database has hundreds.
SHOWN_PATHS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Seconds for copying and for replaying WAL, and ``other_seconds`` for starting and ending, of which
    ``ending_seconds`` come after the replay; ``basis`` says what the rates are. ``copy_profile`` are the shares of the
    copying that are done after each tenth of its time, none where nobody has measured it; ``is_measured`` tells whether
    the rate of copying was, and that of replay.

    Where files are there already, ``copy_seconds`` is for the case that all of it differs, and ``compare_seconds`` of
    it are what is needed when nothing does."""

    copy_seconds: float
    compare_seconds: float
    replay_seconds: float
    other_seconds: float
    basis: str
    ending_seconds: float = 0.0
    copy_profile: tuple[float, ...] = ()
    is_measured: tuple[bool, bool] = (False, False)

    @property
    def total_seconds(self) -> float:
        return self.copy_seconds + self.replay_seconds + self.other_seconds

    @property
    def least_seconds(self) -> float:
        return self.compare_seconds + self.replay_seconds + self.other_seconds


def estimate(plan: RestorePlan, rates: Rates | None) -> Estimate:
    """At the rates of the last drills that passed; without any at assumed ones."""
    facts = plan.manifest.facts
    files, replay, other = ASSUMED_RESTORE_BYTES_PER_SECOND, ASSUMED_REPLAY_BYTES_PER_SECOND, ASSUMED_OVERHEAD_SECONDS
    basis = "at assumed rates: no drill has measured any"
    if rates is not None:
        files, other = rates.files_bytes_per_second, rates.other_seconds
        replay = rates.replay_bytes_per_second or replay
        basis = f"at the rates of drills up to that of {render_time(rates.measured_at)}"
        if rates.replay_bytes_per_second is None:
            basis += f"; how fast WAL is replayed is not measured, {render_rate(replay)} is assumed"
    there = plan.existing.local_bytes if plan.existing is not None else 0
    total = 0 if plan.is_cloned else facts.total_bytes
    compare_seconds = there / ASSUMED_COMPARE_BYTES_PER_SECOND
    missing_seconds = (total - there) / files
    return Estimate(
        copy_seconds=compare_seconds + total / files,
        compare_seconds=compare_seconds + missing_seconds,
        replay_seconds=max(0, plan.wal.end_lsn - facts.start_lsn) / replay,
        other_seconds=other,
        basis=basis,
        ending_seconds=other / 2 if rates is None else rates.ending_seconds,
        copy_profile=() if rates is None or plan.existing is not None else rates.fetch_profile,
        is_measured=(rates is not None, rates is not None and rates.replay_bytes_per_second is not None),
    )


def render_plan(sourced: SourcedPlan, now: datetime, rates: Rates | None) -> str:
    """What will be done, ending in an empty line."""
    plan = sourced.plan
    request, facts, wal = plan.request, plan.manifest.facts, plan.wal
    existing = plan.existing
    most = "" if existing is None else "at most "
    size = f"{render_size(facts.total_bytes)} in {facts.file_count} files"
    packs = plan.manifest.packs
    moment = None if request.target.kind is TargetKind.TIME else wal.moment
    pairs: list[tuple[str, object]] = [
        ("target", "follow the primary as a standby" if request.standby else render_target(request.target)),
        ("then", None if request.standby else _describe_action(plan)),
        ("port", request.port),
        ("last change", None if moment is None else f"made at {render_time(moment)}"),
        ("backup" if packs else "snapshot", f"{plan.backup.label}, taken {render_time(facts.stopped_at)}"),
        ("timeline", _describe_path(plan)),
        ("WAL", f"{_describe_segments(plan)}, up to {wal.end_lsn}"),
        (
            "to fetch",
            f"{most}{render_size(plan.fetch_bytes)} in {len(packs)} packs, and the WAL" if packs else "the WAL",
        ),
        ("to write", f"nothing: {size} are shared with the snapshot" if plan.is_cloned else f"{most}{size}"),
    ]
    if len(sourced.verdicts) > 1:
        chosen = sorted(sourced.verdicts, key=lambda one: not one.is_chosen)
        pairs += [("" if number else "repository", f"{one.name}: {one.reason}") for number, one in enumerate(chosen)]
    for root in plan.roots:
        pairs.append(("into" if not root.prefix else root.prefix, _describe_root(root)))
    pairs += _describe_existing(existing)
    pairs.append(("estimate", _describe_estimate(plan, now, rates)))
    title = "clone" if plan.is_cloned else "restore"
    return f"{title} of cluster {request.cluster}\n" + render_block(pairs, indent="  ") + "\n"


def _describe_existing(existing: Existing | None) -> list[tuple[str, object]]:
    """What is there already and what becomes of it; empty names go on with the line above."""
    if existing is None:
        return []
    what = "what an unfinished restore left: " if existing.is_unfinished else ""
    there = f"{render_size(existing.local_bytes)} in {existing.file_count} files of the backup's"
    pairs: list[tuple[str, object]] = [
        ("there already", f"{what}{there}; only pages that differ are fetched and written"),
    ]
    pairs += _enumerate("removed", "of PostgreSQL's that the backup does not have", existing.removed)
    pairs += _enumerate("replaced", "links and the like, which are not followed", existing.replaced)
    pairs += _enumerate("also removed", "that are in the way and not PostgreSQL's", existing.in_the_way)
    pairs += _enumerate(
        "moved away", f"of WAL, not in the archive, to {existing.saved_wal_directory}", existing.saved_wal
    )
    pairs += _enumerate("left alone", "that are not PostgreSQL's", existing.foreign)
    return pairs


def _enumerate(title: str, what: str, paths: Sequence[str]) -> list[tuple[str, object]]:
    if not paths:
        return []
    shown = [("", path) for path in paths[:SHOWN_PATHS]]
    if len(paths) > SHOWN_PATHS:
        shown.append(("", f"… and {len(paths) - SHOWN_PATHS} more (--json has all)"))
    return [(title, f"{len(paths)} {what}"), *shown]


def _describe_estimate(plan: RestorePlan, now: datetime, rates: Rates | None) -> str:
    guess = estimate(plan, rates)
    end = render_time(now + timedelta(seconds=guess.total_seconds))
    if plan.existing is None:
        parts = f"{render_duration(guess.copy_seconds)} for the files, {render_duration(guess.replay_seconds)} for WAL"
        parts += f", {render_duration(guess.other_seconds)} for planning and opening"
        return f"{render_duration(guess.total_seconds)} ({parts}), so done at about {end}, {guess.basis}"
    least, most = render_duration(guess.least_seconds), render_duration(guess.total_seconds)
    return f"{least} if nothing differs, {most} if all does, which would be at about {end}, {guess.basis}"


def _describe_segments(plan: RestorePlan) -> str:
    wal = plan.wal
    if wal.segment_count == 1:
        return f"1 segment, {wal.first_segment}"
    return f"{wal.segment_count} segments, {wal.first_segment} to {wal.last_segment}"


def _describe_action(plan: RestorePlan) -> str | None:
    return {
        "promote": "the server opens for writing on a new timeline",
        "pause": "the server stays open for reading, paused",
        "shutdown": "the server shuts down",
    }[plan.request.target.action]


def _describe_path(plan: RestorePlan) -> str:
    ends = ("" if part.end_lsn is None else f" up to {part.end_lsn}" for part in plan.wal.path)
    return ", then ".join(f"{part.timeline}{end}" for part, end in zip(plan.wal.path, ends, strict=True))


def _describe_root(root: Root) -> str:
    free = "unknown" if root.free_bytes is None else render_size(root.free_bytes)
    needs = f"needs {render_size(root.needed_bytes)}, " if root.needed_bytes else ""
    return f"{root.path}, {needs}{free} free"


def plan_body(sourced: SourcedPlan, rates: Rates | None) -> dict[str, object]:
    plan = sourced.plan
    guess = estimate(plan, rates)
    request, facts, wal = plan.request, plan.manifest.facts, plan.wal
    target = request.target
    return {
        "cluster": request.cluster,
        "target_dir": request.target_dir,
        "target": {
            "kind": target.kind.value,
            "time": target.time,
            "lsn": target.lsn,
            "xid": target.xid,
            "name": target.name,
            "inclusive": target.inclusive,
            "action": target.action,
        },
        "standby": request.standby,
        "archiving": request.archiving,
        "port": request.port,
        "repository": sourced.name,
        "repositories": sourced.verdicts,
        "backup": plan.backup.label,
        "backup_stopped_at": facts.stopped_at,
        "timeline": wal.timeline,
        "timeline_path": wal.path,
        "first_segment": str(wal.first_segment),
        "last_segment": str(wal.last_segment),
        "segment_count": wal.segment_count,
        "end_lsn": wal.end_lsn,
        "moment": wal.moment,
        "fetch_bytes": plan.fetch_bytes,
        "total_bytes": facts.total_bytes,
        "file_count": facts.file_count,
        "places": [
            {"path": root.path, "needed_bytes": root.needed_bytes, "free_bytes": root.free_bytes} for root in plan.roots
        ],
        "resumes": plan.resumes,
        "delta": request.delta,
        "existing": plan.existing,
        "estimated_seconds": guess.total_seconds,
        "estimated_parts": {
            "copy_seconds": guess.copy_seconds,
            "replay_seconds": guess.replay_seconds,
            "other_seconds": guess.other_seconds,
        },
        "estimated_least_seconds": guess.least_seconds,
        "rates_measured_at": None if rates is None else rates.measured_at,
    }


# -- afterwards ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """How the restored directory becomes a server. ``user`` is the operating-system user it must run as."""

    user: str
    start_command: str


def render_restored(result: RestoreResult, handover: Handover) -> str:
    """After a restore that did not start the server."""
    plan = result.plan
    text = f"{_describe_result(result)}\n"
    pairs: list[tuple[str, object]] = [
        ("start it with", handover.start_command),
        ("as the user", handover.user),
        ("it will", "follow its primary" if plan.request.standby else f"replay WAL up to {plan.wal.end_lsn} first"),
        (
            "until then",
            None if plan.request.standby else "it may show an earlier state; SELECT pg_is_in_recovery() tells",
        ),
        ("archiving", "as configured" if plan.request.archiving else "off, as fits a copy; see postgresql.auto.conf"),
    ]
    if plan.request.standby:
        pairs.append(("primary", "to stream from one, set primary_conninfo before the start"))
    return text + render_block(pairs, indent="  ")


def _describe_result(result: RestoreResult) -> str:
    if result.plan.is_cloned:
        return f"cloned to {result.plan.request.target_dir} in {render_duration(result.total_seconds)}"
    done = result.written_bytes + result.proven_bytes
    rate = done / result.fetch_seconds if result.fetch_seconds > 0 else 0.0
    text = (
        f"restored {render_size(done)} to {result.plan.request.target_dir} in "
        f"{render_duration(result.total_seconds)} ({render_size(rate)}/s)"
    )
    if result.plan.existing is None:
        return text
    return f"{text}, {render_size(result.written_bytes)} of it written and the rest there already"


def render_recovered(
    result: RestoreResult, recovery: Recovery, last_commit: datetime | None, handover: Handover | None
) -> str:
    """After a restore that started the server too; ``handover`` is for one that did not go on running."""
    plan = result.plan
    states = {
        "open": "the server is open",
        "stopped": "the server is stopped",
        "paused": "the server is paused at the target and open for reading",
        "shut down": "the server has shut down at the target",
        "standby": "the server runs as a standby",
    }
    text = f"{_describe_result(result)}, recovered in {render_duration(recovery.seconds)}; {states[recovery.state]}\n"
    pairs: list[tuple[str, object]] = [
        ("target", None if plan.request.standby else render_target(plan.request.target)),
        ("reached", f"{recovery.reached_lsn} of timeline {plan.wal.timeline}{_describe_excess(plan, recovery)}"),
        ("last transaction", _describe_commit(plan, last_commit)),
        ("timeline now", recovery.timeline),
        ("connect with", None if recovery.conninfo is None else f'psql "{recovery.conninfo}"'),
        ("start it with", None if handover is None else handover.start_command),
        ("as the user", None if handover is None else handover.user),
        ("to go on", "SELECT pg_wal_replay_resume() lets the server open" if recovery.state == "paused" else None),
    ]
    return text + render_block(pairs, indent="  ")


def _describe_excess(plan: RestorePlan, recovery: Recovery) -> str:
    """How much later than planned recovery stopped; earlier ones are errors and do not come here."""
    if plan.request.standby:
        return ""
    excess = recovery.reached_lsn - plan.wal.end_lsn
    # The end of the archive is planned as where its last record begins.
    if excess <= 0 or plan.request.target.kind is TargetKind.LATEST:
        return ", as planned"
    return f", {render_size(excess)} after the planned {plan.wal.end_lsn}"


def _describe_commit(plan: RestorePlan, last_commit: datetime | None) -> str | None:
    if last_commit is None:
        return None
    target = plan.request.target
    text = f"ended at {render_time(last_commit)}"
    if target.kind is TargetKind.TIME and target.time is not None:
        before = (target.time - last_commit).total_seconds()
        text += f", {render_duration(max(0.0, before))} before the target time"
    return text


def recovery_body(plan: RestorePlan, recovery: Recovery, last_commit: datetime | None) -> dict[str, object]:
    return {
        "state": recovery.state,
        "reached_lsn": recovery.reached_lsn,
        "beyond_plan_bytes": recovery.reached_lsn - plan.wal.end_lsn,
        "timeline": recovery.timeline,
        "seconds": recovery.seconds,
        "last_transaction_at": last_commit,
        "conninfo": recovery.conninfo,
    }
