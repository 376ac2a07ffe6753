"""Whether this host's clock can be right, by what other hosts have written. Pure.

The one idea: every age that is told is this host's clock minus a moment that some other one wrote; when that is less
than nothing, no age is known, and none may be told as young.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from pghaven.clock import CLOCK_TOLERANCE
from pghaven.proof.states import Problem, RepositorySilence, RepositoryState
from pghaven.units import render_time


def judge_clock(
    cluster: str, repositories: Sequence[RepositoryState | RepositorySilence], now: datetime
) -> Iterator[Problem]:
    """One problem at most, for what lies furthest in the future."""
    answered = [one for one in repositories if isinstance(one, RepositoryState)]
    latest = max((moment for one in answered for moment in _iter_moments(one)), default=None)
    if latest is None or latest[0] - now <= CLOCK_TOLERANCE:
        return
    moment, what = latest
    text = (
        f"this host's clock says {render_time(now)}, and {what} was made at {render_time(moment)}: "
        "how old anything is, and for how long anything would be lost, is not known"
    )
    hint = f"Set the clock that is wrong, this host's or that of the host which made it; then: pghaven status {cluster}"
    yield Problem(code="clock", level="warning", text=text, hint=hint)


def _iter_moments(state: RepositoryState) -> Iterator[tuple[datetime, str]]:
    for backup in state.backups:
        if backup.stopped_at is not None:
            yield backup.stopped_at, f"backup {backup.label}"
    for drill in state.drills:
        yield drill.began_at, f"the result of a drill, {drill.name},"
    for window in state.reach.windows:
        if window.end is not None:
            yield window.end, f"the last change in the WAL of timeline {window.timeline}"
