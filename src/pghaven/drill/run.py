"""A drill from beginning to end.

    point → plan → files → recovery past a marker to the point → pages on disk → questions → evidence → nothing left

The one idea: whatever keeps the drill from its end, a refusal as much as damage, is a result like any other and is
kept: the drill failed there. Only who interrupts it gets no result.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.drill.comparing import MARKER, compare, find_lost_marker, find_marker
from pghaven.drill.contents import TableContents
from pghaven.drill.pages import PAGES, check_pages
from pghaven.drill.profile import ProfileTaker
from pghaven.drill.questions import Answers, OwnCheck, ask_all
from pghaven.drill.result import DrillResult, Reached, render_evidence
from pghaven.drill.server import DrillServer
from pghaven.drill.source import DrillSource
from pghaven.drill.target import DrillTarget, Policy, choose_target, list_windows
from pghaven.errors import NotFound, PghavenError, UsageError
from pghaven.events import Listener, Notice, Step
from pghaven.postgres.recovery import RecoveryTarget, TargetKind, render_target
from pghaven.proof.reached import find_last_transaction
from pghaven.proof.results import CheckResult, fail, good, skip, warn
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.drills import FROM_BACKUP, store_drill
from pghaven.repository.joined import JoinedArchive
from pghaven.repository.markers import Marker, find_markers
from pghaven.repository.repository import Repository
from pghaven.restore.execute import RestoreSettings
from pghaven.restore.request import RestoreRequest
from pghaven.restore.sources import SourcedPlan, Sources
from pghaven.server.connection import Connection, fetch_one, server_errors
from pghaven.server.programs import find_programs
from pghaven.server.scratch import ScratchPlace
from pghaven.units import render_size, render_time

SKIPPABLE: Final = (MARKER, PAGES, "rows", "indexes", "extensions", "collations")
"""Names of questions that may be left out; what was left out is in the result."""

# What a plan warns of and a restore of this point would not have: a drill is there to fail on it.
_GRAVE_NOTICES: Final = ("gap", "backup_gap", "wal_damaged", "backup_damaged", "comes_short")
_TAIL_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillSettings:
    """``given`` is the point where ``policy`` is GIVEN. ``roles`` are names that the cluster's superuser may have;
    ``preload`` are libraries that its tables cannot be read without. ``skipped`` are of SKIPPABLE. ``as_standby``: it
    follows the archive to its end as a standby does, and is promoted then; ``policy`` is LATEST."""

    cluster: str
    policy: Policy
    given: RecoveryTarget | None
    backup_label: str | None
    pg_bin: str | None
    roles: tuple[str, ...]
    own_checks: tuple[OwnCheck, ...]
    skipped: tuple[str, ...]
    preload: tuple[str, ...]
    timeout_seconds: float
    as_standby: bool = False


MakeRestore = Callable[[SourcedPlan], RestoreSettings]


def run_drill(
    source: DrillSource,
    settings: DrillSettings,
    place: ScratchPlace,
    make_restore: MakeRestore,
    listener: Listener,
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> DrillResult:
    """Restore into the place, ask, and keep what was found in the repository that gave the backup.

    Raises StoreUnreachable and the like when no repository can be opened, UsageError; all else is in the result.
    """
    drill = _Drill(source, settings, place, listener, clock)
    drill.run(make_restore)
    return drill.keep()


class _Drill:
    """What is known so far; ``_stage`` names the part that is under way, for what breaks it off."""

    def __init__(
        self, source: DrillSource, settings: DrillSettings, place: ScratchPlace, listener: Listener, clock: Clock
    ) -> None:
        self._source = source
        self._settings = settings
        self._place = place
        self._tell = listener
        self._clock = clock
        self._began = clock.monotonic()
        self._began_at = clock.now()
        self._name, self._repository = _open_first(source.sources)
        self._stage = "plan"
        self._checks: list[CheckResult] = []
        self._contents: list[TableContents] = []
        self._seconds: dict[str, float] = {}
        self._target: DrillTarget | None = None
        self._sourced: SourcedPlan | None = None
        self._server: DrillServer | None = None
        self._reached: Reached | None = None
        self._marker: Marker | None = None
        self._manifest_hash: str | None = None
        self._bytes = (0, 0)
        self._profile: tuple[float, ...] = ()

    def run(self, make_restore: MakeRestore) -> None:
        try:
            sourced = self._plan()
            restore = make_restore(sourced)
            profile = ProfileTaker(self._tell, self._clock)
            with self._measured("fetch", "files"):
                self._sourced, done = self._source.carry_out(sourced, restore, profile)
            self._profile = profile.take()
            self._bytes = (done.written_bytes, done.fetched_bytes)
            self._checks.append(good("files", f"{render_size(done.written_bytes)} restored, every frame as stored"))
            self._start(restore)
        except UsageError:
            raise
        except PghavenError as error:
            self._checks.append(fail(self._stage, _describe(error), error.hint))
        except psycopg.Error as error:
            text = " ".join(str(error).split())
            tail = "" if self._server is None else self._server.read_log_tail()
            self._checks.append(fail(self._stage, _with_tail(f"the restored server failed: {text}", tail)))
        finally:
            if self._server is not None:
                self._server.end()

    # -- parts ------------------------------------------------------------------------------------------------------

    def _plan(self) -> SourcedPlan:
        settings = self._settings
        with self._measured("plan", "plan"):
            self._tell(Step(text="choosing a point and planning"))
            self._target = self._choose()
            request = RestoreRequest(
                cluster=settings.cluster,
                target_dir=self._place.path("data"),
                target=self._target.recovery,
                standby=settings.as_standby,
                backup_label=settings.backup_label,
                tablespaces_below=self._place.make_directory("tablespaces"),
            )
            sourced = self._sourced = _without_port(self._source.plan(request))
            self._name, self._repository = sourced.name, sourced.repository
            if self._source.kind == FROM_BACKUP:
                catalog = BackupCatalog(sourced.repository, settings.cluster)
                self._manifest_hash = catalog.find_manifest(sourced.plan.backup)[1]
            self._judge_plan(sourced)
        return sourced

    def _choose(self) -> DrillTarget:
        settings = self._settings
        if settings.given is not None:
            return DrillTarget(policy=Policy.GIVEN, recovery=settings.given)
        begin = self._source.find_begin()
        windows = list_windows(self._repository, settings.cluster, settings.backup_label, begin)
        return choose_target(settings.policy, windows, random.SystemRandom())

    def _judge_plan(self, sourced: SourcedPlan) -> None:
        plan, cluster = sourced.plan, self._settings.cluster
        grave = [one for one in plan.notices if one.code in _GRAVE_NOTICES]
        for one in grave:
            self._checks.append(fail("plan", one.text, one.hint or f"What is wrong: pghaven status {cluster}"))
        self._checks += [warn("plan", one.text, one.hint) for one in plan.notices if one.code == "repository_failed"]
        markers = find_markers(self._repository, cluster, plan.manifest.facts.system_identifier)
        self._marker = find_marker(markers, plan)
        lost = find_lost_marker(markers, plan) if plan.request.target.kind is TargetKind.LATEST else None
        if lost is not None:
            text = (
                f"the archive ends at {plan.wal.end_lsn}, before the marker at {lost.lsn}, whose WAL was archived at "
                f"{render_time(lost.written_at)}: WAL is missing at the end"
            )
            hint = f"Take a new backup: pghaven backup {cluster}"
            self._checks.append(fail("plan", text, hint))
        elif not grave:
            wal = plan.wal
            text = f"{self._source.kind} {plan.backup.label} and {wal.segment_count} WAL segments lead to {wal.end_lsn}"
            self._checks.append(good("plan", text))

    def _start(self, restore: RestoreSettings) -> None:
        assert self._sourced is not None
        plan, settings = self._sourced.plan, self._settings
        self._stage = "recovery"
        programs = find_programs(plan.manifest.facts.major, settings.pg_bin)
        server = self._server = DrillServer(
            plan,
            self._place,
            programs,
            restore_command=restore.restore_command,
            preload=settings.preload,
            roles=settings.roles,
            deadline=self._began + settings.timeout_seconds,
            statement_seconds=settings.timeout_seconds,
            clock=self._clock,
        )
        with self._measured("replay", "recovery"):
            self._pass_marker(server)
            self._stage = "recovery"
            self._tell(Step(text=f"replaying WAL up to {plan.wal.end_lsn}"))
            lsn, timeline = server.follow() if settings.as_standby else server.recover()
        if settings.as_standby:
            text = f"it followed the archive to {lsn} as a standby, and was promoted to timeline {timeline}"
            self._checks.append(good("standby", text))
        with server.connect("postgres") as connection, server_errors(connection, "ask the first query"):
            fetch_one(connection, "SELECT 1")
        # A restore in earnest does not stop to compare.
        compared = self._seconds.get("compare", 0.0)
        self._seconds["replay"] -= compared
        self._seconds["first_query"] = self._clock.monotonic() - self._began - compared
        self._judge_point(self._sourced, Reached(lsn=lsn, timeline=timeline, time=None))
        with self._measured("stop", "recovery"):
            server.stop()
        with self._measured("questions", PAGES):
            if PAGES not in settings.skipped:
                self._tell(Step(text="checking the pages' checksums"))
                self._checks.append(check_pages(server, self._place))
            self._ask(server)

    def _pass_marker(self, server: DrillServer) -> None:
        if MARKER in self._settings.skipped:
            return
        marker = self._marker
        if marker is None:
            text = f"none lies between the backup and the point; to write one: pghaven mark {self._settings.cluster}"
            self._checks.append(skip(MARKER, text))
            return
        self._stage = MARKER
        self._tell(Step(text=f"replaying WAL up to the marker at {marker.lsn}, and comparing"))

        def look(connect: Callable[[str], Connection]) -> CheckResult:
            with self._measured("compare", MARKER):
                return compare(marker, connect)

        self._checks.append(server.recover_to(marker.lsn, look))

    def _judge_point(self, sourced: SourcedPlan, reached: Reached) -> None:
        plan, target = sourced.plan, sourced.plan.request.target
        lineage = sourced.repository.require_lineage(self._settings.cluster, plan.manifest.facts.system_identifier)
        archive = JoinedArchive(sourced.repository, sourced.others, self._settings.cluster, lineage)
        last = find_last_transaction(archive, plan.wal, reached.lsn)
        self._reached = replace(reached, time=last)
        told = "" if last is None else f"; the last transaction that is back ended at {render_time(last)}"
        if target.time is not None and last is not None and last > target.time:
            self._checks.append(fail("point", f"recovery went past {render_time(target.time)}{told}"))
            return
        text = f"recovery reached {reached.lsn}, promised was {plan.wal.end_lsn}{told}"
        self._checks.append(good("point", text))

    def _ask(self, server: DrillServer) -> None:
        self._stage = "questions"
        settings, answers = self._settings, Answers()
        self._tell(Step(text="asking the restored server"))
        try:
            with server.open_closed():
                ask_all(server.connect, settings.own_checks, settings.skipped, answers)
        finally:
            self._checks += answers.results
            self._contents = answers.contents
        self._checks += [skip(name, "left out, as was asked for") for name in settings.skipped]

    @contextmanager
    def _measured(self, part: str, stage: str) -> Iterator[None]:
        self._stage = stage
        began = self._clock.monotonic()
        try:
            yield
        finally:
            self._seconds[part] = self._clock.monotonic() - began

    # -- result -----------------------------------------------------------------------------------------------------

    def keep(self) -> DrillResult:
        """The result, kept in the repository if that can be; else with a warning."""
        result = self._make_result()
        try:
            name = store_drill(self._repository, result.cluster, render_evidence(result, socket.gethostname()))
        except PghavenError as error:
            hint = "It counts for nobody who asks later: `pghaven status` will not know of it."
            text = f"the result could not be kept: {error.message}"
            self._tell(Notice(level="warning", code="evidence", text=text, hint=hint))
            return result
        return replace(result, evidence=name, is_signed=self._repository.keyring.can_sign)

    def _make_result(self) -> DrillResult:
        plan = None if self._sourced is None else self._sourced.plan
        facts = None if plan is None else plan.manifest.facts
        target, reached = self._target, self._reached
        self._seconds["total"] = self._clock.monotonic() - self._began
        return DrillResult(
            cluster=self._settings.cluster,
            repository=self._name,
            began_at=self._began_at,
            policy=str(self._settings.policy if target is None else target.policy),
            target="not chosen" if target is None else render_target(target.recovery),
            backup=None if plan is None else plan.backup.label,
            manifest_hash=self._manifest_hash,
            system_identifier=None if facts is None else facts.system_identifier,
            source=self._source.kind,
            as_standby=self._settings.as_standby,
            server_version=None if self._server is None else self._server.programs.version,
            promised_lsn=None if plan is None else plan.wal.end_lsn,
            reached=reached,
            marker=None if self._marker is None else self._marker.name,
            checks=tuple(self._checks),
            contents=tuple(self._contents),
            seconds=dict(self._seconds),
            written_bytes=self._bytes[0],
            fetched_bytes=self._bytes[1],
            replayed_bytes=0 if reached is None or facts is None else reached.lsn - facts.start_lsn,
            fetch_profile=self._profile,
        )


def _without_port(sourced: SourcedPlan) -> SourcedPlan:
    """The plan without its word on the port of the restored server: a drill's listens on none."""
    kept = tuple(one for one in sourced.plan.notices if one.code != "port")
    return replace(sourced, plan=replace(sourced.plan, notices=kept))


def _open_first(sources: Sources) -> tuple[str, Repository]:
    """The first repository that can be opened, for evidence. Raises the first one's error when there is none."""
    failure: PghavenError | None = None
    for place in sources.places:
        try:
            return place.name, sources.open(place)
        except PghavenError as error:
            failure = failure or error
    raise failure or NotFound("the cluster has no repository")


def _describe(error: PghavenError) -> str:
    return _with_tail(error.message, error.detail or "")


def _with_tail(text: str, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()][-_TAIL_LINES:]
    return f"{text} ({' / '.join(lines)})" if lines else text
