"""``status`` for people: one screen for a cluster.

The one idea: nothing looks better than it is: what is not known is called so, what is too old to count is called so,
and what is wrong comes with the command that mends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pghaven.cli.render import GAP, render_block
from pghaven.cli.status_drills import describe_drills, describe_recovery_time
from pghaven.cli.status_line import ASCII, UTF8, Letters, draw_window
from pghaven.proof.findings import list_labels
from pghaven.proof.problems import VERIFICATION_AGE_WARNED, is_stale
from pghaven.proof.receiving import describe_receiver
from pghaven.proof.standing import describe_standby
from pghaven.proof.states import (
    ClusterStatus,
    Overall,
    RecoveryPoint,
    RepositorySilence,
    RepositoryState,
    ServerSilence,
    ServerState,
)
from pghaven.repository.evidence import Verdict
from pghaven.units import render_duration, render_size, render_time
from pghaven.wal.ledger import HeldTimeline

_INDENT = "  "
WRAP_INDENT = "    "


_RED, _YELLOW, _GREEN, _BOLD, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[1m", "\x1b[0m"
_COLOURS = (
    (re.compile(r"^(  |)CRITICAL\b", re.MULTILINE), _BOLD + _RED),
    (re.compile(r"^(  |)WARNING\b", re.MULTILINE), _YELLOW),
    (re.compile(f"{UTF8.held}{{2,}}"), _GREEN),
    (re.compile(f"{UTF8.gap}+"), _RED),
    (re.compile(f"{UTF8.pending}+"), _YELLOW),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """What is written to: how many columns it has, and what it can show."""

    columns: int = 80
    letters: Letters = ASCII


def paint(text: str) -> str:
    """The text for a terminal that shows colours."""
    for pattern, colour in _COLOURS:
        text = pattern.sub(lambda found, colour=colour: f"{colour}{found[0]}{_RESET}", text)  # type: ignore[misc]
    return text


def render_status(status: ClusterStatus, screen: Screen) -> str:
    server = status.server
    pairs = [("server", describe_server(server)), *_describe_receiver(server), *_describe_standbys(server)]
    if status.agent.value != "none":
        pairs.append(("agent", {"running": "runs", "silent": "does not answer"}[status.agent.value]))
    timeline = server.timeline if isinstance(server, ServerState) else None
    room = _measure_room(status, screen)
    for repository in status.repositories:
        pairs += _describe_repository(repository, status.looked_at)
        if isinstance(repository, RepositoryState):
            pairs += draw_window(repository, timeline, status.looked_at, columns=room, letters=screen.letters)
            held = list(_describe_held(repository.timelines))
            pairs += [("WAL held" if not at else "", line) for at, line in enumerate(held)]
    if len(status.repositories) > 1:
        pairs += _describe_overall(status.overall)
    text = f"cluster {status.cluster}\n" + render_block(pairs, indent=_INDENT)
    if not status.problems:
        return text + "  all is well\n"
    for problem in status.problems:
        text += f"  {problem.level.upper()}: {problem.text}\n"
        if problem.hint:
            text += f"{WRAP_INDENT}HINT:  {problem.hint}\n"
    return text


def _measure_room(status: ClusterStatus, screen: Screen) -> int:
    """Columns for the line of a window, behind the names."""
    several = len(status.repositories) > 1
    names = [f"repository {one.name}" for one in status.repositories] + (["all repositories"] if several else [])
    names += [f"not in {one.name}" for one in status.repositories] + ["running backup"]
    room = screen.columns - len(_INDENT) - max(map(len, names)) - len(":") - len(GAP)
    timelines = {
        one.timeline
        for state in status.repositories
        if isinstance(state, RepositoryState)
        for one in state.reach.windows
    }
    return room - len("  timeline 10") if len(timelines) > 1 else room


def describe_server(server: ServerState | ServerSilence) -> str:
    if isinstance(server, ServerSilence):
        return {True: "runs, but does not let us in", False: "down", None: "does not answer"}[server.is_running]
    kind = "standby" if server.in_recovery else "primary"
    return f"up since {render_time(server.started)}, {kind} on timeline {server.timeline}, PostgreSQL {server.version}"


def _describe_receiver(server: ServerState | ServerSilence) -> list[tuple[str, str]]:
    if isinstance(server, ServerState) and server.receiver is not None:
        return [("receiver", describe_receiver(server.receiver, server))]
    return []


def _describe_standbys(server: ServerState | ServerSilence) -> list[tuple[str, str]]:
    if isinstance(server, ServerSilence):
        return [("standbys", "unknown: the server does not tell")]
    if not server.standbys:
        return [("standbys", "none")]
    return [("" if at else "standbys", describe_standby(one)) for at, one in enumerate(server.standbys)]


def _describe_repository(state: RepositoryState | RepositorySilence, now: datetime) -> list[tuple[str, str]]:
    if isinstance(state, RepositorySilence):
        return [(f"repository {state.name}", f"{state.url}: cannot be used")]
    free = "" if state.free_bytes is None else f", {render_size(state.free_bytes)} free"
    pairs = [(f"repository {state.name}", f"{state.url}{free}")]
    pairs.append(("would be lost", describe_loss(state.recovery_point)))
    pairs += describe_recovery_time(state, now)
    newest = state.newest
    if newest is not None and newest.stopped_at is not None:
        age = render_duration(max(0.0, (now - newest.stopped_at).total_seconds()))
        stored = render_size(newest.stored_bytes or 0)
        pairs.append(("newest backup", f"{newest.label}, {age} old, {stored} stored; {count_complete(state)} in all"))
    for one in state.backups:
        if one.state.value == "running":
            pairs.append(("running backup", f"{one.label} on host {one.host}, process {one.process}"))
    if state.dumps:
        last = state.dumps[-1]
        age = "" if last.started_at is None else f", {render_duration((now - last.started_at).total_seconds())} old"
        of = ", ".join(last.databases) or "roles and tablespaces alone"
        pairs.append(("newest dump", f"{last.label}{age}, of {of}; {len(state.dumps)} in all"))
    pairs.append(("verified", _describe_verification(state, now)))
    if state.audit is not None:
        done = "complete" if state.audit.is_complete else f"up to {state.audit.next_segment}"
        ago = render_duration(max(0.0, (now - state.audit.written_at).total_seconds()))
        pairs.append(("WAL audited", f"{state.audit.segments} segments, {done}, {ago} ago"))
    pairs += describe_drills(state, now)
    return pairs + _describe_windows(state)


def _describe_held(timelines: Sequence[HeldTimeline]) -> Iterator[str]:
    """A line for each continuous range: its positions, the times of commits in it, and where its timeline began."""
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


def describe_loss(point: RecoveryPoint | None) -> str:
    """What the reader would lose if the server were gone now."""
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
    if overall is None:
        return [("all repositories", "nothing can be restored")]
    end = render_time(overall.end) if overall.end else str(overall.end_lsn)
    where = " and ".join(dict.fromkeys((overall.begin_in, overall.end_in)))
    text = f"timeline {overall.timeline}: any moment from {render_time(overall.begin)} to {end}, from {where}"
    pairs = [("all repositories", text), ("would be lost", describe_loss(overall.recovery_point))]
    for one in overall.lacks:
        parts = [list_labels(one.backups)] if one.backups else []
        if one.wal_bytes is None:
            parts.append(f"anything to restore on timeline {overall.timeline}")
        elif one.wal_bytes > 0:
            parts.append(f"the last {render_size(one.wal_bytes)} of WAL")
        pairs.append((f"not in {one.repository}", "; ".join(parts)))
    return pairs


def count_complete(state: RepositoryState) -> int:
    return sum(1 for one in state.backups if one.state.value == "complete")
