"""Proof that a dump can be loaded: into a server made for it, compared with what was written down when it was taken.

    scratch server → roles and tablespaces → each database: load, read every row → what differs → nothing is left

The one idea: only a load proves a dump. It is made where nobody reaches it, by the same way as any load, and what is
compared with are the rows and checksums of the dump's own snapshot, not the server of today.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from pghaven.dump.contents import Compared, ContentsSettings, Difference, LargeObjectJob, TableJob, open_contents
from pghaven.dump.earlier import cut_out_file
from pghaven.dump.facts import DatabaseFacts
from pghaven.dump.globals import compare_globals, make_missing
from pghaven.dump.load import LoadSettings, OpenDump, run_load
from pghaven.dump.options import NOT_COPY
from pghaven.dump.programs import Calling, find_dump_programs
from pghaven.errors import Refused
from pghaven.events import Event, Listener, Notice, Step
from pghaven.runtime.crew import Crew
from pghaven.server.connection import Connection, connect, server_errors
from pghaven.server.identity import OsUser
from pghaven.server.programs import find_programs
from pghaven.server.scratch import ScratchPlace, open_scratch_place, run_scratch_cluster

_MAJOR = re.compile(r"[0-9]+")
_BLOB = re.compile(r"blob_([0-9]+)\.dat")
_LOCATION = re.compile(r"(CREATE TABLESPACE .* LOCATION )'(?:[^']|'')*';")
_SUBSCRIPTIONS = """
    SELECT s.subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
    WHERE d.datname = current_database()
"""
# One transaction drops a whole database's worth of locks when pg_restore works with one connection.
_SERVER = {"allow_in_place_tablespaces": "on", "max_locks_per_transaction": "1024", "max_connections": "300"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofSettings:
    """``user`` runs the scratch server, None for ourselves; ``scratch`` is the directory it is made below; ``options``
    go to pg_restore."""

    scratch: str
    user: OsUser | None
    jobs: int
    processes: int
    pg_bin: str | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseProof:
    """What a loaded database was found to hold. ``tables`` and ``large_objects`` count those that were compared."""

    name: str
    tables: int
    large_objects: int
    rows: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofResult:
    label: str
    server_version: str
    databases: tuple[DatabaseProof, ...]
    total_seconds: float

    @property
    def is_same(self) -> bool:
        return not any(one.differences for one in self.databases)


def run_proof(
    dump: OpenDump, databases: Sequence[DatabaseFacts], settings: ProofSettings, listener: Listener
) -> ProofResult:
    """Load databases of a dump into a server of its own and compare them with the dump. Leaves nothing behind.

    Raises NotFound without the server's programs, Refused for what cannot be compared or loaded, ServerUnsuitable with
    the object that could not be loaded, Damaged.
    """
    for option in dump.facts.options:
        if option.startswith(NOT_COPY):
            raise Refused(f'dump "{dump.label}" was taken with "{option}", so it has no checksums to compare with')
    clock = dump.catalog.repository.clock
    began = clock.monotonic()
    major = max(_major_of(dump.facts.server_version), dump.program_major)
    programs = find_programs(major, settings.pg_bin)
    dump_programs = find_dump_programs(major, settings.pg_bin)
    listener(Step(text=f"starting a server of PostgreSQL {programs.version} to load into"))
    with (
        open_scratch_place(settings.scratch, settings.user) as place,
        run_scratch_cluster(place, programs, _SERVER, clock=clock),
    ):
        calling = Calling.of(dump_programs, place.conninfo(), settings.user)
        proof = _Proof(dump, calling, place, settings, listener)
        proof.make_globals()
        found = tuple(proof.prove(one) for one in databases)
    return ProofResult(
        label=dump.label,
        server_version=programs.version,
        databases=found,
        total_seconds=clock.monotonic() - began,
    )


class _Proof:
    def __init__(
        self, dump: OpenDump, calling: Calling, place: ScratchPlace, settings: ProofSettings, listener: Listener
    ) -> None:
        self._dump = dump
        self._calling = calling
        self._place = place
        self._settings = settings
        self._tell = listener

    def make_globals(self) -> None:
        """The dump's roles and tablespaces; these inside the server's own directory, wherever they were."""
        dumped = self._dump.read_globals()
        with self._calling.ask_globals() as running:
            there = running.take()
        changes = [
            replace(one, statement=_LOCATION.sub(r"\1'';", one.statement)) for one in compare_globals(dumped, there)
        ]
        with self._connect() as connection:
            make_missing(connection, changes)

    def prove(self, database: DatabaseFacts) -> DatabaseProof:
        target = f"loaded_{database.oid}"
        load = LoadSettings(
            conninfo=self._place.conninfo(),
            os_user=None,
            target=target,
            create=True,
            jobs=self._settings.jobs,
            processes=self._settings.processes,
            scratch=self._place.directory,
            options=self._settings.options,
            with_properties=False,  # settings would decide how values are written that are compared
        )
        loaded = run_load(self._dump, database, self._calling, load, self._tell_of_load)
        proof = self._compare(database, target, loaded.encoding)
        self._remove(target)
        return proof

    def _remove(self, target: str) -> None:
        """The server keeps a database that has subscriptions, and a subscription whose slot it cannot remove."""
        with self._connect(target) as connection, server_errors(connection, "remove the loaded subscriptions"):
            for (name,) in connection.execute(_SUBSCRIPTIONS).fetchall():
                subscription = sql.Identifier(name)
                connection.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(subscription))
                connection.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(subscription))
                connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(subscription))
        with self._connect() as connection, server_errors(connection, "remove what was loaded"):
            connection.execute(f"DROP DATABASE {target} WITH (FORCE)")

    def _connect(self, database: str = "postgres") -> Connection:
        return connect(self._place.conninfo(database))

    def _tell_of_load(self, event: Event) -> None:
        """How the roles of a server differ that was just made says nothing."""
        if not (isinstance(event, Notice) and event.code in ("globals", "incomplete")):
            self._tell(event)

    def _compare(self, database: DatabaseFacts, target: str, encoding: str) -> DatabaseProof:
        self._tell(Step(text=f'comparing database "{database.name}"'))
        dump = self._dump
        settings = ContentsSettings(
            conninfo=self._place.conninfo(target),
            encoding=encoding,
            session=database.settings,
            place=dump.catalog.pack_place,
            packs=dump.manifest.packs,
        )
        jobs = list(iter_jobs(dump, database))
        found: list[Compared] = []

        def take(one: Compared | None) -> None:
            if one is not None:
                found.append(one)

        with Crew(size=min(self._settings.processes, len(jobs)), setup=open_contents, settings=settings) as crew:
            crew.run(iter(jobs), take)
        differences = [one.difference for one in found if one.difference is not None]
        return DatabaseProof(
            name=database.name,
            tables=len(database.tables),
            large_objects=len(jobs) - len(database.tables),
            rows=sum(one.rows for one in found),
            differences=tuple(sorted(differences, key=lambda one: one.name)),
        )


def iter_jobs(dump: OpenDump, database: DatabaseFacts) -> Iterator[TableJob | LargeObjectJob]:
    """The largest tables first, so that no worker begins one when the others are done."""
    files = dump.manifest.files
    numbers = {os.fsdecode(files.path(number)): number for number in range(len(files.size))}
    for table in sorted(database.tables, key=lambda one: -one.size_bytes):
        yield TableJob(table, cut_out_file(dump.manifest, numbers[f"{database.directory}/{table.file}"]))
    for path, number in numbers.items():
        match = _BLOB.fullmatch(path.removeprefix(f"{database.directory}/"))
        if match is not None:
            yield LargeObjectJob(int(match[1]), files.content_hash[number].tobytes())


def _major_of(version: str) -> int:
    match = _MAJOR.match(version)
    return int(match[0]) if match else 0
