"""``pghaven mark``: keep what the tables hold now, for drills to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation

if TYPE_CHECKING:
    from pghaven.drill.marking import MarkResult

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
    from pghaven.cli.marking import mark_cluster

    chosen = invocation.get_cluster(cluster)
    with invocation.reporter as listener:
        result = mark_cluster(invocation.config, chosen, databases, listener)
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
