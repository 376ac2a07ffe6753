"""``pghaven snapshot clone``: a writable copy of a cluster, beside it, in about a second."""

from __future__ import annotations

import click

from pghaven.cli.invocation import Invocation
from pghaven.clock import SYSTEM_CLOCK


@click.command("clone")
@click.argument("label")
@click.option("--target-dir", required=True, metavar="DIR", help="Where the clone is to be; must not be there yet.")
@click.option("--cluster", metavar="NAME", help="Whose snapshot it is; needed if several clusters are configured.")
@click.option("--target-time", metavar="TIME", help="Go on to this moment with WAL from the repository.")
@click.option("--target-lsn", metavar="LSN", help='Go on to a WAL position such as "0/3000028".')
@click.option("--target-name", metavar="NAME", help="Go on to a restore point.")
@click.option("--latest", is_flag=True, help="Go on to the end of the archive.  [default: stay at the snapshot]")
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="Where it listens.  [default: a free one]")
@click.option("--start/--no-start", default=True, show_default=True, help="Start the server on it.")
@click.option("--repository", metavar="NAME", help="Where the snapshot is recorded.")
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    label: str,
    target_dir: str,
    cluster: str | None,
    target_time: str | None,
    target_lsn: str | None,
    target_name: str | None,
    latest: bool,
    port: int | None,
    start: bool,
    repository: str | None,
) -> int:
    """Clone the snapshot LABEL (or the beginning of its label) to DIR and start a server on it.

    The clone shares its blocks with the snapshot and costs what is changed in it. It does not archive. To be rid of it,
    stop its server, then: pghaven snapshot remove LABEL --clone DIR
    """
    from pghaven.cli.limiting import Limits
    from pghaven.cli.restore_command import RestoreJob
    from pghaven.cli.restore_request import PlaceOptions, TargetOptions, make_request
    from pghaven.cli.snapshot_restore import CloneJob

    chosen = invocation.get_cluster(cluster)
    goes_on = latest or any((target_time, target_lsn, target_name))
    request = make_request(
        TargetOptions(
            time=target_time,
            lsn=target_lsn,
            xid=None,
            name=target_name,
            immediate=not goes_on,
            timeline=None,
            action=None,
            exclusive=False,
        ),
        PlaceOptions(
            cluster=chosen.name,
            target_dir=target_dir,
            delta=False,
            remove_foreign=False,
            backup=None,
            standby=False,
            archive=False,
            tablespaces=(),
            port=port,
        ),
        SYSTEM_CLOCK.now(),
    )
    limits = Limits(invocation.config, chosen, invocation.reporter, limit=None, io_limit=None)
    job = CloneJob(RestoreJob(invocation, chosen, limits, repository), label)
    return job.run(request, start=start, dry_run=False)
