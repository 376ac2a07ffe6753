"""``pghaven ha plan`` and ``ha apply``: what is generated for a node, shown and written.

The one idea: both make the same plan; ``apply`` writes what ``plan`` shows, and tells the running services.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from pghaven.cli.ha_shared import HaContext, choose_nodes, find_service_user, open_context
from pghaven.cli.ha_start import start_services
from pghaven.cli.invocation import Invocation
from pghaven.cli.output import make_printable
from pghaven.errors import PghavenError, ServerUnsuitable
from pghaven.events import Notice

if TYPE_CHECKING:
    from pghaven.ha.dynamic import Drift
    from pghaven.ha.files import PlannedFile
    from pghaven.ha.overrides import Override
    from pghaven.ha.spec import HaNode, Timing

_node_option = click.option("--node", "nodes", multiple=True, metavar="NAME", help="Default: the node of this host.")


@click.command("plan")
@click.argument("cluster", required=False)
@_node_option
@click.pass_obj
def plan_command(invocation: Invocation, cluster: str | None, nodes: tuple[str, ...]) -> int:
    """Show what `ha apply` would write on this host and change in etcd. Nothing is changed."""
    context = open_context(invocation, cluster)
    chosen = choose_nodes(context.spec, nodes)
    plan = _plan(context, chosen)
    return invocation.show("ha-plan", plan.body, plan.render(applied=False))


@click.command("apply")
@click.argument("cluster", required=False)
@_node_option
@click.option("--make-secrets", is_flag=True, help="Write the file of passwords, if it is not there yet.")
@click.option("--start", is_flag=True, help="Also enable and start the services; another unit gives way.")
@click.pass_obj
def apply_command(
    invocation: Invocation, *, cluster: str | None, nodes: tuple[str, ...], make_secrets: bool, start: bool
) -> int:
    """Write this host's files for Patroni, etcd and HAProxy; set right what is in etcd, and what ALTER SYSTEM has set.

    Run it on one node after the other. A Patroni that runs reads its file again; settings that need a restart of the
    server are told by `ha status`.
    """
    from pghaven.ha.files import write_file

    context = open_context(invocation, cluster, make_secrets=make_secrets)
    chosen = choose_nodes(context.spec, nodes)
    plan = _plan(context, chosen)
    user = find_service_user(context.cluster)
    with invocation.reporter as listener:
        for planned in plan.files:
            if planned.change != "same":
                write_file(planned, user)
        if plan.drifts:
            from pghaven.ha.dynamic import render_dynamic

            wanted = render_dynamic(context.spec, context.places)
            context.acts.change_shared(wanted)
        for node in chosen:
            _reload(context, node, plan.files, listener)
        _reset(context, plan)
        services = start_services(context, chosen) if start else []
    body = {**plan.body, "started": services}
    text = plan.render(applied=True)
    if not start:
        text += "to start the services: pghaven ha apply --start, or systemctl enable --now for each unit\n"
    return invocation.show("ha-apply", body, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """``overrides`` are settings of this host's server that would not be what is configured. ``is_compared``: whether
    anybody told what the members share."""

    cluster: str
    timing: Timing
    files: Sequence[PlannedFile]
    drifts: Sequence[Drift]
    overrides: Sequence[Override]
    is_compared: bool

    @property
    def body(self) -> dict[str, object]:
        return {
            "cluster": self.cluster,
            "takeover": {
                "lease_seconds": self.timing.ttl,
                "at_most_seconds": self.timing.takeover_seconds,
                "of_cut_off_seconds": self.timing.takeover_of_cut_off_seconds,
            },
            "files": [
                {"path": one.path, "change": one.change, "difference": one.difference or None} for one in self.files
            ],
            "shared": self.drifts,
            "shared_compared": self.is_compared,
            "overrides": self.overrides,
        }

    def render(self, *, applied: bool) -> str:
        words = {"new": "written" if applied else "new", "changed": "changed", "same": "unchanged"}
        timing = self.timing
        text = f"{'takeover':<10} at most {timing.takeover_seconds} s after the primary died, "
        text += f"{timing.takeover_of_cut_off_seconds} s after it was cut off; the lease is {timing.ttl} s of it\n"
        for one in self.files:
            text += f"{words[one.change]:<10} {make_printable(one.path)}\n"
            text += "".join(f"    {make_printable(line)}\n" for line in one.difference.splitlines())
        for drift in self.drifts:
            text += f"{'changed':<10} {drift.path} in etcd: {drift.found!r} -> {drift.wanted!r}\n"
        for over in self.overrides:
            text += f"{'reset':<10} {over.name} in postgresql.auto.conf: {over.found} -> {over.wanted}\n"
        if not self.is_compared:
            return text + f"{'unknown':<10} what the members share in etcd: no Patroni tells it\n"
        if not self.drifts and not self.overrides and all(one.change == "same" for one in self.files):
            text += "nothing to do\n"
        return text


def _plan(context: HaContext, nodes: Sequence[HaNode]) -> _Plan:
    from pghaven.ha.dynamic import find_drift, render_dynamic
    from pghaven.ha.files import plan_files

    spec, places = context.spec, context.places
    drifts: tuple[Drift, ...] = ()
    is_compared = False
    with suppress(ServerUnsuitable):
        found = context.api.ask(spec.servers, "/config")
        drifts, is_compared = find_drift(render_dynamic(spec, places), found), True
    return _Plan(
        cluster=spec.cluster,
        timing=spec.timing,
        files=[one for node in nodes for one in plan_files(spec, node, places)],
        drifts=drifts,
        is_compared=is_compared,
        overrides=_find_overrides(context) if any(not node.witness for node in nodes) else (),
    )


def _find_overrides(context: HaContext) -> tuple[Override, ...]:
    """Of a server that runs and lets us in; before there is one nothing is set on it."""
    from pghaven.ha.overrides import find_overrides
    from pghaven.ha.patroni_file import list_wanted_settings
    from pghaven.server.connection import connect

    with suppress(PghavenError), connect(context.cluster.conninfo) as connection:
        return find_overrides(connection, list_wanted_settings(context.spec, context.places))
    return ()


def _reset(context: HaContext, plan: _Plan) -> None:
    from pghaven.ha.overrides import reset_overrides
    from pghaven.server.connection import connect

    if plan.overrides:
        with connect(context.cluster.conninfo) as connection:
            reset_overrides(connection, plan.overrides)


def _reload(context: HaContext, node: HaNode, files: Sequence[PlannedFile], listener: object) -> None:
    """Have a running Patroni read its file again, also one that is as it was: a Patroni that came to a standby while
    that ran gives it its settings only when it is told to. One that does not run reads it when it starts."""
    from pghaven.ha.patroni_file import FILE_NAME

    path = context.places.path(node, FILE_NAME)
    try:
        context.api.tell([node], "POST", "/reload", None)
    except PghavenError as error:
        if not any(one.path == path and one.change == "changed" for one in files):
            return
        assert callable(listener)
        text = f'Patroni of node "{node.name}" was not told of its new file: {error.message}'
        listener(Notice(level="info", code="reload", text=text))
