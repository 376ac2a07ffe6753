"""What somebody asks a restore for, and the plan that answers it.

The one idea: the plan is complete and printable before anything is written, and stays with the restored directory, so
that ``wal get`` can hold the server to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pghaven.events import Notice
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import RecoveryTarget
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.entry import BackupEntry
from pghaven.repository.ledger import PathLeg
from pghaven.repository.manifest import Manifest
from pghaven.units import render_time_utc


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """``target_dir`` is absolute. ``tablespace_mapping`` maps original paths to new ones; where ``tablespaces_below``
    is given, all others go into directories below that, which exists. ``archiving`` lets the
    restored cluster go on archiving; a copy must not, because its source still does. ``port`` is where the restored
    server listens, by default as its source did. ``delta`` allows a data directory of the same cluster to be made into
    the restored one, ``remove_foreign`` to remove what is in the way and not PostgreSQL's."""

    cluster: str
    target_dir: str
    target: RecoveryTarget
    backup_label: str | None = None
    standby: bool = False
    archiving: bool = False
    tablespace_mapping: Mapping[str, str] = field(default_factory=dict)
    tablespaces_below: str | None = None
    port: int | None = None
    delta: bool = False
    remove_foreign: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WalPlan:
    """Which WAL leads to the target.

    ``recovery`` is the target as the server is told it; it may differ from what was asked for (the latest position
    is given as the LSN of the last record, so that a server that comes up short stops instead of opening).
    ``end_lsn`` is the least the server must reach; ``moment`` is when the last change it brings back was made, as far
    as that is known.
    """

    recovery: RecoveryTarget
    timeline: Timeline
    path: tuple[PathLeg, ...]
    first_segment: SegmentName
    last_segment: SegmentName
    segment_count: int
    end_lsn: Lsn
    moment: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a repository has for a request: where its ``backup`` starts, and how far the WAL behind that leads."""

    backup: BackupEntry
    start_lsn: Lsn
    timeline: Timeline
    end_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A directory the restore writes to: the data directory (``prefix`` "") or a tablespace (``pg_tblspc/<oid>``)."""

    prefix: str
    path: str
    needed_bytes: int
    free_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """What lies in the places to be written already, and what becomes of it; paths are relative to the data directory.

    ``file_count`` files with names of the backup's, of ``local_bytes``, are compared with it. Removed are
    ``removed``, which PostgreSQL made and the backup does not have; ``replaced``, links and the like in the place of
    files or directories, which are not followed; ``in_the_way``, which is somebody else's; directories come behind
    what is in them. ``foreign`` is left alone. The files ``saved_wal`` of ``pg_wal``, which the archive does not
    have, are moved to ``saved_wal_directory``."""

    is_unfinished: bool
    file_count: int
    local_bytes: int
    removed: Sequence[str]
    replaced: Sequence[str]
    in_the_way: Sequence[str]
    foreign: Sequence[str]
    saved_wal: tuple[str, ...]
    saved_wal_directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """``existing`` is None where everything is made anew. ``repositories`` are the names of those that were there to
    give WAL when it was made; the restored server asks these and no other. ``is_cloned``: the files are clones of ones
    that are there, and none is written."""

    request: RestoreRequest
    backup: BackupEntry
    manifest: Manifest
    wal: WalPlan
    roots: tuple[Root, ...]
    fetch_bytes: int
    existing: Existing | None
    notices: tuple[Notice, ...]
    repositories: tuple[str, ...] = ()
    is_cloned: bool = False

    @property
    def resumes(self) -> bool:
        """Whether this goes on with a restore that was interrupted."""
        return self.existing is not None and self.existing.is_unfinished


def render_plan_file(plan: RestorePlan) -> dict[str, Any]:
    """What stays in the restored directory; read by ``wal get`` and ``wal push``."""
    wal, request = plan.wal, plan.request
    return {
        "format": 1,
        "cluster": request.cluster,
        "backup": plan.backup.label,
        "original": plan.backup.original,
        "system_identifier": str(plan.manifest.facts.system_identifier),
        "timeline": int(wal.timeline),
        "timeline_path": [
            [int(leg.timeline), str(leg.begin_lsn), None if leg.end_lsn is None else str(leg.end_lsn)]
            for leg in wal.path
        ],
        "expected_end_lsn": str(wal.end_lsn),
        "last_segment": str(wal.last_segment),
        "moment": render_time_utc(wal.moment) if wal.moment else None,
        "standby": request.standby,
        "archiving": "allowed" if request.archiving else "off",
        "delta": request.delta,
        "repositories": list(plan.repositories),
        "roots": [[root.prefix, root.path] for root in plan.roots],
    }
