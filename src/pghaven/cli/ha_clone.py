"""``pghaven ha clone``: a cluster of its own, made of another one as it was at a moment.

The one idea: it is a restore to a directory of its own, under the description of another cluster; nothing is asked of
the source but its repository, and nothing of the copy ever enters the source's archive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pghaven.cli.ha_restore import (
    begin_anew,
    choose_first,
    make_target_request,
    render_starts,
    require_silence,
    show_plan,
)
from pghaven.cli.ha_shared import HaContext, find_service_user, open_context
from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, limit_option
from pghaven.errors import Refused
from pghaven.events import Notice, Step

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig
    from pghaven.events import Listener
    from pghaven.ha.cloned import MadeOwn
    from pghaven.ha.spec import HaNode
    from pghaven.restore.request import RestorePlan


@click.command("clone")
@click.argument("source")
@click.argument("cluster")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="The node of this host that is made first.")
@click.option("--target-time", metavar="TIME", help='Such as "2026-11-23 04:47:00+01:00", or "-2h" for two hours ago.')
@click.option("--target-lsn", metavar="LSN", help='A WAL position such as "0/3000028".')
@click.option("--target-xid", metavar="XID", help="The end of this transaction.")
@click.option("--target-name", metavar="NAME", help="A restore point made with pg_create_restore_point().")
@click.option("--target-timeline", metavar="T", help="Follow this timeline.  [default: the newest]")
@click.option("--backup", metavar="LABEL", help="Begin with this backup.  [default: the last one before the target]")
@click.option("--tablespace-mapping", "tablespaces", multiple=True, metavar="OLD=NEW", help="Move a tablespace.")
@click.option("--repository", metavar="NAME", help="Restore from this repository alone.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@limit_option
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    *,
    source: str,
    cluster: str,
    nodes: tuple[str, ...],
    backup: str | None,
    tablespaces: tuple[str, ...],
    repository: str | None,
    dry_run: bool,
    limit: int | None,
    **target: str | None,
) -> int:
    """Make CLUSTER a copy of SOURCE as it was at a moment; without one, as it was last.

    Both are in the configuration, each with a name, nodes, ports and passwords of its own. The source may run, and is
    not asked for anything. The first node is restored into its empty data directory, recovered and promoted, its roles
    get the passwords of CLUSTER, and its subscriptions are disabled; then start Patroni here and on the others. The
    copy archives as CLUSTER, and never into the source's archive.
    """
    from pghaven.cli.restore_command import RestoreJob
    from pghaven.cli.restore_text import plan_body

    context, chosen = open_context(invocation, cluster), invocation.get_cluster(source)
    node = choose_first(context, nodes)
    directory = context.places.data_directory
    request = make_target_request(
        chosen.name, directory, target, backup=backup, in_place=False, tablespaces=tablespaces
    )
    _require_apart(context, chosen)
    if not dry_run:
        require_silence(context)
        _require_unknown(context)
    limits = Limits(invocation.config, chosen, invocation.reporter, limit=limit)
    job = RestoreJob(invocation, chosen, limits, repository)
    sourced, status = show_plan(invocation, job, request, "ha-clone", dry_run=dry_run)
    if status is not None:
        return status
    with invocation.reporter as listener:
        sourced, result = job.carry_out(sourced)
        reached = _finish(invocation, context, node, sourced.plan, listener)
    body = {
        "plan": plan_body(sourced, None),
        "dry_run": False,
        "cluster": context.spec.cluster,
        "node": node.name,
        "restore_seconds": result.total_seconds,
        **reached,
    }
    text = f"{node.name} of {context.spec.cluster} is made, on timeline {reached['timeline']}. Now start Patroni:\n"
    text += render_starts(context, node)
    text += f"then: pghaven init {context.spec.cluster} --apply; pghaven backup {context.spec.cluster}\n"
    return invocation.show("ha-clone", body, text)


def _finish(
    invocation: Invocation, context: HaContext, node: HaNode, plan: RestorePlan, listener: Listener
) -> dict[str, Any]:
    from pghaven.ha.cloned import make_own
    from pghaven.ha.files import plan_files, write_file
    from pghaven.restore.recover import run_recovery
    from pghaven.server.programs import find_programs

    recovery = run_recovery(plan, context.cluster.pg_bin, listener, opens=False)
    listener(Step(text="making it a cluster of its own"))
    made = make_own(context.spec, context.places, find_programs(plan.manifest.facts.major, context.cluster.pg_bin))
    # Which version of PostgreSQL it is of is known only now.
    renewed = open_context(invocation, context.spec.cluster)
    for planned in plan_files(renewed.spec, node, renewed.places):
        write_file(planned, find_service_user(renewed.cluster))
    begin_anew(renewed)
    _tell_disabled(made, listener)
    return {
        "timeline": int(recovery.timeline),
        "reached_lsn": str(recovery.reached_lsn),
        "recovery_seconds": recovery.seconds,
        "subscriptions": list(made.subscriptions),
    }


def _tell_disabled(made: MadeOwn, listener: Listener) -> None:
    if made.subscriptions:
        text = f"disabled, so that they take nothing from their publishers: {', '.join(made.subscriptions)}"
        listener(Notice(level="info", code="subscriptions", text=text))


def _require_apart(context: HaContext, source: ClusterConfig) -> None:
    """Raises Refused where the copy would not be another cluster."""
    spec = context.spec
    if source.name == spec.cluster:
        raise Refused(
            "a cluster cannot be a copy of itself",
            hint=f"To take it back in place: pghaven ha restore {spec.cluster}. A copy has a name of its own.",
        )
    if spec.followed is not None:
        raise Refused(
            f'cluster "{spec.cluster}" is to follow "{spec.followed.cluster}": it is no copy that goes its own way',
            hint=f'Take "follow" out of [cluster.{spec.cluster}.ha].',
        )


def _require_unknown(context: HaContext) -> None:
    from pghaven.ha.etcd import Etcd

    spec = context.spec
    if Etcd(spec.dcs_hosts, spec.cluster).get("initialize") is not None:
        raise Refused(
            f'etcd knows a cluster "{spec.cluster}" already',
            hint="If nothing of it is left: patronictl remove; else give the copy another name.",
        )
