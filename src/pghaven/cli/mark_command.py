"""``pghaven mark``: keep what the tables hold now, for drills to compare with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import each_repository

if TYPE_CHECKING:
    from pghaven.drill.marking import MarkResult
    from pghaven.repository.repository import Repository

_ARRIVAL_SECONDS = 600.0
_SHOWN = 5


@click.command("mark")
@click.argument("cluster", required=False)
@click.option("--database", "databases", multiple=True, metavar="NAME", help="Only this database; may be repeated.")
@click.pass_obj
def command(invocation: Invocation, cluster: str | None, databases: tuple[str, ...]) -> int:
    """Write a marker into the WAL of CLUSTER, and keep what its tables hold just there.

    All rows are read once, in one snapshot; their number and a checksum are kept in every repository of the cluster. A
    drill that passes the marker compares. Nothing is written into any table; one WAL segment is finished early.
    """
    from pghaven.drill.marking import MarkSettings, write_marker
    from pghaven.server.identity import find_owner

    chosen = invocation.get_cluster(cluster)
    directory = chosen.data_directory
    owner = find_owner(directory) if os.path.isdir(directory) else None
    settings = MarkSettings(
        cluster=chosen.name,
        conninfo=chosen.conninfo,
        os_user=None if owner is None else owner.name,
        databases=databases,
        table_bytes_max=chosen.drill.marker_table_limit,
        timeout_seconds=_ARRIVAL_SECONDS,
    )
    with invocation.reporter as listener:
        opened: list[tuple[str, Repository]] = each_repository(
            invocation.config, chosen, None, listener, lambda _name, repository: repository
        )
        result = write_marker([repository for _, repository in opened], settings, listener)
    return invocation.show("mark", _body(result), _render(chosen.name, result))


def _body(result: MarkResult) -> dict[str, object]:
    marker = result.marker
    return {
        "lsn": marker.lsn,
        "timeline": marker.timeline,
        "written_at": marker.written_at,
        "databases": result.databases,
        "tables": len(marker.tables),
        "rows": sum(one.rows for one in marker.tables),
        "passed_over": [{"table": table, "reason": reason} for table, reason in marker.passed_over],
        "seconds": result.seconds,
    }


def _render(cluster: str, result: MarkResult) -> str:
    from pghaven.cli.render import render_block
    from pghaven.units import render_duration

    marker = result.marker
    rows = sum(one.rows for one in marker.tables)
    pairs: list[tuple[str, object]] = [
        ("databases", ", ".join(result.databases)),
        ("counted", f"{len(marker.tables)} tables with {rows:,} rows, in {render_duration(result.seconds)}"),
    ]
    pairs += [("passed over", f"{table}: {reason}") for table, reason in marker.passed_over[:_SHOWN]]
    if len(marker.passed_over) > _SHOWN:
        pairs.append(("", f"and {len(marker.passed_over) - _SHOWN} more"))
    return f"cluster {cluster} is marked at {marker.lsn} on timeline {marker.timeline}\n" + render_block(pairs, "  ")
