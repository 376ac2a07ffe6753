"""The values that ``status`` consists of: a server, its repositories, what would be lost, what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.proof.catalog import ListedBackup, ListedDump, ShownState
from pghaven.proof.windows import Reach, Window
from pghaven.repository.audits import Audit
from pghaven.repository.drills import DrillEvidence
from pghaven.repository.evidence import Evidence
from pghaven.repository.incidents import Incident
from pghaven.server.probe import ArchiverFacts
from pghaven.server.slots import SlotActivity
from pghaven.server.standbys import Standby
from pghaven.wal.agentstate import AgentState
from pghaven.wal.behind import Behind
from pghaven.wal.gapcause import ExplainedGap
from pghaven.wal.ledger import HeldTimeline
from pghaven.wal.room import WalRoom


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """A server that answered. ``lsn`` is how far it has written, a standby: replayed.

    ``waiting`` counts finished WAL files that are not archived yet, None when the role may not look. ``room`` is what
    ``pg_wal`` has room for, None when it is not on this host. ``receiver`` is the slot of ``wal receive``, if there is
    one; ``is_receiver_wanted`` by the configuration. ``standbys`` are those it knows of.
    """

    version: str
    in_recovery: bool
    timeline: Timeline
    lsn: Lsn
    system_identifier: int
    started: datetime
    archive_mode: str
    archiver: ArchiverFacts
    waiting: int | None
    room: WalRoom | None = None
    receiver: SlotActivity | None = None
    is_receiver_wanted: bool = False
    standbys: tuple[Standby, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSilence:
    """A server that did not answer. ``is_running`` tells whether its process is there, None when that is not known."""

    is_running: bool | None
    reason: str
    hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPoint:
    """What would be lost if the server were gone now: the WAL written since ``since``.

    ``seconds`` is how long ago that is, None when the archive does not know when its last segment was written;
    ``unarchived_bytes`` is None when the server did not tell its position.
    """

    since: datetime | None
    since_lsn: Lsn
    seconds: float | None
    unarchived_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryState:
    """A repository that answered. ``fenced`` says why what this server writes leads nowhere, if it does.

    ``last_damage`` is the verification that found damage of which nobody has shown since that it is gone, ``doubtful``
    the newest verification if it does not count. ``behind`` is what this host has noted of WAL that the repository
    missed. ``single_writer``: by its option. ``originals`` are the labels of its complete backups, of a copy its
    original's. ``quarantined_from`` is who wrote the last file of the quarantine, ``incidents`` what was kept of two
    writers and of WAL that is lost, oldest first; ``explained`` are the gaps that ``reach`` has, with their causes.
    ``audit`` is the newest one of the WAL, ``drills`` the last of this cluster, the newest first, and ``proofs`` what
    was found of dumps. ``older`` is what there is of it that is older than this host has seen, as clauses. ``dumps``
    are the complete SQL dumps.
    """

    name: str
    url: str
    free_bytes: int | None
    system_identifier: int
    backups: tuple[ListedBackup, ...]
    reach: Reach
    recovery_point: RecoveryPoint | None
    quarantined: int
    fenced: str | None
    last_damage: Evidence | None = None
    doubtful: Evidence | None = None
    single_writer: bool = False
    behind: Behind | None = None
    originals: frozenset[str] = frozenset()
    quarantined_from: str | None = None
    incidents: tuple[Incident, ...] = ()
    explained: tuple[ExplainedGap, ...] = ()
    audit: Audit | None = None
    timelines: tuple[HeldTimeline, ...] = ()
    drills: tuple[DrillEvidence, ...] = ()
    proofs: tuple[DrillEvidence, ...] = ()
    older: tuple[str, ...] = ()
    is_horizon_whole: bool = True
    dumps: tuple[ListedDump, ...] = ()

    @property
    def newest(self) -> ListedBackup | None:
        complete = [one for one in self.backups if one.state is ShownState.COMPLETE]
        return complete[-1] if complete else None

    def find_window(self, timeline: Timeline | None) -> Window | None:
        """The window that comes closest to now, on this timeline if there is one."""
        windows = [one for one in self.reach.windows if timeline in (None, one.timeline)]
        return max(windows or self.reach.windows, key=lambda one: one.end_lsn, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySilence:
    """A repository that could not be opened, or does not know the cluster."""

    name: str
    url: str
    reason: str
    hint: str | None
    behind: Behind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """What a repository that answered lacks and another one has: backups, by the labels of their originals, and the
    newest WAL, None when nothing on that timeline can be restored from it."""

    repository: str
    backups: tuple[str, ...]
    wal_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """Every moment from ``begin`` to ``end`` can be restored to from one repository or another.

    ``begin_in`` and ``end_in`` name the ones with the first and the last moment. ``end`` is None when it was not
    recorded.
    """

    timeline: Timeline
    begin: datetime
    begin_in: str
    end: datetime | None
    end_lsn: Lsn
    end_in: str
    recovery_point: RecoveryPoint | None
    lacks: tuple[Lack, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong, and what to do. A ``critical`` one means that data would be lost or cannot be brought back.
    ``code`` names its kind, for programs and for the order in which problems are told."""

    level: Literal["critical", "warning"]
    text: str
    hint: str | None = None
    code: str = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    cluster: str
    server: ServerState | ServerSilence
    repositories: tuple[RepositoryState | RepositorySilence, ...]
    overall: Overall | None
    problems: tuple[Problem, ...]
    looked_at: datetime
    agent: AgentState = AgentState.NONE
