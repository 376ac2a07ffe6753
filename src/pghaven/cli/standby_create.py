"""``pghaven standby create``: a standby from the repository, which costs the primary nothing, or from the primary.

The one idea: what the server to be followed must give is asked and shown first; only --apply changes it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, io_limit_option, limit_option
from pghaven.cli.standby_options import ending_options, following_options
from pghaven.errors import UsageError

if TYPE_CHECKING:
    from pghaven.cli.standby_making import CreateOptions


@click.command("create")
@click.argument("cluster")
@click.option("--data", "data_directory", required=True, metavar="DIR", help="The data directory to make.")
@click.option(
    "--from",
    "source",
    type=click.Choice(["repository", "primary"]),
    default="repository",
    help="Where the data comes from.  [default: repository]",
)
@click.option("--primary", metavar="CONNINFO", help="The primary it follows.  [default: the cluster's conninfo]")
@click.option("--upstream", metavar="CONNINFO", help="Another standby it follows instead (cascading).")
@click.option("--archive-only", is_flag=True, help="Follow no server, only the WAL in the repository.")
@following_options
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="Where it listens.")
@click.option(
    "--tablespace-mapping",
    "--tablespace-map",
    "tablespaces",
    multiple=True,
    metavar="OLD=NEW",
    help="Move a tablespace.",
)
@click.option("--delta", is_flag=True, help="Over a data directory of the same cluster, fetching what differs.")
@click.option("--backup", metavar="LABEL", help="Begin with this backup.  [default: the newest]")
@click.option("--repository", metavar="NAME", help="Take it from this repository alone.")
@ending_options
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@limit_option
@io_limit_option
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    *,
    cluster: str,
    data_directory: str,
    source: Literal["repository", "primary"],
    primary: str | None,
    upstream: str | None,
    archive_only: bool,
    tablespaces: tuple[str, ...],
    limit: int | None,
    io_limit: int | None,
    **rest: Any,
) -> int:
    """Build a standby of CLUSTER in a new data directory.

    Settings, a role and lines of pg_hba.conf that the server it follows needs for that are shown with the reason, and
    changed with --apply. A password never stands on a command line: --passfile names the file.
    """
    from pghaven.cli.restore_request import parse_mappings
    from pghaven.cli.standby_making import CreateJob

    chosen = invocation.get_cluster(cluster)
    _check_together(source, primary, upstream, archive_only=archive_only)
    if not data_directory:
        raise UsageError("--data is empty")
    options = _make_options(
        data_directory=os.path.abspath(data_directory),
        source=source,
        upstream=None if archive_only else primary or upstream or chosen.conninfo,
        tablespaces=parse_mappings(tablespaces),
        **rest,
    )
    limits = Limits(invocation.config, chosen, invocation.reporter, limit=limit, io_limit=io_limit)
    return CreateJob(invocation, chosen, limits, options).run()


def _make_options(**given: Any) -> CreateOptions:
    from pghaven.cli.standby_making import CreateOptions

    return CreateOptions(**given)


def _check_together(source: str, primary: str | None, upstream: str | None, *, archive_only: bool) -> None:
    """Raises UsageError."""
    if primary is not None and upstream is not None:
        raise UsageError(
            "--primary and --upstream both name the server it follows", hint="--upstream is for a cascading standby."
        )
    if archive_only and (primary or upstream):
        raise UsageError("--archive-only follows no server", hint="Leave out --primary and --upstream.")
    if archive_only and source == "primary":
        raise UsageError("--archive-only takes its data from the repository", hint="Leave out --from primary.")
    for name, conninfo in (("--primary", primary), ("--upstream", upstream)):
        if conninfo is not None:
            refuse_password(name, conninfo)


def refuse_password(option: str, conninfo: str) -> None:
    """Raises UsageError for a connection string that is none, or has what nobody should see."""
    from pghaven.server.connection import parse_conninfo

    try:
        has_password = bool(parse_conninfo(conninfo).get("password"))
    except UsageError as error:
        raise UsageError(f"{option}: {error.message}", hint=error.hint) from None
    if has_password:
        raise UsageError(
            f"{option} holds a password, which everybody on this host can read on the command line",
            hint="Put it into a file as libpq reads it (mode 0600, host:port:database:user:password), and name that "
            "with --passfile.",
        )
