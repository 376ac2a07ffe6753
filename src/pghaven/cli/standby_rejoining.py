"""What ``standby rejoin`` does: look, keep, and one way after the other until one has succeeded.

The one idea: a way that fails says why and leaves its directory to the next one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pghaven.cli.opening import list_places
from pghaven.cli.output import write_out
from pghaven.cli.standby_making import CreateJob, CreateOptions
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import (
    Damaged,
    NotFound,
    PghavenError,
    Refused,
    ServerUnsuitable,
    StoreUnreachable,
    TargetFailed,
)
from pghaven.events import Listener, Notice, Step
from pghaven.postgres.lsn import Lsn
from pghaven.repository.backups import BackupCatalog
from pghaven.server.connection import connect
from pghaven.server.instance import Instance
from pghaven.server.postmaster import is_running
from pghaven.server.programs import Programs, find_programs
from pghaven.server.walcontrol import run_checkpoint
from pghaven.standby.build import Built, drop_slot, find_too_small, make_slot, plan_build, start_standby
from pghaven.standby.lineage import open_archives
from pghaven.standby.programs import copy_from_server
from pghaven.standby.rejoin import (
    Former,
    Way,
    WayChoice,
    bring_config_back,
    choose_ways,
    finish,
    keep_wal,
    read_former,
    read_tablespace_mapping,
    refuse_running,
    require_on_line,
    rewind,
    set_config_aside,
    swap_in,
)
from pghaven.standby.settings import write_standby
from pghaven.standby.upstream import Answer
from pghaven.units import render_duration

if TYPE_CHECKING:
    from pghaven.cli.invocation import Invocation
    from pghaven.cli.limiting import Limits
    from pghaven.config.values import ClusterConfig
    from pghaven.restore.sources import SourcedPlan
    from pghaven.standby.build import BuildPlan

# What ends one way and lets the next one try.
_PASSED_ON = (ServerUnsuitable, NotFound, StoreUnreachable, Damaged, Refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class RejoinOptions:
    data_directory: str
    upstream: str
    way: str | None = None
    role: str | None = None
    passfile: str | None = None
    name: str | None = None
    slot: str | None = None
    reuse_slot: bool = False
    delay: float = 0.0
    repository: str | None = None
    stop: bool = False
    apply: bool = False
    start: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejoined:
    """How it came back. ``old_directory`` is where the old one is, ``saved_wal`` where its own WAL is, if anywhere."""

    way: Way
    told: str
    failed: tuple[tuple[Way, str], ...]
    saved_wal: str | None
    old_directory: str | None


class RejoinJob(CreateJob):
    """Builds on what building a standby does with its upstream."""

    def __init__(self, invocation: Invocation, cluster: ClusterConfig, limits: Limits, options: RejoinOptions) -> None:
        shared = CreateOptions(
            data_directory=options.data_directory,
            source="primary",
            upstream=options.upstream,
            tablespaces={},
            role=options.role,
            passfile=options.passfile,
            name=options.name,
            slot=options.slot,
            reuse_slot=options.reuse_slot,
            delay=options.delay,
            delta=True,
            repository=options.repository,
            apply=options.apply,
        )
        super().__init__(invocation, cluster, limits, shared)
        self._wanted = options
        self._old_directory: str | None = None

    def run(self) -> int:
        invocation, wanted = self._invocation, self._wanted
        began = SYSTEM_CLOCK.monotonic()
        with invocation.reporter as listener:
            listener(Step(text="looking at both servers"))
            if not wanted.stop or wanted.dry_run:
                refuse_running(wanted.data_directory)
            plan = plan_build(self._make_request(self._find_user(None)))
            self._check_lineage(plan, None, listener)
            plan = self._make_ready(plan, listener)
            assert plan.upstream is not None
            assert isinstance(plan.login, Answer)
            programs = find_programs(plan.upstream.server.major.major, self._cluster.pg_bin)
            if wanted.stop and not wanted.dry_run:
                self._stop(programs, listener)
            history = plan.login.history
            assert history is not None
            former = read_former(wanted.data_directory, plan.upstream.server.system_identifier, history)
            ways = choose_ways(former, None if wanted.way is None else Way(wanted.way))
        text = _render_ways(former, ways, plan)
        body: dict[str, object] = {"data_directory": wanted.data_directory, "ways": ways, "dry_run": wanted.dry_run}
        if wanted.dry_run:
            return invocation.show("standby-rejoin", body, text)
        if not invocation.json and not invocation.quiet:
            write_out(text)
        with invocation.reporter as listener:
            done, built = self._carry_out(plan, former, ways, programs, listener)
        seconds = SYSTEM_CLOCK.monotonic() - began
        start = None if wanted.start else self._render_start(programs)
        body |= {"rejoined": done, "total_seconds": seconds, "started": built.state is not None}
        return invocation.show("standby-rejoin", body, _render_done(done, built, wanted.data_directory, seconds, start))

    def _stop(self, programs: Programs, listener: Listener) -> None:
        directory = self._wanted.data_directory
        if os.path.isdir(directory) and is_running(directory) is not None:
            listener(Step(text="stopping the former primary"))
            Instance(directory, programs, log_path=f"{directory}/pghaven.recovery.log").stop("fast")

    def _carry_out(
        self, plan: BuildPlan, former: Former, ways: Sequence[WayChoice], programs: Programs, listener: Listener
    ) -> tuple[Rejoined, Built]:
        wanted = self._wanted
        assert plan.upstream is not None
        for notice in plan.notices:
            listener(notice)
        places = list_places(self._invocation.config, self._cluster)
        views = open_archives(places, self._cluster.name, plan.upstream.server.system_identifier)
        archives = [view.archive for view in views if view.archive is not None]
        saved = keep_wal(former, archives, self._make_push(), listener, clock=SYSTEM_CLOCK)
        set_config_aside(wanted.data_directory)
        made = make_slot(plan)
        try:
            way, told, failed = self._try_ways(plan, ways, programs, listener)
            bring_config_back(wanted.data_directory)
            raised = find_too_small(plan, programs, listener)
            settings = self._make_settings(plan)
            settings = replace(settings, more={name: str(value) for name, value in raised.items()})
            write_standby(wanted.data_directory, settings)
        except BaseException:
            if made:
                drop_slot(plan)
            raise
        finish(wanted.data_directory)
        built = Built(settings=settings, raised=raised, state=None)
        if wanted.start:
            state = start_standby(wanted.data_directory, programs, wanted.upstream, must_stream=True, listener=listener)
            built = replace(built, state=state)
        done = Rejoined(way=way, told=told, failed=tuple(failed), saved_wal=saved, old_directory=self._old_directory)
        return done, built

    def _try_ways(
        self, plan: BuildPlan, ways: Sequence[WayChoice], programs: Programs, listener: Listener
    ) -> tuple[Way, str, list[tuple[Way, str]]]:
        failed: list[tuple[Way, str]] = []
        last: PghavenError | None = None
        for one in ways:
            if not one.is_possible:
                failed.append((one.way, one.reason))
                continue
            try:
                return one.way, self._go(one.way, plan, programs, listener), failed
            except _PASSED_ON as error:
                if isinstance(error, TargetFailed):
                    raise
                last = error
                failed.append((one.way, error.message))
                text = f"{one.way.value} did not work: {error.message}"
                listener(Notice(level="info", code="way_failed", text=text, hint=error.hint))
        if last is not None:
            raise last
        raise Refused(
            "there is no way back for this directory: " + "; ".join(f"{way.value}: {reason}" for way, reason in failed),
            hint="Leave out --way.",
        )

    def _go(self, way: Way, plan: BuildPlan, programs: Programs, listener: Listener) -> str:
        if way is Way.REWIND:
            return self._rewind(plan, programs, listener)
        if way is Way.REPOSITORY:
            return self._restore(plan, listener)
        return self._copy(plan, programs, listener)

    def _rewind(self, plan: BuildPlan, programs: Programs, listener: Listener) -> str:
        wanted, request = self._wanted, plan.request
        with closing(connect(wanted.upstream, os_user=None if request.user is None else request.user.name)) as there:
            # Until its first checkpoint a promoted server's control file shows the old timeline: pg_rewind goes by it.
            run_checkpoint(there)
            info = there.info
            source = f"host='{info.host}' port={info.port} user='{info.user}' dbname='{info.dbname}'"
        if request.passfile is not None:
            source += f" passfile='{request.passfile}'"
        write_standby(wanted.data_directory, self._make_settings(plan), signal=False)
        listener(Step(text="rewinding"))
        return rewind(programs, wanted.data_directory, source, request.user)

    def _restore(self, plan: BuildPlan, listener: Listener) -> str:
        directory = self._wanted.data_directory
        assert plan.upstream is not None
        assert isinstance(plan.login, Answer)
        assert plan.login.history is not None
        original = [(one.oid, one.path) for one in plan.upstream.server.tablespaces]
        self._options = replace(self._options, tablespaces=read_tablespace_mapping(directory, original))
        sourced = self._plan_restore()
        summary = sourced.plan.backup.summary
        label = sourced.plan.backup.label
        require_on_line(plan.login.history, int(summary["timeline"]), Lsn.parse(summary["stop_lsn"]), label)
        _require_packs(sourced, self._cluster.name)
        listener(Step(text=f"restoring backup {label} over what is there"))
        _, result = self._job.carry_out(sourced)
        return f"backup {label}, {result.proven_bytes} of {result.proven_bytes + result.written_bytes} bytes were right"

    def _copy(self, plan: BuildPlan, programs: Programs, listener: Listener) -> str:
        wanted, request = self._wanted, plan.request
        assert plan.primary_conninfo is not None
        fresh = f"{wanted.data_directory}.new"
        if os.path.lexists(fresh):
            raise Refused(f'"{fresh}" is in the way', hint="It is what an earlier attempt left: remove it.")
        assert plan.upstream is not None
        if plan.upstream.server.tablespaces:
            raise Refused(
                "the cluster has tablespaces, and a copy beside the old directory would write over theirs",
                hint="Move the old directory and its tablespaces away, then: pghaven standby create",
            )
        listener(Step(text="copying everything anew"))
        os.mkdir(fresh, 0o700)
        if request.user is not None:
            os.chown(fresh, request.user.uid, request.user.gid)
        copy_from_server(programs, plan.primary_conninfo, fresh, slot=wanted.slot, tablespaces={}, user=request.user)
        self._old_directory = swap_in(fresh, wanted.data_directory, SYSTEM_CLOCK)
        return f"the old directory is {self._old_directory}"

    def _make_push(self) -> Callable[[str], object]:
        from pghaven.cli.wal_run import make_push
        from pghaven.wal.everywhere import push_everywhere

        config, cluster, directory = self._invocation.config, self._cluster, self._wanted.data_directory

        def push(path: str) -> object:
            return push_everywhere(replace(make_push(config, cluster, path), data_directory=directory))

        return push


def _require_packs(sourced: SourcedPlan, cluster: str) -> None:
    """Everything that the restore will read is there, before anything makes way for it. Raises Damaged."""
    place = BackupCatalog(sourced.repository, cluster).pack_place
    for pack in sourced.plan.manifest.packs:
        name = place.name(pack.label, pack.id)
        if place.store.find(name) is None:
            raise Damaged(f'backup {sourced.plan.backup.label} cannot be restored: "{name}" is missing')


def _render_ways(former: Former, ways: Sequence[WayChoice], plan: BuildPlan) -> str:
    from pghaven.cli.render import render_block

    assert plan.upstream is not None
    server = plan.upstream.server
    pairs: list[tuple[str, object]] = [
        ("follows", f"{plan.upstream.host} port {plan.upstream.port}, timeline {server.timeline}"),
        ("is at", None if former.end_lsn is None else f"{former.end_lsn} of timeline {former.timeline} or later"),
        ("left at", former.fork_lsn),
    ]
    for number, one in enumerate(ways):
        reason = one.reason if one.is_possible else f"not possible: {one.reason}"
        pairs.append((f"way {number + 1}", f"{one.way.value}: {reason}"))
    return f"rejoin of the former primary in {former.data_directory}\n" + render_block(pairs, indent="  ") + "\n"


def _render_done(done: Rejoined, built: Built, directory: str, seconds: float, start: str | None) -> str:
    from pghaven.cli.render import render_block
    from pghaven.cli.standby_text import describe_state

    pairs: list[tuple[str, object]] = [
        ("by", f"{done.way.value}: {done.told}"),
        ("its own WAL", done.saved_wal),
        ("old directory", done.old_directory),
        ("it", None if built.state is None else describe_state(built.state)),
        ("start it with", start),
    ]
    return f"rejoined {directory} in {render_duration(seconds)}\n" + render_block(pairs, indent="  ")
