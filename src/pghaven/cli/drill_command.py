"""``pghaven drill``: restore somewhere, start, question, report, clean up."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits, io_limit_option, limit_option
from pghaven.cli.opening import choose_clusters, count_processes, find_place, list_places
from pghaven.clock import SYSTEM_CLOCK
from pghaven.config.drill_values import DRILL_POLICIES, DRILL_QUESTIONS
from pghaven.errors import EXIT_WARNINGS, CheckFailed, Refused, UsageError
from pghaven.events import Listener, Step

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig
    from pghaven.drill.result import DrillResult
    from pghaven.drill.run import DrillSettings, MakeRestore
    from pghaven.postgres.recovery import RecoveryTarget
    from pghaven.repository.place import RepositoryPlace
    from pghaven.repository.repository import Repository
    from pghaven.server.identity import OsUser


@click.command("drill")
@click.argument("cluster", required=False)
@click.option("--at", "policy", type=click.Choice(DRILL_POLICIES), help="To which point.  [default: as configured]")
@click.option("--target-time", metavar="TIME", help="To this moment.")
@click.option("--target-lsn", metavar="LSN", help="To this WAL position.")
@click.option("--target-xid", metavar="XID", help="To the end of this transaction.")
@click.option("--target-name", metavar="NAME", help="To this restore point.")
@click.option("--backup", metavar="LABEL", help="From this backup (or the beginning of its label).")
@click.option("--directory", metavar="DIR", help="Restore below this directory.  [default: as configured]")
@click.option("--skip", multiple=True, type=click.Choice(DRILL_QUESTIONS), help="Leave this question out.")
@click.option("--repository", metavar="NAME", help="Only from this one of the cluster's repositories.")
@limit_option
@io_limit_option
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    cluster: str | None,
    policy: str | None,
    target_time: str | None,
    target_lsn: str | None,
    target_xid: str | None,
    target_name: str | None,
    backup: str | None,
    directory: str | None,
    skip: tuple[str, ...],
    repository: str | None,
    limit: int | None,
    io_limit: int | None,
) -> int:
    """Prove that CLUSTER, or every configured cluster, comes back: by bringing it back, and asking it.

    A backup is restored into a directory of its own, started where nobody reaches it, recovered to a point, questioned
    and removed. What was found is kept in the repository. Ends with 17 when the drill failed, which it also has when it
    could not tell.
    """
    from pghaven.cli.drill_text import render_body, render_text
    from pghaven.cli.restore_request import TargetOptions, make_target
    from pghaven.postgres.recovery import TargetKind

    options = TargetOptions(
        time=target_time,
        lsn=target_lsn,
        xid=target_xid,
        name=target_name,
        immediate=False,
        timeline=None,
        action=None,
        exclusive=False,
    )
    target = make_target(options, SYSTEM_CLOCK.now())
    given = None if target.kind is TargetKind.LATEST else target
    if given is not None and policy is not None:
        raise UsageError("--at chooses a point, and a target is one", hint="Leave one of them out.")
    chosen = choose_clusters(invocation.config, cluster)
    if len(chosen) > 1 and (given is not None or backup is not None):
        raise UsageError("a target or a backup needs the name of a cluster", hint="Run: pghaven drill CLUSTER …")
    found: list[DrillResult] = []
    with invocation.reporter as listener:
        for one in chosen:
            limits = Limits(invocation.config, one, listener, limit=limit, io_limit=io_limit)
            job = _DrillJob(invocation, one, limits, repository)
            found.append(job.run(job.make_settings(policy, given, backup, skip), directory))
    status = invocation.show(
        "drill", {"drills": [render_body(one) for one in found]}, "\n".join(map(render_text, found))
    )
    if not all(one.passed for one in found):
        return CheckFailed.exit_status
    return EXIT_WARNINGS if any(one.has_warnings for one in found) else status


class _DrillJob:
    def __init__(self, invocation: Invocation, cluster: ClusterConfig, limits: Limits, repository: str | None) -> None:
        self._config = invocation.config
        self._cluster = cluster
        self._limits = limits
        self._repository = repository

    def make_settings(
        self, policy: str | None, given: RecoveryTarget | None, backup: str | None, skip: tuple[str, ...]
    ) -> DrillSettings:
        from psycopg.conninfo import conninfo_to_dict

        from pghaven.drill.questions import OwnCheck
        from pghaven.drill.run import DrillSettings
        from pghaven.drill.target import Policy

        cluster, own = self._cluster, self._cluster.drill
        user = self._find_user()
        names = [
            "postgres",
            str(conninfo_to_dict(cluster.conninfo).get("user", "")),
            user.name if user else _own_name(),
        ]
        return DrillSettings(
            cluster=cluster.name,
            policy=Policy.GIVEN if given is not None else Policy(policy or own.target),
            given=given,
            backup_label=backup,
            pg_bin=cluster.pg_bin,
            roles=tuple(name for name in names if name),
            own_checks=tuple(
                OwnCheck(name=one.name, database=one.database, sql=one.sql, expect=one.expect) for one in own.checks
            ),
            skipped=tuple(name for name in DRILL_QUESTIONS if name in (*own.skip, *skip)),
            preload=own.preload,
            timeout_seconds=own.timeout_seconds,
        )

    def run(self, settings: DrillSettings, directory: str | None) -> DrillResult:
        from pghaven.cli.asking import ask_passphrase
        from pghaven.drill.run import run_drill
        from pghaven.repository.place import open_place
        from pghaven.restore.sources import Sources
        from pghaven.server.scratch import open_scratch_place

        config, cluster, limits = self._config, self._cluster, self._limits
        places = list_places(config, cluster) if self._repository is None else (find_place(config, self._repository),)
        opened: dict[str, Repository] = {}

        def open_once(place: RepositoryPlace) -> Repository:
            if place.name not in opened:
                opened[place.name] = limits.hold(open_place(place, ask=ask_passphrase), place.name)
            return opened[place.name]

        sources = Sources(places, open_once)
        user = self._find_user()
        above = directory or cluster.drill.directory or os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108  one of its own
        with open_scratch_place(os.path.abspath(above), user) as place:
            return run_drill(sources, settings, place, self._make_restore(user, limits), limits)

    def _find_user(self) -> OsUser | None:
        """As root, whom the restored server runs as: the owner of the original, if that is on this host."""
        from pghaven.server.identity import find_owner, find_server_user

        if os.geteuid() != 0:
            return None
        directory = self._cluster.data_directory
        owner = find_owner(directory) if os.path.isdir(directory) else None
        return find_server_user() if owner is None or owner.uid == 0 else owner

    def _make_restore(self, user: OsUser | None, listener: Listener) -> MakeRestore:
        from pghaven.postgres.datadir import RESTORE_PLAN_FILE
        from pghaven.repository.backups import BackupCatalog
        from pghaven.restore.execute import RestoreSettings
        from pghaven.restore.sources import SourcedPlan
        from pghaven.setup.program import find_program, try_program
        from pghaven.wal.commands import render_restore_command

        config, cluster = self._config, self._cluster
        program = find_program(cluster.program)

        def make(sourced: SourcedPlan) -> RestoreSettings:
            listener(Step(text="trying whether the restored server can fetch WAL"))
            failure = try_program(program, config.source, cluster.name, user)
            if failure is not None:
                raise Refused(f"the restored server could not fetch WAL: {failure.reason}", hint=failure.hint)
            return RestoreSettings(
                place=BackupCatalog(sourced.repository, cluster.name).pack_place,
                processes=count_processes(cluster),
                restore_command=render_restore_command(program, config.source, cluster.name, RESTORE_PLAN_FILE),
                owner=None if user is None else (user.uid, user.gid),
                pace=self._limits.pace,
            )

        return make


def _own_name() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name
