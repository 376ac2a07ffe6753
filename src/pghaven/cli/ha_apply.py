"""``pghaven ha plan`` and ``ha apply``: what is generated for a node, shown and written.

The one idea: both make the same plan; ``apply`` writes what ``plan`` shows, and tells the running services.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pghaven.cli.ha_shared import HaContext, choose_nodes, find_service_user, open_context
from pghaven.cli.invocation import Invocation
from pghaven.cli.output import make_printable
from pghaven.errors import PghavenError, ServerUnsuitable
from pghaven.events import Notice

if TYPE_CHECKING:
    from pghaven.ha.dynamic import Drift
    from pghaven.ha.files import PlannedFile
    from pghaven.ha.spec import HaNode

_node_option = click.option("--node", "nodes", multiple=True, metavar="NAME", help="Default: the node of this host.")


@click.command("plan")
@click.argument("cluster", required=False)
@_node_option
@click.pass_obj
def plan_command(invocation: Invocation, cluster: str | None, nodes: tuple[str, ...]) -> int:
    """Show what `ha apply` would write on this host and change in etcd. Nothing is changed."""
    context = open_context(invocation, cluster)
    chosen = choose_nodes(context.spec, nodes)
    files, drifts = _plan(context, chosen)
    return invocation.show("ha-plan", _body(context, files, drifts), _render(files, drifts, applied=False))


@click.command("apply")
@click.argument("cluster", required=False)
@_node_option
@click.option("--make-secrets", is_flag=True, help="Write the file of passwords, if it is not there yet.")
@click.option("--start", is_flag=True, help="Also enable and start the services with systemctl.")
@click.pass_obj
def apply_command(
    invocation: Invocation, *, cluster: str | None, nodes: tuple[str, ...], make_secrets: bool, start: bool
) -> int:
    """Write this host's files for Patroni, etcd and HAProxy, and set right what is in etcd.

    Run it on one node after the other. A Patroni that runs reads its file again; settings that need a restart of the
    server are told by `ha status`.
    """
    from pghaven.ha.files import write_file

    context = open_context(invocation, cluster, make_secrets=make_secrets)
    chosen = choose_nodes(context.spec, nodes)
    files, drifts = _plan(context, chosen)
    user = find_service_user(context.cluster)
    with invocation.reporter as listener:
        for planned in files:
            if planned.change != "same":
                write_file(planned, user)
        if drifts:
            from pghaven.ha.dynamic import render_dynamic

            wanted = render_dynamic(context.spec, context.places)
            context.api.tell(context.spec.servers, "PATCH", "/config", wanted)
        for node in chosen:
            _reload(context, node, files, listener)
        services = _start(context, chosen) if start else []
    body = {**_body(context, files, drifts), "started": services}
    text = _render(files, drifts, applied=True)
    if not start:
        text += "to start the services: pghaven ha apply --start, or systemctl enable --now for each unit\n"
    return invocation.show("ha-apply", body, text)


def _plan(context: HaContext, nodes: Sequence[HaNode]) -> tuple[list[PlannedFile], tuple[Drift, ...]]:
    from pghaven.ha.dynamic import find_drift, render_dynamic
    from pghaven.ha.files import plan_files

    files = [one for node in nodes for one in plan_files(context.spec, node, context.places)]
    try:
        found = context.api.ask(context.spec.servers, "/config")
    except ServerUnsuitable:
        return files, ()
    return files, find_drift(render_dynamic(context.spec, context.places), found)


def _reload(context: HaContext, node: HaNode, files: Sequence[PlannedFile], listener: object) -> None:
    """Have a running Patroni read its file again; one that does not run reads it when it starts."""
    from pghaven.ha.patroni_file import FILE_NAME

    path = context.places.path(node, FILE_NAME)
    if not any(one.path == path and one.change == "changed" for one in files):
        return
    try:
        context.api.tell([node], "POST", "/reload", None)
    except PghavenError as error:
        assert callable(listener)
        text = f'Patroni of node "{node.name}" was not told of its new file: {error.message}'
        listener(Notice(level="info", code="reload", text=text))


def _start(context: HaContext, nodes: Sequence[HaNode]) -> list[str]:
    """Raises ServerUnsuitable where there is no systemd, or it fails."""
    from pghaven.ha.services import unit_name

    if shutil.which("systemctl") is None or not os.path.isdir("/run/systemd/system"):
        raise ServerUnsuitable("systemd does not run on this host, so --start can start nothing")
    spec, started = context.spec, []
    for node in nodes:
        services = ["etcd"] if node in spec.dcs_members else []
        services += [] if node.witness else ["patroni", *(["haproxy"] if spec.proxy else [])]
        started += [unit_name(service, spec, node) for service in services]
    for words in (["daemon-reload"], ["enable", "--now", *started]):
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServerUnsuitable(f"systemctl {words[0]} failed", detail=done.stderr.strip() or None)
    return started


def _body(context: HaContext, files: Sequence[PlannedFile], drifts: Sequence[Drift]) -> dict[str, object]:
    return {
        "cluster": context.spec.cluster,
        "files": [{"path": one.path, "change": one.change, "difference": one.difference or None} for one in files],
        "shared": [{"path": one.path, "found": one.found, "wanted": one.wanted} for one in drifts],
    }


def _render(files: Sequence[PlannedFile], drifts: Sequence[Drift], *, applied: bool) -> str:
    words = {"new": "written" if applied else "new", "changed": "changed", "same": "unchanged"}
    text = ""
    for one in files:
        text += f"{words[one.change]:<10} {make_printable(one.path)}\n"
        text += "".join(f"    {make_printable(line)}\n" for line in one.difference.splitlines())
    for drift in drifts:
        text += f"{'changed':<10} {drift.path} in etcd: {drift.found!r} -> {drift.wanted!r}\n"
    if not drifts and all(one.change == "same" for one in files):
        text += "nothing to do\n"
    return text
