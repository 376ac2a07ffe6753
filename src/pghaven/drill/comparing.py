"""Which marker a drill passes on its way, and whether the copy holds there what the source held.

The one idea: the marker is the source's own word, so that a backup which is whole and wrong is found. The newest one
before the target is taken; one that lies behind all that is archived tells of WAL that is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from pghaven.drill.contents import TableContents, TableName, Unread, iter_contents
from pghaven.postgres.lsn import Lsn
from pghaven.proof.results import CheckResult, fail, good
from pghaven.repository.markers import Marker, TableFacts
from pghaven.restore.request import RestorePlan
from pghaven.server.connection import Connection
from pghaven.units import render_time

MARKER = "marker"
_TOLD = 5


def find_marker(markers: Sequence[Marker], plan: RestorePlan) -> Marker | None:
    """The newest of these that recovery passes once the copy is consistent."""
    start = _find_consistent(plan)
    fitting = [one for one in markers if start <= one.lsn <= plan.wal.end_lsn and _is_on_path(one, plan)]
    return max(fitting, key=lambda one: one.lsn, default=None)


def find_lost_marker(markers: Sequence[Marker], plan: RestorePlan) -> Marker | None:
    """The newest marker on the plan's way that lies behind the end of what is archived, though its WAL was archived
    when it was kept. For plans that lead to the archive's end."""
    lost = [one for one in markers if one.lsn > plan.wal.end_lsn and _is_on_path(one, plan)]
    return max(lost, key=lambda one: one.lsn, default=None)


def _find_consistent(plan: RestorePlan) -> Lsn:
    """Where the copy is consistent; a standby's backup is where its pg_control said, which is not past its stop."""
    return plan.manifest.facts.stop_lsn


def _is_on_path(marker: Marker, plan: RestorePlan) -> bool:
    return any(
        leg.timeline == marker.timeline
        and leg.begin_lsn <= marker.lsn
        and (leg.end_lsn is None or marker.lsn <= leg.end_lsn)
        for leg in plan.wal.path
    )


def compare(marker: Marker, connect: Callable[[str], Connection]) -> CheckResult:
    """Read the tables of a copy that stands just at the marker, and hold them to it.

    Raises ServerUnsuitable, and the driver's OperationalError when the server ended.
    """
    wanted = {(one.database, one.schema, one.table): one for one in marker.tables}
    faults: list[str] = []
    for database in sorted({one.database for one in marker.tables}):
        faults += _iter_faults(database, wanted, connect)
    when = f"marker of {render_time(marker.written_at)} at {marker.lsn}"
    if faults:
        more = f"; and {len(faults) - _TOLD} more" if len(faults) > _TOLD else ""
        text = f"{when}: the copy does not hold what the source held: {'; '.join(faults[:_TOLD])}{more}"
        hint = "What was restored is not what was backed up. Take a new backup, and drill that one: --backup LABEL"
        return fail(MARKER, text, hint)
    rows = sum(one.rows for one in marker.tables)
    text = f"{when}: {len(marker.tables)} tables hold just the {rows:,} rows that the source had there"
    if marker.passed_over:
        text += f"; {len(marker.passed_over)} were not counted there"
    return good(MARKER, text)


def _iter_faults(
    database: str, wanted: dict[tuple[str, str, str], TableFacts], connect: Callable[[str], Connection]
) -> Iterator[str]:
    left = {key: one for key, one in wanted.items() if key[0] == database}

    def is_wanted(table: TableName) -> bool:
        return (database, table.schema, table.table) in left

    with closing(connect("postgres")) as connection:
        row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone()
    if row is None:
        yield f"database {database} is missing"
        return
    with closing(connect(database)) as connection:
        for found in iter_contents(connection, database, is_wanted):
            if isinstance(found, Unread):
                schema, _, table = found.table.partition(".")
                left.pop((database, schema, table), None)
                yield f"table {database}.{found.table} could not be read: {found.reason}"
                continue
            fault = _compare_table(found, left.pop((database, found.schema, found.table)))
            if fault is not None:
                yield fault
    for one in left.values():
        yield f"table {one.database}.{one.schema}.{one.table} is missing"


def _compare_table(found: TableContents, facts: TableFacts) -> str | None:
    if found.rows != facts.rows:
        return f"table {found.name} has {found.rows:,} rows, the source had {facts.rows:,}"
    if found.checksum != facts.checksum:
        return f"table {found.name} has as many rows as at the source ({found.rows:,}), but not the same"
    return None
