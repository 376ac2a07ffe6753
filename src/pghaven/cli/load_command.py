"""``pghaven load``: load a database of a dump into a server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from pghaven.cli.dump_command import find_spool
from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import count_processes, open_chosen_repository
from pghaven.errors import UsageError

if TYPE_CHECKING:
    from pghaven.dump.load import LoadResult
    from pghaven.server.identity import OsUser


@click.command("load")
@click.argument("label", required=False)
@click.option("--cluster", metavar="NAME", help="Whose dump it is; needed if several clusters are configured.")
@click.option("--database", metavar="NAME", help="Which database of the dump; needed if it has several.")
@click.option("--into", metavar="NAME", help="The database to load into. Default: the one with the dumped one's name.")
@click.option("--create", is_flag=True, help="Make the database first, like the one that was dumped.")
@click.option("--target", metavar="CONNINFO", help="The server to load into. Default: the cluster's own.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Connections of pg_restore. Default: processes.")
@click.option("--schema", "schemas", multiple=True, metavar="NAME", help="Only this schema; can be repeated.")
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table; can be repeated.")
@click.option("--schema-only", is_flag=True, help="No data.")
@click.option("--data-only", is_flag=True, help="Only data.")
@click.option("--globals", "make_globals", is_flag=True, help="Make roles and tablespaces that the server lacks.")
@click.option("--option", "options", multiple=True, metavar="OPTION", help="An option for pg_restore, as --no-owner.")
@click.option("--repository", metavar="NAME", help="Which of the cluster's repositories it is in.")
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    label: str | None,
    cluster: str | None,
    database: str | None,
    into: str | None,
    create: bool,
    target: str | None,
    jobs: int | None,
    schemas: tuple[str, ...],
    tables: tuple[str, ...],
    schema_only: bool,
    data_only: bool,
    make_globals: bool,
    options: tuple[str, ...],
    repository: str | None,
) -> int:
    """Load a database of the dump LABEL, or of the newest one, with pg_restore.

    What the server lacks (roles, tablespaces, extensions) or has otherwise (encoding, version) is told before anything
    is loaded, and nothing is. A role that is there is never changed; how it differs is shown. The first object that
    cannot be loaded ends the load and is named. Only the files that are needed are fetched.
    """
    from pghaven.dump.load import LoadSettings, open_dump, run_load
    from pghaven.dump.programs import Calling, find_dump_programs
    from pghaven.dump.session import refuse_own_options
    from pghaven.repository.backups import BackupCatalog
    from pghaven.server.connection import connect

    refuse_own_options(options)
    chosen = invocation.get_cluster(cluster)
    owner = _find_other_owner(chosen.data_directory)
    conninfo = target or chosen.conninfo
    with invocation.reporter as listener:
        opened = open_chosen_repository(invocation.config, chosen, repository, listener)
        dump = open_dump(BackupCatalog(opened, chosen.name), label)
        wanted = dump.choose(database)
        os_user = owner.name if owner else None
        with connect(conninfo, os_user=os_user) as connection:
            major = connection.info.server_version // 10000
        programs = find_dump_programs(max(major, dump.program_major), chosen.pg_bin if target is None else None)
        settings = LoadSettings(
            conninfo=conninfo,
            os_user=os_user,
            target=into or wanted.name,
            create=create,
            jobs=jobs or count_processes(chosen),
            processes=count_processes(chosen),
            scratch=find_spool(chosen),
            schemas=schemas,
            tables=tables,
            part=_name_part(schema_only=schema_only, data_only=data_only),
            make_globals=make_globals,
            options=options,
        )
        result = run_load(dump, wanted, Calling.of(programs, conninfo, owner), settings, listener)
    return invocation.show("load", _body(result), _render(result))


def _name_part(*, schema_only: bool, data_only: bool) -> str:
    if schema_only and data_only:
        raise UsageError("--schema-only and --data-only contradict each other", hint="Leave one of them out.")
    return "schema" if schema_only else "data" if data_only else "all"


def _find_other_owner(data_directory: str) -> OsUser | None:
    """As root the one whose server it is: programs run as that user, and peer authentication takes its name."""
    from pghaven.server.identity import find_owner

    return find_owner(data_directory) if os.geteuid() == 0 and os.path.isdir(data_directory) else None


def _body(result: LoadResult) -> dict[str, object]:
    return {
        "label": result.label,
        "database": result.database,
        "into": result.target,
        "created": result.created,
        "tables": result.tables,
        "fetched_bytes": result.fetched_bytes,
        "made_globals": list(result.made_globals),
        "other_globals": list(result.other_globals),
        "seconds": result.total_seconds,
    }


def _render(result: LoadResult) -> str:
    from pghaven.units import render_duration, render_size

    return (
        f'database "{result.database}" of dump {result.label} is loaded into "{result.target}": '
        f"{result.tables} tables, {render_size(result.fetched_bytes)} fetched, "
        f"in {render_duration(result.total_seconds)}\n"
    )
