"""``pghaven wal list --at TIME``: whether a moment can be restored to, and where in the WAL it lies.

The one idea: the question is answered by what plans a restore, so that the answer is what a restore would do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pghaven.cli.opening import each_repository
from pghaven.cli.render import render_block
from pghaven.cli.restore_text import ASSUMED_REPLAY_BYTES_PER_SECOND
from pghaven.config.values import ClusterConfig, Config
from pghaven.errors import Damaged, NotFound, Refused
from pghaven.events import Listener
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.proof.drilled import estimate_recovery, find_rates
from pghaven.repository.drills import is_stale_at, load_drills
from pghaven.repository.entry import BackupEntry
from pghaven.repository.repository import Repository
from pghaven.restore.plan import survey_target
from pghaven.restore.request import RestoreRequest
from pghaven.units import render_duration, render_time


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentAnswer:
    """``lsn`` is where recovery stops, in ``segment``; they and the backup are None where it cannot, for ``reason``.
    ``seconds`` is how long a restore would take by the rates of a drill at ``measured_at``, None as long as none has
    measured it; ``is_stale`` when that was too long ago to count."""

    repository: str
    is_reachable: bool
    backup: str | None = None
    timeline: int | None = None
    lsn: str | None = None
    segment: str | None = None
    segments: int | None = None
    seconds: float | None = None
    measured_at: datetime | None = None
    is_stale: bool | None = None
    reason: str | None = None
    reachable: str | None = None


def find_moment(
    config: Config, cluster: ClusterConfig, moment: datetime, listener: Listener
) -> tuple[MomentAnswer, ...]:
    """What each repository of the cluster says of a moment. Raises what opening raises when none is left."""

    def ask(name: str, repository: Repository) -> MomentAnswer:
        target = RecoveryTarget(kind=TargetKind.TIME, time=moment)
        request = RestoreRequest(cluster=cluster.name, target_dir="/", target=target)
        try:
            backup, wal = survey_target(repository, request)
        except (Refused, NotFound, Damaged) as error:
            return MomentAnswer(repository=name, is_reachable=False, reason=error.message, reachable=error.detail)
        return MomentAnswer(
            repository=name,
            is_reachable=True,
            backup=backup.label,
            timeline=wal.timeline,
            lsn=str(wal.end_lsn),
            segment=str(wal.last_segment),
            segments=wal.segment_count,
            **_estimate(repository, cluster.name, backup, wal.end_lsn),
        )

    return tuple(answer for _, answer in each_repository(config, cluster, None, listener, ask))


def _estimate(repository: Repository, cluster: str, backup: BackupEntry, end_lsn: Lsn) -> dict[str, Any]:
    rates = find_rates(load_drills(repository, cluster))
    if rates is None:
        return {}
    start_lsn, total = Lsn.parse(backup.summary["start_lsn"]), backup.summary.get("total_bytes")
    seconds = estimate_recovery(rates, total, start_lsn, end_lsn, ASSUMED_REPLAY_BYTES_PER_SECOND)
    is_stale = is_stale_at(rates.measured_at, repository.clock.now())
    return {"seconds": seconds, "measured_at": rates.measured_at, "is_stale": is_stale}


def render_moment(moment: datetime, answers: tuple[MomentAnswer, ...]) -> str:
    """For people."""
    return "".join(_render(moment, one) for one in answers)


def _render(moment: datetime, one: MomentAnswer) -> str:
    if not one.is_reachable:
        pairs: list[tuple[str, object]] = [("reason", one.reason), ("can be restored", one.reachable)]
        return f"{one.repository}: {render_time(moment)} cannot be restored to\n" + render_block(pairs, indent="  ")
    pairs = [
        ("position", f"{one.lsn} on timeline {one.timeline}, in {one.segment}"),
        ("from backup", f"{one.backup}, with {one.segments} WAL segments"),
        ("in about", _describe_duration(one)),
    ]
    return f"{one.repository}: {render_time(moment)} can be restored to\n" + render_block(pairs, indent="  ")


def _describe_duration(one: MomentAnswer) -> str:
    if one.seconds is None or one.measured_at is None:
        return "unknown: no drill has measured it"
    stale = ", too long ago to count" if one.is_stale else ""
    return f"{render_duration(one.seconds)}, by what a drill measured at {render_time(one.measured_at)}{stale}"
