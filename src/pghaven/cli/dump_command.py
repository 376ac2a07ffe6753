"""``pghaven dump``: take an SQL dump; ``pghaven dump export``: write one out as files.

The one idea: a dump is taken by the bare command, so only a first word that is a known subcommand is one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, limit_option
from pghaven.cli.opening import count_processes, each_repository, open_chosen_repository, refresh_listing
from pghaven.errors import Refused

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig
    from pghaven.dump.session import DumpResult
    from pghaven.repository.repository import Repository


class _DumpGroup(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "--help", "-?"):
            args = ["take", *args]
        return super().parse_args(ctx, args)


@click.group("dump", cls=_DumpGroup)
def command() -> None:
    """Take an SQL dump: pghaven dump [CLUSTER] [DATABASE…]; see pghaven dump take --help."""


@command.command("take")
@click.argument("cluster", required=False)
@click.argument("databases", nargs=-1)
@click.option(
    "--jobs", type=click.IntRange(1, 256), help="Connections of pg_dump to each database. Default: processes."
)
@click.option("--option", "options", multiple=True, metavar="OPTION", help="An option for pg_dump, such as --no-owner.")
@click.option("--repository", metavar="NAME", help="Only into this one of the cluster's repositories.")
@limit_option
@click.pass_obj
def take_command(
    invocation: Invocation,
    *,
    cluster: str | None,
    databases: tuple[str, ...],
    jobs: int | None,
    options: tuple[str, ...],
    repository: str | None,
    limit: int | None,
) -> int:
    """Dump DATABASES of CLUSTER, or all, with its roles and tablespaces, as one dump.

    Each database is dumped by pg_dump from one snapshot. Of a later dump only the rows that changed are stored. Ends
    with 0 only when all of it is in the repository; whatever goes wrong before, there is no dump. The server need not
    run on this host.
    """
    from pghaven.dump.session import DumpSettings, run_dump

    config = invocation.config
    chosen = invocation.get_cluster(cluster)
    processes = count_processes(chosen)
    results: list[tuple[str, DumpResult]] = []
    with invocation.reporter as listener:
        limits = Limits(config, chosen, listener, limit=limit)
        settings = DumpSettings(
            cluster=chosen.name,
            conninfo=chosen.conninfo,
            data_directory=chosen.data_directory,
            databases=databases,
            options=options,
            jobs=jobs or processes,
            processes=processes,
            level=chosen.compression_level,
            spool=find_spool(chosen),
            pg_bin=chosen.pg_bin,
            pace=limits.pace,
        )

        def dump(name: str, _opened: Repository) -> DumpResult:
            opened = limits.open(name)
            result = run_dump(opened, settings, limits)
            refresh_listing(opened, chosen.name, listener)
            return result

        results += each_repository(config, chosen, repository, listener, dump)
    text = "".join(_render(chosen.name, name, one) for name, one in results)
    return invocation.show("dump", {"dumps": [_body(name, one) for name, one in results]}, text)


@command.command("export")
@click.argument("label")
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--cluster", metavar="NAME", help="Whose dump it is; needed if several clusters are configured.")
@click.option("--database", metavar="NAME", help="Only this database of the dump.")
@click.option("--sql", "as_sql", is_flag=True, help="A file of SQL statements for psql instead of each directory.")
@click.option("--repository", metavar="NAME", help="Which of the cluster's repositories it is in.")
@click.pass_obj
def export_command(
    invocation: Invocation,
    *,
    label: str,
    directory: str,
    cluster: str | None,
    database: str | None,
    as_sql: bool,
    repository: str | None,
) -> int:
    """Write the dump LABEL out into the new DIRECTORY, for plain pg_restore and psql.

    Each database becomes a directory of its name in pg_dump's directory format ("pg_restore -d … DIRECTORY/NAME"), the
    roles and tablespaces the file globals.sql. With --sql pg_restore makes each directory the file NAME.sql.
    """
    from pghaven.dump.extract import extract_files
    from pghaven.dump.load import open_dump
    from pghaven.repository.backups import BackupCatalog
    from pghaven.runtime.durable import sync_filesystem

    chosen = invocation.get_cluster(cluster)
    if os.path.isdir(directory) and os.listdir(directory):
        raise Refused(f'directory "{directory}" is not empty', hint="Name one that is new.")
    with invocation.reporter as listener:
        opened = open_chosen_repository(invocation.config, chosen, repository, listener)
        dump = open_dump(BackupCatalog(opened, chosen.name), label)
        databases = [dump.choose(database)] if database is not None else list(dump.facts.databases)
        wanted = [("global/globals.sql", os.path.join(directory, "globals.sql"))]
        names = {}
        for one in databases:
            names[one.name] = os.path.join(directory, _file_name(one.name, one.oid))
            paths = dump.list_files(one.directory)
            wanted += [(path, os.path.join(names[one.name], os.path.basename(path))) for path in paths]
        written = extract_files(
            dump.catalog, dump.manifest, wanted, processes=count_processes(chosen), listener=listener
        )
        if as_sql:
            names = {name: _make_sql(dump.program_major, chosen.pg_bin, path) for name, path in names.items()}
        sync_filesystem(directory)
    body = {"cluster": chosen.name, "label": dump.label, "directory": directory, "bytes": written, "databases": names}
    lines = [f"dump {dump.label} of {chosen.name} is in {directory}: globals.sql and"]
    lines += [f"  {path}" for path in names.values()]
    return invocation.show("dump-export", body, "\n".join(lines) + "\n")


def find_spool(cluster: ClusterConfig) -> str:
    """Where pg_dump's and pg_restore's files pass through."""
    return cluster.dump_spool or os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108  a directory of its own is made there


def _make_sql(major: int, bin_dir: str | None, path: str) -> str:
    """Of a directory a file of statements beside it, which takes its place."""
    import shutil

    from pghaven.dump.programs import Calling, find_dump_programs

    calling = Calling.of(find_dump_programs(major, bin_dir), "", None)
    calling.run("pg_restore", [f"--file={path}.sql", path], doing=f'write "{path}.sql"')
    shutil.rmtree(path)
    return f"{path}.sql"


def _file_name(name: str, oid: int) -> str:
    """The database's name where that can be a directory's."""
    is_plain = name not in ("", ".", "..", "globals.sql") and "/" not in name
    return name if is_plain else f"database-{oid}"


def _body(repository: str, result: DumpResult) -> dict[str, object]:
    return {
        "repository": repository,
        "label": result.label,
        "parent": result.parent,
        "databases": [
            {
                "name": one.name,
                "lsn": one.lsn,
                "taken_at": one.taken_at,
                "tables": len(one.tables),
                "rows": sum(table.rows for table in one.tables),
            }
            for one in result.facts.databases
        ],
        "server_version": result.facts.server_version,
        "pg_dump_version": result.facts.program_version,
        "dumped_bytes": result.dumped_bytes,
        "new_bytes": result.new_bytes,
        "stored_bytes": result.stored_bytes,
        "seconds": result.total_seconds,
    }


def _render(cluster: str, repository: str, result: DumpResult) -> str:
    from pghaven.units import render_duration, render_size

    names = ", ".join(one.name for one in result.facts.databases)
    rows = sum(table.rows for one in result.facts.databases for table in one.tables)
    since = f"; of that {render_size(result.new_bytes)} were not in dump {result.parent}" if result.parent else ""
    return (
        f"dump {result.label} of {cluster} is in repository {repository}\n"
        f"  databases  {names}\n"
        f"  rows       {rows:,}\n"
        f"  dumped     {render_size(result.dumped_bytes)} in {render_duration(result.total_seconds)}{since}\n"
        f"  stored     {render_size(result.stored_bytes)}\n"
    )
