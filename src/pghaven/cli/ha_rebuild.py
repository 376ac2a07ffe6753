"""The hooks of ``ha hook`` that fill a data directory: a restore, with Patroni's rules around it.

The one idea: it is the restore that people run, with the same plan and the same proofs; only its failures are another
matter, because Patroni removes the directory after one.
"""

from __future__ import annotations

from typing import Any

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits
from pghaven.cli.opening import list_places
from pghaven.cli.restore_command import RestoreJob
from pghaven.clock import SYSTEM_CLOCK
from pghaven.config.values import ClusterConfig
from pghaven.errors import EXIT_DONE, PghavenError
from pghaven.events import Listener, Notice
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.restore.request import RestoreRequest
from pghaven.units import render_duration, render_size


def rebuild(
    invocation: Invocation, call: tuple[str, str], keys: dict[str, str], patience_seconds: float, listener: Listener
) -> int:
    """``call``: the cluster and the node. Raises what made it fail in the end, with the WAL that is nowhere else moved
    aside."""
    from pghaven.seam.aside import has_data
    from pghaven.seam.called import get_data_directory
    from pghaven.seam.patience import Patience
    from pghaven.wal.announced import note_member
    from pghaven.wal.directory import make_archive_of_its_own

    cluster, node = call
    directory = keys.get("datadir", "")
    patience = Patience(seconds=patience_seconds, has_data=lambda: has_data(directory), clock=SYSTEM_CLOCK)

    def attempt() -> None:
        # Read anew each time: somebody may have mended it.
        renewed = Invocation()
        renewed.config_path, renewed.quiet = invocation.config_path, invocation.quiet
        chosen = renewed.get_cluster(cluster)
        # A second site is made from the backups of the cluster that it follows.
        source = renewed.get_cluster(chosen.ha.follow or cluster)
        request = RestoreRequest(
            cluster=source.name,
            target_dir=get_data_directory(keys, chosen.data_directory),
            target=RecoveryTarget(kind=TargetKind.LATEST),
            standby=True,
            archiving=True,
            delta=True,
        )
        restore_into(renewed, source, request, listener)
        if source.name != cluster:
            make_archive_of_its_own(request.target_dir, cluster)
        note_member(request.target_dir, node)

    try:
        patience.try_on(attempt, listener)
    except PghavenError:
        if directory:
            _save(invocation, cluster, directory, listener)
        raise
    return EXIT_DONE


def restore_into(invocation: Invocation, chosen: ClusterConfig, request: RestoreRequest, listener: Listener) -> None:
    """Raises what a restore raises."""
    limits = Limits(invocation.config, chosen, listener)
    job = RestoreJob(invocation, chosen, limits, None)
    sourced = job.plan(request)
    for notice in sourced.plan.notices:
        listener(notice)
    _, result = job.carry_out(sourced)
    text = (
        f"restored backup {sourced.plan.backup.label} in {render_duration(result.total_seconds)}: "
        f"{render_size(result.written_bytes)} written, {render_size(result.proven_bytes)} were there"
    )
    listener(Notice(level="info", code="restored", text=text))


def make_bootstrap_request(cluster: str, directory: str, target: dict[str, Any], *, archive: bool) -> RestoreRequest:
    """Raises UsageError."""
    from pghaven.cli.restore_request import PlaceOptions, TargetOptions, make_request

    options = TargetOptions(
        time=target["target_time"],
        lsn=target["target_lsn"],
        xid=target["target_xid"],
        name=target["target_name"],
        immediate=target["immediate"],
        timeline=target["target_timeline"],
        action="promote",  # PostgreSQL's own default is to pause, and Patroni would wait for ever
        exclusive=False,
    )
    place = PlaceOptions(
        cluster=cluster,
        target_dir=directory,
        delta=False,
        remove_foreign=False,
        backup=target["backup"],
        standby=False,
        archive=archive,
        tablespaces=(),
        port=None,
    )
    return make_request(options, place, SYSTEM_CLOCK.now())


def _save(invocation: Invocation, cluster: str, directory: str, listener: Listener) -> None:
    """Move WAL out of the directory before Patroni removes it; of what cannot be asked about, all."""
    from pghaven.repository.place import open_place
    from pghaven.seam.aside import has_data, keep_aside
    from pghaven.seam.promotion import Member, find_archive

    if not has_data(directory):
        return
    try:
        chosen = invocation.get_cluster(cluster)
        source = invocation.get_cluster(chosen.ha.follow or cluster)
        places = list_places(invocation.config, source)
        member = Member(cluster=source.name, data_directory=directory, places=places)
        archives = [find_archive(open_place(place), member) for place in places]
        goal, names = keep_aside(directory, archives, SYSTEM_CLOCK.now())
    except PghavenError:
        goal, names = keep_aside(directory, (), SYSTEM_CLOCK.now())
    if names:
        text = f"{len(names)} WAL files were moved to {goal}: Patroni removes the directory now"
        listener(Notice(level="warning", code="kept_aside", text=text))
