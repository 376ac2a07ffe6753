"""What ``status`` shows of drills: the last one, and how long a restore would take now."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pghaven.units import render_duration, render_time

if TYPE_CHECKING:
    from pghaven.proof.states import RepositoryState
    from pghaven.repository.drills import DrillEvidence


def describe_drills(state: RepositoryState, now: datetime) -> list[tuple[str, str]]:
    if not state.drills:
        return [("drilled", "never; to prove that it comes back, and how fast: pghaven drill")]
    return [("drilled", _describe_last(state.drills[0], now))]


def describe_recovery_time(state: RepositoryState, now: datetime) -> list[tuple[str, str]]:
    """What was measured, and what it would be now; old measurements are told as old."""
    measured = find_measured(state)
    if measured is None:
        what = "no drill that passed has" if state.drills else "no drill has"
        return [("recovery time", f"unknown: {what} measured it")]
    ago = render_duration(max(0.0, (now - measured.began_at).total_seconds()))
    stale = ", too long ago to count" if measured.is_stale(now) else ""
    took = render_duration(measured.seconds["first_query"])
    estimated = find_estimate(state)
    about = "unknown for now" if estimated is None else f"about {render_duration(estimated)} now, by what was measured"
    return [("recovery time", f"{about}: {took} in the drill of {ago} ago{stale}")]


def find_measured(state: RepositoryState) -> DrillEvidence | None:
    """The last drill of a backup that passed and came to its first query."""
    return next((one for one in state.drills if one.passed and one.is_of_backup and "first_query" in one.seconds), None)


def _describe_last(last: DrillEvidence, now: datetime) -> str:
    ago = render_duration(max(0.0, (now - last.began_at).total_seconds()))
    if not last.passed:
        return f"FAILED {ago} ago"
    reached = "" if last.reached_at is None else f", up to {render_time(last.reached_at)}"
    stale = ", too long ago to count" if last.is_stale(now) else ""
    return f"passed {ago} ago{stale}, from {last.source} {last.backup}{reached}"


def find_estimate(state: RepositoryState) -> float | None:
    """Seconds for a restore of the newest backup up to the end of what is archived."""
    from pghaven.cli.restore_text import ASSUMED_REPLAY_BYTES_PER_SECOND
    from pghaven.proof.drilled import estimate_recovery, find_rates

    newest, window = state.newest, state.find_window(None)
    if newest is None or window is None:
        return None
    rates = find_rates(state.drills)
    return estimate_recovery(
        rates, newest.total_bytes, newest.start_lsn, window.end_lsn, ASSUMED_REPLAY_BYTES_PER_SECOND
    )


def drills_body(state: RepositoryState, now: datetime) -> dict[str, object]:
    last = state.drills[0] if state.drills else None
    measured = find_measured(state)
    return {
        "last_drill": None
        if last is None
        else {
            "evidence": last.name,
            "at": last.began_at,
            "passed": last.passed,
            "is_stale": last.is_stale(now),
            "source": last.source,
            "backup": last.backup,
            "target": last.target,
            "reached_lsn": last.reached_lsn,
            "reached_at": last.reached_at,
            "failures": last.failures,
            "seconds": last.seconds,
        },
        "recovery_time": {
            "measured_seconds": None if measured is None else measured.seconds["first_query"],
            "measured_at": None if measured is None else measured.began_at,
            "is_stale": None if measured is None else measured.is_stale(now),
            "estimated_seconds": find_estimate(state),
        },
    }
