"""What is wrong with a receiver, as its server sees it, and with the agent. Pure.

The one idea: a slot is a promise of the server to keep WAL, so one that nobody uses is told of whether or not a
receiver was wanted, and one that is wanted is missed. An agent is missed where one has left its socket.
"""

from __future__ import annotations

from collections.abc import Iterator

from pghaven.postgres.lsn import Lsn
from pghaven.proof.results import CheckResult, fail, good, warn
from pghaven.proof.states import Problem, ServerState
from pghaven.server.slots import SlotActivity
from pghaven.units import render_size
from pghaven.wal.agentstate import AgentState

_START = "Start it: pghaven wal receive {}, or the agent with receive = true."


def is_receiving(server: ServerState) -> bool:
    """Whether WAL streams to a receiver now."""
    return server.receiver is not None and server.receiver.is_active


def judge_receiver(cluster: str, server: ServerState) -> Iterator[Problem]:
    return judge_slot(cluster, server.receiver, is_wanted=server.is_receiver_wanted)


def judge_slot(cluster: str, slot: SlotActivity | None, *, is_wanted: bool) -> Iterator[Problem]:
    """``slot`` is None where there is none of its name."""
    if slot is None:
        if is_wanted:
            text = "no WAL is received: no receiver has made its replication slot yet, or the slot was dropped"
            yield Problem(code="receiver_missing", level="warning", text=text, hint=_START.format(cluster))
        return
    if slot.is_lost:
        text = f'replication slot "{slot.name}" was invalidated: WAL that no receiver has got was removed'
        hint = f"The receiver makes it anew when it starts. What is missing: pghaven wal list {cluster}"
        yield Problem(code="slot_lost", level="critical", text=text, hint=hint)
    elif not slot.is_active:
        held = "" if slot.held_bytes is None else f", and the server keeps {render_size(slot.held_bytes)} of WAL for it"
        text = f'no receiver uses replication slot "{slot.name}"{held}'
        hint = _START.format(cluster) + f" If none is wanted any more: SELECT pg_drop_replication_slot('{slot.name}')"
        yield Problem(code="receiver_missing", level="warning", text=text, hint=hint)


def judge_agent(agent: AgentState) -> Iterator[Problem]:
    if agent is AgentState.SILENT:
        text = "the agent that served this server does not answer: it was killed, or it hangs"
        hint = "Pushes do its work meanwhile, more slowly. Start it again: systemctl restart pghaven-agent"
        yield Problem(code="agent_silent", level="warning", text=text, hint=hint)


def check_receiver(cluster: str, slot: SlotActivity | None, lsn: Lsn, *, is_wanted: bool) -> Iterator[CheckResult]:
    """For ``check``: nothing where there is no receiver and none is wanted."""
    problems = list(judge_slot(cluster, slot, is_wanted=is_wanted))
    for problem in problems:
        make = fail if problem.level == "critical" else warn
        yield make("receiver", problem.text, problem.hint)
    if slot is not None and not problems:
        yield good("receiver", _describe(slot, lsn))


def check_agent(agent: AgentState) -> Iterator[CheckResult]:
    """For ``check``: nothing where no agent serves and none has left a socket."""
    for problem in judge_agent(agent):
        yield warn("agent", problem.text, problem.hint)
    if agent is AgentState.RUNNING:
        yield good("agent", "serves this data directory")


def describe_receiver(slot: SlotActivity, server: ServerState) -> str:
    """One line for people."""
    return _describe(slot, server.lsn)


def _describe(slot: SlotActivity, lsn: Lsn) -> str:
    if not slot.is_active:
        return "does not run"
    kind = "synchronous, " if slot.sync_state in ("sync", "quorum") else ""
    if slot.flushed_lsn is None:
        return f"{kind}{slot.state or 'starting'}"
    behind = max(0, lsn - slot.flushed_lsn)
    return f"{kind}{slot.state}, " + (f"{render_size(behind)} behind" if behind else "nothing behind")
