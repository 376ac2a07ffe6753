"""What a restored server is asked, one line an answer.

The one idea: each question has an answer that is known before, and whatever keeps it from being answered is an answer
too: the bad one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import sql

from pghaven.drill.contents import TableContents, Unread, have_names_readable, iter_contents, list_databases
from pghaven.proof.results import CheckResult, fail, good, warn
from pghaven.server.connection import Connection

ROWS: Final = "rows"
INDEXES: Final = "indexes"
EXTENSIONS: Final = "extensions"
COLLATIONS: Final = "collations"
OWN: Final = "own check"
PREPARED: Final = "prepared"

# So many findings of a kind are told; all are counted.
_TOLD = 5
_SCHEMA: Final = "pghaven_drill"

_PREPARED: Final = "SELECT gid, database FROM pg_prepared_xacts ORDER BY prepared, gid"
_BTREES: Final = """
    SELECT i.indexrelid, i.indexrelid::regclass::text, i.indrelid::regclass::text, a.amname
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
     WHERE a.amname IN ('btree', 'gin') AND c.relkind = 'i' AND c.relpersistence = 'p'
       AND i.indisready AND i.indisvalid
     ORDER BY 1
"""
_HEAPS: Final = """
    SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam
     WHERE a.amname = 'heap' AND c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p' ORDER BY 1
"""
_EXTENSIONS: Final = """
    SELECT e.extname, e.extversion,
           EXISTS (SELECT FROM pg_available_extension_versions a
                    WHERE a.name = e.extname AND a.version = e.extversion)
      FROM pg_extension e ORDER BY 1
"""
_COLLATIONS: Final = """
    SELECT 'collation ' || c.oid::regcollation::text, c.collversion, pg_collation_actual_version(c.oid)
      FROM pg_collation c WHERE c.collversion IS NOT NULL
       AND c.collversion IS DISTINCT FROM pg_collation_actual_version(c.oid)
    UNION ALL
    SELECT 'database ' || d.datname, d.datcollversion, pg_database_collation_actual_version(d.oid)
      FROM pg_database d WHERE d.datname = current_database() AND d.datcollversion IS NOT NULL
       AND d.datcollversion IS DISTINCT FROM pg_database_collation_actual_version(d.oid)
"""

Connect = Callable[[str], Connection]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCheck:
    """A query of the user's own: the first column of its first row, as text, must be ``expect``."""

    name: str
    database: str
    sql: str
    expect: str


@dataclass(slots=True)
class Answers:
    """What was found; ``contents`` are all tables that were read, the catalogs too."""

    results: list[CheckResult] = field(default_factory=list)
    contents: list[TableContents] = field(default_factory=list)


def ask_all(connect: Connect, own: Sequence[OwnCheck], skipped: Sequence[str], answers: Answers) -> None:
    """Ask everything that is not ``skipped``. What has been answered is in ``answers`` even if this raises.

    Raises ServerUnsuitable, and the driver's OperationalError when the server ended.
    """
    with closing(connect("postgres")) as connection:
        databases = list_databases(connection)
        prepared = connection.execute(_PREPARED).fetchall()
    _roll_back(connect, [one for one in prepared if one[1] in databases], answers)
    for name, ask in _QUESTIONS:
        if name not in skipped:
            ask(connect, databases, answers)
    for one in own:
        answers.results.append(_ask_own(connect, one))


def _roll_back(connect: Connect, prepared: Sequence[tuple[str, str]], answers: Answers) -> None:
    """Transactions that were prepared and not finished keep their locks after a recovery: whoever reads what they have
    locked would wait for ever."""
    for gid, database in prepared:
        with closing(connect(database)) as connection:
            connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
    if prepared:
        told = _tell([f'"{gid}" in database {database}' for gid, database in prepared])
        text = f"{_count(prepared, 'transaction')} would wait for COMMIT PREPARED, with all locks: {told}"
        answers.results.append(good(PREPARED, text))


def _ask_rows(connect: Connect, databases: Sequence[str], answers: Answers) -> None:
    unread: list[Unread] = []
    for database in databases:
        with closing(connect(database)) as connection:
            for found in iter_contents(connection, database, lambda _table: True):
                if isinstance(found, Unread):
                    unread.append(found)
                else:
                    answers.contents.append(found)
    count = sum(one.rows for one in answers.contents)
    if unread:
        texts = [f"{one.database}: {one.table}: {one.reason}" for one in unread]
        answers.results.append(fail(ROWS, f"{_count(unread, 'table')} could not be read: {_tell(texts)}"))
        return
    text = f"every row of {len(answers.contents)} tables in {len(databases)} databases was read, {count:,} in all"
    answers.results.append(good(ROWS, text))


def _ask_indexes(connect: Connect, databases: Sequence[str], answers: Answers) -> None:
    """Every B-tree against every row of its table, and every table's own structure, by amcheck."""
    faults: list[str] = []
    indexes = tables = 0
    for database in databases:
        with closing(connect(database)) as connection:
            have_names_readable(connection)
            try:
                where = _install_amcheck(connection)
            except psycopg.Error as error:
                hint = "Install PostgreSQL's contrib modules on this host, or leave it out: --skip indexes"
                text = f"cannot be told: extension amcheck cannot be used in database {database}: {_reason(error)}"
                answers.results.append(fail(INDEXES, text, hint))
                return
            for fault in _iter_index_faults(connection, where):
                indexes += 1
                faults += [f"{database}: {fault}"] if fault else []
            for fault in _iter_heap_faults(connection, where):
                tables += 1
                faults += [f"{database}: {fault}"] if fault else []
    if faults:
        answers.results.append(fail(INDEXES, f"{_count(faults, 'fault')} in indexes and tables: {_tell(faults)}"))
        return
    text = f"{indexes} indexes have an entry for every row of their tables, {tables} tables are sound (amcheck)"
    answers.results.append(good(INDEXES, text))


def _install_amcheck(connection: Connection) -> str:
    """The schema of amcheck's functions: its own in the copy, unless the database has it already. Event triggers, which
    may forbid that or act on it, are off from then on."""
    for (trigger,) in connection.execute("SELECT evtname FROM pg_event_trigger WHERE evtenabled <> 'D'").fetchall():
        connection.execute(sql.SQL("ALTER EVENT TRIGGER {} DISABLE").format(sql.Identifier(trigger)))
    query = """SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                WHERE e.extname = 'amcheck'"""
    row = connection.execute(query).fetchone()
    if row is not None:
        connection.execute("ALTER EXTENSION amcheck UPDATE")
        return str(row[0])
    connection.execute(f"CREATE SCHEMA {_SCHEMA}")
    connection.execute(f"CREATE EXTENSION amcheck SCHEMA {_SCHEMA}")
    return _SCHEMA


def _iter_index_faults(connection: Connection, where: str) -> Iterator[str | None]:
    btree = sql.SQL("SELECT {}(%s::oid::regclass, true)").format(sql.Identifier(where, "bt_index_check"))
    gin = sql.SQL("SELECT {}(%s::oid::regclass)").format(sql.Identifier(where, "gin_index_check"))
    has_gin = connection.execute("SELECT 1 FROM pg_proc WHERE proname = 'gin_index_check'").fetchone() is not None
    for oid, index, table, method in connection.execute(_BTREES).fetchall():
        if method == "gin" and not has_gin:
            continue  # the function came with PostgreSQL 18
        try:
            connection.execute(btree if method == "btree" else gin, (oid,))
        except psycopg.Error as error:
            _require_alive(connection, error)
            yield f"index {index} of table {table}: {_reason(error)}"
        else:
            yield None


def _iter_heap_faults(connection: Connection, where: str) -> Iterator[str | None]:
    query = sql.SQL("SELECT blkno, offnum, msg FROM {}(%s::oid::regclass, check_toast => true) LIMIT 3").format(
        sql.Identifier(where, "verify_heapam")
    )
    for oid, table in connection.execute(_HEAPS).fetchall():
        try:
            rows = connection.execute(query, (oid,)).fetchall()
        except psycopg.Error as error:
            _require_alive(connection, error)
            yield f"table {table}: {_reason(error)}"
        else:
            told = "; ".join(f"block {block}, item {item}: {text}" for block, item, text in rows)
            yield f"table {table}: {told}" if told else None


def _ask_extensions(connect: Connect, databases: Sequence[str], answers: Answers) -> None:
    missing: list[str] = []
    names: set[str] = set()
    for database in databases:
        with closing(connect(database)) as connection:
            for name, version, is_there in connection.execute(_EXTENSIONS).fetchall():
                names.add(f"{name} {version}")
                if not is_there:
                    missing.append(f"{name} {version} (database {database})")
    if missing:
        hint = "A server restored on this host could not use them. Install the packages that have them."
        answers.results.append(fail(EXTENSIONS, f"not installed on this host: {_tell(missing)}", hint))
        return
    answers.results.append(good(EXTENSIONS, f"all are there: {', '.join(sorted(names))}"))


def _ask_collations(connect: Connect, databases: Sequence[str], answers: Answers) -> None:
    """A database that sorts by another version of a library than its indexes were built with finds less than it has."""
    changed: list[str] = []
    for database in databases:
        with closing(connect(database)) as connection:
            for what, stored, actual in connection.execute(_COLLATIONS).fetchall():
                changed.append(f"{what} (database {database}): {stored} at the source, {actual} here")
    if changed:
        hint = "After a restore on this host, rebuild the indexes on text: REINDEX, ALTER … REFRESH COLLATION VERSION."
        answers.results.append(warn(COLLATIONS, f"another version of what sorts text: {_tell(changed)}", hint))
        return
    answers.results.append(good(COLLATIONS, "text sorts here as it did at the source"))


def _ask_own(connect: Connect, check: OwnCheck) -> CheckResult:
    name = f"{OWN} {check.name}"
    try:
        with closing(connect(check.database)) as connection, connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL search_path = public")  # behind pg_catalog, which comes first unless named
            row = connection.execute(check.sql.encode()).fetchone()
    except psycopg.Error as error:
        return fail(name, f"the query failed: {_reason(error)}")
    found = None if row is None or row[0] is None else _render(row[0])
    if found != check.expect:
        shown = "no row" if row is None else "null" if found is None else f'"{found}"'
        return fail(name, f'gave {shown}, expected was "{check.expect}"')
    return good(name, f'gave "{found}", as expected')


def _render(value: object) -> str:
    """As people write it in the configuration: a boolean as psql shows it."""
    return ("t" if value else "f") if isinstance(value, bool) else str(value)


def _require_alive(connection: Connection, error: psycopg.Error) -> None:
    if connection.closed or connection.broken:
        raise error


def _reason(error: psycopg.Error) -> str:
    detail = error.diag.message_detail
    text = error.diag.message_primary or str(error) or type(error).__name__
    return " ".join(f"{text} ({detail})".split()) if detail else " ".join(text.split())


def _tell(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _TOLD} more" if len(texts) > _TOLD else ""
    return "; ".join(texts[:_TOLD]) + more


def _count(found: Sequence[object], what: str) -> str:
    return f"1 {what}" if len(found) == 1 else f"{len(found)} {what}s"


# amcheck is an extension that the drill itself installs, so it comes last.
_QUESTIONS: Final = (
    (ROWS, _ask_rows),
    (EXTENSIONS, _ask_extensions),
    (COLLATIONS, _ask_collations),
    (INDEXES, _ask_indexes),
)
