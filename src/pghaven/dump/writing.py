"""The files of one dump on their way into the repository.

The one idea: one crew stores whatever appears, of all databases one after another, and what was dumped is described
only when pg_dump has said that it is whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from itertools import chain, takewhile

from pghaven.backup.gather import Pieces
from pghaven.backup.results import ReadResult, WorkerPacks
from pghaven.dump.anchors import render_anchors
from pghaven.dump.assemble import Assembled, Assembly
from pghaven.dump.facts import FACTS_FILE, GLOBALS_FILE, DatabaseFacts, DumpFacts, TableFacts, render_facts
from pghaven.dump.options import NOT_COPY
from pghaven.dump.origin import DumpOrigin
from pghaven.dump.programs import Calling, Running
from pghaven.dump.servercopy import Way, open_way
from pghaven.dump.snapshot import DatabaseSnapshot, open_snapshot
from pghaven.dump.spool import SPOOL_BYTES_MAX, Spool, open_spool
from pghaven.dump.spooled import SpooledFile
from pghaven.dump.streams import SLOT_BYTES, Means
from pghaven.dump.worker import DumpJob, DumpPart, DumpWorkerSettings, FilesJob, open_dump_worker
from pghaven.errors import Damaged
from pghaven.events import Notice, Step
from pghaven.runtime.crew import JOBS_IN_FLIGHT, Crew, NotYet
from pghaven.runtime.sharedslots import SharedSlots
from pghaven.server.probe import ServerFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pghaven.dump.session import DumpSession

_ENTRY = re.compile(r"([0-9]+); [0-9]+ ([0-9]+) TABLE DATA ")


class Writing:
    """Runs pg_dumpall and pg_dump for a session, and stores what they write."""

    def __init__(self, session: DumpSession, calling: Calling, origin: DumpOrigin, os_user: str | None) -> None:
        self._session = session
        self._settings = settings = session.settings
        self._calling = calling
        self._origin = origin
        self._os_user = os_user
        self._assembly = Assembly(origin.known.packs if origin.known is not None else (), session.clock.now())
        self._ours = Pieces()
        self._databases: list[DatabaseFacts] = []
        # With one connection pg_dump is at its first table before a pipe could be there. Each worker has some, each
        # connection fills one.
        count = JOBS_IN_FLIGHT * settings.processes + settings.jobs + 1
        self._slots = SharedSlots(count, SLOT_BYTES) if settings.jobs > 1 else None

    def run(self, server: ServerFacts, names: Sequence[str]) -> tuple[DumpFacts, Assembled]:
        settings, session = self._settings, self._session
        worker_settings = DumpWorkerSettings(
            place=session.catalog.pack_place,
            label=session.label,
            level=settings.level,
            known=self._origin.known,
            pace=settings.pace,
            slots=self._slots,
        )
        facts: list[DumpFacts] = []

        def take(result: DumpPart | WorkerPacks) -> None:
            if isinstance(result, DumpPart):
                session.count(result.result.read_bytes, result.stored_anew)
                self._assembly.take(result.result)
                if self._slots is not None and result.slot is not None:
                    self._slots.give_back(result.slot)
            else:
                self._assembly.take(result)
            session.sign_of_life()

        with (
            closing(self._slots) if self._slots is not None else nullcontext(),
            open_spool(settings.spool, self._calling) as spool,
            Crew(size=settings.processes, setup=open_dump_worker, settings=worker_settings) as crew,
            closing(self._jobs(spool, server, names, facts)) as jobs,  # which ends pg_dump, whatever happens
        ):
            # Nothing is asked for before a worker is ready; so long pg_dump need not wait for its start.
            begun = list(takewhile(lambda job: not isinstance(job, NotYet), jobs))
            crew.run(chain(begun, jobs), take, session.sign_of_life)
        result = ReadResult(worker=0, read_bytes=0, pieces=self._ours.columns(), vanished=(), suspects=())
        self._assembly.take(result)
        return facts[0], self._assembly.finish()

    def _jobs(
        self, spool: str, server: ServerFacts, names: Sequence[str], facts: list[DumpFacts]
    ) -> Generator[DumpJob | NotYet, None, None]:
        with self._begin_globals(server) as globals_:
            is_waiting = True
            for name in names:
                for job in self._dump_database(spool, name):
                    yield job
                    if is_waiting and globals_.has_ended:
                        is_waiting = False
                        yield self._add_globals(spool, globals_)
            if is_waiting:
                yield self._add_globals(spool, globals_)
        made = DumpFacts(
            server_version=server.version,
            program_version=self._calling.programs.version,
            options=self._settings.options,
            databases=tuple(self._databases),
            archive=self._settings.archive,
        )
        facts.append(made)
        yield self._add_file(spool, FACTS_FILE, render_facts(made))

    def _add_file(self, spool: str, path: str, content: bytes) -> DumpJob:
        """A file that we write ourselves; large ones too, since a range is as much as a worker takes at once."""
        number = self._assembly.add_file(path)
        place = os.path.join(spool, f"own-{number}")
        with open(place, "wb") as stream:
            stream.write(content)
        return FilesJob(files=((number, place, len(content)),))

    def _add_globals(self, spool: str, globals_: Running) -> DumpJob:
        return self._add_file(spool, f"global/{GLOBALS_FILE}", globals_.take())

    def _begin_globals(self, server: ServerFacts) -> Running:
        """Roles with their passwords, tablespaces, and what is granted of them, asked for beside the first database.
        Only a superuser sees passwords."""
        self._session.tell(Step(text="dumping roles and tablespaces"))
        arguments = ["--globals-only", "--no-sync", "--encoding=UTF8", "-d", self._calling.conninfo]
        if not server.is_superuser:
            arguments.append("--no-role-passwords")
            text = f'role "{server.role}" is no superuser, so the passwords of roles are not in the dump'
            self._session.tell(Notice(level="warning", code="no_passwords", text=text))
        return self._calling.begin("pg_dumpall", arguments, doing="dump roles and tablespaces")

    def _dump_database(self, spool: str, name: str) -> Iterator[DumpJob | NotYet]:
        settings = self._settings
        with open_snapshot(settings.conninfo, name, self._os_user) as snapshot:
            self._session.tell(Step(text=f'dumping database "{name}"'))
            sizes = snapshot.sizes if self._slots is not None else {}
            with open_way(self._calling, name, sizes, directory=spool, options=settings.options) as way:
                yield from self._run_pg_dump(os.path.join(spool, str(snapshot.facts.oid)), snapshot, way)

    def _run_pg_dump(self, path: str, snapshot: DatabaseSnapshot, way: Way) -> Iterator[DumpJob | NotYet]:
        """``path`` is the directory that it makes."""
        settings, name, directory = self._settings, snapshot.facts.name, snapshot.facts.directory
        work = Spool(
            self._calling,
            path,
            number_file=lambda file_name: self._assembly.add_file(f"{directory}/{file_name}"),
            settle=lambda file: self._origin.settle(file, self._ours),
            make_range=self._origin.make_range,
            bytes_max=SPOOL_BYTES_MAX,
            streams=None
            if self._slots is None
            else Means(slots=self._slots, sizes=snapshot.sizes, jobs=settings.jobs, relay=way.relay),
        )
        arguments = [
            "--format=directory",
            "--compress=0",
            "--no-sync",
            f"--jobs={settings.jobs}",
            f"--snapshot={snapshot.identifier}",
            f"--file={path}",
            *settings.options,
            "-d",
            way.conninfo,
        ]
        oids: dict[str, int] = {}
        with_copy = not any(option.startswith(NOT_COPY) for option in settings.options)
        yield from work.run(arguments, f'dump database "{name}"', lambda: oids.update(self._read_contents(path)))
        for file in work.files.values():
            if with_copy and file.name in oids and not file.is_whole:
                raise Damaged(
                    f'"{file.name}", which pg_dump wrote of database "{name}", is not whole',
                    hint="Run the dump again; if that is no help, this is a bug in pghaven.",
                )
            self._assembly.note_hash(file.number, file.hash)
        self._session.stops += work.stops
        self._databases.append(replace(snapshot.facts, tables=_describe_tables(snapshot, oids, work.files)))

    def _read_contents(self, path: str) -> dict[str, int]:
        """The table that each file of data is of, by its OID, from the dump's own table of contents."""
        listed = self._calling.run("pg_restore", ["--list", path], doing="read what was dumped")
        lines = listed.decode("utf-8", "replace").splitlines()
        return {f"{match[1]}.dat": int(match[2]) for match in map(_ENTRY.match, lines) if match}


def _describe_tables(
    snapshot: DatabaseSnapshot, oids: dict[str, int], files: dict[str, SpooledFile]
) -> tuple[TableFacts, ...]:
    found = []
    for name, oid in oids.items():
        file = files.get(name)
        if file is None or oid not in snapshot.tables:
            continue
        schema, table = snapshot.tables[oid]
        found.append(
            TableFacts(
                oid=oid,
                schema=schema,
                name=table,
                file=name,
                rows=file.rows,
                size_bytes=file.done_bytes,
                hash=file.hash.hex(),
                sketch=b"".join(file.sketch).hex(),
                anchors=render_anchors(file.anchors),
            )
        )
    return tuple(sorted(found, key=lambda one: (one.schema, one.name)))
