"""A copy of a data directory that is complete, and what the repository keeps of it.

The one idea: a backup ends the same way whether its files were read before or are read afterwards from a snapshot:
pg_control last of all, then the stop, then the checks that the copy is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pghaven
from pghaven.backup.changes import ChangePlan
from pghaven.backup.checks import check_copied, read_control, refuse_moved_databases
from pghaven.backup.collect import Collector
from pghaven.backup.damage import RelationNames
from pghaven.backup.easing import Eased
from pghaven.backup.listing import Listing, name_owner
from pghaven.events import Listener, Step
from pghaven.postgres.control import parse_control
from pghaven.repository.codec import Buffer
from pghaven.repository.manifest import BackupFacts, BadPage, ConfigFile, Tablespace
from pghaven.runtime.whoami import read_own_identity
from pghaven.server.bracket import OpenBackup, StoppedBackup
from pghaven.server.connection import Connection
from pghaven.server.probe import Database, ServerFacts, read_clock, read_databases


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """``control`` is pg_control as it was just before the stop."""

    control: bytes
    stopped: StoppedBackup
    stopped_at: datetime


class BackupEnd:
    """Ends one backup; called once."""

    def __init__(self, connection: Connection, backup: OpenBackup, facts: ServerFacts, tell: Listener) -> None:
        self._connection = connection
        self._backup = backup
        self._facts = facts
        self._tell = tell

    def __call__(self, data_directory: str, databases: Sequence[Database]) -> Ending:
        """``databases`` are those of before the backup began. Raises ServerUnsuitable where the copy is none."""
        # Last of all: on a standby the copy's minRecoveryPoint is where the backup becomes consistent.
        control = read_control(data_directory, self._facts.system_identifier)
        self._tell(Step(text="stopping the backup"))
        stopped = self._backup.stop()
        check_copied(self._facts, self._backup, stopped, parse_control(control))
        refuse_moved_databases(databases, read_databases(self._connection))
        return Ending(control=control, stopped=stopped, stopped_at=read_clock(self._connection))


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was found in the data directory, and the backup is stopped."""

    facts: ServerFacts
    backup: OpenBackup
    ending: Ending
    listing: Listing
    changes: str = "full"
    parent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Taken):
    """Everything that was read."""

    collector: Collector
    relations: tuple[Buffer, RelationNames]
    plan: ChangePlan
    config_files: tuple[ConfigFile, ...]
    seconds: float
    eased: Eased | None


def make_facts(
    name: tuple[str, str], copy: Taken, bad_pages: tuple[BadPage, ...], total: int, stored: int
) -> BackupFacts:
    """``name`` is the cluster's and the label; of ``total`` bytes ``stored`` were written."""
    facts, stopped, control = copy.facts, copy.ending.stopped, parse_control(copy.ending.control)
    return BackupFacts(
        label=name[1],
        cluster=name[0],
        system_identifier=facts.system_identifier,
        server_version_num=facts.version_num,
        catalog_version=control.catalog_version,
        control_version=control.control_version,
        block_size=facts.block_size,
        segment_blocks=facts.segment_size // facts.block_size,
        wal_segment_size=facts.wal_segment_size,
        data_checksums=facts.data_checksums,
        timeline=copy.backup.timeline,
        start_lsn=copy.backup.start_lsn,
        stop_lsn=stopped.stop_lsn,
        started_at=facts.probed,
        stopped_at=copy.ending.stopped_at,
        from_standby=copy.backup.from_standby,
        method="local" if not copy.listing.origin else "snapshot",
        changes=copy.changes,
        parent=copy.parent,
        host=read_own_identity().host,
        data_directory=facts.data_directory,
        written_by=f"pghaven {pghaven.__version__}",
        backup_label=stopped.label_file,
        tablespace_map=stopped.tablespace_map,
        tablespaces=tuple(
            Tablespace(oid=tablespace.oid, name=tablespace.name, path=tablespace.path)
            for tablespace in facts.tablespaces
        ),
        databases=tuple((database.oid, database.row) for database in facts.databases),
        owners=tuple(name_owner(uid, gid) for uid, gid in copy.listing.owners),
        links=tuple(copy.listing.links),
        bad_pages=bad_pages,
        file_count=0,
        total_bytes=total,
        stored_bytes=stored,
    )
