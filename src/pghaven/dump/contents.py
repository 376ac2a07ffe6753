"""What a loaded table holds, beside what the dump holds of it.

The one idea: a table that was loaded is written out by the statement pg_dump uses, under the settings of its session,
so equal tables give equal bytes, and the hash taken then proves them equal. Only where the server keeps the rows in
another order are they compared one by one, as what they are: a set in which a row may be more than once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blake3 import blake3
from psycopg import sql

from pghaven.dump.earlier import EarlierFile, EarlierReader
from pghaven.dump.facts import TableFacts
from pghaven.repository.codec import Buffer
from pghaven.repository.manifest import HASH_BYTES
from pghaven.repository.pack import PackPlace, PackRef
from pghaven.server.connection import Connection, connect, fetch_one, server_errors

END_OF_DATA = b"\\.\n\n\n"
"""What ends the data of a table in pg_dump's directory format."""

_READ_BYTES = 4 << 20
_ROW_HASH_BYTES = 16
_COLUMNS = """
    SELECT attname::text FROM pg_attribute
    WHERE attrelid = %s::oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""
_TABLE = """
    SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = %s
"""
# Of an extension's own tables only the rows that it says are the user's are dumped.
_CONDITION = """
    SELECT condition FROM pg_extension, unnest(extconfig, extcondition) AS config (relation, condition)
    WHERE relation = %s::oid
"""
_OBJECT_PART = "SELECT lo_get(%s::oid, %s::int8, %s::int4)"
_PG_DUMP = (("extra_float_digits", "3"), ("IntervalStyle", "postgres"), ("synchronize_seqscans", "off"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentsSettings:
    """``session`` are settings and their values; ``place`` and ``packs`` give what the dump holds."""

    conninfo: str
    encoding: str
    session: tuple[tuple[str, str], ...]
    place: PackPlace
    packs: Sequence[PackRef]


@dataclass(frozen=True, slots=True)
class TableJob:
    table: TableFacts
    file: EarlierFile


@dataclass(frozen=True, slots=True)
class LargeObjectJob:
    """``hash`` is that of the dumped object's contents."""

    oid: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What was not loaded as it was dumped; ``text`` says how it differs."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One thing that was compared; ``rows`` are those that were found of a table."""

    rows: int
    difference: Difference | None = None


class ContentsWorker:
    """One per worker process, with a session of its own."""

    def __init__(self, settings: ContentsSettings) -> None:
        self._settings = settings
        self._connection = connect(settings.conninfo)
        with server_errors(self._connection, "prepare the comparison"):
            values = (*settings.session, *_PG_DUMP, ("client_encoding", settings.encoding))
            for name, value in values:
                self._connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        self._reader = EarlierReader(settings.place, settings.packs)

    def __call__(self, job: TableJob | LargeObjectJob) -> Compared:
        if isinstance(job, LargeObjectJob):
            return self._compare_object(job)
        return self._compare_table(job)

    def close(self) -> None:
        self._connection.close()

    def _compare_table(self, job: TableJob) -> Compared:
        table = job.table
        name = f"{table.schema}.{table.name}"
        query = find_copy(self._connection, table.schema, table.name)
        if query is None:
            return Compared(rows=0, difference=Difference(name=name, text="there is no such table"))
        hasher, rows = blake3(), 0
        with server_errors(self._connection, f'read table "{name}"'):
            for data in iter_copy(self._connection, query):
                hasher.update(data)
                rows += 1
            hasher.update(END_OF_DATA)
            is_same = hasher.digest(HASH_BYTES).hex() == table.hash
            if not is_same and rows == table.rows:
                is_same = self._sum_loaded(query) == self._sum_dumped(job.file)
        if is_same:
            return Compared(rows=rows)
        text = f"{table.rows:,} rows were dumped, {rows:,} are loaded"
        if rows == table.rows:
            text = f"{rows:,} rows as dumped, but their checksum differs"
        return Compared(rows=rows, difference=Difference(name=name, text=text))

    def _sum_loaded(self, query: sql.Composed) -> int:
        total = 0
        for data in iter_copy(self._connection, query):
            total += _hash_row(data)
        return total

    def _sum_dumped(self, file: EarlierFile) -> int:
        total, rest = 0, b""
        end = file.size - len(END_OF_DATA)
        for at in range(0, end, _READ_BYTES):
            data = rest + self._reader.read(file, at, min(_READ_BYTES, end - at))
            whole = data.rfind(b"\n") + 1
            for row in data[:whole].split(b"\n")[:-1]:
                total += _hash_row(row + b"\n")
            rest = data[whole:]
        return total

    def _compare_object(self, job: LargeObjectJob) -> Compared:
        name = f"large object {job.oid}"
        hasher, at = blake3(), 0
        with server_errors(self._connection, f"read {name}"):
            known = "SELECT count(*) FROM pg_largeobject_metadata WHERE oid = %s::oid"
            if not fetch_one(self._connection, known, job.oid)[0]:
                return Compared(rows=0, difference=Difference(name=name, text="it is not there"))
            while True:
                data = bytes(
                    fetch_one(self._connection, "SELECT lo_get(%s::oid, %s::int8, %s::int4)", job.oid, at, _READ_BYTES)[
                        0
                    ]
                )
                hasher.update(data)
                at += len(data)
                if len(data) < _READ_BYTES:
                    break
        is_same = hasher.digest(HASH_BYTES) == job.hash
        return Compared(rows=0, difference=None if is_same else Difference(name=name, text="its contents differ"))


def open_contents(settings: ContentsSettings) -> ContentsWorker:
    """What a crew calls once in each worker process."""
    return ContentsWorker(settings)


def find_copy(connection: Connection, schema: str, name: str) -> sql.Composed | None:
    """How pg_dump writes a table's data (dumpTableData_copy in pg_dump.c); None without the table."""
    found = connection.execute(_TABLE, (schema, name)).fetchone()
    if found is None:
        return None
    columns = [sql.Identifier(str(row[0])) for row in connection.execute(_COLUMNS, found)]
    listed, table = sql.SQL(", ").join(columns), sql.Identifier(schema, name)
    condition = connection.execute(_CONDITION, found).fetchone()
    if condition is not None and condition[0]:
        # The words of the extension's own script.
        where = sql.SQL(str(condition[0]).replace("{", "{{").replace("}", "}}"))
        return sql.SQL("COPY (SELECT {} FROM ONLY {} {}) TO STDOUT").format(listed, table, where)
    if not columns:
        return sql.SQL("COPY {} TO STDOUT").format(table)
    return sql.SQL("COPY {} ({}) TO STDOUT").format(table, listed)


def iter_copy(connection: Connection, query: sql.Composed) -> Iterator[Buffer]:
    """A table's rows as they are sent, one by one. Raises the driver's errors."""
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        yield from copy


def _hash_row(row: Buffer) -> int:
    return int.from_bytes(blake3(row).digest(_ROW_HASH_BYTES))
