"""``pghaven ha restore``: the whole cluster, in place, to a moment.

The one idea: one node is restored and recovered while no Patroni runs anywhere, so nobody follows or promotes what is
about to be undone; then etcd forgets the undone future, and the others are rewound by Patroni when they start.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pghaven.cli.ha_shared import HaContext, choose_nodes, open_context
from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits
from pghaven.cli.output import write_out
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import Refused, ServerUnsuitable, UsageError
from pghaven.events import Step

if TYPE_CHECKING:
    from pghaven.cli.restore_command import RestoreJob
    from pghaven.ha.spec import HaNode
    from pghaven.restore.request import RestoreRequest
    from pghaven.restore.sources import SourcedPlan


@click.command("restore")
@click.argument("cluster", required=False)
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="The node of this host that is restored.")
@click.option("--target-time", metavar="TIME", help='Such as "2026-11-23 04:47:00+01:00", or "-2h" for two hours ago.')
@click.option("--target-lsn", metavar="LSN", help='A WAL position such as "0/3000028".')
@click.option("--target-xid", metavar="XID", help="The end of this transaction.")
@click.option("--target-name", metavar="NAME", help="A restore point made with pg_create_restore_point().")
@click.option("--target-timeline", metavar="T", help="Follow this timeline.  [default: the newest]")
@click.option("--backup", metavar="LABEL", help="Begin with this backup.  [default: the last one before the target]")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop. Patroni may run.")
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    *,
    cluster: str | None,
    nodes: tuple[str, ...],
    backup: str | None,
    dry_run: bool,
    **target: str | None,
) -> int:
    """Take the whole CLUSTER back to a moment, in place.

    Stop Patroni's service on every node first. This node is restored over its data directory, recovered and promoted;
    then start Patroni here, and after that on the others: it rewinds them to the new line.
    """
    from pghaven.restore.recover import run_recovery

    context = open_context(invocation, cluster)
    node = choose_first(context, nodes)
    request = make_target_request(context.spec.cluster, context.places.data_directory, target, backup=backup)
    if not dry_run:
        require_silence(context)
    from pghaven.cli.restore_command import RestoreJob
    from pghaven.cli.restore_text import plan_body

    limits = Limits(invocation.config, context.cluster, invocation.reporter)
    job = RestoreJob(invocation, context.cluster, limits, None)
    sourced, status = show_plan(invocation, job, request, "ha-restore", dry_run=dry_run)
    if status is not None:
        return status
    with invocation.reporter as listener:
        sourced, result = job.carry_out(sourced)
        _announce(context, node)
        recovery = run_recovery(sourced.plan, context.cluster.pg_bin, listener, opens=False)
        listener(Step(text="having etcd forget what is undone"))
        begin_anew(context)
    body: dict[str, Any] = {
        "plan": plan_body(sourced, None),
        "dry_run": False,
        "node": node.name,
        "timeline": int(recovery.timeline),
        "reached_lsn": str(recovery.reached_lsn),
        "restore_seconds": result.total_seconds,
        "recovery_seconds": recovery.seconds,
    }
    text = f"{node.name} is restored and on timeline {recovery.timeline}. Now start Patroni, here first:\n"
    text += render_starts(context, node) + f"then take a backup: pghaven backup {context.spec.cluster}\n"
    return invocation.show("ha-restore", body, text)


def show_plan(
    invocation: Invocation, job: RestoreJob, request: RestoreRequest, schema: str, *, dry_run: bool
) -> tuple[SourcedPlan, int | None]:
    """The plan, and the exit status where showing it was all that was asked."""
    from pghaven.cli.restore_text import plan_body, render_plan

    with invocation.reporter as listener:
        listener(Step(text="planning"))
        sourced = job.plan(request)
    text = render_plan(sourced, SYSTEM_CLOCK.now(), None)
    if dry_run:
        return sourced, invocation.show(schema, {"plan": plan_body(sourced, None), "dry_run": True}, text)
    if not invocation.json and not invocation.quiet:
        write_out(text)
    return sourced, None


def choose_first(context: HaContext, names: tuple[str, ...]) -> HaNode:
    """The node of this host that the others will be made from. Raises UsageError, Refused."""
    chosen = choose_nodes(context.spec, names)
    if len(chosen) != 1:
        raise UsageError("one node is restored, the others are rewound to it", hint="Name one --node.")
    if not chosen[0].may_lead:
        raise Refused(f'node "{chosen[0].name}" may not lead, so the others cannot be rewound to it')
    return chosen[0]


def make_target_request(
    cluster: str,
    data_directory: str,
    target: dict[str, str | None],
    *,
    backup: str | None,
    in_place: bool = True,
    tablespaces: tuple[str, ...] = (),
) -> RestoreRequest:
    """What the options ask for: a recovery that ends with a promotion, over what is there or as a copy of it."""
    from pghaven.cli.restore_request import PlaceOptions, TargetOptions, make_request

    options = TargetOptions(
        time=target["target_time"],
        lsn=target["target_lsn"],
        xid=target["target_xid"],
        name=target["target_name"],
        immediate=False,
        timeline=target["target_timeline"],
        action="promote",
        exclusive=False,
    )
    place = PlaceOptions(
        cluster=cluster,
        target_dir=data_directory,
        delta=in_place,
        remove_foreign=False,
        backup=backup,
        standby=False,
        archive=in_place,
        tablespaces=tablespaces,
        port=None,
    )
    return make_request(options, place, SYSTEM_CLOCK.now())


def require_silence(context: HaContext) -> None:
    """Raises Refused while any Patroni answers: it would follow, or promote, what is about to be undone."""
    from pghaven.ha.services import unit_name

    running = []
    for node in context.spec.servers:
        try:
            context.api.call(node, "GET", "/liveness")
        except ServerUnsuitable:
            continue
        running.append(node)
    if running:
        names = " and ".join(f'"{node.name}"' for node in running)
        commands = "; ".join(
            f"on {node.name}: systemctl stop {unit_name('patroni', context.spec, node)}" for node in running
        )
        raise Refused(f"Patroni still runs on {names}", hint=f"Stop it, standbys first, the primary last: {commands}")


def _announce(context: HaContext, node: HaNode) -> None:
    """A promotion that nobody has announced is kept out of the archive; this one is meant."""
    from pghaven.wal.announced import announce_promotion

    announce_promotion(context.places.data_directory, node.name)


def begin_anew(context: HaContext) -> None:
    """Have etcd know nothing of the cluster but its shared configuration."""
    from pghaven.ha.dynamic import render_dynamic
    from pghaven.ha.etcd import Etcd

    etcd = Etcd(context.spec.dcs_hosts, context.spec.cluster)
    etcd.delete_all()
    etcd.put("config", json.dumps(render_dynamic(context.spec, context.places)))


def render_starts(context: HaContext, node: HaNode) -> str:
    """The commands that start Patroni on this node, and then on the others."""
    from pghaven.ha.services import unit_name

    spec = context.spec
    others = [one for one in spec.servers if one.name != node.name]
    return "".join(f"  on {one.name}: systemctl start {unit_name('patroni', spec, one)}\n" for one in (node, *others))
