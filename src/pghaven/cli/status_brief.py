"""``status`` for many clusters: one line for each, the gravest first.

The one idea: whoever looks after many looks at the first line; what stands in it is the same as on the cluster's own
screen, and what is not known is "?".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pghaven.cli.render import Column, render_table
from pghaven.cli.status_drills import find_estimate, find_measured
from pghaven.cli.status_text import Screen, describe_loss
from pghaven.proof.states import ClusterStatus, RepositoryState, ServerState
from pghaven.units import render_duration, render_size

_UNKNOWN = "?"
_PROBLEM_COLUMNS_MIN = 20
_COLUMNS = (
    "state",
    "cluster",
    "server",
    Column(title="would be lost", align="right"),
    Column(title="recovery time", align="right"),
    Column(title="back to", align="right"),
    Column(title="backup", align="right"),
    Column(title="drill", align="right"),
    Column(title="standbys", align="right"),
    "first problem",
)
_LEVELS = {"critical": 0, "warning": 1, "ok": 2}


def render_brief(found: Sequence[ClusterStatus], screen: Screen) -> str:
    """A table; the last column is cut where the screen ends."""
    rows = [_make_row(one) for one in sorted(found, key=lambda one: (_LEVELS[_find_level(one)], one.cluster))]
    bare = render_table(_COLUMNS[:-1], [row[:-1] for row in rows])
    room = max(_PROBLEM_COLUMNS_MIN, screen.columns - max(map(len, bare.splitlines())) - 2)
    return render_table(_COLUMNS, [(*row[:-1], _cut(row[-1], room)) for row in rows])


def _find_level(status: ClusterStatus) -> str:
    return status.problems[0].level if status.problems else "ok"


def _make_row(status: ClusterStatus) -> tuple[str, ...]:
    level = _find_level(status)
    more = f" (and {len(status.problems) - 1} more)" if len(status.problems) > 1 else ""
    source = _find_source(status)
    return (
        level if level == "ok" else level.upper(),
        status.cluster,
        _describe_server(status),
        _describe_loss(status),
        _UNKNOWN if source is None else _describe_recovery_time(source, status.looked_at),
        "nothing" if status.overall is None else _describe_age(status.overall.begin, status.looked_at),
        _UNKNOWN if source is None else _describe_backup(source, status.looked_at),
        _UNKNOWN if source is None else _describe_drill(source, status.looked_at),
        _count_standbys(status),
        f"{status.problems[0].text}{more}" if status.problems else "",
    )


def _find_source(status: ClusterStatus) -> RepositoryState | None:
    """The repository that a restore to the last moment would take from; else the first that answers."""
    answered = [one for one in status.repositories if isinstance(one, RepositoryState)]
    wanted = None if status.overall is None else status.overall.end_in
    return next((one for one in answered if one.name == wanted), answered[0] if answered else None)


def _describe_server(status: ClusterStatus) -> str:
    server = status.server
    if isinstance(server, ServerState):
        return "standby" if server.in_recovery else "primary"
    return {True: "closed", False: "down", None: _UNKNOWN}[server.is_running]


def _describe_loss(status: ClusterStatus) -> str:
    if status.overall is None:
        answered = any(isinstance(one, RepositoryState) for one in status.repositories)
        return "everything" if answered else _UNKNOWN
    point = status.overall.recovery_point
    if point is None:
        return describe_loss(None).partition(":")[0]
    if point.unarchived_bytes == 0:
        return "nothing"
    seconds = _UNKNOWN if point.seconds is None else render_duration(point.seconds)
    size = _UNKNOWN if point.unarchived_bytes is None else render_size(point.unarchived_bytes)
    return f"{seconds}, {size}"


def _describe_recovery_time(state: RepositoryState, now: datetime) -> str:
    estimated, measured = find_estimate(state), find_measured(state)
    if estimated is None or measured is None:
        return _UNKNOWN
    return render_duration(estimated) + (" (stale)" if measured.is_stale(now) else "")


def _describe_age(moment: datetime, now: datetime) -> str:
    return render_duration(max(0.0, (now - moment).total_seconds()))


def _describe_backup(state: RepositoryState, now: datetime) -> str:
    newest = state.newest
    return "none" if newest is None or newest.stopped_at is None else _describe_age(newest.stopped_at, now)


def _describe_drill(state: RepositoryState, now: datetime) -> str:
    if not state.drills:
        return "never"
    last = state.drills[0]
    if last.doubt is not None:
        return _UNKNOWN
    if not last.passed:
        return "FAILED"
    return _describe_age(last.began_at, now) + (" (stale)" if last.is_stale(now) else "")


def _count_standbys(status: ClusterStatus) -> str:
    if not isinstance(status.server, ServerState):
        return _UNKNOWN
    away = sum(1 for one in status.server.standbys if one.is_away or one.is_lost)
    there = len(status.server.standbys) - away
    return f"{there}, {away} away" if away else str(there)


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else text[: columns - 3] + "..."
