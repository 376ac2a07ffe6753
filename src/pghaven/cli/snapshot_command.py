"""``pghaven snapshot …``: kept snapshots of a cluster's file systems."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.lazy import LazyGroup
from pghaven.cli.opening import open_chosen_repository
from pghaven.cli.retention_options import make_keep_rules
from pghaven.errors import PghavenError
from pghaven.events import Notice

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig
    from pghaven.instant.points import Point
    from pghaven.repository.repository import Repository

# name -> (module:attribute, summary), as in ``main.COMMANDS``.
COMMANDS = {
    "create": ("pghaven.cli.snapshot_command:create_command", "Take a snapshot and keep it, as a local restore point."),
    "list": (
        "pghaven.cli.snapshot_command:list_command",
        "List kept snapshots, and what each is good for.",
    ),
    "clone": ("pghaven.cli.snapshot_clone:command", "Start a writable copy of the cluster from a snapshot."),
    "remove": ("pghaven.cli.snapshot_command:remove_command", "Remove a snapshot, or a clone of one."),
}

command = LazyGroup("snapshot", COMMANDS, help="Snapshots of the file systems a cluster lies on.", no_args_is_help=True)

_repository_option = click.option("--repository", metavar="NAME", help="Where it is recorded.  [default: the first]")


def open_others(invocation: Invocation, cluster: ClusterConfig, name: str | None) -> list[Repository]:
    """The cluster's other repositories, which have WAL too. Raises what opening one raises."""
    rest = [one for one in cluster.repositories if one != (name or cluster.repositories[0])]
    return [open_chosen_repository(invocation.config, cluster, one) for one in rest]


@click.command("create")
@click.argument("cluster", required=False)
@click.option(
    "--keep",
    type=click.IntRange(1),
    metavar="N",
    help="Remove all but the newest N afterwards, whatever the configuration keeps.",
)
@_repository_option
@click.pass_obj
def create_command(invocation: Invocation, cluster: str | None, keep: int | None, repository: str | None) -> int:
    """Take a snapshot of the ZFS, Btrfs or LVM thin volumes that CLUSTER lies on, and keep it.

    The server is in backup mode for that instant only. With WAL from the repository the snapshot leads to any moment
    since: pghaven restore --from-snapshot, pghaven snapshot clone. Snapshots from which nothing can be restored ever
    again are removed, and those that the configuration does not keep.
    """
    from pghaven.cli.render import render_block
    from pghaven.instant.keep import KeepSettings, keep_snapshot
    from pghaven.instant.points import KeepRules, trim_points
    from pghaven.units import render_duration, render_size, render_time

    chosen = invocation.get_cluster(cluster)
    settings = KeepSettings(
        cluster=chosen.name,
        data_directory=chosen.data_directory,
        conninfo=chosen.conninfo,
        archive_timeout_seconds=chosen.backup_archive_timeout_seconds,
    )
    with invocation.reporter as listener:
        opened = open_chosen_repository(invocation.config, chosen, repository, listener)
        result = keep_snapshot(opened, settings, listener)
        try:
            all_opened = (opened, *open_others(invocation, chosen, repository))
            rules = KeepRules(count=keep) if keep is not None else make_keep_rules(chosen.snapshot)
            trim_points(all_opened, chosen.name, chosen.data_directory, rules, listener)
        except PghavenError as error:
            text = f"no snapshot was removed: {error.message}"
            listener(Notice(level="warning", code="not_trimmed", text=text, hint=error.hint))
    kept = result.kept
    facts = kept.facts
    body = {
        "label": kept.label,
        "cluster": chosen.name,
        "name": kept.name,
        "volumes": kept.volumes,
        "timeline": facts.timeline,
        "start_lsn": facts.start_lsn,
        "stop_lsn": facts.stop_lsn,
        "stopped_at": facts.stopped_at,
        "file_count": facts.file_count,
        "total_bytes": facts.total_bytes,
        "snapshot_seconds": result.snapshot_seconds,
        "total_seconds": result.total_seconds,
    }
    text = f"snapshot {kept.label} of {chosen.name} is kept\n" + render_block(
        [
            ("taken", f"{render_time(facts.stopped_at)}, in {render_duration(result.snapshot_seconds)}"),
            ("volumes", ", ".join(map(str, kept.volumes))),
            ("size", f"{render_size(facts.total_bytes)} in {facts.file_count} files"),
            ("WAL", f"{facts.start_lsn} to {facts.stop_lsn} on timeline {facts.timeline}, archived and proven"),
            ("restore with", f"pghaven restore {chosen.name} --from-snapshot {kept.label} --target-dir DIR"),
            ("clone with", f"pghaven snapshot clone {kept.label} --target-dir DIR"),
        ],
        indent="  ",
    )
    return invocation.show("snapshot", body, text)


@click.command("list")
@click.argument("cluster", required=False)
@_repository_option
@click.pass_obj
def list_command(invocation: Invocation, cluster: str | None, repository: str | None) -> int:
    """List the snapshots of CLUSTER that are kept, oldest first, as they are found on this host now."""
    from pghaven.instant.points import list_points

    chosen = invocation.get_cluster(cluster)
    with invocation.reporter as listener:
        opened = open_chosen_repository(invocation.config, chosen, repository, listener)
        others = open_others(invocation, chosen, repository)
        points = list_points(opened, chosen.name, chosen.data_directory, others)
    body = {"cluster": chosen.name, "snapshots": [_render_point(one) for one in points]}
    return invocation.show("snapshots", body, _render_points(chosen.name, points))


def _render_point(point: Point) -> dict[str, object]:
    kept = point.kept
    return {
        "label": point.label,
        "state": point.state,
        "reason": point.reason,
        "taken_at": point.taken_at,
        "host": None if kept is None else kept.facts.host,
        "volumes": point.volumes,
        "used_bytes": point.used_bytes,
        "start_lsn": None if kept is None else kept.facts.start_lsn,
        "timeline": None if kept is None else kept.facts.timeline,
        "total_bytes": None if kept is None else kept.facts.total_bytes,
    }


def _render_points(cluster: str, points: tuple[Point, ...]) -> str:
    from pghaven.cli.render import Column, render_table
    from pghaven.units import render_size, render_time

    if not points:
        return f"cluster {cluster} has no snapshots; take one: pghaven snapshot create {cluster}\n"
    columns = ("snapshot", "state", "taken", Column(title="size", align="right"), Column(title="held", align="right"))
    rows = [
        (
            one.label,
            one.state,
            None if one.taken_at is None else render_time(one.taken_at),
            None if one.kept is None else render_size(one.kept.facts.total_bytes),
            None if one.used_bytes is None else render_size(one.used_bytes),
            ", ".join(map(str, one.volumes)),
        )
        for one in points
    ]
    table = render_table((*columns, "on"), rows)
    notes = [f"{one.label}: {one.reason}\n" for one in points if one.reason is not None]
    return table + ("\n" + "".join(notes) if notes else "")


@click.command("remove")
@click.argument("label")
@click.option("--cluster", metavar="NAME", help="Whose it is; needed if several clusters are configured.")
@click.option("--clone", metavar="DIR", help="Remove the clone of this snapshot at DIR instead of the snapshot.")
@_repository_option
@click.pass_obj
def remove_command(
    invocation: Invocation, *, label: str, cluster: str | None, clone: str | None, repository: str | None
) -> int:
    """Remove the snapshot LABEL (or the beginning of its label) from this host and from the repository's records.

    Backups are not touched by it. A clone must be stopped before it is removed, and on ZFS before its snapshot is.
    """
    from pghaven.instant.points import remove_point

    chosen = invocation.get_cluster(cluster)
    with invocation.reporter as listener:
        opened = open_chosen_repository(invocation.config, chosen, repository, listener)
        if clone is not None:
            from pghaven.instant.files import remove_clone_at
            from pghaven.instant.points import find_point

            point = find_point(opened, chosen.name, chosen.data_directory, label)
            count = remove_clone_at(point, clone)
            text = f"the clone of snapshot {point.label} at {clone} is removed\n"
        else:
            point = remove_point(opened, chosen.name, chosen.data_directory, label, listener)
            count = len(point.volumes)
            text = f"snapshot {point.label} of {chosen.name} is removed from {', '.join(map(str, point.volumes))}\n"
    body = {"cluster": chosen.name, "label": point.label, "clone": clone, "volume_count": count}
    return invocation.show("snapshot-removed", body, text)
