"""What is wrong with the standbys of a server, as it sees them itself. Pure.

The one idea: a standby protects by being close behind; one that is away, or whose WAL the server has let go of, does
not, and one that the server keeps WAL for fills its disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pghaven.proof.states import Problem
from pghaven.server.standbys import Standby
from pghaven.units import render_duration, render_size

BEHIND_SECONDS_WARNED: Final = 300.0
HELD_BYTES_WARNED: Final = 1 << 30


def judge_standbys(cluster: str, standbys: Sequence[Standby]) -> Iterator[Problem]:
    for one in standbys:
        if one.is_lost:
            text = f'standby "{one.name}" cannot follow any more: its slot was invalidated, and its WAL removed'
            hint = f"From the archive it can, if it has a restore_command; what is there: pghaven wal list {cluster}"
            yield Problem(code="standby_lost", level="warning", text=text, hint=hint)
        elif one.is_away and one.held_bytes is not None and one.held_bytes > HELD_BYTES_WARNED:
            text = f'nobody uses slot "{one.name}", and the server keeps {render_size(one.held_bytes)} of WAL for it'
            drop = f"SELECT pg_drop_replication_slot('{one.name}')"
            hint = f'Start its standby. If there is none any more: psql -c "{drop}"'
            yield Problem(code="standby_behind", level="warning", text=text, hint=hint)
        elif one.replay_seconds is not None and one.replay_seconds > BEHIND_SECONDS_WARNED:
            text = f'standby "{one.name}" is {render_duration(one.replay_seconds)} behind'
            hint = f"Watch whether it catches up: pghaven status {cluster} --watch"
            yield Problem(code="standby_behind", level="warning", text=text, hint=hint)


def describe_standby(one: Standby) -> str:
    """One line for people; what is not known is left out."""
    if one.is_away:
        held = "" if one.held_bytes is None else f", the server keeps {render_size(one.held_bytes)} of WAL for it"
        return f"{one.name}: away{held}"
    parts = [one.state]
    if one.sync_state in ("sync", "quorum"):
        parts.insert(0, "synchronous")
    if one.behind_bytes is not None:
        parts.append(f"{render_size(one.behind_bytes)} behind" if one.behind_bytes else "nothing behind")
    if one.replay_seconds is not None:
        parts.append(f"{render_duration(one.replay_seconds)} late")
    where = "" if one.address is None else f" at {one.address}"
    return f"{one.name}{where}: {', '.join(parts)}"
