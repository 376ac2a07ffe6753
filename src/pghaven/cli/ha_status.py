"""``pghaven ha status``: the members of a cluster, its archive and backups, and one verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pghaven.cli.ha_shared import HaContext, open_context
from pghaven.cli.invocation import Invocation

if TYPE_CHECKING:
    from pghaven.ha.verdict import ArchiveView, Reason
    from pghaven.ha.view import ClusterView

_VERDICTS = ("all is well", "it works, and something is to be done", "BROKEN")


@click.command("status")
@click.argument("cluster", required=False)
@click.option("--no-archive", is_flag=True, help="Look at the members only, not at the repositories.")
@click.pass_obj
def command(invocation: Invocation, cluster: str | None, no_archive: bool) -> int:
    """Show the members of CLUSTER, how far each is, its archive and newest backup, and whether all is well.

    Ends with 0 when all is well, with 1 when it works and something is to be done, with 2 when nobody can write or what
    is written is not safe. Other statuses are those of errors.
    """
    from pghaven.clock import SYSTEM_CLOCK
    from pghaven.ha.dynamic import render_dynamic
    from pghaven.ha.verdict import judge_cluster, worst
    from pghaven.ha.view import look

    context = open_context(invocation, cluster)
    view = look(context.spec, context.api, without_dcs=True)
    archive = None if no_archive else _look_at_archive(invocation, context)
    wanted = render_dynamic(context.spec, context.places)
    reasons = judge_cluster(context.spec, wanted, view, archive, SYSTEM_CLOCK.now())
    verdict = worst(reasons)
    text = _render(context, view, archive, reasons)
    invocation.show("ha-status", _body(context, view, archive, reasons, verdict), text)
    return verdict


def _look_at_archive(invocation: Invocation, context: HaContext) -> ArchiveView:
    """What the repositories and this host's server tell; the worst of several repositories counts."""
    from pghaven.cli.status_command import gather_all
    from pghaven.ha.verdict import ArchiveView
    from pghaven.proof.states import RepositoryState, ServerState

    (status,) = gather_all(invocation, context.spec.cluster)
    states = [one for one in status.repositories if isinstance(one, RepositoryState)]
    silent = [
        f'repository "{one.name}": {one.reason}' for one in status.repositories if not isinstance(one, RepositoryState)
    ]
    newest = next((one.newest for one in states if one.newest is not None), None)
    lineages = [int(held.timeline) for one in states for held in one.timelines]
    gaps = [
        f'WAL from {gap.first} to {gap.last} is missing from repository "{one.name}"'
        for one in states
        for gap in one.reach.gaps
    ]
    return ArchiveView(
        timeline=max(lineages, default=None),
        quarantined=sum(one.quarantined for one in states),
        backup=None if newest is None else newest.label,
        backup_at=None if newest is None else newest.stopped_at,
        waiting=status.server.waiting if isinstance(status.server, ServerState) else None,
        problems=(*silent, *gaps),
    )


def _body(
    context: HaContext, view: ClusterView, archive: ArchiveView | None, reasons: tuple[Reason, ...], verdict: int
) -> dict[str, object]:
    return {
        "cluster": context.spec.cluster,
        "durability": context.spec.durability,
        "leader": view.leader,
        "etcd_answers": not view.dcs_is_silent,
        "paused": view.paused,
        "paused_until": view.paused_until,
        "members": [
            {
                "name": one.name,
                "role": one.role,
                "state": one.state,
                "timeline": one.timeline,
                "written": _position(one.written),
                "replayed": _position(one.replayed),
                "lag_bytes": None if one.leads else view.lag_bytes(one),
                "synchronous": one.is_sync,
                "pending_restart": one.pending_restart,
                "patroni": one.version,
                "silence": one.silence,
            }
            for one in view.members
        ],
        "loss": _loss_body(context, view),
        "archive": archive,
        "verdict": verdict,
        "reasons": reasons,
    }


def _loss_body(context: HaContext, view: ClusterView) -> dict[str, object] | None:
    from dataclasses import asdict

    from pghaven.ha.loss import assess_loss

    loss = assess_loss(context.spec, view)
    return None if loss is None else {**asdict(loss), "position": _position(loss.position)}


def _position(value: int | None) -> str | None:
    from pghaven.postgres.lsn import Lsn

    return None if value is None else str(Lsn(value))


def _render(context: HaContext, view: ClusterView, archive: ArchiveView | None, reasons: tuple[Reason, ...]) -> str:
    from pghaven.cli.render import Column, render_block, render_table
    from pghaven.ha.loss import assess_loss, render_loss
    from pghaven.ha.verdict import worst
    from pghaven.units import render_size, render_time

    rows = []
    for one in view.members:
        lag = None if one.leads else view.lag_bytes(one)
        rows.append(
            (
                one.name,
                one.role.replace("_", " "),
                one.state,
                one.timeline,
                _position(one.written),
                None if lag is None else render_size(lag),
            )
        )
    right = Column(title="timeline", align="right"), Column(title="lag", align="right")
    heads = ("node", "role", "state", right[0], "written", right[1])
    text = f"cluster {context.spec.cluster}, {context.spec.durability}\n" + render_table(heads, rows)
    loss = assess_loss(context.spec, view)
    blocks: list[tuple[str, object]] = [] if loss is None else [("if it failed over now", render_loss(loss))]
    if archive is not None:
        backup = archive.backup and f"{archive.backup}, {render_time(archive.backup_at) if archive.backup_at else '?'}"
        blocks += [
            ("newest backup", backup or "none"),
            ("archived timeline", archive.timeline),
            ("waiting to be archived", archive.waiting),
            ("in quarantine", archive.quarantined),
        ]
    text += render_block(blocks)
    text += f"{_VERDICTS[worst(reasons)]}\n"
    for reason in reasons:
        text += f"  {reason.text}\n" + (f"      HINT:  {reason.hint}\n" if reason.hint else "")
    return text
