"""``pghaven dump export``: write a dump out as files for plain PostgreSQL programs."""

from __future__ import annotations

import click

from pghaven.cli.dump_finding import open_meant_dump
from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import count_processes
from pghaven.errors import UsageError


@click.command("export")
@click.argument("label")
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--cluster", metavar="NAME", help="Whose dump it is; needed if several clusters are configured.")
@click.option("--database", metavar="NAME", help="Only this database of the dump.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["directory", "custom", "sql"]),
    help="Of each database a directory, one file in pg_dump's custom format, or a file of SQL statements.  "
    "[default: what the dump was taken with]",
)
@click.option("--sql", "as_sql", is_flag=True, help="The same as --format sql.")
@click.option("--repository", metavar="NAME", help="Which of the cluster's repositories it is in.")
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    label: str,
    directory: str,
    cluster: str | None,
    database: str | None,
    format_: str | None,
    as_sql: bool,
    repository: str | None,
) -> int:
    """Write the dump LABEL out into the new DIRECTORY, for plain pg_restore and psql.

    Each database becomes a directory of its name in pg_dump's directory format, which pg_restore loads in parallel:
    "pg_restore -d … DIRECTORY/NAME". With --format custom it becomes the one file NAME.dump, for pg_restore too; with
    --format sql the file NAME.sql, for psql. The roles and tablespaces are in globals.sql.
    """
    from pghaven.dump.export import ExportSettings, export_dump

    if as_sql and format_ not in (None, "sql"):
        raise UsageError(f"--sql and --format {format_} contradict each other", hint="Leave one of them out.")
    chosen = invocation.get_cluster(cluster)
    with invocation.reporter as listener:
        dump = open_meant_dump(invocation, chosen, repository, label)
        settings = ExportSettings(
            directory=directory,
            format="sql" if as_sql else format_ or dump.facts.archive,
            processes=count_processes(chosen),
            pg_bin=chosen.pg_bin,
        )
        databases = [dump.choose(database)] if database is not None else list(dump.facts.databases)
        names, written = export_dump(dump, databases, settings, listener)
    body = {"cluster": chosen.name, "label": dump.label, "directory": directory, "bytes": written, "databases": names}
    lines = [f"dump {dump.label} of {chosen.name} is in {directory}: globals.sql{' and' if names else ''}"]
    lines += [f"  {path}" for path in names.values()]
    return invocation.show("dump-export", body, "\n".join(lines) + "\n")
