"""Starting the services of ``pghaven ha`` under systemd, and taking a server over from whatever unit runs it.

The one idea: etcd first, then Patroni in the place of the unit that had the server, then the proxy; and never ours
beside another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pghaven.cli.ha_shared import HaContext
from pghaven.errors import Refused, ServerUnsuitable

if TYPE_CHECKING:
    from pghaven.ha.spec import HaNode
    from pghaven.ha.units import Keeper


def find_node_keepers(context: HaContext, node: HaNode) -> tuple[Keeper, ...]:
    """The units that have this node's server, and are not ours. Raises ServerUnsuitable."""
    from pghaven.ha.services import unit_name
    from pghaven.ha.units import find_keepers

    return find_keepers(context.places.data_directory, [unit_name("patroni", context.spec, node)])


def start_services(context: HaContext, nodes: Sequence[HaNode]) -> list[str]:
    """Enable and start what the nodes run; the units. Raises Refused, and ServerUnsuitable where there is no systemd,
    or it fails."""
    from pghaven.ha.services import unit_name
    from pghaven.ha.units import control, hand_over, is_there

    if not is_there():
        raise ServerUnsuitable("systemd does not run on this host, so --start can start nothing")
    spec, started = context.spec, []
    control("daemon-reload")
    for node in nodes:
        keepers = () if node.witness else find_node_keepers(context, node)
        if any(keeper.runs_patroni and keeper.is_active for keeper in keepers):
            require_pause(context, node)
        before = [unit_name("etcd", spec, node)] if node in spec.dcs_members else []
        ours = [] if node.witness else [unit_name("patroni", spec, node)]
        after = [unit_name("haproxy", spec, node)] if ours and spec.proxy else []
        if before:
            control("enable", "--now", *before)
        for keeper in sorted(keepers, key=lambda one: one.is_active):
            if keeper.is_active:
                hand_over(keeper, ours[0])
            else:
                control("disable", keeper.name)
        if ours:
            control("enable", "--now", *ours, *after)
        started += [*before, *ours, *after]
    return started


def require_pause(context: HaContext, node: HaNode) -> None:
    """Raises Refused while the Patroni that has the server would take its end for a reason to act, ServerUnsuitable
    when it does not say."""
    told = context.api.call(node, "GET", "/cluster").body
    if not isinstance(told, dict) or not told.get("pause"):
        raise Refused(
            f'another Patroni runs the server of node "{node.name}" and is not paused: it would stop it at its own end',
            hint="Pause its cluster: patronictl -c ITS-FILE pause --wait",
        )


def describe_keeper(keeper: Keeper, ours: str) -> list[str]:
    """What becomes of a unit, a line each. Pure."""
    what = "the server runs on" if keeper.runs_patroni else "the server is restarted"
    lines = [
        f"{keeper.name} has the server: --start disables it, enables {ours}, ends the one, starts the other; {what}"
    ]
    if not keeper.is_active:
        lines = [f"{keeper.name} is enabled for the same server: --start disables it"]
    elif keeper.obstacles:
        lines.append(f"{keeper.name}: {', '.join(keeper.obstacles)}: --start puts that aside while it ends")
    return lines
