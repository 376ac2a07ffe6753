"""Every link between a server and its repository, tried one after another.

The one idea: a check that cannot be made because an earlier one failed is told as skipped, never left out, so that the
list is always whole; and the one that proves most, a segment's way into the repository and back, is really made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from pghaven.backup.checks import check_data_directory
from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import NotPermitted, PghavenError
from pghaven.events import Listener, Step
from pghaven.postgres.datadir import WAL_DIRECTORY
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.version import require_supported
from pghaven.proof.judgements import (
    judge_archive_command,
    judge_archiver,
    judge_backlog,
    judge_lineage,
    judge_newest_backup,
    judge_old_settings,
    judge_privileges,
    judge_repository_space,
    judge_settings,
    judge_standby_archive,
    judge_wal_space,
    list_old_files,
)
from pghaven.proof.problems import ONE_WRITER, ONE_WRITER_HINT
from pghaven.proof.receiving import check_agent, check_receiver
from pghaven.proof.results import CheckResult, fail, good, skip, warn
from pghaven.proof.roundtrip import RoundTripSettings, run_round_trip
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry
from pghaven.repository.keysource import Ask
from pghaven.repository.layout import PROBE
from pghaven.repository.older import refuse_older
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.repository import Lineage, Repository
from pghaven.repository.walstore import WalArchive
from pghaven.server.backlog import count_waiting
from pghaven.server.connection import connect
from pghaven.server.identity import OsUser
from pghaven.server.probe import ServerFacts, probe_server
from pghaven.server.rights import list_missing_privileges
from pghaven.server.slots import find_slot
from pghaven.setup.program import try_program
from pghaven.setup.register import find_server_os_user, find_unwritable
from pghaven.setup.settings import plan_setup, read_written_command
from pghaven.store.api import Store
from pghaven.store.probe import KEPT, probe_store
from pghaven.units import render_duration, render_size, render_time
from pghaven.wal.agentstate import find_agent
from pghaven.wal.behind import BehindNotes

_RESTORE_POINT = "pg_create_restore_point"
_SWITCH = "pg_switch_wal"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """What is checked. ``program`` are the words that start pghaven on this host, ``archive_command`` what the server
    should be set to; ``ask`` asks a person for a passphrase. ``receive_slot`` and ``is_receiver_wanted`` as in
    ``StatusSettings``; ``fails_over``: Patroni runs the server."""

    cluster: str
    data_directory: str
    conninfo: str
    repositories: tuple[RepositoryPlace, ...]
    config_path: str
    program: tuple[str, ...]
    archive_command: str
    round_trip_seconds: float
    ask: Ask | None = None
    receive_slot: str | None = None
    is_receiver_wanted: bool = False
    fails_over: bool = False


@dataclass(slots=True, kw_only=True)
class _Place:
    """A repository that could be opened, and what it knows of the cluster."""

    name: str
    label: str
    repository: Repository
    lineage: Lineage | None = None
    entries: tuple[BackupEntry, ...] = field(default=())

    def archive(self, cluster: str) -> WalArchive | None:
        if self.lineage is None:
            return None
        return WalArchive(self.repository, cluster, self.lineage.system_identifier, self.lineage.wal_segment_size)


def run_checks(settings: CheckSettings, listener: Listener, *, clock: Clock = SYSTEM_CLOCK) -> tuple[CheckResult, ...]:
    """Try everything, in the order in which one thing needs another. Raises nothing of ours: it becomes a result.

    On a primary one WAL segment is finished and, where the role may, a restore point is created; nothing else is
    written.
    """
    with ExitStack() as cleanup:
        checks = _Checks(settings, listener, clock, cleanup)
        return checks.run()


class _Checks:
    def __init__(self, settings: CheckSettings, listener: Listener, clock: Clock, cleanup: ExitStack) -> None:
        self._settings = settings
        self._tell = listener
        self._clock = clock
        self._cleanup = cleanup
        self._results: list[CheckResult] = []
        self._places: list[_Place] = []
        self._missing: tuple[str, ...] = ()

    def run(self) -> tuple[CheckResult, ...]:
        settings = self._settings
        self._results.append(good("configuration", f'{settings.config_path}, cluster "{settings.cluster}"'))
        self._user = find_server_os_user(settings.data_directory)
        for address in settings.repositories:
            self._check_repository(address)
        facts = self._reach_server()
        if facts is None:
            for name in (
                "data directory",
                "lineage",
                "settings",
                "archive_command",
                "archiver",
                "backlog",
                "WAL round trip",
            ):
                self._results.append(skip(name, "needs the server"))
        else:
            self._check_server(facts)
        for place in self._places:
            self._check_backups(place, facts)
        return tuple(self._results)

    # -- repository -------------------------------------------------------------------------------------------------

    def _check_repository(self, address: RepositoryPlace) -> None:
        label = "repository" if len(self._settings.repositories) == 1 else f'repository "{address.name}"'
        self._tell(Step(text=f"opening {address.url}"))
        try:
            repository = open_place(address, clock=self._clock, ask=self._settings.ask)
            unwritable = find_unwritable(repository, self._user)
            if address.memory is not None:
                refuse_older(address.memory, repository, self._settings.cluster, "it is not what it was")
        except NotPermitted as error:
            self._results.append(fail(label, error.message, error.hint))
            return
        except PghavenError as error:
            hint = error.hint or "Is its file system mounted? Is the URL in the configuration right?"
            self._results.append(fail(label, error.message, hint))
            return
        if unwritable is not None:
            hint = "Give the directory, and what is in it, to the user the server runs as."
            self._results.append(fail(label, unwritable, hint))
        else:
            free = repository.store.free_bytes()
            text = f"{address.url} is reachable" + ("" if free is None else f", {render_size(free)} free")
            self._results.append(good(label, text))
            self._results += self._probe(repository.store, address)
        self._places.append(_Place(name=address.name, label=label, repository=repository))

    def _probe(self, store: Store, address: RepositoryPlace) -> Iterator[CheckResult]:
        if address.store.single_writer:
            yield warn("store", ONE_WRITER.format(name=address.name), ONE_WRITER_HINT)
            return
        try:
            probe = probe_store(store, PROBE)
        except PghavenError as error:
            yield fail("store", error.message, error.hint)
            return
        if probe is not None and probe.keeps_promises:
            yield good("store", KEPT)
        elif probe is not None:
            yield fail("store", "; ".join(probe.list_failures()), ONE_WRITER_HINT)

    # -- server -----------------------------------------------------------------------------------------------------

    def _reach_server(self) -> ServerFacts | None:
        settings = self._settings
        self._tell(Step(text="connecting to the server"))
        try:
            owner = None if self._user is None else self._user.name
            self._connection = self._cleanup.enter_context(connect(settings.conninfo, os_user=owner))
            version = require_supported(self._connection.info.server_version)
            self._missing = list_missing_privileges(self._connection)
            role = self._connection.info.user
            if "pg_monitor" in self._missing:
                self._results.append(good("server", f'PostgreSQL {version}, connected as role "{role}"'))
                self._results.append(judge_privileges(role, self._missing))
                return None
            facts = probe_server(self._connection)
        except PghavenError as error:
            self._results.append(fail("server", error.message, error.hint))
            self._results.append(skip("privileges", "needs the server"))
            return None
        kind = "standby" if facts.in_recovery else "primary"
        text = f"PostgreSQL {facts.version}, {kind} on timeline {facts.timeline}, connected as role {facts.role}"
        self._results += [good("server", text), judge_privileges(facts.role, self._missing)]
        return facts

    def _check_server(self, facts: ServerFacts) -> None:
        settings = self._settings
        here = self._check_data_directory(facts)
        for place in self._places:
            self._check_lineage(place, facts)
        written = read_written_command(self._connection)
        plan = plan_setup(facts, settings.archive_command, written, fails_over=settings.fails_over)
        self._results += judge_settings(settings.cluster, plan)
        command = facts.settings.get("archive_command", "")
        self._results.append(judge_archive_command(command, settings.archive_command, settings.cluster))
        if here:
            self._check_program()
        self._results.append(judge_archiver(facts, count_waiting(self._connection)))
        for place in self._places:
            self._check_backlog(place, facts)
        self._results += judge_old_settings(facts.settings, self._list_old_files() if here else ())
        self._check_round_trip(facts)
        self._results.append(judge_wal_space(self._find_wal_space(), facts))
        self._check_receiver(facts)
        self._results += check_agent(find_agent(settings.data_directory))

    def _check_receiver(self, facts: ServerFacts) -> None:
        """Told of only where there is one, or should be."""
        settings, name = self._settings, "receiver"
        if settings.receive_slot is None:
            return
        try:
            slot = find_slot(self._connection, settings.receive_slot)
        except PghavenError as error:
            self._results.append(fail(name, error.message, error.hint))
            return
        self._results += check_receiver(settings.cluster, slot, facts.lsn, is_wanted=settings.is_receiver_wanted)

    def _check_data_directory(self, facts: ServerFacts) -> bool:
        try:
            check_data_directory(self._settings.data_directory, facts)
        except PghavenError as error:
            self._results.append(fail("data directory", error.message, error.hint))
            return False
        self._results.append(good("data directory", f'the server runs on "{self._settings.data_directory}"'))
        return True

    def _check_lineage(self, place: _Place, facts: ServerFacts) -> None:
        try:
            place.lineage = place.repository.require_lineage(self._settings.cluster, facts.system_identifier)
        except PghavenError as error:
            self._results.append(fail("lineage", error.message, error.hint))
            return
        self._results.append(judge_lineage(self._settings.cluster, facts, place.lineage))

    def _check_program(self) -> None:
        """Whether the server's user can do what archive_command asks of it."""
        settings = self._settings
        self._tell(Step(text="running pghaven as the server's user"))
        who = describe_user(self._user)
        try:
            failure = try_program(settings.program, settings.config_path, settings.cluster, self._user)
        except NotPermitted as error:
            self._results.append(skip("program", error.message))
            return
        if failure is None:
            text = f"{who} can run it, read the configuration and reach the repository"
            self._results.append(good("program", text))
        else:
            self._results.append(fail("program", failure.reason, failure.hint))

    def _list_old_files(self) -> tuple[str, ...]:
        directory = self._settings.data_directory
        return tuple(name for name in list_old_files() if os.path.lexists(os.path.join(directory, name)))

    def _find_wal_space(self) -> int | None:
        try:
            found = os.statvfs(os.path.join(self._settings.data_directory, "pg_wal"))
        except OSError:
            return None
        return found.f_bavail * found.f_frsize

    # -- WAL --------------------------------------------------------------------------------------------------------

    def _check_backlog(self, place: _Place, facts: ServerFacts) -> None:
        archive = place.archive(self._settings.cluster)
        name = place.label.replace("repository", "backlog", 1)
        if archive is None:
            self._results.append(skip(name, "needs the cluster's registration"))
            return
        notes = BehindNotes(os.path.join(self._settings.data_directory, WAL_DIRECTORY))

        def make() -> list[CheckResult]:
            newest = archive.find_newest_segment(facts.timeline)
            behind = None if newest is None else max(0, facts.lsn - newest.end_lsn)
            missed = notes.read(place.name)
            return [judge_backlog(name, self._settings.cluster, missed, behind, facts.wal_segment_size)]

        self._guarded(name, make)

    def _check_round_trip(self, facts: ServerFacts) -> None:
        name = "WAL round trip"
        archives = [archive for place in self._places if (archive := place.archive(self._settings.cluster))]
        if not archives or len(archives) < len(self._settings.repositories):
            self._results.append(skip(name, "needs the repository and the cluster's registration"))
        elif facts.in_recovery:
            self._guarded(name, lambda: [self._check_standby(archive, facts) for archive in archives])
        elif facts.settings.get("archive_mode") == "off":
            self._results.append(skip(name, "archive_mode is off"))
        elif any(_SWITCH in one for one in self._missing):
            self._results.append(skip(name, "the role may not switch to a new segment"))
        else:
            self._guarded(name, lambda: [self._make_round_trip(archives, facts)])

    def _make_round_trip(self, archives: Sequence[WalArchive], facts: ServerFacts) -> CheckResult:
        settings = RoundTripSettings(
            version=facts.major,
            may_name=not any(_RESTORE_POINT in one for one in self._missing),
            timeout_seconds=self._settings.round_trip_seconds,
        )
        trip = run_round_trip(self._connection, archives, settings, self._clock, self._tell)
        text = f"segment {trip.segment} was archived, read back and is whole after {render_duration(trip.seconds)}"
        return good("WAL round trip", text, seconds=trip.seconds)

    def _check_standby(self, archive: WalArchive, facts: ServerFacts) -> CheckResult:
        """What can be proven on a standby: that the archive's newest segment is whole, and not far behind."""
        name = "WAL round trip"
        segments = list(archive.list_segments(facts.timeline))
        if not segments:
            text = f"this is a standby, and the archive holds no WAL of its timeline {facts.timeline}"
            return warn(name, text, "Run pghaven check on the primary.")
        newest = segments[-1]
        archive.require_whole(newest.name, facts.major)
        behind = judge_standby_archive(facts.lsn, Lsn(newest.name.end_lsn), facts.wal_segment_size)
        if behind is not None:
            return behind
        text = (
            f"not made on a standby; the primary's newest segment {newest.name}, archived "
            f"{render_time(newest.modified)}, is whole"
        )
        return good(name, text)

    def _guarded(self, name: str, make: Callable[[], list[CheckResult]]) -> None:
        try:
            self._results += make()
        except PghavenError as error:
            detail = f" ({error.detail})" if error.detail else ""
            self._results.append(fail(name, f"{error.message}{detail}", error.hint))

    # -- backups ----------------------------------------------------------------------------------------------------

    def _check_backups(self, place: _Place, facts: ServerFacts | None) -> None:
        cluster = self._settings.cluster
        try:
            committed = BackupCatalog(place.repository, cluster).list_committed()
            space = place.repository.store.free_bytes()
        except PghavenError as error:
            self._results.append(fail("backup", error.message, error.hint))
            return
        ours = [
            one
            for one in committed
            if facts is None or int(one.summary["system_identifier"]) == facts.system_identifier
        ]
        self._results.append(judge_newest_backup(cluster, ours, self._clock.now()))
        self._results.append(judge_repository_space(space, ours, f"{place.label} space"))


def describe_user(user: OsUser | None) -> str:
    return "this user" if user is None else f'operating-system user "{user.name}"'
