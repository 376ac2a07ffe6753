"""``pghaven status``: how much would be lost now, how far back one can go, what is wrong."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import choose_clusters, find_spool, list_places
from pghaven.cli.output import write_out
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import EXIT_WARNINGS, UsageError

if TYPE_CHECKING:
    from pghaven.cli.status_text import Screen
    from pghaven.proof.states import ClusterStatus

_CLEAR_SCREEN = "\x1b[H\x1b[2J"


@click.command("status")
@click.argument("cluster", required=False)
@click.option("--at", "at", metavar="TIME", help="Tell whether this moment can be restored to, and in about how long.")
@click.option(
    "--watch", is_flag=False, flag_value="5s", metavar="DURATION", help="Show it again and again.  [default: every 5s]"
)
@click.option("--brief", is_flag=True, help="One line for each cluster.  [default: of several clusters]")
@click.pass_obj
def command(invocation: Invocation, *, cluster: str | None, at: str | None, watch: str | None, brief: bool) -> int:
    """Show what could be restored of CLUSTER, or of every configured cluster, and what is wrong.

    One cluster fills a screen, of several each has a line. Answers with whatever of the server and the repository can
    be reached. Ends with 3 when something is wrong, and with --at when no repository leads to that moment.
    """
    from pghaven.cli.status_asked import parse_period, show_moment

    if at is not None:
        if watch is not None:
            raise UsageError("--at and --watch do not go together", hint="Leave one of them out.")
        return show_moment(invocation, invocation.get_cluster(cluster), at)
    if watch is None:
        return _show(invocation, gather_all(invocation, cluster), brief=brief)
    seconds = parse_period(watch)
    while True:
        found = gather_all(invocation, cluster)
        if sys.stdout.isatty() and not invocation.json:
            write_out(_CLEAR_SCREEN)
        _show(invocation, found, brief=brief)
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


def _show(invocation: Invocation, found: list[ClusterStatus], *, brief: bool) -> int:
    from pghaven.cli.status_body import render_body
    from pghaven.cli.status_brief import render_brief
    from pghaven.cli.status_text import paint, render_status

    screen = _measure_screen()
    text = render_brief(found, screen) if brief or len(found) > 1 else render_status(found[0], screen)
    text = paint(text) if _shows_colours() else text
    status = invocation.show("status", {"clusters": [render_body(one) for one in found]}, text)
    return EXIT_WARNINGS if any(one.problems for one in found) else status


def _measure_screen() -> Screen:
    from pghaven.cli.status_line import choose_letters
    from pghaven.cli.status_text import Screen

    encoding = None if sys.stdout is None else sys.stdout.encoding
    return Screen(columns=shutil.get_terminal_size().columns, letters=choose_letters(encoding))


def _shows_colours() -> bool:
    """Whether standard output is a terminal that does, and nobody asked for none (https://no-color.org)."""
    if sys.stdout is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return False
    return os.environ.get("TERM", "dumb") not in ("", "dumb")
