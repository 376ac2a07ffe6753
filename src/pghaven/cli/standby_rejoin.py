"""``pghaven standby rejoin``: a former primary follows the new one, by the cheapest way that is sure.

The one idea: the ways and their reasons are shown first; the old directory is the base of the next way until one has
succeeded, and what only it has is kept.
"""

from __future__ import annotations

import os
from typing import Any

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, io_limit_option, limit_option
from pghaven.cli.standby_create import refuse_password
from pghaven.cli.standby_options import ending_options, following_options
from pghaven.errors import UsageError


@click.command("rejoin")
@click.argument("cluster")
@click.option("--data", "data_directory", metavar="DIR", help="The former primary's.  [default: the cluster's]")
@click.option("--primary", "--upstream", "upstream", metavar="CONNINFO", help="The server to be followed: the new one.")
@click.option(
    "--way",
    type=click.Choice(["rewind", "repository", "primary"]),
    help="Only this way.  [default: the first that works]",
)
@following_options
@click.option("--repository", metavar="NAME", help="Restore from this repository alone.")
@click.option("--stop", is_flag=True, help="Stop the server that still runs in DIR.")
@ending_options
@click.option("--dry-run", is_flag=True, help="Show the ways and stop.")
@limit_option
@io_limit_option
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    *,
    cluster: str,
    data_directory: str | None,
    upstream: str | None,
    limit: int | None,
    io_limit: int | None,
    **rest: Any,
) -> int:
    """Have the stopped former primary of CLUSTER on this host follow the server that was promoted.

    By pg_rewind if the cluster allows it, else by restoring over what is there, else by a new copy beside it. What it
    wrote after the promotion goes into the repository's quarantine, or is copied beside the directory.
    """
    from pghaven.cli.standby_rejoining import RejoinJob, RejoinOptions

    chosen = invocation.get_cluster(cluster)
    directory = os.path.abspath(data_directory or chosen.data_directory)
    if upstream is None:
        if directory == os.path.abspath(chosen.data_directory):
            raise UsageError(
                "there is nobody to follow: --upstream is not given, and the cluster's conninfo is this server's own",
                hint="Name the new primary, as --upstream 'host=db2 user=postgres dbname=postgres'.",
            )
        upstream = chosen.conninfo
    refuse_password("--upstream", upstream)
    options = RejoinOptions(data_directory=directory, upstream=upstream, **rest)
    limits = Limits(invocation.config, chosen, invocation.reporter, limit=limit, io_limit=io_limit)
    return RejoinJob(invocation, chosen, limits, options).run()
