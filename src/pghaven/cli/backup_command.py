"""``pghaven backup``: take one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, io_limit_option, limit_option
from pghaven.cli.opening import count_processes
from pghaven.errors import UsageError

if TYPE_CHECKING:
    from pghaven.backup.easing import Eased
    from pghaven.backup.session import BackupResult
    from pghaven.cli.stored_in import StoredIn
    from pghaven.config.values import ClusterConfig, Config
    from pghaven.events import Listener
    from pghaven.postgres.lsn import Lsn


@click.command("backup")
@click.argument("cluster", required=False)
@click.option(
    "--changes",
    type=click.Choice(["auto", "summaries", "lsn", "full"]),
    default="auto",
    show_default=True,
    help="How to find what changed since an earlier backup: from WAL summaries (PostgreSQL 17 and later), by the LSN "
    "of every page, or not at all.",
)
@click.option("--full", is_flag=True, help="Read and store everything anew; the same as --changes full.")
@click.option(
    "--method",
    type=click.Choice(["local", "snapshot"]),
    default="local",
    show_default=True,
    help="Read the files where they are, or from a snapshot of their ZFS, Btrfs or LVM thin volumes, which is taken in "
    "an instant and removed afterwards.",
)
@click.option("--repository", metavar="NAME", help="Store it in this repository alone.")
@limit_option
@io_limit_option
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    cluster: str | None,
    changes: str,
    full: bool,
    method: str,
    repository: str | None,
    limit: int | None,
    io_limit: int | None,
) -> int:
    """Take a backup of CLUSTER, whose server must be running on this host.

    CLUSTER can be left out if only one is configured. Only what changed since the last backup is stored, and yet every
    backup is complete: it can be restored when all others are gone. The command ends when the backup and all the WAL it
    needs are in the repository; whatever goes wrong before, no backup was made. Of several repositories each gets it,
    with what it has missed before; one that cannot be reached is named, and the command ends with 3.
    """
    from dataclasses import replace

    from pghaven.backup.easing import EaseRules
    from pghaven.backup.session import SNAPSHOT_NICE, BackupSettings, run_backup
    from pghaven.cli.backup_several import back_up
    from pghaven.transfer.request import CopyRequest

    if full and changes not in ("auto", "full"):
        raise UsageError(f"--full and --changes {changes} contradict each other", hint="Leave one of them out.")
    config = invocation.config
    chosen = invocation.get_cluster(cluster)
    settings = BackupSettings(
        cluster=chosen.name,
        data_directory=chosen.data_directory,
        conninfo=chosen.conninfo,
        level=chosen.compression_level,
        processes=count_processes(chosen),
        changes="full" if full else changes,
        archive_timeout_seconds=chosen.backup_archive_timeout_seconds,
        ease=EaseRules(standby_lag_bytes=chosen.slow_at_standby_lag, waiting_files=chosen.slow_at_archive_backlog),
        state_directory=chosen.state_directory,
        from_snapshot=method == "snapshot",
        snapshot_nice=chosen.nice or SNAPSHOT_NICE,
    )
    left = find_left(chosen)
    if left is not None:
        return invocation.show("backup-left", {"cluster": chosen.name, **left}, render_left(chosen.name, left))
    with invocation.reporter as listener:
        limits = Limits(config, chosen, listener, limit=limit, io_limit=io_limit)
        settings = replace(settings, pace=limits.pace)
        names = chosen.repositories if repository is None else (repository,)
        request = CopyRequest(cluster=chosen.name, processes=settings.processes)
        result, stored = back_up(limits, request, names, lambda opened: run_backup(opened, settings, limits))
        marker = _mark(config, chosen, listener)
    body = {**render_body(result), "repositories": stored, "marker_lsn": marker}
    return invocation.show("backup", body, render_text(result) + render_stored(stored))


def _mark(config: Config, cluster: ClusterConfig, listener: Listener) -> Lsn | None:
    """Where a marker was written, if the configuration consents to any."""
    if not cluster.drill.markers:
        return None
    from pghaven.cli.marking import mark_by_itself

    done = mark_by_itself(config, cluster, listener)
    return None if done is None else done.marker.lsn


def find_left(cluster: ClusterConfig) -> dict[str, str] | None:
    """To whom the backup is left, and why; None when it is taken here."""
    from pghaven.backup.checks import find_owner_name
    from pghaven.backup.role import BackupFrom, ask_member, ask_members, choose_source

    wanted = BackupFrom(cluster.backup_from)
    if wanted is BackupFrom.ANY:
        return None
    own = ask_member(cluster.conninfo, find_owner_name(cluster.data_directory))
    choice = choose_source(wanted, own, ask_members(cluster.wal_nodes))
    return None if choice.left_to is None else {"left_to": choice.left_to, "reason": choice.reason}


def render_left(cluster: str, left: dict[str, str]) -> str:
    return f"no backup of {cluster} is taken here: it is left to {left['left_to']} ({left['reason']})\n"


def render_stored(stored: tuple[StoredIn, ...]) -> str:
    """Where the backup is, when there is more than one repository."""
    from pghaven.cli.render import render_block
    from pghaven.units import render_size

    if len(stored) == 1:
        return ""
    pairs = []
    for number, one in enumerate(stored):
        made_up = f", and {len(one.made_up)} that it had missed" if one.made_up else ""
        told = f"MISSING: {one.reason}" if one.label is None else f"{one.label}{made_up}"
        size = "" if one.label is None else f", {render_size(one.copied_bytes)}"
        pairs.append(("" if number else "repositories", f"{one.repository}: {told}{size}"))
    return render_block(pairs, indent="  ")


def render_body(result: BackupResult) -> dict[str, object]:
    facts = result.facts
    return {
        "label": facts.label,
        "cluster": facts.cluster,
        "system_identifier": str(facts.system_identifier),
        "server_version_num": facts.server_version_num,
        "timeline": facts.timeline,
        "start_lsn": facts.start_lsn,
        "stop_lsn": facts.stop_lsn,
        "started_at": facts.started_at,
        "stopped_at": facts.stopped_at,
        "first_segment": result.first_segment,
        "last_segment": result.last_segment,
        "from_standby": facts.from_standby,
        "method": facts.method,
        "changes": facts.changes,
        "parent": facts.parent,
        "read_bytes": result.read_bytes,
        "kept_count": result.kept_count,
        "reused_bytes": result.reused_bytes,
        "file_count": facts.file_count,
        "total_bytes": facts.total_bytes,
        "stored_bytes": facts.stored_bytes,
        "manifest_bytes": result.manifest_bytes,
        "pack_count": result.pack_count,
        "bad_pages": facts.bad_pages,
        "data_checksums": facts.data_checksums,
        "total_seconds": result.total_seconds,
        "copy_seconds": result.copy_seconds,
        "snapshot_seconds": result.snapshot_seconds,
        "eased": result.eased,
    }


def describe_changes(changes: str, parent: str | None) -> str:
    """How a backup found what to store, in words."""
    if parent is None:
        return "everything"
    found = {"summaries": "what WAL summaries name", "lsn": "comparing pages by their LSN"}
    return f"{found.get(changes, changes)} since {parent}"


def _describe_snapshot(seconds: float | None) -> str | None:
    from pghaven.units import render_duration

    return None if seconds is None else f"taken in {render_duration(seconds)}, read afterwards, and removed"


def _describe_easing(eased: Eased) -> str:
    from pghaven.units import render_duration, render_rate

    slowest = render_rate(eased.slowest_rate)
    return f"for {render_duration(eased.seconds)}, down to {slowest}: {'; '.join(eased.reasons)}"


def render_text(result: BackupResult) -> str:
    from pghaven.cli.render import render_block
    from pghaven.units import render_duration, render_rate, render_size, render_time

    facts = result.facts
    share = f" ({100 * facts.stored_bytes / facts.total_bytes:.0f} %)" if facts.total_bytes else ""
    rate = f", {render_rate(result.read_bytes / result.copy_seconds)}" if result.copy_seconds > 0 else ""
    reused = f"; {render_size(result.reused_bytes)} was stored already" if result.reused_bytes else ""
    pages = "verified" if facts.data_checksums else "not verifiable: the cluster has no data checksums"
    if facts.bad_pages:
        pages = f"{len(facts.bad_pages)} damaged pages"
    return f"backup {facts.label} of {facts.cluster} is complete\n" + render_block(
        [
            ("taken", f"{render_time(facts.stopped_at)}, in {render_duration(result.total_seconds)}{rate}"),
            ("snapshot", _describe_snapshot(result.snapshot_seconds)),
            ("size", f"{render_size(facts.total_bytes)} in {facts.file_count} files"),
            ("gave way", None if result.eased is None else _describe_easing(result.eased)),
            ("read", f"{render_size(result.read_bytes)}, {describe_changes(facts.changes, facts.parent)}"),
            ("stored", f"{render_size(facts.stored_bytes)}{share}{reused}"),
            ("WAL", f"{facts.start_lsn} to {facts.stop_lsn} on timeline {facts.timeline}, archived and proven"),
            ("page checksums", pages),
            ("restore with", f"pghaven restore {facts.cluster} --target-dir DIR"),
        ],
        indent="  ",
    )
