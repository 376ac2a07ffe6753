"""``pghaven ha demo``: a primary is killed and a client goes on, on loopback, with every time measured."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.output import make_printable, write_out

if TYPE_CHECKING:
    from pghaven.demo.failover import FailoverResult


@click.command("demo")
@click.pass_obj
def command(invocation: Invocation) -> int:
    """See a cluster lose its primary and go on: three nodes, etcd, a proxy, a client that writes.

    The primary hands over, its successor is killed, the client goes on, the old primary comes back, and the whole
    cluster is taken back to before a mistake. Takes some minutes, and leaves nothing. Needs etcd, HAProxy and the extra
    "ha".
    """
    from pghaven.demo.failover import run_failover_demo

    # What leads pghaven and libpq to clusters of the reader's own has no place in it.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    reporter = invocation.reporter

    def tell(text: str) -> None:
        if invocation.json or invocation.quiet:
            return
        with reporter:
            pass  # at a block's end the terminal's line is clean
        write_out(f"  {make_printable(text)}\n")

    with reporter as listener:
        result = run_failover_demo(tell, listener)
    return invocation.show("ha-demo", asdict(result), _render(result))


def _render(result: FailoverResult) -> str:
    from pghaven.cli.render import render_block
    from pghaven.units import render_duration

    return "\n" + render_block(
        [
            ("healthy from nothing", render_duration(result.up_seconds)),
            ("no writes, switchover", render_duration(result.handover_seconds)),
            ("no writes, primary killed", render_duration(result.gap_seconds)),
            ("acknowledged and lost", f"{result.lost} of {result.acknowledged}"),
            ("old primary back", render_duration(result.rejoin_seconds)),
            ("whole cluster taken back", render_duration(result.restore_seconds)),
            ("all of it", render_duration(result.total_seconds)),
        ]
    )
