"""A random workload with all kinds of DDL, for backups to be taken under.

The one idea: each session draws its statements from a generator of its own, so a seed gives the same statements again;
how sessions interleave is the machine's affair. What fails because another session was first is passed over.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until

TABLES = tuple(f"t{number}" for number in range(6))
DATABASES = {f"d{number}": 90000 + number for number in range(3)}
_TEMPLATES = ("template0", "plain", "other")
_INDEXES = (
    "btree (n)",
    "btree (body, n)",
    "hash (n)",
    "brin (n) WITH (pages_per_range = 2)",
    "gin (to_tsvector('simple', body))",
    "gist (point(n, length(body)))",
    "spgist (body text_ops)",
)
_COLUMNS = "(n int, body text)"


def set_up(cluster: TestCluster) -> None:
    """Tables, and two databases to copy whose files have the same names and other contents."""
    cluster.sql("CREATE SEQUENCE numbers")
    for table in TABLES:
        cluster.sql(f"CREATE TABLE {table} {_COLUMNS} WITH (fillfactor = 70)")
        cluster.sql(f"INSERT INTO {table} SELECT n, md5(n::text) FROM generate_series(1, 500) n")
    cluster.sql("CREATE DATABASE plain TEMPLATE template0 STRATEGY file_copy")
    cluster.sql("CREATE TABLE held AS SELECT n, md5(n::text) AS body FROM generate_series(1, 1000) n", dbname="plain")
    cluster.sql("CREATE DATABASE other TEMPLATE plain STRATEGY file_copy")
    cluster.sql("UPDATE held SET body = 'other' WHERE n % 5 = 0", dbname="other")


class Workload:
    """Sessions that go on until they are stopped; ``seed`` decides what they do.

    While a base backup is taken a database must not be moved, nor a template be changed that was copied meanwhile: the
    server's manual calls it a caveat of all base backups. ``within_rules`` keeps to that.
    """

    def __init__(self, cluster: TestCluster, seed: str, tablespaces: tuple[str, ...], sessions: int = 2) -> None:
        self._cluster = cluster
        self._spaces = ("pg_default", *tablespaces)
        self._stop = threading.Event()
        self._is_backed_up = threading.Lock()
        self._errors: list[BaseException] = []
        self.statement_count = 0
        makers = [self._iter_table_statements] * sessions + [self._iter_database_statements]
        self._threads = [
            threading.Thread(target=self._run, args=(maker(random.Random(f"{seed}/{number}")),))
            for number, maker in enumerate(makers)
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """What went wrong in a session is raised at the end."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
        if self._errors:
            raise self._errors[0]

    def wait_for(self, statements: int) -> None:
        """Until so many have been executed, by all sessions together."""
        wait_until(lambda: self.statement_count >= statements or self._errors, f"{statements} statements")

    @contextmanager
    def within_rules(self) -> Iterator[None]:
        with self._is_backed_up:
            yield

    def _run(self, statements: Iterator[tuple[str, str]]) -> None:
        try:
            for dbname, statement in statements:
                if self._stop.is_set():
                    return
                if dbname != "other" and "SET TABLESPACE" not in statement.partition("DATABASE")[2]:
                    self._execute(dbname, statement)
                elif self._is_backed_up.acquire(blocking=False):
                    try:
                        self._execute(dbname, statement)
                    finally:
                        self._is_backed_up.release()
        except BaseException as error:
            self._errors.append(error)

    def _execute(self, dbname: str, statement: str) -> None:
        options = "-c lock_timeout=300ms -c statement_timeout=10s"
        try:
            with self._cluster.connect(dbname, options=options) as session:
                session.execute(statement.encode())
                self.statement_count += 1
        except (psycopg.errors.InternalError_, psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted):
            raise
        except psycopg.Error:
            pass  # another session was first

    # -- statements -------------------------------------------------------------------------------------------------

    def _iter_table_statements(self, chance: random.Random) -> Iterator[tuple[str, str]]:
        makers = {
            _insert: 30,
            _update: 20,
            _delete: 15,
            _vacuum: 10,
            _rewrite: 3,
            _truncate: 3,
            _make_again: 3,
            _index: 4,
            self._persist: 3,
            self._move: 3,
            _count_on: 4,
            _read: 5,
        }
        while True:
            make = chance.choices(list(makers), list(makers.values()))[0]
            yield "postgres", make(chance, chance.choice(TABLES))

    def _persist(self, chance: random.Random, table: str) -> str:
        return f"ALTER TABLE {table} SET {chance.choice(['LOGGED', 'UNLOGGED'])}"

    def _move(self, chance: random.Random, table: str) -> str:
        return f"ALTER TABLE {table} SET TABLESPACE {chance.choice(self._spaces)}"

    def _iter_database_statements(self, chance: random.Random) -> Iterator[tuple[str, str]]:
        """A database is made under a number it had before, changed, moved and removed."""
        while True:
            name = chance.choice(list(DATABASES))
            strategy = chance.choice(["file_copy", "wal_log"])
            template = chance.choice(_TEMPLATES)
            make = f"CREATE DATABASE {name} OID {DATABASES[name]} TEMPLATE {template} STRATEGY {strategy}"
            space = chance.choice(self._spaces)
            choices = [
                [("postgres", f"DROP DATABASE IF EXISTS {name}"), ("postgres", make)],
                [("postgres", f"ALTER DATABASE {name} SET TABLESPACE {space}")],
                [(name, f"CREATE TABLE made{_number(chance, 9)} AS SELECT n FROM generate_series(1, 200) n")],
                [(name, f"DELETE FROM held WHERE n % {_number(chance, 50)} = 0")],
                [("other", f"UPDATE held SET body = md5(body) WHERE n % {_number(chance, 50)} = 0")],
                [("postgres", "CHECKPOINT")],
            ]
            yield from chance.choice(choices)


def _number(chance: random.Random, most: int) -> int:
    return chance.randint(1, most)


def _insert(chance: random.Random, table: str) -> str:
    body = chance.choice(["md5(n::text)", "repeat(md5(n::text), 3)", "repeat(md5(n::text), 100)"])
    rows = _number(chance, 300) if "100" not in body else _number(chance, 20)
    return f"INSERT INTO {table} SELECT n, {body} FROM generate_series(1, {rows}) n"


def _update(chance: random.Random, table: str) -> str:
    modulus = chance.choice([7, 50, 200])
    return f"UPDATE {table} SET body = md5(body) WHERE n % {modulus} = {_number(chance, modulus) - 1}"


def _delete(chance: random.Random, table: str) -> str:
    where = chance.choice([f"n > {_number(chance, 500)}", f"n % {_number(chance, 9)} = 0"])
    return f"DELETE FROM {table} WHERE {where}"


def _vacuum(chance: random.Random, table: str) -> str:
    options = chance.choice(["", "(FREEZE)", "(TRUNCATE false)", "(INDEX_CLEANUP off)", "(DISABLE_PAGE_SKIPPING)"])
    return f"VACUUM {options} {table}"


def _rewrite(chance: random.Random, table: str) -> str:
    kind = chance.choice(["int", "bigint"])
    return chance.choice([f"VACUUM FULL {table}", f"ALTER TABLE {table} ALTER n TYPE {kind}"])


def _truncate(chance: random.Random, table: str) -> str:
    return f"TRUNCATE {table}"


def _make_again(chance: random.Random, table: str) -> str:
    return (
        f"BEGIN; DROP TABLE {table}; CREATE TABLE {table} {_COLUMNS};"
        f" INSERT INTO {table} SELECT n, 'new' FROM generate_series(1, {_number(chance, 400)}) n;"
        f" {chance.choice(['COMMIT', 'COMMIT', 'ROLLBACK'])}"
    )


def _index(chance: random.Random, table: str) -> str:
    name = f"{table}_{_number(chance, 3)}"
    return chance.choice(
        [
            f"CREATE INDEX {name} ON {table} USING {chance.choice(_INDEXES)}",
            f"CREATE INDEX {name} ON {table} USING {chance.choice(_INDEXES)}",
            f"DROP INDEX {name}",
            f"REINDEX INDEX {name}",
            f"REINDEX TABLE CONCURRENTLY {table}",
            f"CLUSTER {table} USING {name}",
        ]
    )


def _count_on(chance: random.Random, table: str) -> str:
    return f"SELECT nextval('numbers') FROM generate_series(1, {_number(chance, 20)})"


def _read(chance: random.Random, table: str) -> str:
    return chance.choice([f"SELECT count(*) FROM {table}", f"SELECT n FROM {table} LIMIT 20 FOR SHARE"])
