"""The names behind the files: which table, index or sequence each relation file belongs to.

The one idea: names live in each database's own catalogue, so every database must be asked over its own connection. What
cannot be asked is skipped with a notice: names are a convenience of a backup, never a condition of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from pghaven.errors import PghavenError
from pghaven.events import Listener, Notice, ignore
from pghaven.server.connection import Connection, closing_on_error, server_errors
from pghaven.server.probe import Database

SHARED_DATABASE_OID: Final = 0
_ROWS_AT_A_TIME: Final = 5000

# Shared relations (relisshared) show up in every database and belong to none. A TOAST table and an index name the table
# they serve, because that table cannot be read without them.
_QUERY: Final = """
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.relisshared, pg_relation_filenode(c.oid),
           coalesce(nullif(c.reltablespace, 0), d.dattablespace), coalesce(i.indrelid, t.oid, 0)
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_database d ON d.datname = current_database()
      LEFT JOIN pg_index i ON i.indexrelid = c.oid
      LEFT JOIN pg_class t ON c.relkind = 't' AND t.reltoastrelid = c.oid
     WHERE c.relpersistence <> 't' AND pg_relation_filenode(c.oid) IS NOT NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationName:
    """One relation with files of its own.

    ``kind`` is ``pg_class.relkind`` (r table, i index, S sequence, t TOAST table, m materialized view).
    ``tablespace_oid`` is the real one (1663 pg_default, 1664 pg_global), ``filenode`` what its file is called.
    ``database_oid`` is 0 and ``database`` empty for the catalogues all databases share. ``table_oid`` is the table an
    index or TOAST table belongs to, else 0.
    """

    database_oid: int
    database: str
    schema: str
    name: str
    kind: str
    oid: int
    table_oid: int
    tablespace_oid: int
    filenode: int


def list_relations(
    open_database: Callable[[str], Connection], databases: Iterable[Database], listener: Listener = ignore
) -> Iterator[RelationName]:
    """The relations of every database one can connect to, shared ones once. Lazy: one connection at a time.

    ``open_database`` connects to the database of that name (``connect(conninfo, dbname=…)``); it is closed here.
    A database that refuses is skipped with a notice "relations_skipped".
    """
    is_shared_done = False
    for database in databases:
        if not database.is_connectable:
            if database.is_template:
                continue  # template0 is made so: nothing in it is anybody's
            _skip(listener, database, "it does not allow connections")
            continue
        try:
            with open_database(database.name) as connection:
                yield from _list_database(connection, database, with_shared=not is_shared_done)
            is_shared_done = True
        except PghavenError as error:
            _skip(listener, database, error.message)


def _list_database(connection: Connection, database: Database, *, with_shared: bool) -> Iterator[RelationName]:
    is_ascii = database.encoding == "SQL_ASCII"
    doing = f'list the relations of database "{database.name}"'
    with closing_on_error(connection), server_errors(connection, doing):
        if is_ascii:
            # Names may be bytes of any encoding there: taken as they are, because the server cannot convert them.
            connection.execute("SET client_encoding = 'SQL_ASCII'")
        with connection.transaction(), psycopg.ServerCursor(connection, "relations") as cursor:
            cursor.itersize = _ROWS_AT_A_TIME
            for oid, schema, name, kind, is_shared, filenode, tablespace_oid, table_oid in cursor.execute(_QUERY):
                if is_shared and not with_shared:
                    continue
                yield RelationName(
                    database_oid=SHARED_DATABASE_OID if is_shared else database.oid,
                    database="" if is_shared else database.name,
                    schema=_text(schema),
                    name=_text(name),
                    kind=_text(kind),
                    oid=oid,
                    table_oid=table_oid,
                    tablespace_oid=tablespace_oid,
                    filenode=filenode,
                )


def _text(value: Any) -> str:
    """Names of SQL_ASCII databases come as bytes; those that are no UTF-8 are shown escaped."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _skip(listener: Listener, database: Database, reason: str) -> None:
    listener(
        Notice(
            level="info",
            code="relations_skipped",
            text=f'names of relations in database "{database.name}" are not recorded: {reason}',
        )
    )
