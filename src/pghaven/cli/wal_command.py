"""``pghaven wal``: archive a file, fetch one, list what is held.

The one idea: this is the readable front of ``wal_run``, where push and get are done; PostgreSQL's own calls do not even
come through here.
"""

from __future__ import annotations

import os

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import limit_option
from pghaven.cli.wal_run import EXIT_ABSENT, GetCall, PushCall, choose_cluster, get, push
from pghaven.clock import SYSTEM_CLOCK
from pghaven.config.values import ClusterConfig
from pghaven.errors import EXIT_DONE, NotFound

_CLUSTER_OPTION = click.option(
    "--cluster", metavar="CLUSTER", help="Default: the only one, or the one whose data directory is the current one."
)


@click.group("wal", no_args_is_help=True)
def command() -> None:
    """Archive and fetch write-ahead log."""


@command.command("push")
@_CLUSTER_OPTION
@click.argument("path")
@click.pass_obj
def push_command(invocation: Invocation, cluster: str | None, path: str) -> int:
    """Archive the WAL file PATH. For archive_command: `pghaven wal push %p`.

    Ends with 0 only when the file is durable in every repository of the cluster.
    """
    config = invocation.config
    chosen = choose_cluster(config, cluster)
    with invocation.reporter as listener:
        return push(PushCall(config=config, cluster=chosen, path=path, as_json=invocation.json), listener)


@command.command("get")
@_CLUSTER_OPTION
@click.option("--plan", "plan_path", metavar="FILE", help="The restore plan that recovery is held to.")
@click.option(
    "--absent-status",
    type=click.IntRange(1, 255),
    default=EXIT_ABSENT,
    show_default=True,
    help="What to end with when the file is proven absent.",
)
@click.argument("name")
@click.argument("path")
@click.pass_obj
def get_command(
    invocation: Invocation, *, cluster: str | None, plan_path: str | None, absent_status: int, name: str, path: str
) -> int:
    """Fetch the WAL file NAME to PATH. For restore_command: `pghaven wal get %f %p`.

    Ends with 0 when it is in place, with 1 when the archive is proven not to have it, and with 255, which stops
    recovery, in all other cases.
    """
    config = invocation.config
    call = GetCall(
        config=config,
        cluster=choose_cluster(config, cluster),
        file_name=name,
        target_path=path,
        plan_path=plan_path,
        absent_status=absent_status,
        as_json=invocation.json,
    )
    with invocation.reporter as listener:
        status = get(call, listener)
    if status not in (EXIT_DONE, EXIT_ABSENT):
        # Whoever asked for a status of its own wants exactly that one, and the root lets only 0 and 1 through.
        os._exit(status)
    return status


@command.command("receive")
@click.option("--once", is_flag=True, help="End when all that the server has now is in the repositories.")
@click.option("--until", metavar="LSN", help="End when this position is in the repositories.")
@click.argument("cluster", required=False)
@click.pass_obj
def receive_command(invocation: Invocation, *, once: bool, until: str | None, cluster: str | None) -> int:
    """Receive the WAL of CLUSTER from a replication slot as it is written, and keep it in every repository.

    Runs until it is asked to end (SIGTERM, Ctrl-C), and waits for a server that is away. The options of the
    configuration that begin with receive_ say how.
    """
    from pghaven.cli.wal_receive import describe_receive, make_request, receive, render_receive

    config = invocation.config
    chosen = choose_cluster(config, cluster)
    request = make_request(config, chosen, once=once, until=until)
    with invocation.reporter as listener:
        result = receive(request, listener)
    return invocation.show("wal-receive", describe_receive(chosen.name, result), render_receive(result))


@command.command("list")
@_CLUSTER_OPTION
@click.option("--at", metavar="TIME", help="Tell whether this moment can be restored to, and its position.")
@click.argument("name", metavar="[CLUSTER]", required=False)
@click.pass_obj
def list_command(invocation: Invocation, cluster: str | None, at: str | None, name: str | None) -> int:
    """List the WAL that is held of CLUSTER: continuous ranges with positions and times of commits, the tree of
    timelines, and each gap with its cause where it is known.

    Of several repositories each is listed, and one that cannot be reached is warned of. With --at it ends with 10 when
    no repository leads to that moment.
    """
    config = invocation.config
    chosen = choose_cluster(config, name or cluster)
    if at is not None:
        return _show_moment(invocation, chosen, at)
    from pghaven.cli.wal_list import describe_wal, list_wal, render_wal

    listing = list_wal(config, chosen, invocation.reporter)
    return invocation.show("wal-list", describe_wal(listing), render_wal(listing))


def _show_moment(invocation: Invocation, cluster: ClusterConfig, at: str) -> int:
    from pghaven.cli.wal_at import find_moment, render_moment
    from pghaven.postgres.target_time import parse_target_time

    moment = parse_target_time(at, None, now=SYSTEM_CLOCK.now())
    answers = find_moment(invocation.config, cluster, moment, invocation.reporter)
    status = invocation.show("wal-at", {"at": moment, "answers": answers}, render_moment(moment, answers))
    return status if any(one.is_reachable for one in answers) else NotFound.exit_status


@command.command("refill")
@click.argument("cluster", required=False)
@click.pass_obj
def refill_command(invocation: Invocation, cluster: str | None) -> int:
    """Give each repository of CLUSTER the WAL that another one holds and it has missed, and what is missing from all
    from the servers that still have it: the one of this host and those of the option wal_nodes.

    A push does the first by itself, a little at a time, when a repository is back. What no server has any more is
    kept in the repository as lost, and told with exit status 3.
    """
    from pghaven.cli.opening import list_places
    from pghaven.cli.wal_refill import describe_refill, end_refill, render_refill
    from pghaven.wal.refilling import refill_cluster

    config = invocation.config
    chosen = choose_cluster(config, cluster)
    wal_directory = os.path.join(chosen.data_directory, "pg_wal")
    is_here = os.path.isdir(wal_directory)
    with invocation.reporter as listener:
        found = refill_cluster(
            chosen.name,
            list_places(config, chosen),
            wal_directory if is_here else None,
            listener,
            chosen.wal_nodes if is_here else (chosen.conninfo, *chosen.wal_nodes),
        )
    invocation.show("wal-refill", describe_refill(chosen.name, found), render_refill(found))
    return end_refill(found)


@command.command("audit")
@click.option("--at-most", metavar="DURATION", help="Stop after so long, such as 30min; the next audit goes on there.")
@click.option("--segments", type=click.IntRange(min=1), metavar="N", help="Read at most so many segments.")
@click.option("--restart", is_flag=True, help="Begin anew instead of going on with an audit that was left.")
@limit_option
@click.argument("cluster", required=False)
@click.pass_obj
def audit_command(
    invocation: Invocation,
    *,
    cluster: str | None,
    at_most: str | None,
    segments: int | None,
    restart: bool,
    limit: int | None,
) -> int:
    """Read all WAL of CLUSTER again, and prove every file and that its records follow one another.

    Checks hashes, headers, system identifiers, the chain of pages and records from segment to segment, and that the
    histories agree. How far it came is kept in the repository; `pghaven status` shows it. Ends with 16 when something
    is damaged, with 3 when WAL is missing.
    """
    from pghaven.cli.wal_audit import AuditOptions, audit_cluster, describe_audit, end_audit, render_audit

    config = invocation.config
    chosen = choose_cluster(config, cluster)
    options = AuditOptions(at_most=at_most, segments=segments, restart=restart, limit=limit)
    with invocation.reporter as listener:
        found = audit_cluster(config, chosen, options, listener)
    invocation.show("wal-audit", describe_audit(chosen.name, found), render_audit(found))
    return end_audit(found)
