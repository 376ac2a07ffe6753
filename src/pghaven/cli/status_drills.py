"""What ``status`` shows of drills: the last one, and how long a restore would take now."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pghaven.cli.restore_text import ASSUMED_REPLAY_BYTES_PER_SECOND
from pghaven.units import render_duration, render_rate, render_time

if TYPE_CHECKING:
    from pghaven.proof.states import RepositoryState
    from pghaven.repository.drills import DrillEvidence


def describe_drills(state: RepositoryState, now: datetime) -> list[tuple[str, str]]:
    last = "never; to prove that it comes back, and how fast: pghaven drill"
    if state.drills:
        last = _describe_last(state.drills[0], now)
    loaded = [("dumps proven", _describe_last(state.proofs[0], now))] if state.proofs else []
    return [("drilled", last), *loaded]


def describe_recovery_time(state: RepositoryState, now: datetime) -> list[tuple[str, str]]:
    """What was measured, and what it would be now; old measurements are told as old."""
    measured = find_measured(state)
    if measured is None:
        what = "no drill that passed has" if state.drills else "no drill has"
        return [("recovery time", f"unknown: {what} measured it")]
    from pghaven.proof.drilled import describe_ago

    took = render_duration(measured.seconds["first_query"])
    estimated = find_estimate(state)
    about = "unknown for now" if estimated is None else f"about {render_duration(estimated)} now, by what was measured"
    text = f"{about}: {took} in the drill of {describe_ago(measured.began_at, now)}{_tell_stale(measured, now)}"
    if estimated is not None and is_replay_assumed(state):
        text += f"; how fast WAL is replayed is not measured, {render_rate(ASSUMED_REPLAY_BYTES_PER_SECOND)} is assumed"
    return [("recovery time", text)]


def is_replay_assumed(state: RepositoryState) -> bool:
    """Whether no drill replayed enough WAL to tell how fast that is."""
    from pghaven.proof.drilled import find_rates

    rates = find_rates(state.drills)
    return rates is not None and rates.replay_bytes_per_second is None


def _tell_stale(drill: DrillEvidence, now: datetime) -> str:
    if now < drill.began_at:
        return ""  # said already, or a small matter
    return ", too long ago to count" if drill.is_stale(now) else ""


def find_measured(state: RepositoryState) -> DrillEvidence | None:
    """The last drill of a backup that passed and came to its first query."""
    return next((one for one in state.drills if one.passed and one.is_of_backup and "first_query" in one.seconds), None)


def _describe_last(last: DrillEvidence, now: datetime) -> str:
    from pghaven.proof.drilled import describe_ago

    ago = describe_ago(last.began_at, now)
    if last.doubt is not None:
        return f"not known: the result of {ago} does not count: {last.doubt}"
    if not last.passed:
        return f"FAILED {ago}"
    reached = "" if last.reached_at is None else f", up to {render_time(last.reached_at)}"
    signed = ", signed" if last.signature.value == "good" else ""
    return f"passed {ago}{_tell_stale(last, now)}, from {last.source} {last.backup}{reached}{signed}"


def find_estimate(state: RepositoryState) -> float | None:
    """Seconds for a restore of the newest backup up to the end of what is archived."""
    from pghaven.proof.drilled import estimate_recovery, find_rates

    newest, window = state.newest, state.find_window(None)
    if newest is None or window is None:
        return None
    rates = find_rates(state.drills)
    return estimate_recovery(
        rates, newest.total_bytes, newest.start_lsn, window.end_lsn, ASSUMED_REPLAY_BYTES_PER_SECOND
    )


def drills_body(state: RepositoryState, now: datetime) -> dict[str, object]:
    measured = find_measured(state)
    return {
        "last_drill": _drill_body(state.drills[0], now) if state.drills else None,
        "last_dump_proof": _drill_body(state.proofs[0], now) if state.proofs else None,
        "recovery_time": {
            "measured_seconds": None if measured is None else measured.seconds["first_query"],
            "measured_at": None if measured is None else measured.began_at,
            "is_stale": None if measured is None else measured.is_stale(now),
            "estimated_seconds": find_estimate(state),
            "is_replay_assumed": None if measured is None else is_replay_assumed(state),
        },
    }


def _drill_body(drill: DrillEvidence, now: datetime) -> dict[str, object]:
    return {
        "evidence": drill.name,
        "at": drill.began_at,
        "passed": drill.passed,
        "is_stale": drill.is_stale(now),
        "source": drill.source,
        "backup": drill.backup,
        "target": drill.target,
        "reached_lsn": drill.reached_lsn,
        "reached_at": drill.reached_at,
        "failures": drill.failures,
        "signature": drill.signature.value,
        "doubt": drill.doubt,
        "seconds": drill.seconds,
    }
