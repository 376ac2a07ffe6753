"""One dump from beginning to end.

    list the databases → choose an earlier dump → announce → globals → each database: snapshot, pg_dump, store
        → what was dumped → manifest → decision

The one idea: nothing is a dump until every program has ended well and the decision is written, so what came to nothing
is never listed; and one run is one dump, with the roles and tablespaces that its databases need.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from pghaven.backup.rivals import make_way
from pghaven.dump.assemble import Assembled
from pghaven.dump.facts import DumpFacts
from pghaven.dump.options import refuse_own_options
from pghaven.dump.origin import DumpOrigin
from pghaven.dump.programs import Calling, DumpPrograms, find_dump_programs
from pghaven.dump.record import make_backup_facts
from pghaven.dump.snapshot import list_databases, require_known_names
from pghaven.dump.writing import Writing
from pghaven.errors import PghavenError
from pghaven.events import Listener, Notice, Progress, Step
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import Intent, Purpose, summarize
from pghaven.repository.layout import make_label
from pghaven.repository.liveness import SIGN_OF_LIFE_SECONDS, clear_signs
from pghaven.repository.manifest import Manifest
from pghaven.repository.repository import Lineage, Repository
from pghaven.runtime.pace import Pace
from pghaven.runtime.whoami import read_own_identity
from pghaven.server.connection import connect
from pghaven.server.identity import find_owner
from pghaven.server.probe import ServerFacts, probe_server


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpSettings:
    """``databases`` are the wanted ones, none for all; with ``globals_only`` none is dumped. ``options`` go to pg_dump
    as they are. ``jobs`` are its connections a database, ``processes`` our own workers; ``spool`` is where pg_dump
    writes to, ``archive`` how the dump is to be written out later."""

    cluster: str
    conninfo: str
    data_directory: str
    databases: tuple[str, ...]
    options: tuple[str, ...]
    jobs: int
    processes: int
    level: int
    spool: str
    globals_only: bool = False
    archive: str = "directory"
    pg_bin: str | None = None
    pace: Pace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpResult:
    """What was made. ``dumped_bytes`` are what pg_dump wrote, ``new_bytes`` of them what no earlier dump had;
    ``stored_bytes`` are those of the packs."""

    label: str
    facts: DumpFacts
    parent: str | None
    dumped_bytes: int
    new_bytes: int
    stored_bytes: int
    total_seconds: float
    stops: int


def run_dump(repository: Repository, settings: DumpSettings, listener: Listener) -> DumpResult:
    """Dump databases of a running server into the repository. Blocks until the dump is committed.

    Raises NotFound for a database or pg_dump that is not there, Refused for names that are no text, ServerUnsuitable
    with pg_dump's own words, Locked, NotPermitted, StoreUnreachable, Cancelled; then there is no dump.
    """
    refuse_own_options(settings.options)
    return DumpSession(repository, settings, listener).run()


class DumpSession:
    def __init__(self, repository: Repository, settings: DumpSettings, listener: Listener) -> None:
        self._repository = repository
        self.settings = settings
        self.tell = listener
        self.clock = repository.clock
        self.catalog = BackupCatalog(repository, settings.cluster)
        self.label = ""
        self._signs = 0
        self._next_sign = 0.0
        self._stored_anew = 0
        self._done_bytes = 0
        self.stops = 0

    def run(self) -> DumpResult:
        began = self.clock.monotonic()
        settings = self.settings
        owner = find_owner(settings.data_directory) if os.path.isdir(settings.data_directory) else None
        owner = owner if os.geteuid() == 0 else None
        os_user = owner.name if owner is not None else None
        with connect(settings.conninfo, os_user=os_user) as connection:
            server = probe_server(connection)
            lineage = self._repository.require_lineage(settings.cluster, server.system_identifier)
            programs = find_dump_programs(server.major.major, settings.pg_bin)
            self._tell_version(server, programs)
            names = () if settings.globals_only else list_databases(connection, settings.databases)
            require_known_names(connection, settings.conninfo, names, os_user)
            calling = Calling.of(programs, settings.conninfo, owner)
            make_way(self.catalog, None, self.tell, Purpose.DUMP)
            origin = DumpOrigin(self.catalog, server.system_identifier, self.tell)
            started_at = self.clock.now()
            self.label = make_label(started_at)
            self._announce(server, started_at, origin)
            with self._abandoned_on_failure():
                origin.confirm()
                writing = Writing(self, calling, origin, os_user)
                facts, assembled = writing.run(server, names)
                return self._commit(server, lineage, origin, (facts, assembled), (started_at, began))

    def _tell_version(self, server: ServerFacts, programs: DumpPrograms) -> None:
        if programs.major != server.major.major:
            text = (
                f"pg_dump {programs.version} dumps a server {server.version}: it may not load into a server older than "
                f"{programs.major}"
            )
            hint = f"Install the client programs of PostgreSQL {server.major} for a dump that does."
            self.tell(Notice(level="warning", code="dump_version", text=text, hint=hint))

    def _announce(self, server: ServerFacts, started_at: datetime, origin: DumpOrigin) -> None:
        parent = origin.entry.label if origin.entry is not None else None
        intent = Intent(
            who=read_own_identity(),
            started_at=started_at,
            system_identifier=server.system_identifier,
            timeline=server.timeline,
            start_lsn=str(server.lsn),
            parent=parent,
            sources=(parent,) if parent is not None else (),
            purpose=Purpose.DUMP,
        )
        self.catalog.announce(self.label, intent)
        self._next_sign = self.clock.monotonic() + SIGN_OF_LIFE_SECONDS

    @contextmanager
    def _abandoned_on_failure(self) -> Iterator[None]:
        """Say in the repository that this dump will not be, so that nobody has to find out."""
        try:
            make_way(self.catalog, self.label, self.tell, Purpose.DUMP)
            yield
        except BaseException as error:
            reason = error.message if isinstance(error, PghavenError) else f"interrupted ({type(error).__name__})"
            with suppress(PghavenError):
                if not self.catalog.abandon(self.label, reason):
                    text = f'dump "{self.label}" is committed all the same: only the answer was lost'
                    self.tell(Notice(level="warning", code="committed", text=text))
            raise

    def count(self, read_bytes: int, stored_anew: int) -> None:
        self._done_bytes += read_bytes
        self._stored_anew += stored_anew
        self.tell(Progress(phase="dumping", done_bytes=self._done_bytes, total_bytes=0))

    def sign_of_life(self) -> None:
        if self.clock.monotonic() >= self._next_sign:
            self._signs += 1
            self.catalog.sign_of_life(self.label, self._signs)
            self._next_sign = self.clock.monotonic() + SIGN_OF_LIFE_SECONDS

    def _commit(
        self,
        server: ServerFacts,
        lineage: Lineage,
        origin: DumpOrigin,
        made: tuple[DumpFacts, Assembled],
        since: tuple[datetime, float],
    ) -> DumpResult:
        facts, assembled = made
        backup_facts = make_backup_facts(
            (self.settings.cluster, self.label),
            (server, lineage),
            origin.entry,
            assembled,
            (since[0], self.clock.now()),
        )
        manifest = Manifest(
            facts=backup_facts,
            files=assembled.files,
            block_map=assembled.block_map,
            packs=assembled.packs,
            relations=b"",
            config_files=(),
            control=b"",
        )
        self.tell(Step(text="writing the manifest"))
        summary = summarize(backup_facts, "", "") | {
            "dump": {
                "databases": [one.name for one in facts.databases],
                "tables": sum(len(one.tables) for one in facts.databases),
                "rows": facts.rows,
                "program_version": facts.program_version,
                "options": list(facts.options),
            }
        }
        self.catalog.commit(self.label, manifest, summary)
        clear_signs(self._repository.store, self.settings.cluster, self.label, self._signs)
        return DumpResult(
            label=self.label,
            facts=facts,
            parent=backup_facts.parent,
            dumped_bytes=backup_facts.total_bytes,
            new_bytes=self._stored_anew,
            stored_bytes=assembled.written_bytes,
            total_seconds=self.clock.monotonic() - since[1],
            stops=self.stops,
        )
