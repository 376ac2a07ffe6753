"""``pghaven repo copy``: backups and WAL from one repository to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from pghaven.cli.asking import ask_passphrase, is_interactive, show_recovery_key
from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, limit_option
from pghaven.cli.opening import count_processes, find_place
from pghaven.cli.sealing import choose_sealing
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import Damaged, NotFound, StoreUnreachable, UsageError

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig
    from pghaven.repository.place import RepositoryPlace
    from pghaven.repository.repository import Repository
    from pghaven.setup.register import MakeSealing
    from pghaven.transfer.request import BackupOutcome, CopyResult

_SHOWN = 20
_INIT_HINT = "To make it: list it among the cluster's repositories and run pghaven init {cluster}."


class _Options(TypedDict):
    source: str
    target: str
    create: bool
    labels: tuple[str, ...]
    limit: int | None


@click.command("copy")
@click.argument("cluster", required=False)
@click.option("--from", "source", metavar="NAME", required=True, help="The repository to copy from.")
@click.option("--to", "target", metavar="NAME", required=True, help="The repository to copy to.")
@click.option("--create", is_flag=True, help="Make the repository to copy to, if there is none yet.")
@click.option(
    "--backup",
    "labels",
    metavar="LABEL",
    multiple=True,
    help="Only this backup or dump, by its label or the beginning of it. Can be given several times.",
)
@limit_option
@click.option("--dry-run", is_flag=True, help="Show what would be copied, and write nothing.")
@click.pass_obj
def command(invocation: Invocation, cluster: str | None, dry_run: bool, **options: Unpack[_Options]) -> int:
    """Copy the backups and dumps of CLUSTER, and all WAL from the oldest backup on, to another repository.

    Both repositories are named as in the configuration. Every byte is proven by its hash on the way, and sealed anew
    under the keys of the repository it goes to. What is there already is not read again, and a copying that was
    interrupted goes on when it is run again. Servers may go on archiving and backing up to both sides meanwhile. A copy
    has the label of its backup with four more digits. Where all is copied, WAL in quarantine and what is known of gaps
    and of two writers go along; results of verify and of audits do not, as they speak of other objects: verify the
    copy. Ends with 16 when something could not be copied because it is damaged or missing; everything else is copied
    all the same. Needs no server.
    """
    from pghaven.repository.place import open_place
    from pghaven.setup.sealing import RecoveryOrder
    from pghaven.transfer.request import CopyRequest
    from pghaven.transfer.session import run_copy

    source, target = options["source"], options["target"]
    if source == target:
        raise UsageError("--from and --to are the same repository", hint="Name two.")
    config = invocation.config
    chosen = invocation.get_cluster(cluster)
    request = CopyRequest(cluster=chosen.name, labels=options["labels"], processes=count_processes(chosen))
    with invocation.reporter as listener:
        places = [find_place(config, name) for name in (source, target)]
        limits = Limits(config, chosen, listener, limit=options["limit"])
        opened = limits.hold(open_place(places[0], ask=ask_passphrase), source)
        recovery = RecoveryOrder(show=show_recovery_key if is_interactive() else None)
        make = choose_sealing(config.source, None, recovery, listener) if options["create"] else None
        there = limits.hold(_open_target(places[1], chosen, make, dry_run=dry_run), target)
        result = run_copy(opened, there, request, limits, dry_run=dry_run)
    status = invocation.show(
        "repo-copy", {"from": source, "to": target, **_body(result)}, _text(source, target, result)
    )
    return status if result.is_complete else Damaged.exit_status


def _open_target(
    place: RepositoryPlace, cluster: ClusterConfig, make: MakeSealing | None, *, dry_run: bool
) -> Repository:
    """The repository that is copied to. Only if asked to is one made: the disk that it lies on may not be mounted.

    ``make`` says what a new one is sealed with; None: none is to be made.
    """
    from pghaven.repository.place import open_place
    from pghaven.repository.repository import create_repository
    from pghaven.setup.register import find_server_os_user, prepare_repository
    from pghaven.store.memory import MemoryStore

    is_directory = place.url.startswith("file://")
    try:
        return open_place(place, ask=ask_passphrase)
    except (NotFound, StoreUnreachable) as error:
        if make is None:
            hint = error.hint
            if is_directory:
                hint = "Is its file system mounted? To make a repository there, add: --create"
            elif isinstance(error, NotFound):
                hint = _INIT_HINT.format(cluster=cluster.name)
            raise type(error)(error.message, detail=error.detail, hint=hint) from error
    if not is_directory:
        raise UsageError(
            f"--create makes repositories in directories only, not at {place.url}",
            hint=f"How it is sealed is decided when it is made. {_INIT_HINT.format(cluster=cluster.name)}",
        )
    if dry_run:
        return create_repository(MemoryStore())
    return prepare_repository(place, find_server_os_user(cluster.data_directory), SYSTEM_CLOCK, make).repository


def _body(result: CopyResult) -> dict[str, object]:
    return {
        "cluster": result.cluster,
        "is_done": result.is_done,
        "is_complete": result.is_complete,
        "backups": result.backups,
        "beside": {
            "quarantined": result.beside.quarantined,
            "pieces": result.beside.pieces,
            "incidents": result.beside.incidents,
            "markers": result.beside.markers,
            "results": result.beside.results,
            "failed": [{"name": name, "reason": why} for name, why in result.beside.failed],
        },
        "wal": {**_wal_body(result), "failed": [{"name": name, "reason": why} for name, why in result.wal.failed]},
        "total_seconds": result.total_seconds,
    }


def _wal_body(result: CopyResult) -> dict[str, object]:
    wal = result.wal
    return {"copied": wal.copied, "copied_bytes": wal.copied_bytes, "present": wal.present}


def _text(source: str, target: str, result: CopyResult) -> str:
    from pghaven.cli.output import make_printable
    from pghaven.cli.render import render_block, render_table
    from pghaven.units import render_duration, render_size

    title = f"cluster {result.cluster}, from repository {source} to {target}"
    if not result.is_done:
        title += ": nothing is written, this is what would be done"
    text = f"{title}\n"
    if result.backups:
        text += render_table(["backup", "verdict", "copied", "there as"], [_row(one) for one in result.backups])
    wal = result.wal
    size = f" ({render_size(wal.copied_bytes)})" if wal.copied else ""
    text += render_block(
        [
            ("packs", f"{render_size(sum(one.copied_bytes for one in result.backups))}"),
            ("WAL", f"{wal.copied} files copied{size}, {wal.present} there already"),
            ("beside", _describe_beside(result)),
            ("took", render_duration(result.total_seconds) if result.is_done else None),
        ],
        indent="  ",
    )
    for one in result.backups:
        if one.reason:
            text += f"  {one.label}: {make_printable(one.reason)}\n"
    for name, reason in (*result.beside.failed, *wal.failed)[:_SHOWN]:
        text += f"  {name}: {make_printable(reason)}\n"
    if len(wal.failed) > _SHOWN:
        text += f"  and {len(wal.failed) - _SHOWN} more WAL files that could not be copied; --json shows them all\n"
    return text


def _describe_beside(result: CopyResult) -> str | None:
    beside = result.beside
    counted = (
        (beside.quarantined, "WAL files in quarantine"),
        (beside.pieces, "pieces of unfinished WAL"),
        (beside.incidents, "notes of what happened to the WAL"),
        (beside.markers, "markers"),
        (beside.results, "results of verify, drills and audits"),
    )
    return ", ".join(f"{count} {what}" for count, what in counted if count) or None


def _row(one: BackupOutcome) -> tuple[object, ...]:
    from pghaven.units import render_size

    size = None
    if one.copied_packs or one.present_packs:
        size = f"{render_size(one.copied_bytes)} of {render_size(one.total_bytes)}"
    return (one.label, one.fate.value, size, one.copy)
