"""``pghaven load``: load a database of a dump into a server."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from pghaven.cli.dump_command import find_spool
from pghaven.cli.dump_finding import open_meant_dump
from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import count_processes
from pghaven.errors import UsageError

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig
    from pghaven.dump.load import LoadResult, OpenDump
    from pghaven.dump.programs import Calling
    from pghaven.server.identity import OsUser


_PARTS = ("schemas", "tables", "schema_only", "data_only")
_NOT_WITH_VERIFY = frozenset((*_PARTS, "into", "create", "target", "make_globals", "globals_only", "dry_run"))
_NOT_WITH_GLOBALS = frozenset((*_PARTS, "database", "into", "create", "make_globals", "options"))


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
@click.option("--globals-only", is_flag=True, help="Make them, and load no database.")
@click.option("--option", "options", multiple=True, metavar="OPTION", help="An option for pg_restore, as --no-owner.")
@click.option("--dry-run", is_flag=True, help="Show what would be made and what stands in the way; change nothing.")
@click.option("--verify", is_flag=True, help="Into a server made for it; compare all rows, keep nothing.")
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
    globals_only: bool,
    options: tuple[str, ...],
    dry_run: bool,
    verify: bool,
    repository: str | None,
) -> int:
    """Load a database of the dump LABEL, or of the newest one, with pg_restore.

    What the server lacks (roles, tablespaces, extensions) or has otherwise (encoding, version) is told before anything
    is loaded. A role that is there is never changed; how it differs is shown. The first failure ends the load.

    With --verify all databases of the dump, or the named one, are loaded into a new server of the dump's version that
    nobody else reaches; ends with 17 when rows or checksums are not those of the dump.
    """
    if verify:
        whole = {"repository": repository, "database": database, "jobs": jobs, "options": options}
        return _verify(invocation, label, cluster=cluster, **whole)
    if globals_only:
        return _load_globals(invocation, label, cluster=cluster, target=target, repository=repository, dry_run=dry_run)
    _refuse_own(options)
    chosen = invocation.get_cluster(cluster)
    conninfo, owner, bin_dir = find_reach(chosen, target)
    calling = find_calling(conninfo, owner, bin_dir)
    with invocation.reporter as listener, calling.ask_globals() as asked:
        # It answers while what reads a dump is imported.
        from pghaven.dump.load import LoadSettings, run_load

        wanted = (dump := open_meant_dump(invocation, chosen, repository, label)).choose(database)
        settings = LoadSettings(
            conninfo=conninfo,
            os_user=owner.name if owner else None,
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
            dry_run=dry_run,
        )
        result = run_load(dump, wanted, fit_calling(calling, dump, bin_dir), settings, listener, asked=asked)
    return invocation.show("load", _body(result) | {"dry_run": dry_run}, _render(result, dry_run=dry_run))


def _load_globals(invocation: Invocation, label: str | None, **chosen: Any) -> int:
    from pghaven.cli.load_globals import load_globals_only

    _refuse_with(click.get_current_context(), _NOT_WITH_GLOBALS, "--globals-only, which loads no database")
    return load_globals_only(invocation, label, **chosen)


def _verify(invocation: Invocation, label: str | None, **chosen: Any) -> int:
    from pghaven.cli.load_verify import verify_dump

    what = "--verify, which loads whole databases, and nowhere else"
    _refuse_with(click.get_current_context(), _NOT_WITH_VERIFY, what)
    return verify_dump(invocation, label, **chosen)


def find_reach(cluster: ClusterConfig, target: str | None) -> tuple[str, OsUser | None, str | None]:
    """The connection string of the server to load into, as whom, and where its programs are, if that is configured."""
    bin_dir = cluster.pg_bin if target is None else None
    return target or cluster.conninfo, find_other_owner(cluster.data_directory), bin_dir


def find_calling(conninfo: str, owner: OsUser | None, bin_dir: str | None) -> Calling:
    """The programs for the target's version."""
    from pghaven.dump.programs import Calling, find_dump_programs
    from pghaven.server.connection import connect

    with connect(conninfo, os_user=owner.name if owner else None) as connection:
        major = connection.info.server_version // 10000
    return Calling.of(find_dump_programs(major, bin_dir), conninfo, owner)


def fit_calling(calling: Calling, dump: OpenDump, bin_dir: str | None) -> Calling:
    """The same, or with the programs for the dump's version where that is newer."""
    from pghaven.dump.programs import find_dump_programs

    if calling.programs.major >= dump.program_major:
        return calling
    return replace(calling, programs=find_dump_programs(dump.program_major, bin_dir))


def _refuse_own(options: tuple[str, ...]) -> None:
    from pghaven.dump.options import refuse_own_options

    refuse_own_options(options)


def _refuse_with(context: click.Context, names: frozenset[str], what: str) -> None:
    for parameter in context.command.params:
        given = context.params.get(parameter.name or "")
        if parameter.name in names and given:
            raise UsageError(f"{parameter.opts[0]} cannot be combined with {what}", hint="Leave one of them out.")


def _name_part(*, schema_only: bool, data_only: bool) -> str:
    if schema_only and data_only:
        raise UsageError("--schema-only and --data-only contradict each other", hint="Leave one of them out.")
    return "schema" if schema_only else "data" if data_only else "all"


def find_other_owner(data_directory: str) -> OsUser | None:
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


def _render(result: LoadResult, *, dry_run: bool) -> str:
    from pghaven.units import render_duration, render_size

    if dry_run:
        made = f"; {len(result.made_globals)} statements would make what it lacks" if result.made_globals else ""
        return f'database "{result.database}" of dump {result.label} can be loaded into "{result.target}"{made}\n'
    return (
        f'database "{result.database}" of dump {result.label} is loaded into "{result.target}": '
        f"{result.tables} tables, {render_size(result.fetched_bytes)} fetched, "
        f"in {render_duration(result.total_seconds)}\n"
    )
