"""What ``standby create`` does: plan, consent, copy, hand over.

The one idea: the repository's way and the primary's way differ in who brings the data, and in nothing else.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pghaven.cli.opening import list_places
from pghaven.cli.output import write_out
from pghaven.cli.restore_command import RestoreJob
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import Conflict, Refused, UsageError
from pghaven.events import Listener, Notice, Step
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.postgres.timeline import Timeline
from pghaven.restore.execute import find_owner_ids
from pghaven.restore.request import RestorePlan, RestoreRequest
from pghaven.server.identity import OsUser, find_owner, find_server_user, get_os_user
from pghaven.server.postmaster import is_running
from pghaven.server.programs import Programs, find_programs
from pghaven.setup.program import find_program
from pghaven.standby.access import find_passfile
from pghaven.standby.build import BuildPlan, BuildRequest, Built, plan_build, run_build, start_standby
from pghaven.standby.consent import apply_needs, require_ready
from pghaven.standby.lineage import find_place, open_archives
from pghaven.standby.programs import copy_from_server
from pghaven.standby.settings import StandbySettings
from pghaven.standby.upstream import Answer
from pghaven.wal.commands import render_restore_command

if TYPE_CHECKING:
    from pghaven.cli.invocation import Invocation
    from pghaven.cli.limiting import Limits
    from pghaven.config.values import ClusterConfig
    from pghaven.restore.sources import SourcedPlan

# pg_basebackup streams the WAL beside the data.
_COPY_SENDERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOptions:
    """``upstream`` is None for a standby that follows the archive alone."""

    data_directory: str
    source: str
    upstream: str | None
    tablespaces: Mapping[str, str]
    role: str | None = None
    passfile: str | None = None
    name: str | None = None
    slot: str | None = None
    reuse_slot: bool = False
    delay: float = 0.0
    port: int | None = None
    delta: bool = False
    backup: str | None = None
    repository: str | None = None
    apply: bool = False
    start: bool = False
    dry_run: bool = False


class CreateJob:
    def __init__(self, invocation: Invocation, cluster: ClusterConfig, limits: Limits, options: CreateOptions) -> None:
        self._invocation = invocation
        self._cluster = cluster
        self._options = options
        self._job = RestoreJob(invocation, cluster, limits, options.repository)

    def run(self) -> int:
        from pghaven.cli.standby_text import describe_created, describe_plan, render_build_plan, render_created

        invocation, options = self._invocation, self._options
        began = SYSTEM_CLOCK.monotonic()
        with invocation.reporter as listener:
            listener(Step(text="planning"))
            _refuse_running(options.data_directory)
            sourced = self._plan_restore() if options.source == "repository" else None
            user = self._find_user(None if sourced is None else sourced.plan)
            plan = plan_build(self._make_request(user))
            self._check_lineage(plan, sourced, listener)
        text = render_build_plan(plan, options, sourced)
        if options.dry_run:
            for notice in plan.notices:
                invocation.reporter(notice)
            return invocation.show("standby-create", {**describe_plan(plan, options, sourced), "dry_run": True}, text)
        if not invocation.json and not invocation.quiet:
            write_out(text)
        with invocation.reporter as listener:
            plan = self._make_ready(plan, listener)
            programs = self._find_programs(plan, sourced)
            built = run_build(
                plan, self._make_settings(plan), programs, self._find_copier(plan, sourced, programs), listener
            )
            if options.start:
                built = self._start(built, programs, listener)
        seconds = SYSTEM_CLOCK.monotonic() - began
        body = {**describe_plan(plan, options, sourced), "dry_run": False, **describe_created(built, seconds)}
        start = None if options.start else self._render_start(programs)
        return invocation.show("standby-create", body, render_created(options, built, seconds, start))

    # -- planning ---------------------------------------------------------------------------------------------------

    def _plan_restore(self) -> SourcedPlan:
        options = self._options
        request = RestoreRequest(
            cluster=self._cluster.name,
            target_dir=options.data_directory,
            target=RecoveryTarget(kind=TargetKind.LATEST),
            backup_label=options.backup,
            standby=True,
            archiving=True,  # when it is promoted it takes its primary's place
            tablespace_mapping=options.tablespaces,
            port=options.port,
            delta=options.delta,
        )
        return self._job.plan(request)

    def _find_user(self, plan: RestorePlan | None) -> OsUser | None:
        """Who will run the server; None for ourselves."""
        if os.geteuid() != 0:
            return None
        if plan is not None:
            owner = find_owner_ids(plan.manifest)
            return None if owner is None else get_os_user(pwd.getpwuid(owner[0]).pw_name)
        for place in (self._options.data_directory, self._cluster.data_directory):
            if os.path.isdir(place) and (found := find_owner(place)) is not None and found.uid != 0:
                return found
        return find_server_user()

    def _make_request(self, user: OsUser | None) -> BuildRequest:
        options = self._options
        return BuildRequest(
            cluster=self._cluster.name,
            data_directory=options.data_directory,
            upstream=options.upstream,
            name=options.name or os.path.basename(options.data_directory),
            role=options.role,
            slot=options.slot,
            reuse_slot=options.reuse_slot,
            delay_seconds=options.delay,
            passfile=options.passfile or find_passfile(user),
            port=options.port,
            user=user,
            senders=_COPY_SENDERS if options.source == "primary" else 1,
        )

    def _check_lineage(self, plan: BuildPlan, sourced: SourcedPlan | None, listener: Listener) -> None:
        """Raises Conflict for another cluster's server, Refused for one that was passed over or that the backup is not
        of."""
        if plan.upstream is None:
            return
        facts = plan.upstream.server
        if sourced is not None and sourced.plan.manifest.facts.system_identifier != facts.system_identifier:
            raise Conflict(
                f"the server to be followed has system identifier {facts.system_identifier}, but backup "
                f"{sourced.plan.backup.label} is of {sourced.plan.manifest.facts.system_identifier}",
                hint="It is another cluster's server: --primary, or the cluster's conninfo, leads to the wrong one.",
            )
        places = list_places(self._invocation.config, self._cluster)
        for view in open_archives(places, self._cluster.name, facts.system_identifier):
            if isinstance(view.error, Conflict):
                raise view.error
            if view.archive is None:
                text = f'repository "{view.name}" could not be asked: {view.error.message if view.error else ""}'
                listener(Notice(level="warning", code="repository_failed", text=text))
                continue
            place = find_place(view.archive, facts.timeline, facts.lsn)
            if not place.is_sound:
                raise Refused(
                    f"the server to be followed is {place.standing}: repository {view.name} goes on with timeline "
                    f"{place.newest}, and the server is at {facts.lsn} of timeline {facts.timeline}",
                    hint="It was passed over. Follow the server on the newest timeline, and rejoin this one to it.",
                )
        if sourced is not None and isinstance(plan.login, Answer) and plan.login.history is not None:
            summary = sourced.plan.backup.summary
            timeline, stop = Timeline(int(summary["timeline"])), Lsn.parse(summary["stop_lsn"])
            if not plan.login.history.contains_end(timeline, stop):
                raise Refused(
                    f"backup {sourced.plan.backup.label} does not lie on the history of timeline "
                    f"{plan.login.timeline}, which the server to be followed is on",
                    hint="Name an earlier one with --backup, or take one: pghaven backup " + self._cluster.name,
                )

    def _make_ready(self, plan: BuildPlan, listener: Listener) -> BuildPlan:
        if self._options.apply and plan.upstream is not None:
            return apply_needs(plan, listener)
        require_ready(plan)
        for one in plan.settings:
            now = f"{one.name} is {one.current or '(empty)'} on the server it follows"
            text = f"{now}, and better {one.wanted}: {one.reason}"
            listener(Notice(level="info", code="setting", text=text, hint="--apply changes it."))
        return plan

    # -- carrying out -----------------------------------------------------------------------------------------------

    def _find_programs(self, plan: BuildPlan, sourced: SourcedPlan | None) -> Programs:
        if sourced is not None:
            return find_programs(sourced.plan.manifest.facts.major, self._cluster.pg_bin)
        assert plan.upstream is not None
        return find_programs(plan.upstream.server.major.major, self._cluster.pg_bin)

    def _make_settings(self, plan: BuildPlan) -> StandbySettings:
        options, config = self._options, self._invocation.config
        program = find_program(self._cluster.program)
        return StandbySettings(
            cluster=self._cluster.name,
            restore_command=render_restore_command(program, config.source, self._cluster.name, None),
            primary_conninfo=plan.primary_conninfo,
            slot=options.slot,
            delay_seconds=options.delay,
            port=options.port,
        )

    def _find_copier(self, plan: BuildPlan, sourced: SourcedPlan | None, programs: Programs) -> Callable[[], None]:
        if sourced is not None:
            chosen = sourced

            def restore() -> None:
                self._job.carry_out(chosen)

            return restore
        options, upstream = self._options, plan.upstream
        assert upstream is not None
        assert plan.primary_conninfo is not None
        conninfo = plan.primary_conninfo
        _refuse_used(options)
        outside = [file.path for file in upstream.server.config_files if file.is_outside and file.role != "include"]
        if outside:
            raise Refused(
                f"the server keeps its configuration outside of its data directory ({outside[0]}), and pg_basebackup "
                "does not bring that",
                hint="Build the standby from the repository, which has it: --from repository",
            )

        def copy() -> None:
            _make_directory(options.data_directory, plan.request.user)
            copy_from_server(
                programs,
                conninfo,
                options.data_directory,
                slot=options.slot,
                tablespaces=options.tablespaces,
                user=plan.request.user,
            )

        return copy

    def _start(self, built: Built, programs: Programs, listener: Listener) -> Built:
        from dataclasses import replace

        options = self._options
        state = start_standby(
            options.data_directory,
            programs,
            options.upstream or self._cluster.conninfo,
            must_stream=options.upstream is not None,
            listener=listener,
        )
        return replace(built, state=state)

    def _render_start(self, programs: Programs) -> str:
        from pghaven.setup.restart import render_pg_ctl

        log = f"{self._options.data_directory}/pghaven.recovery.log"
        return render_pg_ctl(self._options.data_directory, programs.major, programs.bin_dir, f"-l {log} start")


def _refuse_running(data_directory: str) -> None:
    if os.path.isdir(data_directory) and is_running(data_directory) is not None:
        raise Refused(
            f'a server runs in "{data_directory}"',
            hint="Choose another --data. A former primary comes back with: pghaven standby rejoin",
        )


def _refuse_used(options: CreateOptions) -> None:
    """Raises Refused, UsageError."""
    if options.delta or options.backup is not None:
        raise UsageError("--delta and --backup go with --from repository only")
    if os.path.lexists(options.data_directory):
        if not os.path.isdir(options.data_directory):
            raise Refused(f'"{options.data_directory}" is no directory', hint="Choose another --data.")
        if os.listdir(options.data_directory):
            raise Refused(
                f'"{options.data_directory}" is not empty',
                hint="Choose another --data, or, over a data directory of the same cluster: --from repository --delta",
            )


def _make_directory(path: str, user: OsUser | None) -> None:
    if not os.path.isdir(path):
        os.makedirs(path, 0o700)
    os.chmod(path, 0o700)
    if user is not None:
        os.chown(path, user.uid, user.gid)
