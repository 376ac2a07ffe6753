"""Writing a marker: what the tables hold at one position in the WAL, counted at the source.

    snapshot in every database → message in the WAL → nothing was committed in between → count in the snapshots
      → the WAL up to there is archived → the counts are kept in the repository

The one idea: a snapshot has no position in the WAL of its own. It has one when no transaction ended between the taking
of it and the message, and that is seen by a second snapshot that is the same; else it is tried again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.drill.contents import TableContents, TableName, Unread, iter_contents, list_databases
from pghaven.errors import Refused
from pghaven.events import Listener, Step
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.proof.roundtrip import RoundTripSettings, run_round_trip
from pghaven.repository.markers import Marker, TableFacts, store_marker
from pghaven.repository.repository import Repository
from pghaven.repository.walstore import WalArchive
from pghaven.server.connection import Connection, connect, fetch_one, server_errors
from pghaven.server.probe import probe_server

PREFIX: Final = "pghaven"
"""Of the messages in the WAL, for ``pg_waldump`` and logical decoding, which passes over what it does not know."""

_ATTEMPTS: Final = 100
_PAUSE_SECONDS: Final = 0.05
_TABLES_MAX: Final = 20_000  # a document has at most 4 MiB
_SNAPSHOT: Final = "SELECT pg_current_snapshot()::text"
# These locks are in the WAL, so that a copy which stops at the message has them, and keeps them.
_LOCKED: Final = """
    SELECT d.datname, l.relation::int8 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
     WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted
"""
# Whoever reads a table locks its indexes and what is stored out of line, too.
_TABLES_OF: Final = """
    WITH locked AS (SELECT unnest(%s::oid[]) AS oid),
        found AS (SELECT oid FROM locked UNION SELECT indrelid FROM pg_index JOIN locked ON indexrelid = oid)
    SELECT oid::int8 FROM found UNION SELECT c.oid::int8 FROM pg_class c JOIN found ON c.reltoastrelid = found.oid
"""
# The second message is there to be the next record: recovery stops before that one, and so just behind the first.
_MESSAGES: Final = """
    SELECT pg_logical_emit_message(false, %s, %s)::text, pg_logical_emit_message(false, %s, 'end')::text
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkSettings:
    """``table_bytes_max``: larger tables are passed over. ``databases`` limits it to these; empty: all."""

    cluster: str
    conninfo: str
    os_user: str | None
    databases: tuple[str, ...]
    table_bytes_max: int
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkResult:
    marker: Marker
    databases: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the snapshots of these connections, one a database, belong in the WAL, and the relations in each database
    that somebody had locked just there."""

    lsn: Lsn
    locked: Mapping[str, Sequence[int]]
    connections: dict[str, Connection]


def write_marker(
    repositories: Sequence[Repository], settings: MarkSettings, listener: Listener, *, clock: Clock = SYSTEM_CLOCK
) -> MarkResult:
    """Write a marker into the WAL of a running primary, and keep in every repository what the tables held just then.

    Raises Refused when the server commits too fast for an exact one, NotPermitted, ServerUnsuitable, CheckFailed when
    the WAL does not arrive.
    """
    began = clock.monotonic()
    with ExitStack() as cleanup:

        def open_session(database: str | None) -> Connection:
            session = connect(settings.conninfo, os_user=settings.os_user, dbname=database)
            return cleanup.enter_context(session)

        main = open_session(None)
        facts = probe_server(main)
        if facts.in_recovery:
            raise Refused("a standby cannot write into the WAL", hint="Name the primary in conninfo.")
        lineages = [one.require_lineage(settings.cluster, facts.system_identifier) for one in repositories]
        with server_errors(main, "list the databases"):
            names = settings.databases or list_databases(main)
        listener(Step(text=f"taking a snapshot of {len(names)} databases"))
        place = _find_place(main, {name: open_session(name) for name in names}, clock)
        written_at = clock.now()
        archives = [
            WalArchive(one, settings.cluster, facts.system_identifier, lineage.wal_segment_size)
            for one, lineage in zip(repositories, lineages, strict=True)
        ]
        trip = RoundTripSettings(version=facts.major, may_name=False, timeout_seconds=settings.timeout_seconds)
        tables, passed_over = _count(place, settings, listener)
        run_round_trip(main, archives, trip, clock, listener)
    marker = Marker(
        name="",
        written_at=written_at,
        timeline=Timeline(facts.timeline),
        lsn=place.lsn,
        tables=tuple(tables),
        passed_over=tuple(passed_over),
    )
    for one in repositories:
        store_marker(one, settings.cluster, facts.system_identifier, marker)
    return MarkResult(marker=marker, databases=tuple(names), seconds=clock.monotonic() - began)


def _find_place(main: Connection, connections: dict[str, Connection], clock: Clock) -> _Place:
    for _ in range(_ATTEMPTS):
        place = _try_place(main, connections, clock)
        if place is not None:
            return place
        for connection in connections.values():
            connection.execute("ROLLBACK")
        clock.sleep(_PAUSE_SECONDS)
    raise Refused(
        "transactions end too fast on this server for a marker to be exact",
        hint="Try again at a quieter moment, or for one database alone: --database NAME",
    )


def _try_place(main: Connection, connections: dict[str, Connection], clock: Clock) -> _Place | None:
    """The position to which the snapshots just taken belong; None when a transaction came in between."""
    locked: dict[str, list[int]] = {}
    with server_errors(main, "write a marker into the WAL"):
        snapshots = []
        for session in connections.values():
            session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            snapshots.append(fetch_one(session, _SNAPSHOT)[0])
        lsn, _ = fetch_one(main, _MESSAGES, PREFIX, f"marker {os.urandom(8).hex()}", PREFIX)
        for database, relation in main.execute(_LOCKED).fetchall():
            locked.setdefault(database, []).append(relation)
        (after,) = fetch_one(main, _SNAPSHOT)
        if any(snapshot != after for snapshot in snapshots):
            return None
        if not _may_be_committing(main, after, clock):
            return _Place(lsn=Lsn.parse(lsn), locked=locked, connections=connections)
    return None


def _may_be_committing(main: Connection, snapshot: str, clock: Clock) -> bool:
    """Whether a transaction that the snapshot does not see may have its commit in the WAL already: one is seen a
    moment after that, or, where it waits for a standby, later."""
    running = snapshot.rpartition(":")[2]
    if not running:
        return False
    clock.sleep(2 * _PAUSE_SECONDS)
    (waiting,) = fetch_one(main, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    (still,) = fetch_one(main, _SNAPSHOT)
    return bool(waiting) or not set(running.split(",")) <= set(still.rpartition(":")[2].split(","))


def _count(place: _Place, settings: MarkSettings, listener: Listener) -> tuple[list[TableFacts], list[tuple[str, str]]]:
    tables: list[TableFacts] = []
    passed_over: list[tuple[str, str]] = []
    for database, connection in place.connections.items():
        listener(Step(text=f"counting the rows of database {database}"))
        with server_errors(connection, f"count the rows of database {database}"):
            locked = _find_tables(connection, place.locked.get(database, ()))
            is_wanted = _make_filter(locked)
            for found in iter_contents(connection, database, is_wanted, bytes_max=settings.table_bytes_max):
                if isinstance(found, Unread):
                    passed_over.append((f"{database}.{found.table}", found.reason))
                else:
                    tables.append(_to_facts(found))
            passed_over += [(f"{database}.{name}", "somebody had locked it") for name in locked.values() if name]
            connection.execute("COMMIT")
    passed_over += [(f"{one.database}.{one.schema}.{one.table}", "too many") for one in tables[_TABLES_MAX:]]
    return tables[:_TABLES_MAX], passed_over[:_TABLES_MAX]


def _find_tables(connection: Connection, relations: Sequence[int]) -> dict[int, str | None]:
    """The tables that cannot be read while somebody has locked these; each has its name once it is seen among all."""
    if not relations:
        return {}
    return dict.fromkeys(row[0] for row in connection.execute(_TABLES_OF.encode(), (list(relations),)))


def _make_filter(locked: dict[int, str | None]) -> Callable[[TableName], bool]:
    """Users' tables that nobody had locked; those that are passed over get their names in ``locked``."""

    def is_wanted(table: TableName) -> bool:
        if table.is_system:
            return False
        if table.oid in locked:
            locked[table.oid] = str(table)
            return False
        return True

    return is_wanted


def _to_facts(found: TableContents) -> TableFacts:
    return TableFacts(
        database=found.database, schema=found.schema, table=found.table, rows=found.rows, checksum=found.checksum
    )
