"""What ``status`` answers when it is asked something in particular: a moment, by ``--at``; monitoring, by
``check --nagios``.

The one idea: a machine that asks gets one line and one status, by the rules of those who ask (the Nagios plugin
guidelines: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN), and what is not known is not told as a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pghaven.cli.invocation import Invocation
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import EXIT_WARNINGS, UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from pghaven.config.values import ClusterConfig
    from pghaven.proof.states import ClusterStatus, RepositoryState

_OK: Final = 0
_WARNING: Final = 1
_CRITICAL: Final = 2
UNKNOWN: Final = 3
_WORDS: Final = {_OK: "OK", _WARNING: "WARNING", _CRITICAL: "CRITICAL", UNKNOWN: "UNKNOWN"}
_TOLD: Final = 3


def show_moment(invocation: Invocation, cluster: ClusterConfig, at: str) -> int:
    """Whether a moment can be restored to, from what, and in about how long."""
    from pghaven.cli.wal_at import find_moment, render_moment
    from pghaven.postgres.target_time import parse_target_time

    moment = parse_target_time(at, None, now=SYSTEM_CLOCK.now())
    with invocation.reporter as listener:
        answers = find_moment(invocation.config, cluster, moment, listener)
    status = invocation.show("status-at", {"moment": moment, "answers": answers}, render_moment(moment, answers))
    return status if any(one.is_reachable for one in answers) else EXIT_WARNINGS


def parse_period(text: str) -> float:
    """How often to look, in seconds. Raises UsageError."""
    from pghaven.units import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--watch: {error}") from error
    if seconds <= 0:
        raise UsageError("--watch: the time between two looks must be more than zero")
    return seconds


def show_nagios(invocation: Invocation, cluster: str | None) -> int:
    """One line with performance data; its status is that of the plugin guidelines, whatever happens."""
    from pghaven.cli.output import make_printable, write_out
    from pghaven.cli.status_command import gather_all
    from pghaven.errors import PghavenError

    try:
        line, status = render_nagios(gather_all(invocation, cluster))
    except PghavenError as error:
        line, status = f"PGHAVEN UNKNOWN - {error.message.replace('|', '/')}", UNKNOWN
    write_out(make_printable(line) + "\n")
    return status


def render_nagios(found: Sequence[ClusterStatus]) -> tuple[str, int]:
    """The line, and its status: the gravest problem's."""
    levels = {problem.level for one in found for problem in one.problems}
    status = _CRITICAL if "critical" in levels else _WARNING if levels else _OK
    problems = [(problem.level, f"{one.cluster}: {problem.text}") for one in found for problem in one.problems]
    told = [text for _, text in sorted(problems, key=lambda pair: pair[0])]
    count = "1 cluster" if len(found) == 1 else f"{len(found)} clusters"
    text = "; ".join(told[:_TOLD]) or f"{count}, all is well"
    if len(told) > _TOLD:
        text += f"; and {len(told) - _TOLD} more"
    numbers = " ".join(number for one in found for number in _iter_numbers(one))
    return f"PGHAVEN {_WORDS[status]} - {text.replace('|', '/')} | {numbers}", status


def _iter_numbers(status: ClusterStatus) -> Iterator[str]:
    from pghaven.proof.states import RepositoryState

    yield f"'{status.cluster}.problems'={len(status.problems)}"
    for one in status.repositories:
        if isinstance(one, RepositoryState):
            name = f"{status.cluster}.{one.name}" if len(status.repositories) > 1 else status.cluster
            for key, value, unit in _iter_known(one, status.looked_at):
                yield f"'{name}.{key}'={value:.0f}{unit}"


def _iter_known(state: RepositoryState, now: datetime) -> Iterator[tuple[str, float, str]]:
    """What is known as a number: (name, value, unit)."""
    from pghaven.cli.status_drills import find_estimate

    point = state.recovery_point
    if point is not None and point.seconds is not None:
        yield "recovery_point", point.seconds, "s"
    if point is not None and point.unarchived_bytes is not None:
        yield "unarchived", point.unarchived_bytes, "B"
    newest = state.newest
    if newest is not None and newest.stopped_at is not None and newest.stopped_at <= now:
        yield "backup_age", (now - newest.stopped_at).total_seconds(), "s"
    passed = next((one for one in state.drills if one.passed), None)
    if passed is not None and passed.began_at <= now:
        yield "drill_age", (now - passed.began_at).total_seconds(), "s"
    estimated = find_estimate(state)
    if estimated is not None:
        yield "recovery_time", estimated, "s"
