"""What ``status --json`` shows: its fields are declared, with what they mean, in ``status_schema``."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING

from pghaven.cli.status_drills import drills_body
from pghaven.cli.status_text import count_complete
from pghaven.cli.wal_list import describe_timeline
from pghaven.proof.states import RepositorySilence, ServerState

if TYPE_CHECKING:
    from pghaven.proof.states import ClusterStatus, RepositoryState, ServerSilence
    from pghaven.proof.windows import Gap
    from pghaven.server.slots import SlotActivity
    from pghaven.wal.gapcause import ExplainedGap


def render_body(status: ClusterStatus) -> dict[str, object]:
    """``server.up`` and ``repositories[].reachable`` tell which of the two forms an entry has."""
    return {
        "cluster": status.cluster,
        "looked_at": status.looked_at,
        "server": _server_body(status.server),
        "agent": status.agent,
        "repositories": [_repository_body(one, status.looked_at) for one in status.repositories],
        "overall": status.overall,
        "problems": status.problems,
    }


def _server_body(server: ServerState | ServerSilence) -> dict[str, object]:
    body = {"up": isinstance(server, ServerState), **_fields(server)}
    if isinstance(server, ServerState) and server.room is not None:
        body["room"] = {**_fields(server.room), "seconds": server.room.seconds}
    if isinstance(server, ServerState):
        del body["is_receiver_wanted"]
        body["receiver"] = None if server.receiver is None else _slot_body(server.receiver)
    return body


def _slot_body(slot: SlotActivity) -> dict[str, object]:
    lsns = {name: getattr(slot, name) for name in ("restart_lsn", "flushed_lsn")}
    return {**_fields(slot), **{name: None if lsn is None else str(lsn) for name, lsn in lsns.items()}}


def _repository_body(state: RepositoryState | RepositorySilence, now: datetime) -> dict[str, object]:
    body = _fields(state)
    del body["behind"]
    body["missed"] = None if state.behind is None else {"files": len(state.behind.names), "since": state.behind.since}
    if isinstance(state, RepositorySilence):
        return {"reachable": False, **body}
    windows = [{**_fields(window), "last_segment": str(window.last_segment)} for window in state.reach.windows]
    causes = {one.gap.first: one for one in state.explained}
    gaps = [_gap_body(gap, causes.get(gap.first)) for gap in state.reach.gaps]
    found, doubtful = state.last_damage, state.doubtful
    for name in (
        "explained",
        "backups",
        "originals",
        "reach",
        "last_damage",
        "doubtful",
        "dumps",
        "drills",
        "proofs",
        "is_horizon_whole",
    ):
        del body[name]
    return {
        "reachable": True,
        **body,
        "newest_backup": None if state.newest is None else state.newest.label,
        "backup_count": count_complete(state),
        "newest_dump": state.dumps[-1].label if state.dumps else None,
        "dump_count": len(state.dumps),
        "running_backups": [one.label for one in state.backups if one.state.value == "running"],
        "windows": windows,
        "gaps": gaps,
        "timelines": [describe_timeline(one) for one in state.timelines],
        "damaged_wal": [str(segment) for segment, _ in state.reach.damaged],
        "verified_backups": [
            {"label": one.label, **_fields(one.verified)} for one in state.backups if one.state.value == "complete"
        ],
        "last_damage": None
        if found is None
        else {"evidence": found.name, "at": found.began_at, "damage_count": found.damage_count},
        "doubtful_verification": None
        if doubtful is None
        else {"evidence": doubtful.name, "at": doubtful.began_at, "doubt": doubtful.doubt},
        **drills_body(state, now),
        "unusable_backups": [label for label, _ in state.reach.unusable],
        "timelines_without_history": state.reach.unknown,
    }


def _gap_body(gap: Gap, explained: ExplainedGap | None) -> dict[str, object]:
    body: dict[str, object] = {"first": str(gap.first), "last": str(gap.last), "segments": gap.count}
    return {
        **body,
        "cause": None if explained is None else explained.cause,
        "reason": None if explained is None else explained.text,
    }


def _fields(value: object) -> dict[str, object]:
    body = {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]
    if "system_identifier" in body:
        body["system_identifier"] = str(body["system_identifier"])
    return body
