"""One backup from beginning to end.

    probe → start → choose a parent → announce → list → plan → read (workers) → pg_control → stop → wait for WAL
          → manifest → decision

The one idea: until the decision is written nothing exists, and nothing that is there before is touched; so a failure or
a kill at any point leaves only packs that nobody refers to. ``pg_backup_start`` and ``pg_backup_stop`` belong to one
session that is closed on the way out, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from pghaven.backup.archivewait import ArchiveWait, LineageWatch, refuse_removed_wal, wait_for_wal
from pghaven.backup.changes import Rule
from pghaven.backup.checks import (
    explain_archiver,
    find_owner_name,
    make_listing_rules,
    mention_checksums,
    refuse_changing_timeline,
)
from pghaven.backup.collect import Collector
from pghaven.backup.configfiles import read_config_files, tell_unsettled
from pghaven.backup.copied import BackupEnd, Copy, Ending, make_facts
from pghaven.backup.damage import find_relations, judge_suspects
from pghaven.backup.easing import NEVER_EASE, Eased, EaseRules, Easing
from pghaven.backup.frozen import (
    Frozen,
    find_places,
    find_volumes,
    reading_snapshots,
    remove_snapshots,
    sweep_snapshots,
    take_snapshots,
)
from pghaven.backup.jobs import Job
from pghaven.backup.listing import list_data_directory
from pghaven.backup.origin import Origin, Tries, find_tries
from pghaven.backup.ownmap import find_maps, keep_map
from pghaven.backup.pipeline import WorkerSettings, open_worker
from pghaven.backup.plantext import tell_plan
from pghaven.backup.relationnames import RelationReader
from pghaven.backup.results import ReadResult, WorkerPacks
from pghaven.backup.rivals import make_way
from pghaven.backup.source import know_source
from pghaven.errors import PghavenError
from pghaven.events import Listener, Notice, Progress, Step
from pghaven.postgres.control import ControlFile
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import Intent, summarize
from pghaven.repository.kept import name_snapshot
from pghaven.repository.layout import make_label
from pghaven.repository.liveness import SIGN_OF_LIFE_SECONDS, clear_signs
from pghaven.repository.manifest import BackupFacts, Manifest
from pghaven.repository.repository import Repository
from pghaven.repository.walstore import WalArchive
from pghaven.runtime.crew import Crew
from pghaven.runtime.pace import Pace
from pghaven.runtime.whoami import read_own_identity
from pghaven.server.bracket import OpenBackup, backup_bracket
from pghaven.server.connection import Connection, connect
from pghaven.server.pressure import read_pressure
from pghaven.server.probe import ServerFacts, read_databases, read_tablespaces
from pghaven.snapshot.driver import Volume

SNAPSHOT_NICE = 19
"""What is read from snapshots has time: as nice as there is, so that transactions take the processors as if alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSettings:
    """What a backup is told. ``level`` is zstd's, ``changes`` one of ``origin.METHODS``. ``pace`` is for
    reading, ``ease`` says when to give way. ``state_directory`` is where a host that only writes keeps its map
    (None: ``ownmap.find_state_directory``). ``from_snapshot``: the files are read from snapshots of their volumes, by
    workers that are as nice as ``snapshot_nice``."""

    cluster: str
    data_directory: str
    conninfo: str
    level: int
    processes: int
    archive_timeout_seconds: float
    changes: str = "auto"
    fast_checkpoint: bool = True
    pace: Pace | None = None
    ease: EaseRules = NEVER_EASE
    state_directory: str | None = None
    from_snapshot: bool = False
    snapshot_nice: int = SNAPSHOT_NICE


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupResult:
    """What was made. Times are seconds of this host's monotonic clock.

    ``read_bytes`` were read of the data directory. Of its files ``kept_count`` were not, as they had not changed. Of
    what was read ``reused_bytes`` were found in packs that an interrupted backup has stored. ``snapshot_seconds`` is
    what taking snapshots took, None without. ``eased``: it gave way.
    """

    facts: BackupFacts
    first_segment: str
    last_segment: str
    pack_count: int
    manifest_bytes: int
    vanished_count: int
    read_bytes: int
    kept_count: int
    reused_bytes: int
    total_seconds: float
    copy_seconds: float
    snapshot_seconds: float | None
    eased: Eased | None

    @property
    def label(self) -> str:
        return self.facts.label

    @property
    def stored_bytes(self) -> int:
        return self.facts.stored_bytes


def run_backup(repository: Repository, settings: BackupSettings, listener: Listener) -> BackupResult:
    """Take a backup of a running server whose data directory is on this host.

    Blocks until the backup is committed and all its WAL is in the archive. Raises Locked when another one is running,
    ServerUnsuitable, NotPermitted, Refused, CheckFailed, Cancelled; then no backup was made.
    """
    return _Session(repository, settings, listener).run()


class _Session:
    def __init__(self, repository: Repository, settings: BackupSettings, listener: Listener) -> None:
        self._repository = repository
        self._settings = settings
        self._tell = listener
        self._clock = repository.clock
        self._catalog = BackupCatalog(repository, settings.cluster)
        self._maps = find_maps(self._catalog, settings.state_directory, settings.data_directory)
        self._label = ""
        self._pace = settings.pace or Pace()
        self._signs = 0
        self._next_sign = 0.0
        self._volumes: tuple[Volume, ...] = ()
        self._snapshot_seconds: float | None = None

    def run(self) -> BackupResult:
        began = self._clock.monotonic()
        settings = self._settings
        with _connected(settings) as connection:
            source = know_source(self._repository, settings.cluster, settings.data_directory, connection)
            facts, archive = source.facts, source.archive
            if settings.from_snapshot:
                self._volumes = find_volumes(find_places(settings.data_directory))
            mention_checksums(facts, self._tell)
            entries = make_way(self._catalog, None, self._tell)
            sweep_snapshots(self._catalog, self._volumes, self._tell)
            tries = find_tries(self._catalog, entries, facts.system_identifier, self._tell)
            origin = Origin(self._catalog, archive, settings.changes, self._tell, self._maps)
            started_at = self._clock.now()
            self._label = make_label(started_at)
            worker_settings = WorkerSettings(
                place=self._catalog.pack_place,
                label=self._label,
                level=settings.level,
                block_size=facts.block_size,
                verify=facts.data_checksums,
                known=tries.known,
                pace=self._pace,
            )
            nice = settings.snapshot_nice if self._volumes else 0
            with Crew(size=settings.processes, setup=open_worker, settings=worker_settings, nice=nice) as crew:
                self._tell(Step(text=f"starting backup {self._label}: waiting for a checkpoint"))
                with backup_bracket(connection, f"pghaven {self._label}", fast=settings.fast_checkpoint) as backup:
                    refuse_changing_timeline(connection, backup)
                    origin.choose(entries, facts, backup, settings.data_directory)
                    self._announce(facts, backup, started_at, (origin, tries))
                    with self._abandoned_on_failure():
                        origin.confirm(tries)
                        refuse_removed_wal(archive, backup.timeline, backup.start_lsn)
                        copy = self._copy(connection, source.control, facts, backup, (crew, origin, tries))
                        return self._complete(connection, archive, copy, began)

    # -- before -----------------------------------------------------------------------------------------------------

    def _announce(
        self, facts: ServerFacts, backup: OpenBackup, started_at: datetime, roots: tuple[Origin, Tries]
    ) -> None:
        parent = roots[0].parent.label if roots[0].parent is not None else None
        self._catalog.announce(
            self._label,
            Intent(
                who=read_own_identity(),
                started_at=started_at,
                system_identifier=facts.system_identifier,
                timeline=backup.timeline,
                start_lsn=str(backup.start_lsn),
                parent=parent,
                sources=(*((parent,) if parent is not None else ()), *roots[1].labels),
            ),
        )
        self._next_sign = self._clock.monotonic() + SIGN_OF_LIFE_SECONDS

    @contextmanager
    def _abandoned_on_failure(self) -> Iterator[None]:
        """Say in the repository that this backup will not be, so that nobody has to find out."""
        try:
            make_way(self._catalog, self._label, self._tell)
            yield
        except BaseException as error:
            reason = error.message if isinstance(error, PghavenError) else f"interrupted ({type(error).__name__})"
            with suppress(PghavenError):  # a repository out of reach: the next backup finds our process gone
                if not self._catalog.abandon(self._label, reason):
                    text = f'backup "{self._label}" is committed all the same: only the answer was lost'
                    self._tell(Notice(level="warning", code="committed", text=text))
            raise

    # -- copy -------------------------------------------------------------------------------------------------------

    def _copy(
        self,
        connection: Connection,
        control: ControlFile,
        facts: ServerFacts,
        backup: OpenBackup,
        means: tuple[_Crew, Origin, Tries],
    ) -> Copy:
        began = self._clock.monotonic()
        crew, origin, tries = means
        before = facts.databases
        # Asked now, not before: what was made while the checkpoint went on is not in the WAL that is replayed.
        facts = replace(facts, tablespaces=read_tablespaces(connection), databases=read_databases(connection))
        rules = make_listing_rules(self._settings.data_directory, facts, control)
        end = partial(BackupEnd(connection, backup, facts, self._tell), self._settings.data_directory, before)
        with self._frozen(end) as (frozen, ending), RelationReader(self._open_database, facts.databases) as relations:
            listing = list_data_directory(self._settings.data_directory, rules, frozen)
            collector = Collector(len(listing.size), tries.known.packs if tries.known is not None else ())
            changes, plan = origin.plan(connection, facts, backup, listing, lambda: self._sign_of_life(backup))
            tell_plan(plan, listing, changes, self._settings.processes, self._tell)

            def take(result: ReadResult | WorkerPacks) -> None:
                collector.take(result)
                look_around()

            def look_around() -> None:
                self._tell(Progress(phase="reading", done_bytes=collector.read_bytes, total_bytes=plan.read_bytes))
                self._sign_of_life(backup)
                easing.poll()

            easing = Easing(
                self._pace, self._settings.ease, partial(read_pressure, connection), self._tell, self._clock
            )
            easing.poll()
            crew.run(plan.jobs, take, look_around)
            found = relations.finish(find_relations(collector.suspects, listing), self._tell)
        tell_unsettled(collector.unsettled, listing, self._tell)
        config_files = read_config_files(facts, self._tell)
        if ending is None:
            ending = end()
        return Copy(
            facts=facts,
            backup=backup,
            ending=ending,
            listing=listing,
            collector=collector,
            relations=found,
            changes=changes,
            parent=origin.parent.label if origin.parent is not None and changes != "full" else None,
            plan=plan,
            config_files=config_files,
            seconds=self._clock.monotonic() - began,
            eased=easing.finish(),
        )

    @contextmanager
    def _frozen(self, end: Callable[[], Ending]) -> Iterator[tuple[Frozen | None, Ending | None]]:
        """The snapshots to read from, and how the backup ended, which then was before the reading; or neither."""
        if not self._volumes:
            yield None, None
            return
        name = name_snapshot(self._settings.cluster, self._label)
        places = find_places(self._settings.data_directory)
        self._snapshot_seconds = take_snapshots(self._volumes, name, self._clock, self._tell)
        try:
            ending = end()
            with reading_snapshots(places, self._volumes, name) as frozen:
                yield frozen, ending
        finally:
            remove_snapshots(self._volumes, name, self._tell)

    def _open_database(self, name: str) -> Connection:
        owner = find_owner_name(self._settings.data_directory)
        return connect(self._settings.conninfo, os_user=owner, dbname=name)

    def _sign_of_life(self, backup: OpenBackup | None = None) -> None:
        if self._clock.monotonic() < self._next_sign:
            return
        self._signs += 1
        self._catalog.sign_of_life(self._label, self._signs)
        if backup is not None:
            backup.confirm()
        self._next_sign = self._clock.monotonic() + SIGN_OF_LIFE_SECONDS

    # -- after ------------------------------------------------------------------------------------------------------

    def _complete(self, connection: Connection, archive: WalArchive, copy: Copy, began: float) -> BackupResult:
        facts, stopped = copy.facts, copy.ending.stopped
        relations, names = copy.relations
        lineage = LineageWatch(archive, copy.backup.timeline, stopped.stop_lsn)

        def on_wait() -> None:
            lineage.look()
            self._sign_of_life()

        wait = ArchiveWait(
            timeline=copy.backup.timeline,
            start_lsn=copy.backup.start_lsn,
            stop_lsn=stopped.stop_lsn,
            timeout_seconds=self._settings.archive_timeout_seconds,
            on_wait=on_wait,
            explain=lambda: explain_archiver(connection, facts.in_recovery),
        )
        collected = copy.collector.finish(copy.listing, verified=facts.data_checksums, parentage=copy.plan.parentage)
        files = collected.files
        first, last = wait_for_wal(archive, wait, self._tell)
        lineage.confirm()
        span = (copy.backup.start_lsn, stopped.stop_lsn)
        bad_pages = judge_suspects(copy.collector.suspects, copy.listing, span, names, self._tell)
        name = (self._settings.cluster, self._label)
        backup_facts = make_facts(name, copy, bad_pages, int(files.size.sum()), copy.collector.stored_bytes)
        manifest = Manifest(
            facts=replace(backup_facts, file_count=len(files.size)),
            files=files,
            block_map=collected.block_map,
            packs=collected.packs,
            relations=relations,
            config_files=copy.config_files,
            control=copy.ending.control,
        )
        self._tell(Step(text="writing the manifest"))
        manifest_bytes = self._catalog.commit(self._label, manifest, summarize(manifest.facts, str(first), str(last)))
        keep_map(self._maps, self._catalog, manifest, self._tell)
        clear_signs(self._repository.store, self._settings.cluster, self._label, self._signs)
        return BackupResult(
            facts=manifest.facts,
            first_segment=str(first),
            last_segment=str(last),
            pack_count=copy.collector.pack_count,
            manifest_bytes=manifest_bytes,
            vanished_count=len(copy.listing.size) - len(files.size),
            read_bytes=copy.collector.read_bytes,
            kept_count=copy.plan.counts.get(Rule.KEEP, 0),
            reused_bytes=collected.reused_bytes,
            total_seconds=self._clock.monotonic() - began,
            copy_seconds=copy.seconds,
            snapshot_seconds=self._snapshot_seconds,
            eased=copy.eased,
        )


_Crew = Crew[Job, ReadResult | WorkerPacks]


@contextmanager
def _connected(settings: BackupSettings) -> Iterator[Connection]:
    connection = connect(settings.conninfo, os_user=find_owner_name(settings.data_directory))
    try:
        yield connection
    finally:
        connection.close()
