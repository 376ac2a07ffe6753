"""Corruption, found by reading everything a server has.

    each database: pg_dump to nowhere → where it fails, every table by itself → pg_amcheck → what is broken, by relation

The one idea: a broken row is found only by reading it, and a broken index only by looking for every row in it. pg_dump
ends at the first thing it stumbles over, so then each table is read alone: all that is broken is named at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg

from pghaven.dump.contents import find_copy, iter_copy
from pghaven.dump.programs import Calling, find_dump_programs
from pghaven.dump.snapshot import list_databases
from pghaven.errors import PghavenError
from pghaven.events import Listener, Progress, Step
from pghaven.proof.results import CheckResult, Verdict, fail, good, warn
from pghaven.server.connection import Connection, connect, fetch_one, server_errors
from pghaven.server.identity import OsUser

_HIDING = ("zero_damaged_pages", "ignore_checksum_failure", "ignore_invalid_pages")
_TABLES = """
    SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.relispopulated AND n.nspname <> 'pg_toast'
        AND has_table_privilege(c.oid, 'SELECT')
    ORDER BY 1, 2
"""
_TOAST_OF = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.reltoastrelid = %s::regclass OR c.reltoastrelid =
        (SELECT indrelid FROM pg_index WHERE indexrelid = %s::regclass)
"""
_AMCHECK_FOUND = 2
_SUBJECT = re.compile(r'([a-z]+ )?(table|index|sequence) "(.*?)"(?:, (.*))?:')
_RESTORE = (
    "Keep the data directory as it is. Load the table from a dump, or restore a backup from before the damage beside "
    "it; then look for its cause: disk, memory, kernel."
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
    """One thing that was found. ``kind`` is "table" or "index"; ``relation`` is schema and name with a dot, empty when
    it is not known."""

    kind: str
    relation: str
    text: str


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
    except PghavenError as error:
        return (fail("deep", error.message, error.hint),)
    results = [warn("deep", f"{name} is on, so damage is passed over", f"Set {name} to off.") for name in hiding]
    calling = Calling.of(programs, settings.conninfo, settings.owner)
    for name in names:
        try:
            with connect(settings.conninfo, os_user=owner, dbname=name) as connection:
                results += _Database(name, calling, connection, settings, listener).check()
        except PghavenError as error:
            results.append(fail(f'database "{name}"', error.message, error.hint))
    return tuple(results)


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
        found = list(self._read())
        failure = None
        if not found:
            with server_errors(self._connection, "count the tables"):
                count = len(self._connection.execute(_TABLES).fetchall())
            yield good(self._title, f"every row of {count} tables was read")
        try:
            refusal = self._find_refusal()
            if refusal is None:
                found += self._run_amcheck()
        except PghavenError as error:
            failure, refusal = fail(self._title, error.message, error.hint), None
        if refusal is not None:
            yield refusal
        elif failure is not None:
            yield failure
        elif not found:
            yield good(self._title, "pg_amcheck found every table and B-tree index whole, and every row in its indexes")
        yield from self._report(found)

    def _report(self, found: Sequence[Corruption]) -> Iterator[CheckResult]:
        """One result a relation; of many messages about it the first ones."""
        relations: dict[tuple[str, str], list[str]] = {}
        for one in found:
            relations.setdefault((one.kind, one.relation), []).append(one.text)
        for (kind, relation), texts in relations.items():
            more = f"; and {len(texts) - _TOLD} more" if len(texts) > _TOLD else ""
            text = "; ".join(dict.fromkeys(texts[:_TOLD])) + more
            subject = f'{kind} "{relation}"' if relation else kind
            quoted = ".".join(f'"{part}"' for part in relation.split(".", 1))
            hint = f"Build it anew: REINDEX INDEX CONCURRENTLY {quoted}" if kind == "index" else _RESTORE
            yield CheckResult(
                name=self._title,
                verdict=Verdict.FAILED,
                text=f"{subject} is damaged: {text}",
                hint=hint,
                database=self._name,
                relation=relation or None,
            )

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read(self) -> Iterator[Corruption]:
        """What cannot be read: nothing if pg_dump can dump it all."""
        self._tell(Step(text=f"reading {self._title}"))
        arguments = [f"--file={os.devnull}", "--no-sync", "-d", self._calling.with_database(self._name)]
        try:
            self._calling.run("pg_dump", arguments, doing=f"dump {self._title}")
            return
        except PghavenError as error:
            failed = error
        found = list(self._read_tables())
        yield from found
        if not found:
            detail = " ".join((failed.detail or "").split())
            yield Corruption(kind="what pg_dump reads", relation="", text=detail or failed.message)

    def _read_tables(self) -> Iterator[Corruption]:
        with server_errors(self._connection, "list the tables"):
            tables = self._connection.execute(_TABLES).fetchall()
        for number, (schema, name) in enumerate(tables):
            self._tell(Progress(phase="reading", done_bytes=number, total_bytes=len(tables)))
            try:
                query = find_copy(self._connection, schema, name)
                if query is not None:
                    for _ in iter_copy(self._connection, query):
                        pass
            except psycopg.Error as error:
                reason = error.diag.message_primary or " ".join(str(error).split())
                yield Corruption(kind="table", relation=f"{schema}.{name}", text=reason)
                if self._connection.closed:
                    owner = self._settings.owner
                    self._connection = connect(
                        self._settings.conninfo, os_user=None if owner is None else owner.name, dbname=self._name
                    )

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
        for kind, relation, text in parse_amcheck(said.decode("utf-8", "replace"), self._name):
            yield Corruption(kind=kind, relation=self._find_main(relation), text=text)

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
