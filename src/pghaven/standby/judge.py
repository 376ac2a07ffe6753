"""What is wrong with a standby: its server, its upstream, its slot, its lag, its timeline.

The one idea: a standby may be behind, delayed or fed by the archive alone and be sound; it is broken when what it has
lies on no line that anybody follows, or when nothing reaches it any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pghaven.errors import NotPermitted, ServerUnsuitable
from pghaven.postgres.lsn import Lsn
from pghaven.repository.place import RepositoryPlace
from pghaven.server.replication import SlotState, connect_for_replication
from pghaven.standby.lineage import Place, find_place, open_archives
from pghaven.standby.upstream import Answer, find_answer
from pghaven.standby.view import StandbyState
from pghaven.units import render_duration, render_size


class Gravity(StrEnum):
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    gravity: Gravity
    text: str
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyView:
    """All that is known. ``upstream`` is what the server it follows answers, else ``silence`` why not; ``slot`` as that
    server has it; ``places`` are those in each repository. Lag is None where it cannot be told."""

    state: StandbyState
    upstream: Answer | None
    silence: str | None
    slot: SlotState | None
    places: tuple[tuple[str, Place | None, str | None], ...]
    lag_bytes: int | None
    lag_seconds: float | None
    problems: tuple[Problem, ...]

    @property
    def verdict(self) -> str:
        gravest = {one.gravity for one in self.problems}
        return next((one.value for one in (Gravity.CRITICAL, Gravity.WARNING) if one in gravest), "ok")


def judge_standby(
    state: StandbyState,
    cluster: str,
    places: Sequence[RepositoryPlace],
    *,
    os_user: str | None,
    max_lag_seconds: float,
) -> StandbyView:
    """Ask the upstream and the repositories what the standby itself cannot know. Raises nothing of theirs."""
    conninfo = state.settings.get("primary_conninfo") or ""
    upstream, silence = find_answer(conninfo, "pghaven", os_user=os_user) if conninfo else (None, None)
    name = state.settings.get("primary_slot_name") or ""
    slot = _find_slot(conninfo, name, os_user) if upstream is not None and name else None
    standings = tuple(_find_place(state, cluster, place) for place in places)
    lag_bytes = None if upstream is None else max(0, upstream.lsn - state.replayed_lsn)
    lag_seconds = _find_lag(state, upstream)
    view = StandbyView(
        state=state,
        upstream=upstream,
        silence=silence,
        slot=slot,
        places=standings,
        lag_bytes=lag_bytes,
        lag_seconds=lag_seconds,
        problems=(),
    )
    problems = [*_judge_source(view, conninfo, name), *_judge_lag(view, max_lag_seconds), *_judge_places(view)]
    return StandbyView(
        state=state,
        upstream=upstream,
        silence=silence,
        slot=slot,
        places=standings,
        lag_bytes=lag_bytes,
        lag_seconds=lag_seconds,
        problems=tuple(problems),
    )


def _find_lag(state: StandbyState, upstream: Answer | None) -> float | None:
    """How long ago what comes next was committed, at most: None before anything was replayed, 0 where nothing comes."""
    newest = max(state.has_lsn, upstream.lsn if upstream is not None else Lsn(0))
    if upstream is not None and state.replayed_lsn >= newest:
        return 0.0
    if state.replayed_at is None:
        return None
    return max(0.0, (state.asked_at - state.replayed_at).total_seconds())


def _find_slot(conninfo: str, name: str, os_user: str | None) -> SlotState | None:
    try:
        connection = connect_for_replication(conninfo, "pghaven", os_user=os_user)
    except (ServerUnsuitable, NotPermitted):
        return None
    try:
        return connection.read_slot(name)
    except (ServerUnsuitable, NotPermitted):
        return None
    finally:
        connection.close()


def _find_place(state: StandbyState, cluster: str, place: RepositoryPlace) -> tuple[str, Place | None, str | None]:
    (view,) = open_archives([place], cluster, state.system_identifier)
    if view.archive is None:
        return place.name, None, view.error.message if view.error else "it could not be opened"
    return place.name, find_place(view.archive, state.timeline, state.has_lsn), None


def _judge_source(view: StandbyView, conninfo: str, slot_name: str) -> list[Problem]:
    state, problems = view.state, []
    if not state.is_standby:
        text = f"it is no standby: it is open for writing, on timeline {state.timeline}"
        return [Problem(gravity=Gravity.WARNING, text=text)]
    if conninfo and view.upstream is None:
        text = f"the server it follows does not answer: {view.silence}"
        hint = "It replays what is archived. If that server is lost: pghaven standby promote"
        problems.append(Problem(gravity=Gravity.WARNING, text=text, hint=hint))
    elif conninfo and not state.is_streaming:
        status = "no receiver runs" if state.receiver is None else f"the receiver is {state.receiver.status}"
        text = f"it receives nothing from the server it follows: {status}"
        problems.append(Problem(gravity=Gravity.WARNING, text=text, hint="The standby's log says why."))
    if not conninfo and not state.settings.get("restore_command"):
        text = "it follows nothing: it has neither primary_conninfo nor restore_command"
        problems.append(Problem(gravity=Gravity.CRITICAL, text=text))
    if view.upstream is not None and view.upstream.system_identifier != state.system_identifier:
        text = f"the server it is to follow has another system identifier, {view.upstream.system_identifier}"
        problems.append(Problem(gravity=Gravity.CRITICAL, text=text, hint="primary_conninfo leads to another cluster."))
    if slot_name and view.upstream is not None:
        if view.slot is None:
            text = f'replication slot "{slot_name}" is not there on the server it follows'
            hint = f"SELECT pg_create_physical_replication_slot('{slot_name}')"
            problems.append(Problem(gravity=Gravity.WARNING, text=text, hint=hint))
        elif view.slot.restart_lsn is None:
            text = f'replication slot "{slot_name}" reserves nothing: it was invalidated, or never used'
            problems.append(Problem(gravity=Gravity.WARNING, text=text))
    return problems


def _judge_lag(view: StandbyView, max_lag_seconds: float) -> list[Problem]:
    state, problems = view.state, []
    if not state.is_standby:
        return []
    if state.pause_state not in (None, "not paused"):
        text = f"replay is {state.pause_state} at {state.replayed_lsn}"
        problems.append(Problem(gravity=Gravity.WARNING, text=text, hint="SELECT pg_wal_replay_resume()"))
    limit = state.delay_seconds + max_lag_seconds
    if view.lag_seconds is not None and view.lag_seconds > limit and (view.lag_bytes is None or view.lag_bytes):
        behind = "" if view.lag_bytes is None else f" and {render_size(view.lag_bytes)}"
        over = f", its delay of {render_duration(state.delay_seconds)} included" if state.delay_seconds else ""
        text = f"it is {render_duration(view.lag_seconds)}{behind} behind{over}"
        problems.append(Problem(gravity=Gravity.WARNING, text=text))
    return problems


def _judge_places(view: StandbyView) -> list[Problem]:
    state, problems = view.state, []
    for name, place, error in view.places:
        if place is None:
            problems.append(Problem(gravity=Gravity.WARNING, text=f'repository "{name}" could not be asked: {error}'))
        elif not place.is_sound:
            at = "" if place.left_at is None else f" at {place.left_at}"
            text = (
                f"it is {place.standing}: it has {state.has_lsn} of timeline {state.timeline}, and repository {name} "
                f"goes on with timeline {place.newest}{at}"
            )
            hint = "Stop it, then: pghaven standby rejoin"
            problems.append(Problem(gravity=Gravity.CRITICAL, text=text, hint=hint))
    return problems
