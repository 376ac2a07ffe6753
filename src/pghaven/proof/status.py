"""What can be brought back at this moment, and what would be lost: the answer to the first question of an outage.

The one idea: the server and each repository are asked independently, so that the answer is given with whatever of them
is still there; and what is wrong is told together with what to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from pghaven.backup.archivewait import refuse_abandoned_timeline
from pghaven.backup.checks import find_owner_name, read_control
from pghaven.clock import CLOCK_TOLERANCE, SYSTEM_CLOCK, Clock
from pghaven.errors import Damaged, NotFound, ObjectMissing, PghavenError, Refused
from pghaven.events import Listener, Step
from pghaven.postgres.control import parse_control
from pghaven.postgres.datadir import WAL_DIRECTORY
from pghaven.proof.catalog import list_dumps, show_entries
from pghaven.proof.overall import find_overall
from pghaven.proof.problems import find_problems
from pghaven.proof.states import (
    ClusterStatus,
    RecoveryPoint,
    RepositorySilence,
    RepositoryState,
    ServerSilence,
    ServerState,
)
from pghaven.proof.windows import find_reach
from pghaven.repository.audits import load_audit
from pghaven.repository.drills import load_drills
from pghaven.repository.entry import BackupState
from pghaven.repository.evidence import find_last_damage, load_evidence
from pghaven.repository.gaps import WalGap
from pghaven.repository.horizon import find_horizon
from pghaven.repository.incidents import list_incidents
from pghaven.repository.keysource import Ask
from pghaven.repository.older import find_older
from pghaven.repository.outline import open_outlined
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.repository import Lineage, Repository
from pghaven.repository.walstore import WalArchive, describe_writer
from pghaven.server.backlog import count_waiting
from pghaven.server.connection import connect
from pghaven.server.postmaster import is_running
from pghaven.server.probe import probe_server
from pghaven.server.slots import find_slot
from pghaven.server.standbys import list_standbys
from pghaven.wal.agentstate import find_agent
from pghaven.wal.behind import BehindNotes
from pghaven.wal.gapcause import Traces, explain_gap
from pghaven.wal.ledger import take_stock
from pghaven.wal.passedover import read_passed_over
from pghaven.wal.room import measure_room

_STORE_HINT = "Is its file system mounted? Is the URL in the configuration right?"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSettings:
    """``receive_slot`` is the replication slot that is looked at; ``is_receiver_wanted`` whether it should be used, and
    ``receive_spool`` where it keeps what it has received and noted."""

    cluster: str
    data_directory: str
    conninfo: str
    repositories: tuple[RepositoryPlace, ...]
    ask: Ask | None = None
    receive_slot: str | None = None
    is_receiver_wanted: bool = False
    receive_spool: str | None = None


def gather_status(settings: StatusSettings, listener: Listener, *, clock: Clock = SYSTEM_CLOCK) -> ClusterStatus:
    """Ask the server and every repository. Reads only. Raises nothing of ours: silence is part of the answer."""
    listener(Step(text=f'asking the server of "{settings.cluster}"'))
    server = _ask_server(settings, clock)
    repositories: list[RepositoryState | RepositorySilence] = []
    for place in settings.repositories:
        listener(Step(text=f"reading {place.url}"))
        repositories.append(_ask_repository(settings, place, server, clock))
    behind = BehindNotes(f"{settings.data_directory}/{WAL_DIRECTORY}").read_all([one.name for one in repositories])
    repositories = [replace(one, behind=behind.get(one.name)) for one in repositories]
    agent = find_agent(settings.data_directory)
    now = clock.now()
    return ClusterStatus(
        cluster=settings.cluster,
        server=server,
        repositories=tuple(repositories),
        overall=find_overall(repositories, server.timeline if isinstance(server, ServerState) else None),
        problems=find_problems(settings.cluster, server, repositories, now, agent),
        looked_at=now,
        agent=agent,
    )


def _ask_server(settings: StatusSettings, clock: Clock) -> ServerState | ServerSilence:
    try:
        owner = find_owner_name(settings.data_directory)
        with closing(connect(settings.conninfo, os_user=owner)) as connection:
            facts = probe_server(connection)
            waiting = count_waiting(connection)
            receiver = None if settings.receive_slot is None else find_slot(connection, settings.receive_slot)
            standbys = list_standbys(connection, settings.receive_slot)
    except PghavenError as error:
        return ServerSilence(is_running=_find_running(settings), reason=error.message, hint=error.hint)
    return ServerState(
        version=facts.version,
        in_recovery=facts.in_recovery,
        timeline=facts.timeline,
        lsn=facts.lsn,
        system_identifier=facts.system_identifier,
        started=facts.started,
        archive_mode=facts.settings.get("archive_mode", ""),
        archiver=facts.archiver,
        waiting=waiting,
        room=measure_room(f"{settings.data_directory}/{WAL_DIRECTORY}", clock),
        receiver=receiver,
        is_receiver_wanted=settings.is_receiver_wanted,
        standbys=standbys,
    )


def _find_running(settings: StatusSettings) -> bool | None:
    if not os.path.isdir(settings.data_directory):
        return None  # it may be on another host
    try:
        return is_running(settings.data_directory) is not None
    except (PghavenError, OSError):
        return None


def _ask_repository(
    settings: StatusSettings, place: RepositoryPlace, server: ServerState | ServerSilence, clock: Clock
) -> RepositoryState | RepositorySilence:
    try:
        repository = open_place(place, clock=clock, ask=settings.ask)
        lineage = _find_lineage(settings, repository, server)
        state = _read_repository(settings, place.name, repository, lineage, server)
        older = () if place.memory is None else find_older(place.memory, repository, settings.cluster)
        return replace(state, single_writer=place.store.single_writer, older=older)
    except PghavenError as error:
        hint = error.hint or _STORE_HINT
        return RepositorySilence(name=place.name, url=place.url, reason=error.message, hint=hint)


def _find_lineage(settings: StatusSettings, repository: Repository, server: ServerState | ServerSilence) -> Lineage:
    """The life of the cluster that is meant: the server's, else the data directory's, else the newest one."""
    if isinstance(server, ServerState):
        return repository.require_lineage(settings.cluster, server.system_identifier)
    lineages = repository.list_lineages(settings.cluster)
    if not lineages:
        raise NotFound(
            f'cluster "{settings.cluster}" is not registered in repository {repository.store.url}',
            hint=f"Register it with: pghaven init {settings.cluster}",
        )
    try:
        identifier = parse_control(read_control(settings.data_directory, None)).system_identifier
    except PghavenError:
        return lineages[-1]
    return next((one for one in lineages if one.system_identifier == identifier), lineages[-1])


def _read_repository(
    settings: StatusSettings,
    name: str,
    repository: Repository,
    lineage: Lineage,
    server: ServerState | ServerSilence,
) -> RepositoryState:
    cluster, wal_directory = settings.cluster, f"{settings.data_directory}/{WAL_DIRECTORY}"
    archive = WalArchive(repository, cluster, lineage.system_identifier, lineage.wal_segment_size)
    catalog = open_outlined(repository, cluster)
    entries = catalog.list_entries()
    results = load_evidence(repository, cluster).results
    drills = load_drills(repository, cluster)
    backups = show_entries(catalog, entries, results, drills)
    # Of a damaged one it is not known whose it was.
    ours = {one.label for one in backups if one.system_identifier in (lineage.system_identifier, None)}
    committed = [one for one in entries if one.state is BackupState.COMMITTED and one.label in ours]
    quarantine = archive.list_quarantine()
    horizon = find_horizon(repository, cluster, lineage.system_identifier)
    reach = find_reach(archive, committed, {} if horizon is None else horizon.positions)
    incidents = list_incidents(repository, cluster, lineage.system_identifier)
    traces = Traces(
        incidents=incidents,
        wal_directory=wal_directory,
        results=results,
        entries=committed,
        passed_over=() if settings.receive_spool is None else read_passed_over(settings.receive_spool),
    )
    state = RepositoryState(
        name=name,
        url=repository.store.url,
        free_bytes=repository.store.free_bytes(),
        system_identifier=lineage.system_identifier,
        backups=tuple(one for one in backups if one.label in ours),
        reach=reach,
        recovery_point=None,
        quarantined=len(quarantine),
        quarantined_from=_find_writer(archive, quarantine),
        incidents=incidents,
        timelines=take_stock(archive, reads_segments=False).timelines,
        audit=load_audit(repository, cluster, lineage.system_identifier),
        drills=tuple(one for one in drills if one.system_identifier in (lineage.system_identifier, None)),
        proofs=load_drills(repository, cluster, of_dumps=True),
        explained=tuple(explain_gap(WalGap(first=gap.first, last=gap.last), traces) for gap in reach.gaps),
        fenced=_find_fence(archive, server),
        is_horizon_whole=horizon is not None,
        last_damage=find_last_damage(results),
        doubtful=next((one for one in results[:1] if one.doubt is not None), None),
        originals=frozenset(one.original for one in committed),
        dumps=tuple(one for one in list_dumps(catalog) if one.state.startswith("complete")),
    )
    return replace(state, recovery_point=_measure(state, server, repository.clock))


def _find_writer(archive: WalArchive, quarantine: Sequence[str]) -> str | None:
    try:
        return describe_writer(archive.read_quarantined_facts(quarantine[-1])) if quarantine else None
    except (Damaged, ObjectMissing):
        return None


def _find_fence(archive: WalArchive, server: ServerState | ServerSilence) -> str | None:
    if isinstance(server, ServerSilence):
        return None
    try:
        refuse_abandoned_timeline(archive, server.timeline, server.lsn)
    except Refused as error:
        return error.message
    return None


def _measure(state: RepositoryState, server: ServerState | ServerSilence, clock: Clock) -> RecoveryPoint | None:
    """From the end of what can be restored up to now; None when nothing can be."""
    window = state.find_window(server.timeline if isinstance(server, ServerState) else None)
    if window is None:
        return None
    age = None if window.end is None else clock.now() - window.end
    is_known = age is not None and age >= -CLOCK_TOLERANCE
    return RecoveryPoint(
        since=window.end,
        since_lsn=window.end_lsn,
        seconds=max(0.0, age.total_seconds()) if age is not None and is_known else None,
        unarchived_bytes=max(0, server.lsn - window.end_lsn) if isinstance(server, ServerState) else None,
    )
