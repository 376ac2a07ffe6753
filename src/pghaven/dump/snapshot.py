"""A database as one snapshot sees it: what pg_dump is told to dump, and what is written down of it.

The one idea: the session that exports the snapshot stays open until pg_dump is done, so what is asked here and what is
dumped is the same state of the database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pghaven.dump.facts import DatabaseFacts
from pghaven.errors import NotFound, Refused
from pghaven.server.connection import Connection, connect, fetch_one, server_errors
from pghaven.units import render_time_utc

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_DATABASE = """
    SELECT d.oid::int8, d.datname::text, pg_get_userbyid(d.datdba)::text, pg_encoding_to_char(d.encoding)::text,
        d.datcollate::text, d.datctype::text, d.datlocprovider::text, t.spcname::text, clock_timestamp(),
        (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)::text
    FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = current_database()
"""
# The column was renamed in 17; asking for all of the row works with both.
_LOCALE = """
    SELECT coalesce(row ->> 'datlocale', row ->> 'daticulocale', '')
    FROM (SELECT to_jsonb(d) AS row FROM pg_database d WHERE datname = current_database()) AS found
"""
_EXTENSIONS = "SELECT extname::text, extversion FROM pg_extension ORDER BY 1"
_ROLES = """
    WITH here AS (SELECT oid, datdba FROM pg_database WHERE datname = current_database())
    SELECT r.rolname::text FROM pg_shdepend s, pg_roles r, here
    WHERE s.refclassid = 'pg_authid'::regclass AND r.oid = s.refobjid AND r.rolname !~ '^pg_'
        AND (s.dbid = here.oid OR s.dbid = 0 AND s.classid = 'pg_database'::regclass AND s.objid = here.oid)
    UNION SELECT pg_get_userbyid(datdba)::text FROM here ORDER BY 1
"""
_TABLESPACES = """
    SELECT DISTINCT t.spcname::text FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace
    WHERE t.spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1
"""
# What pg_dump does not set itself; as a session that sets nothing has it, which ours is not.
_SETTINGS = """
    SELECT name::text, reset_val FROM pg_settings
    WHERE name IN ('TimeZone', 'lc_monetary', 'bytea_output', 'xmlbinary') ORDER BY 1
"""
# Sizes are guessed: pg_relation_size would wait for whoever has locked a table.
_TABLES = """
    SELECT c.oid::int8, n.nspname::text, c.relname::text,
        CASE c.relkind WHEN 'r' THEN greatest(c.relpages::int8 * current_setting('block_size')::int8,
            CASE c.relpages WHEN 0 THEN pg_stat_get_live_tuples(c.oid) * 64 END)
            + coalesce(t.relpages::int8 * current_setting('block_size')::int8, 0) ELSE 0 END
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
    WHERE c.relkind IN ('r', 'p', 'm', 'S', 'f')
"""
# An interrupted DROP DATABASE leaves one that nobody can connect to any more, with a limit of -2.
_DATABASES = """
    SELECT datname::text FROM pg_database WHERE datallowconn AND datconnlimit <> -2 AND NOT datistemplate ORDER BY 1
"""
_WITHOUT_ENCODING = "SELECT datname::text FROM pg_database WHERE pg_encoding_to_char(encoding) = 'SQL_ASCII'"
_NAMES_AS_BYTES = """
    SELECT convert_to(n.nspname::text, 'SQL_ASCII') || '.' || convert_to(c.relname::text, 'SQL_ASCII')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm', 'S', 'f') ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSnapshot:
    """``identifier`` is what ``pg_dump --snapshot`` takes; ``tables`` are schema and name by OID, ``sizes``
    about how many bytes they have."""

    identifier: str
    facts: DatabaseFacts
    tables: Mapping[int, tuple[str, str]]
    sizes: Mapping[int, int]


def list_databases(connection: Connection, wanted: Sequence[str]) -> tuple[str, ...]:
    """The databases to dump: the wanted ones, or all that can be connected to and are no templates. Raises NotFound."""
    with server_errors(connection, "list the databases"):
        there = [str(row[0]) for row in connection.execute(_DATABASES)]
        everything = [str(row[0]) for row in connection.execute("SELECT datname::text FROM pg_database")]
    missing = [name for name in wanted if name not in everything]
    if missing:
        known = ", ".join(f'"{name}"' for name in there)
        raise NotFound(f'there is no database "{missing[0]}" on this server', hint=f"There are: {known}.")
    return tuple(dict.fromkeys(wanted)) or tuple(there)


def require_known_names(connection: Connection, conninfo: str, names: Sequence[str], os_user: str | None) -> None:
    """In a database without an encoding names are just bytes, and in a dump text. Raises Refused where they are no
    UTF-8."""
    with server_errors(connection, "look for databases without an encoding"):
        without = {str(row[0]) for row in connection.execute(_WITHOUT_ENCODING)}
    for name in names:
        if name in without:
            with (
                connect(conninfo, os_user=os_user, dbname=name) as there,
                server_errors(there, f'read the names of the tables of database "{name}"'),
            ):
                for (table,) in there.execute(_NAMES_AS_BYTES):
                    _require_utf8(bytes(table), name)


def _require_utf8(table: bytes, database: str) -> None:
    try:
        table.decode()
    except UnicodeDecodeError:
        shown = table.decode("utf-8", "backslashreplace")
        raise Refused(
            f'the name of table "{shown}" of database "{database}" is no UTF-8, and the database has no encoding',
            hint="Rename it, or dump the other databases by their names. Backups of the cluster have it all the same.",
        ) from None


@contextmanager
def open_snapshot(conninfo: str, name: str, os_user: str | None) -> Iterator[DatabaseSnapshot]:
    """Export a snapshot of a database, valid inside the block. Raises ServerUnsuitable, NotPermitted."""
    with connect(conninfo, os_user=os_user, dbname=name) as connection:
        with server_errors(connection, f'take a snapshot of database "{name}"'):
            connection.execute(_BEGIN)
            identifier = str(fetch_one(connection, "SELECT pg_export_snapshot()")[0])
            facts = _read_facts(connection)
            rows = connection.execute(_TABLES).fetchall()
        yield DatabaseSnapshot(
            identifier=identifier,
            facts=facts,
            tables={int(oid): (str(schema), str(table)) for oid, schema, table, _ in rows},
            sizes={int(oid): int(size or 0) for oid, _, _, size in rows},
        )
        with server_errors(connection, f'end the snapshot of database "{name}"'):
            connection.execute("COMMIT")


def _read_facts(connection: Connection) -> DatabaseFacts:
    oid, name, owner, encoding, collate, ctype, provider, tablespace, taken_at, lsn = fetch_one(connection, _DATABASE)
    return DatabaseFacts(
        oid=oid,
        name=name,
        owner=owner,
        encoding=encoding,
        collate=collate,
        ctype=ctype,
        locale_provider=provider,
        locale=str(fetch_one(connection, _LOCALE)[0]),
        tablespace=tablespace,
        lsn=lsn,
        taken_at=render_time_utc(taken_at),
        extensions=tuple((str(extension), str(version)) for extension, version in connection.execute(_EXTENSIONS)),
        roles=tuple(str(row[0]) for row in connection.execute(_ROLES)),
        tablespaces=tuple(str(row[0]) for row in connection.execute(_TABLESPACES)),
        settings=tuple((str(setting), str(value)) for setting, value in connection.execute(_SETTINGS)),
    )
