"""``pghaven standby promote``: a standby becomes the primary, with all that the repository has.

The one idea: what would be lost is shown before, and a primary that still answers is never passed over by accident.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.output import write_out

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig
    from pghaven.standby.promote import Promoted, PromotePlan, PromoteRequest


@click.command("promote")
@click.argument("cluster")
@click.option("--data", "data_directory", metavar="DIR", help="The standby's.  [default: the cluster's]")
@click.option("--primary", metavar="CONNINFO", help="The server it follows.  [default: its own primary_conninfo]")
@click.option("--target-time", metavar="TIME", help="Replay no further than this moment, as of a delayed standby.")
@click.option("--target-lsn", metavar="LSN", help="Replay no further than this position.")
@click.option("--while-primary-runs", is_flag=True, help="Promote although the server it follows still answers.")
@click.option("--dry-run", is_flag=True, help="Show what would be lost and stop.")
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    *,
    cluster: str,
    data_directory: str | None,
    primary: str | None,
    target_time: str | None,
    target_lsn: str | None,
    while_primary_runs: bool,
    dry_run: bool,
) -> int:
    """Make the standby of CLUSTER on this host the primary.

    What is archived is replayed first, and what this standby alone has is archived. Then it is promoted, and must be
    seen to archive. A delayed standby replays all it has, unless --target-time or --target-lsn stops it before.
    """
    from pghaven.cli.standby_create import refuse_password
    from pghaven.server.instance import Instance
    from pghaven.server.programs import find_programs
    from pghaven.standby.promote import plan_promotion, require_promotable, run_promotion

    chosen = invocation.get_cluster(cluster)
    if primary is not None:
        refuse_password("--primary", primary)
    directory = os.path.abspath(data_directory or chosen.data_directory)
    target = _make_target(target_time, target_lsn)
    request = _make_request(invocation, chosen, directory, primary=primary, target=target, may=while_primary_runs)
    with invocation.reporter as listener:
        plan = plan_promotion(request)
    text = render_promotion(plan)
    if dry_run:
        return invocation.show("standby-promote", {**describe_promotion(plan), "dry_run": True}, text)
    if not invocation.json and not invocation.quiet:
        write_out(text)
    require_promotable(plan)
    major = int(plan.state.settings["server_version_num"]) // 10000
    instance = Instance(
        directory, find_programs(major, chosen.pg_bin), log_path=os.path.join(directory, "pghaven.recovery.log")
    )
    with invocation.reporter as listener:
        done = run_promotion(plan, listener, pg_instance=instance)
    body = {**describe_promotion(plan), "dry_run": False, "promoted": done}
    return invocation.show("standby-promote", body, render_promoted(done, chosen, directory))


def _make_target(time: str | None, lsn: str | None) -> Any:
    if time is None and lsn is None:
        return None
    from pghaven.cli.restore_request import TargetOptions, make_target
    from pghaven.clock import SYSTEM_CLOCK

    options = TargetOptions(
        time=time,
        lsn=lsn,
        xid=None,
        name=None,
        immediate=False,
        timeline=None,
        action="promote",
        exclusive=lsn is not None,
    )
    return make_target(options, SYSTEM_CLOCK.now())


def _make_request(
    invocation: Invocation, cluster: ClusterConfig, directory: str, *, primary: str | None, target: Any, may: bool
) -> PromoteRequest:
    from dataclasses import replace

    from pghaven.cli.opening import list_places
    from pghaven.cli.wal_run import make_push
    from pghaven.setup.program import find_program
    from pghaven.standby.promote import PromoteRequest
    from pghaven.wal.commands import render_restore_command
    from pghaven.wal.everywhere import push_everywhere

    config = invocation.config

    def push(path: str) -> object:
        return push_everywhere(replace(make_push(config, cluster, path), data_directory=directory))

    return PromoteRequest(
        cluster=cluster.name,
        data_directory=directory,
        like=cluster.conninfo,
        primary=primary,
        places=list_places(config, cluster),
        push=push,
        restore_command=render_restore_command(find_program(cluster.program), config.source, cluster.name, None),
        target=target,
        primary_may_run=may,
    )


def render_promotion(plan: PromotePlan) -> str:
    """What is known before, ending in an empty line."""
    from pghaven.cli.render import render_block
    from pghaven.postgres.recovery import render_target
    from pghaven.units import render_duration, render_size, render_time

    state = plan.state
    primary = f"does not answer: {plan.silence}"
    if plan.primary is not None:
        primary = f"still answers at {plan.primary.host}, at {plan.primary.lsn}"
    pairs: list[tuple[str, object]] = [
        ("primary", primary),
        ("received", f"up to {state.has_lsn} of timeline {state.timeline}"),
        ("replayed", f"up to {state.replayed_lsn}"),
        ("last commit", None if state.replayed_at is None else render_time(state.replayed_at)),
        ("delay", f"{render_duration(state.delay_seconds)}, passed over" if state.delay_seconds else None),
        ("target", None if plan.request.target is None else render_target(plan.request.target)),
        ("stops at", None if plan.stop is None else plan.stop.lsn),
    ]
    for one in plan.held:
        nothing = "nothing behind that" if one.error is None else f"could not be asked: {one.error}"
        held = one.end_lsn is not None and one.end_lsn > state.replayed_lsn
        pairs.append((f"repository {one.repository}", f"leads to {one.end_lsn}" if held else nothing))
    if plan.lacking:
        pairs.append(("to be archived", f"{len(plan.lacking)} files that only this standby has"))
    lost = "unknown: what the primary wrote last and sent nowhere" if plan.lost_bytes is None else None
    if plan.lost_bytes is not None:
        lost = "nothing" if not plan.lost_bytes else f"{render_size(plan.lost_bytes)} of WAL that only the primary has"
    pairs.append(("would be lost", lost))
    return f"promotion of the standby in {plan.request.data_directory}\n" + render_block(pairs, indent="  ") + "\n"


def describe_promotion(plan: PromotePlan) -> dict[str, object]:
    """For programs."""
    return {
        "data_directory": plan.request.data_directory,
        "timeline": plan.state.timeline,
        "received_lsn": plan.state.has_lsn,
        "replayed_lsn": plan.state.replayed_lsn,
        "primary_answers": plan.primary is not None,
        "primary_lsn": None if plan.primary is None else plan.primary.lsn,
        "repositories": plan.held,
        "lacking": plan.lacking,
        "lost_bytes": plan.lost_bytes,
        "stop_lsn": None if plan.stop is None else plan.stop.lsn,
    }


def render_promoted(done: Promoted, cluster: ClusterConfig, directory: str) -> str:
    from pghaven.cli.render import render_block
    from pghaven.units import render_duration, render_size

    backfilled = len(done.backfilled.names)
    pairs: list[tuple[str, object]] = [
        ("timeline", f"{done.timeline}, from {done.lsn}"),
        ("replayed", f"{render_size(done.replayed_bytes)} more before that"),
        ("archived before", f"{backfilled} files that only this standby had" if backfilled else None),
        ("archives", f"seen in {', '.join(done.archived)}" if done.archived else "not seen yet"),
    ]
    connect = f"host={done.host} port={done.port}"
    name = shlex.quote(cluster.name)
    text = f"promoted the standby in {directory} in {render_duration(done.seconds)}\n" + render_block(
        pairs, indent="  "
    )
    text += (
        f"\nClients: point them at this server ({connect} from this host). With both hosts and\n"
        "target_session_attrs=read-write in the connection string they find it by themselves.\n"
    )
    if os.path.realpath(cluster.data_directory) != os.path.realpath(directory):
        text += (
            f"Backups: in the configuration, data_directory and conninfo of [cluster.{cluster.name}] must be this "
            "server's.\n"
        )
    return text + (
        "The old primary comes back, stopped and on its own host, with:\n"
        f"  pghaven standby rejoin {name} --data DIR --upstream 'host=THIS-HOST port={done.port}' --start\n"
    )
