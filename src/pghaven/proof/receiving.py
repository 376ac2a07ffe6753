"""What is wrong with a receiver, as its server sees it. Pure.

The one idea: a slot is a promise of the server to keep WAL, so one that nobody uses is told of whether or not a
receiver was wanted, and one that is wanted is missed.
"""

from __future__ import annotations

from collections.abc import Iterator

from pghaven.proof.states import Problem, ServerState
from pghaven.server.slots import SlotActivity
from pghaven.units import render_size

_START = "Start it: pghaven wal receive {}, or the agent with receive = true."


def is_receiving(server: ServerState) -> bool:
    """Whether WAL streams to a receiver now."""
    return server.receiver is not None and server.receiver.is_active


def judge_receiver(cluster: str, server: ServerState) -> Iterator[Problem]:
    slot = server.receiver
    if slot is None:
        if server.is_receiver_wanted:
            text = "no WAL is received: no receiver has made its replication slot yet, or the slot was dropped"
            yield Problem(level="warning", text=text, hint=_START.format(cluster))
        return
    if slot.is_lost:
        text = f'replication slot "{slot.name}" was invalidated: WAL that no receiver has got was removed'
        hint = "The receiver makes it anew when it starts, and tells what is missing. See pghaven wal list for gaps."
        yield Problem(level="critical", text=text, hint=hint)
    elif not slot.is_active:
        held = "" if slot.held_bytes is None else f", and the server keeps {render_size(slot.held_bytes)} of WAL for it"
        text = f'no receiver uses replication slot "{slot.name}"{held}'
        hint = _START.format(cluster) + f" If none is wanted any more: SELECT pg_drop_replication_slot('{slot.name}')"
        yield Problem(level="warning", text=text, hint=hint)


def describe_receiver(slot: SlotActivity, server: ServerState) -> str:
    """One line for people."""
    if not slot.is_active:
        return "does not run"
    kind = "synchronous, " if slot.sync_state in ("sync", "quorum") else ""
    if slot.flushed_lsn is None:
        return f"{kind}{slot.state or 'starting'}"
    behind = max(0, server.lsn - slot.flushed_lsn)
    return f"{kind}{slot.state}, " + (f"{render_size(behind)} behind" if behind else "nothing behind")
