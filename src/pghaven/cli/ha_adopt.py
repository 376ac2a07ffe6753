"""``pghaven ha adopt``: a primary that runs without Patroni becomes a cluster's first member."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pghaven.cli.ha_shared import HaContext, choose_nodes, find_service_user, open_context
from pghaven.cli.invocation import Invocation
from pghaven.cli.output import make_printable
from pghaven.errors import Refused, ServerUnsuitable

if TYPE_CHECKING:
    from pghaven.server.connection import Connection


@click.command("adopt")
@click.argument("cluster", required=False)
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Default: the node of this host.")
@click.option("--apply", "apply_it", is_flag=True, help="Give the roles their passwords and write files and etcd.")
@click.option("--accept-changes", is_flag=True, help="With --apply: although settings or pg_hba.conf would change.")
@click.pass_obj
def command(
    invocation: Invocation, *, cluster: str | None, nodes: tuple[str, ...], apply_it: bool, accept_changes: bool
) -> int:
    """Take over the primary that runs on this host.

    Shows what of the server's own would change under Patroni. With --apply all is prepared, while the server runs on;
    the takeover is a restart: stop the server's service, start Patroni's. Then run `ha apply` on the other nodes and
    start Patroni there: it makes the standbys. A cluster that Patroni runs already needs `ha apply` only.
    """
    from pghaven.ha.adopt import plan_adoption
    from pghaven.server.connection import connect

    context = open_context(invocation, cluster, make_secrets=apply_it)
    (node,) = choose_nodes(context.spec, nodes)
    _require_no_patroni(context)
    with connect(context.cluster.conninfo) as connection:
        plan = plan_adoption(connection, context.spec)
        text = "".join(f'would change: add "{one}" to parameters\n' for one in plan.settings)
        text += "".join(f'would go from pg_hba.conf: add "{make_printable(one)}" to hba\n' for one in plan.rules)
        if apply_it:
            if not plan.changes_nothing and not accept_changes:
                raise Refused(
                    "the server would not be what it is",
                    detail=text.strip(),
                    hint="Add these to the configuration, or use --accept-changes.",
                )
            _prepare(context, node.name, connection)
    from pghaven.ha.services import unit_name

    unit = unit_name("patroni", context.spec, node)
    if apply_it:
        text += f"prepared. Now stop the server by its own service, disable that, and: systemctl start {unit}\n"
    else:
        text += "" if text else "nothing of the server's own would change\n"
        text += "to prepare the takeover: add --apply\n"
    body = {"applied": apply_it, "settings": plan.settings, "rules": plan.rules, "tablespaces": plan.tablespaces}
    return invocation.show("ha-adopt", body, text)


def _require_no_patroni(context: HaContext) -> None:
    try:
        context.api.ask(context.spec.servers, "/cluster")
    except ServerUnsuitable:
        return
    raise Refused(
        "Patroni runs this cluster already", hint=f"See what would change: pghaven ha plan {context.spec.cluster}"
    )


def _prepare(context: HaContext, name: str, connection: Connection) -> None:
    """Roles, files, and the shared configuration, which Patroni takes from a file only when it makes a cluster."""
    from pghaven.ha.adopt import give_roles
    from pghaven.ha.dynamic import render_dynamic
    from pghaven.ha.etcd import Etcd
    from pghaven.ha.files import plan_files, write_file

    spec = context.spec
    etcd = Etcd(spec.dcs_hosts, spec.cluster)
    if etcd.get("initialize") is not None:
        raise Refused(
            f'etcd knows a cluster "{spec.cluster}" already',
            hint="If nothing of it is left: patronictl remove; else give this one another name.",
        )
    give_roles(connection, spec, context.places.secrets)
    for planned in plan_files(spec, spec.get_node(name), context.places):
        write_file(planned, find_service_user(context.cluster))
    etcd.put("config", json.dumps(render_dynamic(spec, context.places)))
