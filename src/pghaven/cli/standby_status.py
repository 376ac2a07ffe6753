"""``pghaven standby status``: what a standby follows, how far behind it is, and whether that is sound.

The one idea: it ends with 0 for a sound standby, with 3 for one that wants a look, and with 17 for one that is broken.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.standby_options import DURATION
from pghaven.errors import EXIT_DONE, EXIT_WARNINGS, CheckFailed

if TYPE_CHECKING:
    from pghaven.standby.judge import StandbyView

_STATUSES = {"ok": EXIT_DONE, "warning": EXIT_WARNINGS, "critical": CheckFailed.exit_status}


@click.command("status")
@click.argument("cluster")
@click.option("--data", "data_directory", metavar="DIR", help="The standby's.  [default: the cluster's]")
@click.option(
    "--max-lag",
    type=DURATION,
    default=300.0,
    metavar="TIME",
    help="Warn when it is further behind, its delay apart.  [default: 5min]",
)
@click.pass_obj
def command(invocation: Invocation, /, *, cluster: str, data_directory: str | None, max_lag: float) -> int:
    """Show the standby of CLUSTER on this host: its upstream, slot, lag, delay and timeline.

    Ends with 3 when something wants a look, with 17 when it follows nobody any more or was passed over.
    """
    from contextlib import closing

    from pghaven.cli.opening import list_places
    from pghaven.standby.judge import judge_standby
    from pghaven.standby.view import connect_to, find_owner_name, look_at_standby

    chosen = invocation.get_cluster(cluster)
    directory = os.path.abspath(data_directory or chosen.data_directory)
    with invocation.reporter:
        with closing(connect_to(directory, chosen.conninfo)) as connection:
            state = look_at_standby(connection)
        view = judge_standby(
            state,
            chosen.name,
            list_places(invocation.config, chosen),
            os_user=find_owner_name(directory),
            max_lag_seconds=max_lag,
        )
    invocation.show("standby-status", describe_view(view, directory), render_view(view, directory))
    return _STATUSES[view.verdict]


def describe_view(view: StandbyView, directory: str) -> dict[str, object]:
    """For programs."""
    state = view.state
    return {
        "data_directory": directory,
        "is_standby": state.is_standby,
        "verdict": view.verdict,
        "problems": view.problems,
        "system_identifier": str(state.system_identifier),
        "timeline": state.timeline,
        "received_lsn": state.received_lsn,
        "replayed_lsn": state.replayed_lsn,
        "replayed_at": state.replayed_at,
        "lag_bytes": view.lag_bytes,
        "lag_seconds": view.lag_seconds,
        "delay_seconds": state.delay_seconds,
        "paused": state.pause_state not in (None, "not paused"),
        "source": _find_source(view),
        "upstream": None
        if view.upstream is None
        else {
            "host": view.upstream.host,
            "is_standby": view.upstream.is_standby,
            "timeline": view.upstream.timeline,
            "lsn": view.upstream.lsn,
        },
        "slot": state.settings.get("primary_slot_name") or None,
        "slot_restart_lsn": None if view.slot is None else view.slot.restart_lsn,
        "repositories": [
            {
                "repository": name,
                "standing": None if place is None else place.standing.name.lower(),
                "newest_timeline": None if place is None else place.newest,
                "error": error,
            }
            for name, place, error in view.places
        ],
    }


def _find_source(view: StandbyView) -> str:
    if view.state.is_streaming:
        return "streaming"
    return "archive" if view.state.settings.get("restore_command") else "nothing"


def render_view(view: StandbyView, directory: str) -> str:
    from pghaven.cli.render import render_block
    from pghaven.units import render_duration, render_size, render_time

    state, upstream = view.state, view.upstream
    lag = [] if view.lag_bytes is None else [render_size(view.lag_bytes)]
    lag += [] if view.lag_seconds is None else [render_duration(view.lag_seconds)]
    source = {"streaming": "by streaming", "archive": "from the archive", "nothing": "from nowhere"}[_find_source(view)]
    follows: str | None = None
    if upstream is not None:
        what = "standby" if upstream.is_standby else "primary"
        follows = f"{what} at {upstream.host}, timeline {upstream.timeline}, at {upstream.lsn}"
    elif view.silence is not None:
        follows = f"a server that does not answer: {view.silence}"
    elif state.is_standby:
        follows = "the archive alone"
    slot = state.settings.get("primary_slot_name") or None
    pairs: list[tuple[str, Any]] = [
        ("verdict", view.verdict),
        ("follows", follows),
        ("WAL comes", source if state.is_standby else None),
        ("slot", slot),
        ("received", None if state.received_lsn is None else f"up to {state.received_lsn}"),
        ("replayed", f"up to {state.replayed_lsn} of timeline {state.timeline}"),
        ("last commit", None if state.replayed_at is None else render_time(state.replayed_at)),
        ("behind", ", ".join(lag) if lag and state.is_standby else None),
        ("delay", render_duration(state.delay_seconds) if state.delay_seconds else None),
    ]
    for name, place, error in view.places:
        pairs.append((f"repository {name}", f"could not be asked: {error}" if place is None else place.standing.value))
    kind = "standby" if state.is_standby else "primary"
    text = f"{kind} in {directory}\n" + render_block(pairs, indent="  ")
    for problem in view.problems:
        text += f"  {problem.gravity.value.upper()}: {problem.text}\n"
        if problem.hint is not None:
            text += f"    HINT:  {problem.hint}\n"
    return text
