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
        return [
            ("drilled", "never; to prove that it comes back, and how fast: pghaven drill"),
            ("recovery time", "unknown: no drill has measured it"),
        ]
    estimated = find_estimate(state)
    time = "unknown: no drill that passed has measured it" if estimated is None else None
    return [
        ("drilled", _describe_last(state.drills[0], now)),
        ("recovery time", time or f"about {render_duration(estimated or 0.0)} now, by what was measured"),
    ]


def _describe_last(last: DrillEvidence, now: datetime) -> str:
    ago = render_duration(max(0.0, (now - last.began_at).total_seconds()))
    if not last.passed:
        return f"FAILED {ago} ago"
    reached = "" if last.reached_at is None else f", up to {render_time(last.reached_at)}"
    answered = last.seconds.get("first_query")
    took = "" if answered is None else f"; the first query was answered after {render_duration(answered)}"
    stale = ", too long ago to count" if last.is_stale(now) else ""
    return f"passed {ago} ago{stale}, from backup {last.backup}{reached}{took}"


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
    return {
        "last_drill": None
        if last is None
        else {
            "evidence": last.name,
            "at": last.began_at,
            "passed": last.passed,
            "is_stale": last.is_stale(now),
            "backup": last.backup,
            "target": last.target,
            "reached_lsn": last.reached_lsn,
            "reached_at": last.reached_at,
            "failures": last.failures,
            "seconds": last.seconds,
        },
        "recovery_time": {
            "measured_seconds": None if last is None or not last.passed else last.seconds.get("first_query"),
            "estimated_seconds": find_estimate(state),
        },
    }
