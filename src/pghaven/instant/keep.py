"""Taking a snapshot and keeping it.

    probe → start → snapshots → pg_control → stop → wait for WAL → record

The one idea: the record comes last, when all WAL that the snapshot needs is in the archive; without it there is only a
snapshot that nobody believes, and whose name says whose it was.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from pghaven.backup.archivewait import ArchiveWait, refuse_removed_wal, wait_for_wal
from pghaven.backup.checks import (
    explain_archiver,
    find_owner_name,
    make_listing_rules,
    refuse_changing_timeline,
)
from pghaven.backup.configfiles import read_config_files
from pghaven.backup.copied import BackupEnd, Taken, make_facts
from pghaven.backup.frozen import (
    find_places,
    find_volumes,
    reading_snapshots,
    remove_snapshots,
    take_snapshots,
)
from pghaven.backup.listing import list_data_directory, name_owner
from pghaven.backup.source import Source, know_source
from pghaven.events import Listener, Step
from pghaven.repository.kept import KeptSnapshot, name_snapshot, record_snapshot
from pghaven.repository.layout import make_label
from pghaven.repository.repository import Repository
from pghaven.server.bracket import OpenBackup, backup_bracket
from pghaven.server.connection import Connection, connect
from pghaven.server.probe import read_databases, read_tablespaces


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepSettings:
    cluster: str
    data_directory: str
    conninfo: str
    archive_timeout_seconds: float
    fast_checkpoint: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepResult:
    """Seconds by this host's monotonic clock: for all snapshots, and in all."""

    kept: KeptSnapshot
    snapshot_seconds: float
    total_seconds: float


def keep_snapshot(repository: Repository, settings: KeepSettings, tell: Listener) -> KeepResult:
    """Take a snapshot of the file systems of a running server and keep it.

    Raises Refused for a file system that takes none, NotPermitted, StoreFull, ServerUnsuitable, CheckFailed; then there
    is none.
    """
    return _Keeper(repository, settings, tell).run()


class _Keeper:
    def __init__(self, repository: Repository, settings: KeepSettings, tell: Listener) -> None:
        self._repository = repository
        self._settings = settings
        self._tell = tell
        self._clock = repository.clock
        self._places = find_places(settings.data_directory)
        self._volumes = find_volumes(self._places)
        self._label = make_label(self._clock.now())
        self._name = name_snapshot(settings.cluster, self._label)

    def run(self) -> KeepResult:
        began = self._clock.monotonic()
        settings = self._settings
        connection = connect(settings.conninfo, os_user=find_owner_name(settings.data_directory))
        try:
            source = know_source(self._repository, settings.cluster, settings.data_directory, connection)
            archive = source.archive
            self._tell(Step(text=f"taking snapshot {self._label}: waiting for a checkpoint"))
            with backup_bracket(connection, f"pghaven {self._label}", fast=settings.fast_checkpoint) as backup:
                refuse_changing_timeline(connection, backup)
                refuse_removed_wal(archive, backup.timeline, backup.start_lsn)
                seconds = take_snapshots(self._volumes, self._name, self._clock, self._tell)
                try:
                    kept = self._complete(connection, source, backup)
                except BaseException:
                    remove_snapshots(self._volumes, self._name, self._tell)
                    raise
        finally:
            connection.close()
        return KeepResult(kept=kept, snapshot_seconds=seconds, total_seconds=self._clock.monotonic() - began)

    def _complete(self, connection: Connection, source: Source, backup: OpenBackup) -> KeptSnapshot:
        settings, before = self._settings, source.facts.databases
        facts = replace(source.facts, tablespaces=read_tablespaces(connection), databases=read_databases(connection))
        ending = BackupEnd(connection, backup, facts, self._tell)(settings.data_directory, before)
        rules = make_listing_rules(settings.data_directory, facts, source.control)
        with reading_snapshots(self._places, self._volumes, self._name) as frozen:
            listing = list_data_directory(settings.data_directory, rules, frozen)
        wait = ArchiveWait(
            timeline=backup.timeline,
            start_lsn=backup.start_lsn,
            stop_lsn=ending.stopped.stop_lsn,
            timeout_seconds=settings.archive_timeout_seconds,
            on_wait=lambda: None,
            explain=lambda: explain_archiver(connection, facts.in_recovery),
        )
        first, last = wait_for_wal(source.archive, wait, self._tell)
        taken = Taken(facts=facts, backup=backup, ending=ending, listing=listing)
        made = make_facts((settings.cluster, self._label), taken, (), listing.total_bytes, 0)
        home = os.stat(self._places.home)
        kept = KeptSnapshot(
            facts=replace(made, file_count=len(listing.size), owners=(name_owner(home.st_uid, home.st_gid),)),
            name=self._name,
            volumes=self._volumes,
            home=self._places.home,
            elsewhere=self._places.elsewhere,
            control=ending.control,
            config_files=read_config_files(facts, self._tell),
            first_segment=str(first),
            last_segment=str(last),
        )
        record_snapshot(self._repository, kept)
        return kept
