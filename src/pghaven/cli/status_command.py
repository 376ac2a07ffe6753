"""``pghaven status``: how much would be lost now, how far back one can go, what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import choose_clusters, find_spool, list_places
from pghaven.cli.output import write_out
from pghaven.cli.status_drills import describe_drills, drills_body
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import EXIT_WARNINGS, UsageError

if TYPE_CHECKING:
    from pghaven.proof.states import (
        ClusterStatus,
        Overall,
        RecoveryPoint,
        RepositorySilence,
        RepositoryState,
        ServerSilence,
        ServerState,
    )
    from pghaven.proof.windows import Gap
    from pghaven.server.slots import SlotActivity
    from pghaven.wal.gapcause import ExplainedGap
    from pghaven.wal.ledger import HeldTimeline

_WRAP_INDENT = "    "
_CLEAR_SCREEN = "\x1b[H\x1b[2J"


@click.command("status")
@click.argument("cluster", required=False)
@click.option("--at", "at", metavar="TIME", help="Tell whether this moment can be restored to, and in about how long.")
@click.option(
    "--watch", is_flag=False, flag_value="5s", metavar="DURATION", help="Show it again and again.  [default: every 5s]"
)
@click.pass_obj
def command(invocation: Invocation, cluster: str | None, at: str | None, watch: str | None) -> int:
    """Show what could be restored of CLUSTER, or of every configured cluster, and what is wrong.

    Answers with whatever of the server and the repository can be reached. Ends with 3 when something is wrong, and
    with --at when no repository leads to that moment.
    """
    from pghaven.cli.status_asked import parse_period, show_moment

    if at is not None:
        if watch is not None:
            raise UsageError("--at and --watch do not go together", hint="Leave one of them out.")
        return show_moment(invocation, invocation.get_cluster(cluster), at)
    if watch is None:
        return _show(invocation, gather_all(invocation, cluster))
    seconds = parse_period(watch)
    while True:
        found = gather_all(invocation, cluster)
        if sys.stdout.isatty() and not invocation.json:
            write_out(_CLEAR_SCREEN)
        _show(invocation, found)
        SYSTEM_CLOCK.sleep(seconds)


def gather_all(invocation: Invocation, cluster: str | None) -> list[ClusterStatus]:
    """The state of the named cluster, or of all. Raises ConfigError, NotFound, UsageError."""
    from pghaven.cli.asking import ask_passphrase
    from pghaven.proof.status import StatusSettings, gather_status

    config = invocation.config
    found: list[ClusterStatus] = []
    with invocation.reporter as listener:
        for one in choose_clusters(config, cluster):
            settings = StatusSettings(
                cluster=one.name,
                data_directory=one.data_directory,
                conninfo=one.conninfo,
                repositories=list_places(config, one),
                ask=ask_passphrase,
                receive_slot=one.receive_slot,
                is_receiver_wanted=one.receive,
                receive_spool=find_spool(one),
            )
            found.append(gather_status(settings, listener))
    return found


def _show(invocation: Invocation, found: list[ClusterStatus]) -> int:
    text = "\n".join(render_status(status) for status in found)
    status = invocation.show("status", {"clusters": [render_body(one) for one in found]}, text)
    return EXIT_WARNINGS if any(one.problems for one in found) else status


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
    from pghaven.proof.states import ServerState

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
    from pghaven.proof.states import RepositorySilence

    body = _fields(state)
    del body["behind"]
    body["missed"] = None if state.behind is None else {"files": len(state.behind.names), "since": state.behind.since}
    if isinstance(state, RepositorySilence):
        return {"reachable": False, **body}
    windows = [{**_fields(window), "last_segment": str(window.last_segment)} for window in state.reach.windows]
    causes = {one.gap.first: one for one in state.explained}
    gaps = [_gap_body(gap, causes.get(gap.first)) for gap in state.reach.gaps]
    from pghaven.cli.wal_list import describe_timeline

    found = state.last_damage
    for name in ("explained", "backups", "originals", "reach", "last_damage", "dumps", "drills"):
        del body[name]
    return {
        "reachable": True,
        **body,
        "newest_backup": None if state.newest is None else state.newest.label,
        "backup_count": _count_complete(state),
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
    from dataclasses import fields

    body = {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]
    if "system_identifier" in body:
        body["system_identifier"] = str(body["system_identifier"])
    return body


# -- for people ------------------------------------------------------------------------------------------------------


def render_status(status: ClusterStatus) -> str:
    from pghaven.cli.render import render_block

    pairs = [("server", _describe_server(status.server)), *_describe_receiver(status.server)]
    if status.agent.value != "none":
        pairs.append(("agent", {"running": "runs", "silent": "does not answer"}[status.agent.value]))
    for repository in status.repositories:
        pairs += _describe_repository(repository, status.looked_at)
    if len(status.repositories) > 1:
        pairs += _describe_overall(status.overall)
    text = f"cluster {status.cluster}\n" + render_block(pairs, indent="  ")
    if not status.problems:
        return text + "  all is well\n"
    for problem in status.problems:
        text += f"  {problem.level.upper()}: {problem.text}\n"
        if problem.hint:
            text += f"{_WRAP_INDENT}HINT:  {problem.hint}\n"
    return text


def _describe_server(server: ServerState | ServerSilence) -> str:
    from pghaven.proof.states import ServerSilence
    from pghaven.units import render_time

    if isinstance(server, ServerSilence):
        return {True: "runs, but does not let us in", False: "down", None: "does not answer"}[server.is_running]
    kind = "standby" if server.in_recovery else "primary"
    return f"up since {render_time(server.started)}, {kind} on timeline {server.timeline}, PostgreSQL {server.version}"


def _describe_receiver(server: ServerState | ServerSilence) -> list[tuple[str, str]]:
    from pghaven.proof.receiving import describe_receiver
    from pghaven.proof.states import ServerState

    if isinstance(server, ServerState) and server.receiver is not None:
        return [("receiver", describe_receiver(server.receiver, server))]
    return []


def _describe_repository(state: RepositoryState | RepositorySilence, now: datetime) -> list[tuple[str, str]]:
    from pghaven.proof.states import RepositorySilence
    from pghaven.units import render_duration, render_size

    if isinstance(state, RepositorySilence):
        return [(f"repository {state.name}", f"{state.url}: cannot be used")]
    free = "" if state.free_bytes is None else f", {render_size(state.free_bytes)} free"
    pairs = [(f"repository {state.name}", f"{state.url}{free}")]
    newest = state.newest
    if newest is not None and newest.stopped_at is not None:
        age = render_duration(max(0.0, (now - newest.stopped_at).total_seconds()))
        stored = render_size(newest.stored_bytes or 0)
        pairs.append(("newest backup", f"{newest.label}, {age} old, {stored} stored; {_count_complete(state)} in all"))
    for one in state.backups:
        if one.state.value == "running":
            pairs.append(("running backup", f"{one.label} on host {one.host}, process {one.process}"))
    if state.dumps:
        last = state.dumps[-1]
        age = "" if last.started_at is None else f", {render_duration((now - last.started_at).total_seconds())} old"
        pairs.append(("newest dump", f"{last.label}{age}, of {', '.join(last.databases)}; {len(state.dumps)} in all"))
    pairs.append(("verified", _describe_verification(state, now)))
    if state.audit is not None:
        done = "complete" if state.audit.is_complete else f"up to {state.audit.next_segment}"
        ago = render_duration(max(0.0, (now - state.audit.written_at).total_seconds()))
        pairs.append(("WAL audited", f"{state.audit.segments} segments, {done}, {ago} ago"))
    pairs += describe_drills(state, now)
    pairs.append(("would be lost", _describe_loss(state.recovery_point)))
    pairs += _describe_windows(state)
    held = list(_describe_held(state.timelines))
    return pairs + [("WAL held" if not at else "", line) for at, line in enumerate(held)]


def _describe_held(timelines: Sequence[HeldTimeline]) -> Iterator[str]:
    """A line for each continuous range: its positions, the times of commits in it, and where its timeline began."""
    from pghaven.units import render_time

    for one in timelines:
        left = None if one.history is None or not one.history.entries else one.history.entries[-1]
        branch = "" if left is None else f", which left timeline {left.timeline} at {left.switch_lsn}"
        for held in one.ranges:
            text = f"timeline {one.timeline}{branch}: {held.segments.first.start_lsn} to {held.segments.last.end_lsn}"
            if held.first_commit is not None and held.last_commit is not None:
                text += f", commits from {render_time(held.first_commit)} to {render_time(held.last_commit)}"
            yield text


def _describe_verification(state: RepositoryState, now: datetime) -> str:
    """How much of what is kept somebody has read, and when; nothing that is older than it should be counts."""
    from pghaven.proof.problems import VERIFICATION_AGE_WARNED, is_stale
    from pghaven.repository.evidence import Verdict
    from pghaven.units import render_duration

    complete = [one for one in state.backups if one.state.value == "complete"]
    fresh = [one for one in complete if one.verified.verdict is Verdict.WHOLE and not is_stale(one, now)]
    if not fresh:
        return "no backup; to read and prove them all: pghaven verify"
    ages = [(now - one.verified.at).total_seconds() for one in fresh if one.verified.at is not None]
    oldest = render_duration(max(0.0, *ages))
    return f"{len(fresh)} of {len(complete)} backups found whole, {oldest} ago at the most" + (
        ""
        if len(fresh) == len(complete)
        else f"; the others never, or over {VERIFICATION_AGE_WARNED.days} days ago, or not"
    )


def _describe_loss(point: RecoveryPoint | None) -> str:
    """What the reader would lose if the server were gone now."""
    from pghaven.units import render_duration, render_size, render_time

    if point is None:
        return "everything: nothing can be restored"
    since = ""
    if point.since is not None and point.seconds is not None:
        since = f"written since {render_time(point.since)} ({render_duration(point.seconds)} ago)"
    if point.unarchived_bytes is None:
        return f"what the server has {since or f'written after {point.since_lsn}'}"
    if point.unarchived_bytes == 0:
        return "nothing: all WAL is in the repository"
    return f"{render_size(point.unarchived_bytes)} of WAL{', ' if since else ''}{since}"


def _describe_windows(state: RepositoryState) -> list[tuple[str, str]]:
    from pghaven.units import render_time

    found: list[tuple[str, str]] = []
    for window in state.reach.windows:
        end = render_time(window.end) if window.end else str(window.end_lsn)
        text = f"timeline {window.timeline}: any moment from {render_time(window.begin)} to {end}"
        found.append(("restorable" if not found else "", text))
    for gap in state.reach.gaps:
        text = f"{gap.first}" if gap.count == 1 else f"{gap.first} to {gap.last} ({gap.count} segments)"
        found.append(("missing WAL", text))
    found += [("damaged WAL", str(segment)) for segment, _ in state.reach.damaged]
    return found


def _describe_overall(overall: Overall | None) -> list[tuple[str, str]]:
    """What a restore can do that may take from any of several repositories, and what each of them lacks."""
    from pghaven.proof.findings import list_labels
    from pghaven.units import render_size, render_time

    if overall is None:
        return [("all repositories", "nothing can be restored")]
    end = render_time(overall.end) if overall.end else str(overall.end_lsn)
    where = " and ".join(dict.fromkeys((overall.begin_in, overall.end_in)))
    text = f"timeline {overall.timeline}: any moment from {render_time(overall.begin)} to {end}, from {where}"
    pairs = [("all repositories", text), ("would be lost", _describe_loss(overall.recovery_point))]
    for one in overall.lacks:
        parts = [list_labels(one.backups)] if one.backups else []
        if one.wal_bytes is None:
            parts.append(f"anything to restore on timeline {overall.timeline}")
        elif one.wal_bytes > 0:
            parts.append(f"the last {render_size(one.wal_bytes)} of WAL")
        pairs.append((f"not in {one.repository}", "; ".join(parts)))
    return pairs


def _count_complete(state: RepositoryState) -> int:
    return sum(1 for one in state.backups if one.state.value == "complete")
