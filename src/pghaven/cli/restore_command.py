"""``pghaven restore``: bring a cluster back as it was at a moment.

The one idea: the plan is shown before anything is written, and what the restored server will need (a user, a program, a
configuration it can read) is tried before hours are spent on copying.
"""

from __future__ import annotations

import os
import pwd
import shlex
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, io_limit_option, limit_option
from pghaven.cli.opening import count_processes, find_place, list_places
from pghaven.cli.output import write_out
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import PghavenError, Refused
from pghaven.events import Listener, Notice, Step

if TYPE_CHECKING:
    from pghaven.cli.restore_text import Handover
    from pghaven.config.values import ClusterConfig, Config
    from pghaven.proof.drilled import Rates
    from pghaven.repository.place import RepositoryPlace
    from pghaven.repository.repository import Repository
    from pghaven.restore.execute import RestoreResult, RestoreSettings
    from pghaven.restore.recover import Recovery
    from pghaven.restore.request import RestorePlan, RestoreRequest
    from pghaven.restore.sources import SourcedPlan, Sources
    from pghaven.setup.program import ProgramFailure


@click.command("restore")
@click.argument("cluster")
@click.option(
    "--target-dir",
    required=True,
    metavar="DIR",
    help="The data directory to make; without --delta it must be empty or not there yet.",
)
@click.option("--delta", is_flag=True, help="Restore over a data directory of the same cluster, fetching what differs.")
@click.option("--remove-foreign", is_flag=True, help="With --delta: remove what is not PostgreSQL's and in the way.")
@click.option("--target-time", metavar="TIME", help='Such as "2026-11-23 04:47:00+01:00", or "-2h" for two hours ago.')
@click.option("--target-lsn", metavar="LSN", help='A WAL position such as "0/3000028".')
@click.option("--target-xid", metavar="XID", help="The end of this transaction.")
@click.option("--target-name", metavar="NAME", help="A restore point made with pg_create_restore_point().")
@click.option("--immediate", is_flag=True, help="The end of the backup: the earliest consistent moment.")
@click.option("--target-timeline", metavar="T", help="Follow this timeline.  [default: the newest]")
@click.option(
    "--target-action",
    type=click.Choice(["promote", "pause", "shutdown"]),
    help="What the server does at the target.  [default: promote]",
)
@click.option("--exclusive", is_flag=True, help="Stop before the target instead of just after it.")
@click.option("--backup", metavar="LABEL", help="Begin with this backup.  [default: the last one before the target]")
@click.option("--from-snapshot", metavar="LABEL", help="Take the files from this kept snapshot instead of a backup.")
@click.option("--standby", is_flag=True, help="Make a standby that follows its primary.")
@click.option("--tablespace-mapping", "tablespaces", multiple=True, metavar="OLD=NEW", help="Move a tablespace.")
@click.option("--archive", is_flag=True, help="Let the restored cluster archive: it takes the original's place.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="Where the restored server listens.")
@click.option("--start", is_flag=True, help="Start the server, have it recover, and check the point it reached.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--repository", metavar="NAME", help="Restore from this repository alone.")
@limit_option
@io_limit_option
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    cluster: str,
    target_dir: str,
    delta: bool,
    remove_foreign: bool,
    target_time: str | None,
    target_lsn: str | None,
    target_xid: str | None,
    target_name: str | None,
    immediate: bool,
    target_timeline: str | None,
    target_action: Literal["promote", "pause", "shutdown"] | None,
    exclusive: bool,
    backup: str | None,
    from_snapshot: str | None,
    standby: bool,
    tablespaces: tuple[str, ...],
    archive: bool,
    port: int | None,
    start: bool,
    dry_run: bool,
    repository: str | None,
    limit: int | None,
    io_limit: int | None,
) -> int:
    """Restore CLUSTER into a new data directory, as it was at the target; without a target, as it was last.

    The plan is shown first. A time without a zone is a local one. A restored cluster archives only with --archive.
    """
    from pghaven.cli.restore_request import PlaceOptions, TargetOptions, make_request

    request = make_request(
        TargetOptions(
            time=target_time,
            lsn=target_lsn,
            xid=target_xid,
            name=target_name,
            immediate=immediate,
            timeline=target_timeline,
            action=target_action,
            exclusive=exclusive,
        ),
        PlaceOptions(
            cluster=cluster,
            target_dir=target_dir,
            delta=delta,
            remove_foreign=remove_foreign,
            backup=backup,
            standby=standby,
            archive=archive,
            tablespaces=tablespaces,
            port=port,
        ),
        SYSTEM_CLOCK.now(),
    )
    chosen = invocation.get_cluster(cluster)
    limits = Limits(invocation.config, chosen, invocation.reporter, limit=limit, io_limit=io_limit)
    return _run(RestoreJob(invocation, chosen, limits, repository), from_snapshot, request, (start, dry_run))


def _run(job: RestoreJob, snapshot: str | None, request: RestoreRequest, how: tuple[bool, bool]) -> int:
    """``how``: whether to start the server, and whether only the plan is wanted."""
    if snapshot is not None:
        from pghaven.cli.snapshot_restore import SnapshotJob

        job = SnapshotJob(job, snapshot)
    return job.run(request, start=how[0], dry_run=how[1])


def find_sources(config: Config, cluster: ClusterConfig, repository: str | None, limits: Limits) -> Sources:
    """The named repository alone, else all of the cluster's."""
    from pghaven.cli.asking import ask_passphrase
    from pghaven.repository.place import open_place
    from pghaven.restore.sources import Sources

    places = list_places(config, cluster) if repository is None else (find_place(config, repository),)

    def open_watched(place: RepositoryPlace) -> Repository:
        opened = limits.hold(open_place(place, ask=ask_passphrase), place.name)
        limits.watch(opened, place.name, keep=False)
        return opened

    return Sources(places, open_watched)


def _find_rates(sourced: SourcedPlan) -> Rates | None:
    """How fast the last drill was; a restore does not fail for want of an estimate."""
    from pghaven.proof.drilled import find_rates
    from pghaven.repository.drills import load_drills

    try:
        return find_rates(load_drills(sourced.repository, sourced.plan.request.cluster))
    except PghavenError:
        return None


class RestoreJob:
    """Work that reports progress is done in a block of the reporter, and results are shown outside of it."""

    def __init__(self, invocation: Invocation, cluster: ClusterConfig, limits: Limits, repository: str | None) -> None:
        self.invocation = invocation
        self.cluster = cluster
        self.repository = repository
        self.sources = find_sources(invocation.config, cluster, repository, limits)
        self.limits = limits
        self.tell: Listener = limits

    def run(self, request: RestoreRequest, *, start: bool, dry_run: bool) -> int:
        from pghaven.cli.remaining import Remaining
        from pghaven.cli.restore_text import (
            estimate,
            plan_body,
            recovery_body,
            render_plan,
            render_recovered,
            render_restored,
        )

        invocation = self.invocation
        with invocation.reporter as listener:
            listener(Step(text="planning"))
            sourced = self.plan(request)
            plan = sourced.plan
            self._check_surroundings(plan, listener, is_needed_now=start and not dry_run)
        rates = _find_rates(sourced)
        text = render_plan(sourced, SYSTEM_CLOCK.now(), rates)
        if dry_run:
            for notice in plan.notices:
                invocation.reporter(notice)
            return invocation.show("restore", {"plan": plan_body(sourced, rates), "dry_run": True}, text)
        if not invocation.json and not invocation.quiet:
            write_out(text)
        self.tell = Remaining(estimate(plan, rates), self.limits, starts=start)
        with invocation.reporter:
            sourced, result = self.carry_out(sourced)
            plan = sourced.plan
            recovery = self._recover(plan) if start else None
        body: dict[str, object] = {
            "plan": plan_body(sourced, rates),
            "dry_run": False,
            "written_bytes": result.written_bytes,
            "proven_bytes": result.proven_bytes,
            "fetched_bytes": result.fetched_bytes,
            "fetch_seconds": result.fetch_seconds,
            "total_seconds": result.total_seconds,
        }
        if recovery is None:
            handover = self._hand_over(plan)
            return invocation.show("restore", {**body, "next": handover}, render_restored(result, handover))
        last = self._find_last_transaction(sourced, recovery)
        body["recovery"] = recovery_body(plan, recovery, last)
        if recovery.state != "stopped":
            return invocation.show("restore", body, render_recovered(result, recovery, last, None))
        handover = self._hand_over(plan)
        return invocation.show(
            "restore", {**body, "next": handover}, render_recovered(result, recovery, last, handover)
        )

    def plan(self, request: RestoreRequest) -> SourcedPlan:
        return self.sources.plan(request)

    def carry_out(self, sourced: SourcedPlan) -> tuple[SourcedPlan, RestoreResult]:
        """Also the plan that was completed in the end."""
        from pghaven.restore.sources import run_sourced

        return run_sourced(self.sources, sourced, self.make_settings, self.tell)

    def make_settings(self, sourced: SourcedPlan) -> RestoreSettings:
        from pghaven.postgres.datadir import RESTORE_PLAN_FILE
        from pghaven.repository.backups import BackupCatalog
        from pghaven.restore.execute import RestoreSettings, find_owner_ids
        from pghaven.setup.program import find_program
        from pghaven.wal.commands import render_restore_command

        plan, config, cluster = sourced.plan, self.invocation.config, self.cluster
        # A standby goes on past the plan, to wherever its primary leads.
        plan_path = None if plan.request.standby else RESTORE_PLAN_FILE
        program = find_program(cluster.program)
        return RestoreSettings(
            place=BackupCatalog(sourced.repository, cluster.name).pack_place,
            processes=count_processes(cluster),
            restore_command=render_restore_command(program, config.source, cluster.name, plan_path),
            owner=find_owner_ids(plan.manifest),
            pace=self.limits.pace,
        )

    def _recover(self, plan: RestorePlan) -> Recovery:
        from pghaven.restore.recover import run_recovery

        return run_recovery(plan, self.cluster.pg_bin, self.tell)

    def _find_last_transaction(self, sourced: SourcedPlan, recovery: Recovery) -> datetime | None:
        from pghaven.proof.reached import find_last_transaction
        from pghaven.repository.joined import JoinedArchive

        plan = sourced.plan
        if plan.request.standby:
            return None
        cluster, identifier = self.cluster.name, plan.manifest.facts.system_identifier
        lineage = sourced.repository.require_lineage(cluster, identifier)
        archive = JoinedArchive(sourced.repository, sourced.others, cluster, lineage)
        return find_last_transaction(archive, plan.wal, recovery.reached_lsn)

    # -- what the restored server will need -------------------------------------------------------------------------

    def _check_surroundings(self, plan: RestorePlan, listener: Listener, *, is_needed_now: bool) -> None:
        """Try what the restored server will need, as the user that it will run as.

        Raises Refused when the server is to be started now and could not run or fetch WAL, else warns; and, when it
        is to be started now, NotFound if PostgreSQL is not installed.
        """
        from pghaven.server.programs import find_programs

        if is_needed_now:
            find_programs(plan.manifest.facts.major, self.cluster.pg_bin)
        listener(Step(text="trying whether the restored server can run here and fetch WAL"))
        failure = self._find_obstacle(plan)
        if failure is None:
            return
        if is_needed_now:
            raise Refused(failure.reason, hint=failure.hint)
        listener(Notice(level="warning", code="surroundings", text=failure.reason, hint=failure.hint))

    def _find_obstacle(self, plan: RestorePlan) -> ProgramFailure | None:
        from pghaven.restore.execute import find_owner_ids
        from pghaven.restore.port import is_port_taken
        from pghaven.server.identity import get_os_user
        from pghaven.setup.program import ProgramFailure, find_closed_directory, find_program, try_program

        owner = find_owner_ids(plan.manifest)
        user = None if owner is None else get_os_user(pwd.getpwuid(owner[0]).pw_name)
        name = "this user" if user is None else f'operating-system user "{user.name}"'
        if user is not None and user.uid == 0:
            raise Refused(
                "the backup's files belong to root, and PostgreSQL does not run as root",
                hint="Run the restore as the user the server is to run as.",
            )
        if plan.request.port is not None and is_port_taken(plan.request.port):
            return ProgramFailure(
                reason=f"port {plan.request.port} is in use on this host", hint="Choose another --port."
            )
        for root in plan.roots:
            closed = find_closed_directory(root.path, user)
            if closed is not None:
                reason = f'the server could not run in "{root.path}": {name} may not enter "{closed}"'
                return ProgramFailure(reason=reason, hint="Restore to another directory, or open that one to the user.")
        source = self.invocation.config.source
        failure = try_program(find_program(self.cluster.program), source, self.cluster.name, user)
        if failure is None:
            return None
        return ProgramFailure(reason=f"the restored server could not fetch WAL: {failure.reason}", hint=failure.hint)

    def _hand_over(self, plan: RestorePlan) -> Handover:
        from pghaven.cli.restore_text import Handover
        from pghaven.setup.restart import render_debian, render_pg_ctl

        target, facts = plan.request.target_dir, plan.manifest.facts
        uid = os.stat(target).st_uid
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = str(uid)
        outside = [file.path for file in plan.manifest.config_files if file.role == "config"]
        if outside and target == facts.data_directory and os.path.exists(outside[0]):
            # It is where it was, and so are the tools that look after it.
            debian = render_debian(outside[0], "start")
            if debian is not None:
                return Handover(user=user, start_command=debian)
        log = shlex.quote(f"{target}/pghaven.recovery.log")
        start = render_pg_ctl(target, facts.major, self.cluster.pg_bin, f"-l {log} start")
        return Handover(user=user, start_command=start)
