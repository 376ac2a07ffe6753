"""``pghaven ha adopt``: a primary that runs without Patroni, or under another one, becomes a cluster's first member."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pghaven.cli.ha_shared import HaContext, choose_nodes, find_service_user, open_context
from pghaven.cli.ha_start import describe_keeper, find_node_keepers, start_services
from pghaven.cli.invocation import Invocation
from pghaven.cli.output import make_printable
from pghaven.errors import Refused, StoreUnreachable, UsageError

if TYPE_CHECKING:
    from pghaven.ha.adopt import Adoption, Foreign
    from pghaven.ha.spec import HaNode
    from pghaven.ha.units import Keeper
    from pghaven.server.connection import Connection


@click.command("adopt")
@click.argument("cluster", required=False)
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Default: the node of this host.")
@click.option("--apply", "apply_it", is_flag=True, help="Give the roles their passwords and write files and etcd.")
@click.option("--accept-changes", is_flag=True, help="With --apply: although something of its own would change.")
@click.option("--start", is_flag=True, help="With --apply: take the server over from the unit of systemd that has it.")
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    cluster: str | None,
    nodes: tuple[str, ...],
    apply_it: bool,
    accept_changes: bool,
    start: bool,
) -> int:
    """Take over the primary that runs on this host, alone or under a Patroni that was set up by hand.

    Shows what of the server's own would change. With --apply all is prepared, while the server runs on. The takeover of
    a server without Patroni is a restart: stop the server's service, start Patroni's. From another Patroni, which must
    be paused for it, the server is taken over as it runs. With --start that is done here: the unit that has the server
    is disabled and ends, and ours takes its place. Then run `ha apply --start` on the other nodes.
    """
    from pghaven.ha.adopt import find_foreign, plan_adoption
    from pghaven.server.connection import connect

    if start and not apply_it:
        raise UsageError("--start goes with --apply")
    context = open_context(invocation, cluster, make_secrets=apply_it)
    (node,) = choose_nodes(context.spec, nodes)
    _require_new(context, must_know=apply_it)
    keepers = find_node_keepers(context, node)
    with connect(context.cluster.conninfo) as connection:
        foreign = find_foreign(connection, node, context.api)
        plan = plan_adoption(connection, context.spec, context.places, foreign)
        text = _render_plan(plan, foreign) + _render_keepers(context, node, keepers)
        if apply_it:
            _require_ready(plan, foreign, accept_changes=accept_changes)
            if start and not any(keeper.is_active for keeper in keepers):
                raise Refused(
                    "no unit of systemd is known that has this server, so --start cannot end it",
                    hint="Leave --start out: what is to be done by hand is told.",
                )
            _prepare(context, node.name, connection, plan)
    started: list[str] = []
    if start:
        started = start_services(context, [node])
        text += f"taken over. On the other nodes: pghaven ha apply {context.spec.cluster} --start, there once more\n"
        text += "without --start, which gives standbys their settings\n" if foreign is not None else ""
    else:
        text += _render_next(context, node, foreign) if apply_it else "to prepare the takeover: add --apply\n"
    body = {
        "applied": apply_it,
        "started": started,
        "units": keepers,
        "settings": plan.settings,
        "rules": plan.rules,
        "shared": plan.shared,
        "overrides": plan.overrides,
        "archive_command": plan.archive_command,
        "tablespaces": plan.tablespaces,
        "patroni": None if foreign is None else {"scope": foreign.scope, "version": foreign.version},
    }
    return invocation.show("ha-adopt", body, text)


def _require_ready(plan: Adoption, foreign: Foreign | None, *, accept_changes: bool) -> None:
    """Raises Refused while it is not paused, or would lose something that nobody has accepted."""
    if foreign is not None and not foreign.paused:
        raise Refused(
            f'Patroni still watches over "{foreign.scope}", and would fail over while it is taken over',
            hint=f"Pause it: patronictl -c ITS-FILE pause --wait {foreign.scope}",
        )
    if not plan.changes_nothing and not accept_changes:
        raise Refused(
            "the server would not be what it is",
            detail=_render_plan(plan, foreign).strip(),
            hint="Add these to the configuration, or use --accept-changes.",
        )


def _render_plan(plan: Adoption, foreign: Foreign | None) -> str:
    text = "" if foreign is None else f'Patroni {foreign.version} runs it now, as "{foreign.scope}"\n'
    lines = [f'would change: add "{one}" to parameters' for one in plan.settings]
    lines += [f'would go from pg_hba.conf: add "{one}" to hba' for one in plan.rules]
    lines += [f"would change in etcd: {one.path} from {one.found!r} to {one.wanted!r}" for one in plan.shared]
    lines += [
        f'would change, set by ALTER SYSTEM: add "{one.name} = {one.found}" to parameters' for one in plan.overrides
    ]
    if plan.archive_command is not None:
        lines.append(f"would end: archiving by {plan.archive_command}")
    if not lines:
        lines.append("nothing of the server's own would change")
    return text + "".join(f"{make_printable(line)}\n" for line in lines)


def _render_keepers(context: HaContext, node: HaNode, keepers: tuple[Keeper, ...]) -> str:
    from pghaven.ha.services import unit_name

    ours = unit_name("patroni", context.spec, node)
    return "".join(f"{make_printable(line)}\n" for one in keepers for line in describe_keeper(one, ours))


def _render_next(context: HaContext, node: HaNode, foreign: Foreign | None) -> str:
    from pghaven.ha.services import unit_name

    unit = unit_name("patroni", context.spec, node)
    if foreign is None:
        return f"prepared. Now stop the server by its own service, disable that, and: systemctl start {unit}\n"
    return (
        f"prepared. While it is paused, stop and disable the Patroni of every node; their servers go on\n"
        f"(with systemd: if its unit has KillMode=process). Then here: systemctl start {unit}\n"
        f"and on the others: pghaven ha apply {context.spec.cluster}, start theirs, and apply once more, which gives\n"
        "standbys their settings. Never start the old ones again\n"
    )


def _require_new(context: HaContext, *, must_know: bool) -> None:
    """Raises Refused for a cluster that is known as ours already, StoreUnreachable where that must be known."""
    from pghaven.ha.etcd import Etcd

    spec = context.spec
    try:
        if Etcd(spec.dcs_hosts, spec.cluster).get("initialize") is None:
            return
    except StoreUnreachable:
        if must_know:
            raise
        return
    raise Refused(
        f'etcd knows a cluster "{spec.cluster}" already',
        hint=f"If it runs, see what would change: pghaven ha plan {spec.cluster}. If nothing of it is left: patronictl "
        "remove; else give this one another name.",
    )


def _prepare(context: HaContext, name: str, connection: Connection, plan: Adoption) -> None:
    """Roles, files, and the shared configuration, which Patroni takes from a file only when it makes a cluster."""
    from pghaven.ha.adopt import give_roles
    from pghaven.ha.etcd import Etcd
    from pghaven.ha.files import plan_files, write_file
    from pghaven.ha.overrides import reset_overrides

    spec = context.spec
    give_roles(connection, spec, context.places.secrets)
    reset_overrides(connection, plan.overrides)
    for planned in plan_files(spec, spec.get_node(name), context.places):
        write_file(planned, find_service_user(context.cluster))
    Etcd(spec.dcs_hosts, spec.cluster).put("config", json.dumps(plan.config))
