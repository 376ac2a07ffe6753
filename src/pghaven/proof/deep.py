"""Corruption, found by reading everything a server has.

    each database: pg_dump to nowhere, then what it leaves out → where it fails, every table by itself → pg_amcheck
        → what is broken, by relation

The one idea: a broken row is found only by reading it, and a broken index only by looking for every row in it. pg_dump
ends at the first thing it stumbles over, so then each table is read alone: all that is broken is named at once. Only
what a server says of damage is called so: a table that may not be read, or is locked, is not read, and no more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pghaven.dump.contents import iter_copy
from pghaven.dump.programs import Calling, find_dump_programs
from pghaven.dump.snapshot import list_databases
from pghaven.errors import PghavenError
from pghaven.events import Listener, Progress, Step
from pghaven.proof.results import CheckResult, Verdict, fail, good, warn
from pghaven.server.connection import Connection, closing_on_error, connect, fetch_one, server_errors
from pghaven.server.identity import OsUser

_HIDING = ("zero_damaged_pages", "ignore_checksum_failure", "ignore_invalid_pages")
# pg_dump leaves out what is made anew or by an extension: nobody else would read it. Large objects it does read.
# What is not logged cannot be read on a standby.
_TABLES = """
    SELECT n.nspname::text, c.relname::text, c.relkind = 'm',
        c.relkind = 'm' OR EXISTS (SELECT FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        OR n.nspname IN ('pg_catalog', 'information_schema')
            AND c.relname NOT IN ('pg_largeobject', 'pg_largeobject_metadata')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.relispopulated AND n.nspname <> 'pg_toast'
        AND NOT (c.relpersistence = 'u' AND pg_is_in_recovery()) AND has_table_privilege(c.oid, 'SELECT')
    ORDER BY 1, 2
"""
_TOAST_OF = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.reltoastrelid = %s::regclass OR c.reltoastrelid =
        (SELECT indrelid FROM pg_index WHERE indexrelid = %s::regclass)
"""
_CLOSED = """
    SELECT datname::text, datconnlimit = -2 FROM pg_database
    WHERE (NOT datallowconn OR datconnlimit = -2) AND NOT datistemplate ORDER BY 1
"""
# Classes of SQLSTATE that say nothing of damage: a conflict with replay, privileges, names, room, locks, an operator.
_NO_DAMAGE = ("0A", "25", "28", "40", "42", "53", "55", "57")
_GONE = ("42P01", "3F000")  # dropped meanwhile
_CRASH = "57P02"
_AMCHECK_FOUND = 2
_SUBJECT = re.compile(r'([a-z]+ )?(table|index|sequence) "(.*?)"(?:, (.*))?:')
_RESTORE = (
    "Keep the data directory as it is. Load the table from a dump, or restore a backup from before the damage beside "
    "it; then look for its cause: disk, memory, kernel."
)
_REBUILD_STANDBY = (
    "This is a standby, which cannot be mended by itself: build it anew from a backup, and see whether its primary has "
    "the damage too."
)
_TOLD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepSettings:
    """``databases`` are the ones to read, none for all; ``owner`` is whom programs run as, None for ourselves.
    ``may_install``: the extension amcheck may be created where it is missing."""

    conninfo: str
    owner: OsUser | None
    pg_bin: str | None
    databases: tuple[str, ...]
    jobs: int
    may_install: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """One thing that was found. ``kind`` is "table" or "index"; ``relation`` is schema and name with a dot. ``index``
    is the one to build anew, where that is not the relation itself but its TOAST table's. Without ``is_damage`` it
    could not be read, and that is all."""

    kind: str
    relation: str
    text: str
    index: str = ""
    is_damage: bool = True


def run_deep_check(settings: DeepSettings, listener: Listener) -> tuple[CheckResult, ...]:
    """Read all databases and check all their relations. Nothing is written but, if it may be, the extension amcheck.

    Raises nothing of ours: it becomes a result.
    """
    try:
        owner = None if settings.owner is None else settings.owner.name
        with connect(settings.conninfo, os_user=owner) as connection:
            names = list_databases(connection, settings.databases)
            programs = find_dump_programs(connection.info.server_version // 10000, settings.pg_bin)
            hiding = [name for name in _HIDING if fetch_one(connection, f"SHOW {name}")[0] == "on"]
            closed = [] if settings.databases else list(_list_closed(connection))
    except PghavenError as error:
        return (fail("deep", error.message, error.hint),)
    results = [warn("deep", f"{name} is on, so damage is passed over", f"Set {name} to off.") for name in hiding]
    calling = Calling.of(programs, settings.conninfo, settings.owner)
    for name in names:
        try:
            with _open(settings, name) as connection:
                results += _Database(name, calling, connection, settings, listener).check()
        except PghavenError as error:
            results.append(fail(f'database "{name}"', error.message, error.hint))
    return (*results, *closed)


def _open(settings: DeepSettings, database: str) -> Connection:
    """A session that is shown every row of a table or told that it may not see it."""
    owner = None if settings.owner is None else settings.owner.name
    connection = connect(settings.conninfo, os_user=owner, dbname=database)
    with closing_on_error(connection), server_errors(connection, "prepare the session"):
        connection.execute("SET row_security = off")
    return connection


def _list_closed(connection: Connection) -> Iterator[CheckResult]:
    with server_errors(connection, "list the databases that cannot be connected to"):
        rows = connection.execute(_CLOSED).fetchall()
    for name, is_left in rows:
        title, quoted = f'database "{name}"', sql.Identifier(name).as_string(connection)
        if is_left:
            yield warn(title, "not read: an interrupted DROP DATABASE left it", f"Run: DROP DATABASE {quoted}")
        else:
            hint = f"To have it checked: ALTER DATABASE {quoted} ALLOW_CONNECTIONS true"
            yield warn(title, "not read: it allows no connections", hint)


@dataclass(frozen=True, slots=True)
class _Table:
    schema: str
    name: str
    is_view: bool  # a materialized one
    is_left_out: bool

    def render_copy(self) -> sql.Composed:
        """All rows, as text: so every value is put together and looked at."""
        name = sql.Identifier(self.schema, self.name)
        return sql.SQL("COPY (SELECT * FROM {}) TO STDOUT" if self.is_view else "COPY {} TO STDOUT").format(name)


def _explain(table: _Table, error: psycopg.Error) -> Corruption:
    state = error.sqlstate or _CRASH
    return Corruption(
        kind="table",
        relation=f"{table.schema}.{table.name}",
        text=error.diag.message_primary or " ".join(str(error).split()),
        is_damage=state == _CRASH or not state.startswith(_NO_DAMAGE),
    )


def _advise_reindex(index: str) -> str:
    schema, _, name = index.partition(".")
    way = "" if schema == "pg_catalog" else "CONCURRENTLY "  # which no system catalog's index can be
    return f'Build it anew: REINDEX INDEX {way}"{schema}"."{name}"'


class _Database:
    def __init__(
        self, name: str, calling: Calling, connection: Connection, settings: DeepSettings, listener: Listener
    ) -> None:
        self._name = name
        self._title = f'database "{name}"'
        self._calling = calling
        self._connection = connection
        self._settings = settings
        self._tell = listener

    def check(self) -> Iterator[CheckResult]:
        found: list[Corruption] = []
        refusal = self._read(found)
        if refusal is not None:
            yield refusal
        elif not found:
            yield good(self._title, f"every row of {len(self._list_tables())} tables was read")
        unreadable = {one.text for one in found}
        is_whole = not found
        try:
            refusal = self._find_refusal()
            if refusal is None:
                checked = list(self._run_amcheck())
                is_whole = is_whole and not checked
                # A table's page that cannot be read is no fault of the indexes that are compared with it.
                found += [one for one in checked if one.kind != "index" or one.index or one.text not in unreadable]
        except PghavenError as error:
            refusal = fail(self._title, error.message, error.hint)
        if refusal is not None:
            yield refusal
        elif is_whole:
            yield good(self._title, "pg_amcheck found every table and B-tree index whole, and every row in its indexes")
        yield from self._report(found)

    def _report(self, found: Sequence[Corruption]) -> Iterator[CheckResult]:
        """One result a relation; of many messages about it the first ones."""
        relations: dict[tuple[str, str, str, bool], list[str]] = {}
        for one in found:
            relations.setdefault((one.kind, one.relation, one.index, one.is_damage), []).append(one.text)
        with server_errors(self._connection, "ask whether this is a standby"):
            is_standby = bool(found and fetch_one(self._connection, "SELECT pg_is_in_recovery()")[0])
        for (kind, relation, index, is_damage), texts in relations.items():
            more = f"; and {len(texts) - _TOLD} more" if len(texts) > _TOLD else ""
            text = "; ".join(dict.fromkeys(texts[:_TOLD])) + more
            subject = f'{kind} "{relation}"' if relation else kind
            hint: str | None = _RESTORE if kind != "index" else _advise_reindex(index or relation)
            if is_standby:
                hint = _REBUILD_STANDBY
            yield CheckResult(
                name=self._title,
                verdict=Verdict.FAILED,
                text=f"{subject} is damaged: {text}" if is_damage else f"{subject} was not read: {text}",
                hint=hint if is_damage else None,
                database=self._name,
                relation=relation or None,
            )

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read(self, found: list[Corruption]) -> CheckResult | None:
        """Read everything, and add what is broken. What is told where pg_dump fails and no table does."""
        self._tell(Step(text=f"reading {self._title}"))
        arguments = [f"--file={os.devnull}", "--no-sync", "-d", self._calling.with_database(self._name)]
        try:
            self._calling.run("pg_dump", arguments, doing=f"dump {self._title}")
        except PghavenError as error:
            found += self._read_tables(self._list_tables())
            if found:
                return None
            return fail(
                self._title,
                f"pg_dump did not get through, and every table could be read by itself: {error.message}",
                "A damaged index of a system catalog may be why, or no more than what pg_dump says; mend that first.",
            )
        found += self._read_tables([one for one in self._list_tables() if one.is_left_out])
        return None

    def _list_tables(self) -> list[_Table]:
        with server_errors(self._connection, "list the tables"):
            rows = self._connection.execute(_TABLES).fetchall()
        return [_Table(schema, name, is_view, is_left_out) for schema, name, is_view, is_left_out in rows]

    def _read_tables(self, tables: Sequence[_Table]) -> Iterator[Corruption]:
        for number, table in enumerate(tables):
            self._tell(Progress(phase="reading", done_bytes=number, total_bytes=len(tables)))
            try:
                for _ in iter_copy(self._connection, table.render_copy()):
                    pass
            except psycopg.Error as error:
                if error.sqlstate not in _GONE:
                    yield _explain(table, error)
                if self._connection.closed:
                    self._connection = _open(self._settings, self._name)

    # -- amcheck ----------------------------------------------------------------------------------------------------

    def _find_refusal(self) -> CheckResult | None:
        """Why pg_amcheck is not run, if it is not."""
        if not os.access(self._calling.programs.path("pg_amcheck"), os.X_OK):
            text = f'indexes are not checked: there is no pg_amcheck in "{self._calling.programs.bin_dir}"'
            return warn(self._title, text, "It comes with PostgreSQL's client programs.")
        with server_errors(self._connection, "look for the extension amcheck"):
            query = "SELECT count(*) FROM {} WHERE {} = 'amcheck'"
            has_extension = fetch_one(self._connection, query.format("pg_extension", "extname"))[0]
            is_available = fetch_one(self._connection, query.format("pg_available_extensions", "name"))[0]
        if has_extension or (is_available and self._settings.may_install):
            return None
        text = "indexes are not checked: the extension amcheck is not created"
        hint = "Allow it with --create-amcheck, or run in that database: CREATE EXTENSION amcheck"
        if not is_available:
            hint = "Install PostgreSQL's contrib package on the server first."
        return warn(self._title, text, hint)

    def _run_amcheck(self) -> Iterator[Corruption]:
        self._tell(Step(text=f"checking the relations of {self._title}"))
        arguments = ["--heapallindexed", f"--jobs={self._settings.jobs}"]
        if self._settings.may_install:
            arguments.append("--install-missing")
        said = self._calling.run(
            "pg_amcheck",
            [*arguments, self._calling.with_database(self._name)],
            doing=f"check {self._title}",
            good_statuses=(0, _AMCHECK_FOUND),
        )
        words = said.decode("utf-8", "replace")
        is_silent = True
        for kind, relation, text in parse_amcheck(words, self._name):
            is_silent = False
            main = self._find_main(relation)
            index = relation if kind == "index" and main != relation else ""
            yield Corruption(kind=kind, relation=main, text=text, index=index)
        if is_silent and words.strip():  # never taken for a sound database
            yield Corruption(kind="what pg_amcheck reads", relation="", text=" ".join(words.split()))

    def _find_main(self, relation: str) -> str:
        """The table that a TOAST table, or its index, belongs to."""
        schema, _, name = relation.partition(".")
        if schema != "pg_toast":
            return relation
        quoted = f'pg_toast."{name}"'
        try:
            found = self._connection.execute(_TOAST_OF, (quoted, quoted)).fetchone()
        except psycopg.Error:
            return relation
        return relation if found is None else str(found[0])


def parse_amcheck(said: str, database: str) -> Iterator[tuple[str, str, str]]:
    """What pg_amcheck found: kind, schema and name, and in its words what is wrong.

    It writes a line with the relation (print_heap… and report_corruption in pg_amcheck.c), then indented messages.
    """
    subject: tuple[str, str, str] | None = None
    message: list[str] = []
    for line in [*said.splitlines(), "end:"]:
        match = _SUBJECT.fullmatch(line)
        if line.startswith(" ") and subject is not None:
            message.append(re.sub(r"^(ERROR|WARNING|DETAIL|HINT):\s*", "", line.strip()))
            continue
        if subject is not None and message:
            kind, relation, place = subject
            yield kind, relation, (f"{place}: " if place else "") + message[0]
        subject, message = None, []
        if match is not None:
            subject = match[2], match[3].removeprefix(f"{database}."), match[4] or ""
