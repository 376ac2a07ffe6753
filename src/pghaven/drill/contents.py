"""What the tables of a database hold, as numbers that are the same wherever the same rows are.

The one idea: a row's text is hashed and the hashes are added, so that neither the order of rows nor where they lie
matters; to get there every row is read once, with all that is stored out of line. The settings that change how a value
is written are fixed for the session, at the source and in the copy alike. Nobody who has locked a table is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from pghaven.server.connection import Connection, fetch_one

WRITING: Final = """
    SET extra_float_digits = 1;
    SET intervalstyle = 'postgres';
    SET timezone = 'UTC';
    SET lc_monetary = 'C';
    SET xmlbinary = 'base64';
    SET row_security = off;
    SET max_parallel_workers_per_gather = 0;
    SET lock_timeout = '2s';
"""

_LOCKED = "somebody has locked it"

# Foreign tables are another server's, views nobody's; what is unlogged or temporary does not survive a recovery.
_TABLES: Final = """
    SELECT c.oid::int8, n.nspname, c.relname, n.nspname IN ('pg_catalog', 'information_schema')
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND (c.relkind <> 'm' OR c.relispopulated)
       AND n.nspname NOT LIKE 'pg\\_toast%'
     ORDER BY 4, 1, 2
"""
# In a database without an encoding names are just bytes; read as this every one of them comes through.
_ANY_BYTES: Final = "SET client_encoding = 'LATIN1'"
_NO_ENCODING: Final = "SQL_ASCII"
_FOREIGN_NAMES: Final = """
    SELECT relname FROM pg_class WHERE relname::text !~ '^[ -~]*$'
    UNION ALL SELECT nspname FROM pg_namespace WHERE nspname::text !~ '^[ -~]*$'
"""
_SIZE: Final = "SELECT pg_relation_size(%s::oid)"
_DATABASES: Final = """
    SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname
"""
_READ: Final = """
    SELECT count(*), coalesce(sum(hashtextextended((pghaven_row.*)::text COLLATE "C", 0)), 0)::text
      FROM ONLY {} AS pghaven_row
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableName:
    """One table. ``is_system`` for the catalogs."""

    oid: int
    schema: str
    table: str
    is_system: bool

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableContents:
    """``checksum`` is the sum of 64-bit hashes of all rows, in decimal."""

    database: str
    schema: str
    table: str
    rows: int
    checksum: str

    @property
    def name(self) -> str:
        return f"{self.database}.{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A table that could not be read, and the server's reason."""

    database: str
    table: str
    reason: str


def list_databases(connection: Connection) -> tuple[str, ...]:
    """Those that take connections. Raises the driver's errors."""
    return tuple(row[0] for row in connection.execute(_DATABASES.encode()))


def list_tables(connection: Connection) -> tuple[TableName, ...]:
    """The tables of the connection's database that hold what a restore brings back. Raises the driver's errors."""
    rows = connection.execute(_TABLES.encode())
    return tuple(TableName(oid=row[0], schema=row[1], table=row[2], is_system=row[3]) for row in rows)


def have_names_readable(connection: Connection) -> None:
    """Where names of relations are no UTF-8 the session reads all text byte by byte from here on. Raises the driver's
    errors."""
    if connection.info.parameter_status("server_encoding") != _NO_ENCODING:
        return
    try:
        with connection.transaction():
            connection.execute(_FOREIGN_NAMES).fetchall()
    except psycopg.errors.CharacterNotInRepertoire:
        connection.execute(_ANY_BYTES)


def iter_contents(
    connection: Connection, database: str, wanted: Callable[[TableName], bool], *, bytes_max: int | None = None
) -> Iterator[TableContents | Unread]:
    """Read every row of the wanted tables whose main file has at most ``bytes_max``. The session's settings for writing
    values, and for waiting, are changed.

    In a transaction a table that cannot be read ends only its own part. Raises the driver's OperationalError when the
    server is gone.
    """
    connection.execute(WRITING)
    have_names_readable(connection)
    for table in list_tables(connection):
        if wanted(table):
            yield _read_table(connection, database, table, bytes_max)


def _read_table(
    connection: Connection, database: str, table: TableName, bytes_max: int | None
) -> TableContents | Unread:
    query = sql.SQL(_READ).format(sql.Identifier(table.schema, table.table))
    try:
        with connection.transaction():
            # Asked for one table at a time: this waits for locks too.
            if bytes_max is not None and (fetch_one(connection, _SIZE, table.oid)[0] or 0) > bytes_max:
                return Unread(database=database, table=str(table), reason="it is too large")
            row = connection.execute(query).fetchone()
    except psycopg.errors.LockNotAvailable:
        return Unread(database=database, table=str(table), reason=_LOCKED)
    except psycopg.Error as error:
        if connection.closed or connection.broken:
            raise
        reason = error.diag.message_primary or str(error)
        return Unread(database=database, table=str(table), reason=" ".join(reason.split()))
    assert row is not None
    return TableContents(database=database, schema=table.schema, table=table.table, rows=row[0], checksum=row[1])
