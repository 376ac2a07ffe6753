"""``pghaven dump``: take an SQL dump.

The one idea: a dump is taken by the bare command, so only a first word that is a known subcommand is one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from pghaven.cli.dump_export import command as export_command
from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, limit_option
from pghaven.cli.opening import count_processes, each_repository, refresh_listing
from pghaven.errors import PghavenError, UsageError

if TYPE_CHECKING:
    from pghaven.cli.stored_in import StoredIn
    from pghaven.config.values import ClusterConfig
    from pghaven.dump.session import DumpResult, DumpSettings
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
@click.option(
    "--format",
    "format_",
    type=click.Choice(["directory", "custom"]),
    default="directory",
    show_default=True,
    help="What dump export makes of it where nothing else is asked for. It is taken, stored and loaded the same.",
)
@click.option("--option", "options", multiple=True, metavar="OPTION", help="An option for pg_dump, such as --no-owner.")
@click.option("--globals-only", is_flag=True, help="Roles and tablespaces alone, no database.")
@click.option("--repository", metavar="NAME", help="Only into this one of the cluster's repositories.")
@limit_option
@click.pass_obj
def take_command(
    invocation: Invocation,
    *,
    cluster: str | None,
    databases: tuple[str, ...],
    jobs: int | None,
    format_: str,
    options: tuple[str, ...],
    globals_only: bool,
    repository: str | None,
    limit: int | None,
) -> int:
    """Dump DATABASES of CLUSTER, or all, with its roles and tablespaces, as one dump.

    Each database is dumped by pg_dump from one snapshot. Of a later dump only the rows that changed are stored. Ends
    with 0 only when all of it is in the repository; whatever goes wrong before, there is no dump. Of several
    repositories each gets it, with what it has missed before. The server need not run on this host.
    """
    from pghaven.dump.session import DumpSettings

    if globals_only and databases:
        raise UsageError("--globals-only dumps no database, and one is named", hint="Leave one of them out.")

    config = invocation.config
    chosen = invocation.get_cluster(cluster)
    processes = count_processes(chosen)
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
            globals_only=globals_only,
            archive=format_,
            pg_bin=chosen.pg_bin,
            pace=limits.pace,
        )
        names = chosen.repositories if repository is None else (repository,)
        made, stored = _take(invocation, limits, settings, names)
    text = "".join(_render(chosen.name, name, one) for name, one in made)
    bodies = [_body(name, one) for name, one in made]
    if len(made) == 1 and len(stored) > 1:
        from pghaven.cli.backup_command import render_stored

        text += render_stored(stored)
        others = [one for one in stored if one.label is not None and one.repository != made[0][0]]
        bodies += [
            bodies[0] | {"repository": one.repository, "label": one.label, "stored_bytes": one.copied_bytes}
            for one in others
        ]
    return invocation.show("dump", {"dumps": bodies, "repositories": stored}, text)


def _take(
    invocation: Invocation, limits: Limits, settings: DumpSettings, names: Sequence[str]
) -> tuple[list[tuple[str, DumpResult]], tuple[StoredIn, ...]]:
    """One run of pg_dump, and copies of it for the other repositories; a host that cannot read what it has stored
    cannot copy it either, so it dumps once for each."""
    from pghaven.cli.stored_in import StoredIn
    from pghaven.dump.session import run_dump

    config, chosen = invocation.config, invocation.get_cluster(settings.cluster)

    def dump(name: str, opened: Repository) -> DumpResult:
        result = run_dump(limits.hold(opened, name), settings, limits)
        refresh_listing(opened, chosen.name, limits)
        return result

    if len(names) > 1 and _can_copy(limits, names):
        from pghaven.cli.backup_several import back_up
        from pghaven.repository.entry import Purpose
        from pghaven.transfer.request import CopyRequest

        request = CopyRequest(cluster=chosen.name, processes=settings.processes)
        result, stored = back_up(limits, request, names, lambda one: run_dump(one, settings, limits), Purpose.DUMP)
        first = next(one.repository for one in stored if one.label == result.label)
        return [(first, result)], stored
    made = each_repository(config, chosen, names[0] if len(names) == 1 else None, limits, dump)
    return made, tuple(StoredIn(repository=name, label=one.label, copied_bytes=one.stored_bytes) for name, one in made)


command.add_command(export_command)


def _can_copy(limits: Limits, names: Sequence[str]) -> bool:
    """Whether this host can read what it stores in all repositories that can be reached."""
    for name in names:
        with suppress(PghavenError):
            if not limits.open(name).keyring.can_read:
                return False
    return True


def find_spool(cluster: ClusterConfig) -> str:
    """Where pg_dump's and pg_restore's files pass through."""
    return cluster.dump_spool or os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108  a directory of its own is made there


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
                "rows": None if result.facts.rows is None else sum(table.rows for table in one.tables),
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

    names = ", ".join(one.name for one in result.facts.databases) or "none: roles and tablespaces alone"
    rows = "not counted: they are statements" if result.facts.rows is None else f"{result.facts.rows:,}"
    since = f"; of that {render_size(result.new_bytes)} were not in dump {result.parent}" if result.parent else ""
    return (
        f"dump {result.label} of {cluster} is in repository {repository}\n"
        f"  databases  {names}\n"
        f"  rows       {rows}\n"
        f"  dumped     {render_size(result.dumped_bytes)} in {render_duration(result.total_seconds)}{since}\n"
        f"  stored     {render_size(result.stored_bytes)}\n"
    )
