"""``pghaven ha switchover``, ``failover``, ``pause``, ``resume``, ``rejoin``, ``reinit``, ``promote``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from pghaven.cli.ha_shared import open_context
from pghaven.cli.invocation import Invocation
from pghaven.errors import Refused, UsageError

if TYPE_CHECKING:
    from pghaven.ha.acts import Switched

_to_option = click.option("--to", "target", metavar="NODE", help="Who is to lead.  [default: Patroni chooses]")


@click.command("switchover")
@click.argument("cluster", required=False)
@_to_option
@click.pass_obj
def switchover_command(invocation: Invocation, cluster: str | None, target: str | None) -> int:
    """Hand the lead to another node: the primary stops when that node has all of its WAL. Nothing is lost."""
    switched = open_context(invocation, cluster).acts.switch_over(target)
    return invocation.show("ha-switchover", _switched_body(switched), _render_switched(switched))


@click.command("failover")
@click.argument("cluster", required=False)
@click.option("--to", "target", metavar="NODE", help="Who is to lead.  [default: the one that has most]")
@click.option("--accept-loss", is_flag=True, help="Promote it although the primary is known to have more.")
@click.option("--primary-is-dead", is_flag=True, help="Do not wait for the end of its lease. Refused if it answers.")
@click.pass_obj
def failover_command(
    invocation: Invocation, *, cluster: str | None, target: str | None, accept_loss: bool, primary_is_dead: bool
) -> int:
    """Promote a standby although the primary is gone.

    How many bytes of WAL would be lost is told first, and refused without --accept-loss; so is what cannot be known:
    what a primary that does not answer wrote last, where no standby is synchronous. With --primary-is-dead its lease is
    ended now: its host must be down, or cut off for good; a primary that answers is never taken for dead.
    """
    acts = open_context(invocation, cluster).acts
    switched = acts.fail_over(target, accept_loss=accept_loss, primary_is_dead=primary_is_dead)
    return invocation.show("ha-failover", _switched_body(switched), _render_switched(switched))


def _switched_body(switched: Switched) -> dict[str, object]:
    return {
        "old": switched.old,
        "new": switched.new,
        "seconds": switched.seconds,
        "lost_bytes": switched.lost_bytes,
        "lost_at_least": switched.at_least,
    }


def _render_switched(switched: Switched) -> str:
    from pghaven.units import render_duration, render_size

    text = f"{switched.new} is the primary, after {render_duration(switched.seconds)}\n"
    if switched.lost_bytes is None or (switched.at_least and not switched.lost_bytes):
        text += "  what was lost is not known\n"
    elif switched.lost_bytes:
        many = "at least" if switched.at_least else "up to"
        text += f"  {many} {render_size(switched.lost_bytes)} of WAL are not on it\n"
    return text


@click.command("pause")
@click.argument("cluster", required=False)
@click.option("--for", "period", metavar="DURATION", help="When `ha status` begins to call it an error, such as 2h.")
@click.pass_obj
def pause_command(invocation: Invocation, cluster: str | None, period: str | None) -> int:
    """Have Patroni leave everything as it is, for maintenance: nothing fails over by itself until `ha resume`."""
    from pghaven.clock import SYSTEM_CLOCK
    from pghaven.units import parse_duration, render_time

    try:
        until = None if period is None else SYSTEM_CLOCK.now() + timedelta(seconds=parse_duration(period))
    except ValueError as error:
        raise UsageError(f"--for: {error}") from error
    context = open_context(invocation, cluster)
    context.acts.pause(until)
    end = "" if until is None else f"; from {render_time(until)} on that is an error"
    text = f"{context.spec.cluster} is paused: it does not fail over{end}\n"
    return invocation.show("ha-pause", {"cluster": context.spec.cluster, "until": until}, text)


@click.command("resume")
@click.argument("cluster", required=False)
@click.pass_obj
def resume_command(invocation: Invocation, cluster: str | None) -> int:
    """End a pause."""
    context = open_context(invocation, cluster)
    context.acts.resume()
    text = f"{context.spec.cluster} fails over by itself again\n"
    return invocation.show("ha-resume", {"cluster": context.spec.cluster}, text)


@click.command("rejoin")
@click.argument("cluster")
@click.argument("node")
@click.option("--wait", default="30s", show_default=True, metavar="DURATION", help="How long Patroni is waited for.")
@click.option("--timeout", default="1h", show_default=True, metavar="DURATION", help="How long it may be made anew.")
@click.pass_obj
def rejoin_command(invocation: Invocation, *, cluster: str, node: str, wait: str, timeout: str) -> int:
    """Bring a node back that does not follow: first by what Patroni does itself (pg_rewind), else made anew.

    An idle primary writes something first: a rewound server waits for that. A rewind that has much to copy needs a
    longer --wait.
    """
    from pghaven.units import render_duration

    context = open_context(invocation, cluster)
    context.spec.get_server(node)
    patience, limit = _seconds("--wait", wait), _seconds("--timeout", timeout)
    _have_written(context.spec.cluster, invocation)
    if context.acts.await_streaming(node, patience):
        return invocation.show("ha-rejoin", {"node": node, "way": "followed"}, f"{node} follows the primary\n")
    seconds = context.acts.make_anew(node, from_leader=False, timeout_seconds=limit)
    text = f"{node} was made anew and follows the primary, after {render_duration(seconds)}\n"
    return invocation.show("ha-rejoin", {"node": node, "way": "made anew", "seconds": seconds}, text)


def _have_written(cluster: str, invocation: Invocation) -> None:
    """Have the primary write a record, if we may; without it a node that was rewound may wait for the next write."""
    from pghaven.cli.ha_shared import open_context
    from pghaven.errors import PghavenError
    from pghaven.ha.view import look
    from pghaven.server.connection import connect, server_errors

    context = open_context(invocation, cluster)
    try:
        view = look(context.spec, context.api)
        if view.leader is None:
            return
        leader, secret = context.spec.get_node(view.leader), context.places.secrets.superuser
        conninfo = (
            f"host={leader.address} port={leader.port} user={context.spec.superuser} dbname=postgres password={secret}"
        )
        with connect(conninfo) as connection, server_errors(connection, "write a WAL record"):
            connection.execute(b"SELECT pg_log_standby_snapshot(), pg_switch_wal()")
    except PghavenError as error:
        from pghaven.events import Notice

        text = f"the primary could not be asked to write something: {error.message}"
        invocation.reporter(Notice(level="info", code="nudge", text=text))


@click.command("reinit")
@click.argument("cluster")
@click.argument("node")
@click.option(
    "--from",
    "source",
    type=click.Choice(["repository", "leader"]),
    default="repository",
    show_default=True,
    help="The repository costs the primary nothing, and keeps what is there and the same.",
)
@click.option("--timeout", default="1h", show_default=True, metavar="DURATION", help="How long that may take.")
@click.pass_obj
def reinit_command(invocation: Invocation, *, cluster: str, node: str, source: str, timeout: str) -> int:
    """Make a standby anew, and wait until it follows."""
    from pghaven.units import render_duration

    context = open_context(invocation, cluster)
    if source == "repository" and "repository" not in context.spec.replica_sources:
        raise Refused('"replica_sources" leaves the repository out', hint="Use --from leader.")
    acts = context.acts
    seconds = acts.make_anew(node, from_leader=source == "leader", timeout_seconds=_seconds("--timeout", timeout))
    text = f"{node} was made anew from the {source} and follows, after {render_duration(seconds)}\n"
    return invocation.show("ha-reinit", {"node": node, "source": source, "seconds": seconds}, text)


@click.command("promote")
@click.argument("cluster")
@click.pass_obj
def promote_command(invocation: Invocation, cluster: str) -> int:
    """Make a cluster that follows another one (`follow`) a cluster of its own. Take `follow` out of the configuration
    first, or the next apply would have it follow again."""
    context = open_context(invocation, cluster)
    if context.spec.followed is not None:
        raise Refused(
            f'[cluster.{cluster}.ha] still has "follow": the next apply would undo this', hint="Take it out first."
        )
    primary = context.acts.make_independent()
    return invocation.show(
        "ha-promote", {"cluster": cluster, "primary": primary}, f"{primary} is a primary of its own\n"
    )


def _seconds(option: str, text: str) -> float:
    from pghaven.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
