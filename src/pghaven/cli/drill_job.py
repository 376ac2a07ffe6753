"""The drill of one cluster, bound to its part of the configuration, for ``pghaven drill`` and for the agent.

The one idea: whoever starts it, a drill is the same; so what it needs is found here and nowhere else.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass

from pghaven.cli.limiting import Limits
from pghaven.cli.opening import count_processes
from pghaven.cli.restore_command import find_sources
from pghaven.config.drill_values import DRILL_QUESTIONS
from pghaven.config.values import ClusterConfig, Config
from pghaven.drill.questions import OwnCheck
from pghaven.drill.result import DrillResult
from pghaven.drill.run import DrillSettings, MakeRestore, run_drill
from pghaven.drill.source import BackupSource, DrillSource
from pghaven.drill.target import Policy
from pghaven.errors import Refused
from pghaven.events import Step
from pghaven.postgres.datadir import RESTORE_PLAN_FILE
from pghaven.postgres.recovery import RecoveryTarget
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.place import RepositoryPlace
from pghaven.repository.repository import Repository
from pghaven.restore.execute import RestoreSettings
from pghaven.restore.sources import SourcedPlan, Sources
from pghaven.server.connection import parse_conninfo
from pghaven.server.identity import OsUser, find_owner, find_server_user
from pghaven.server.scratch import open_scratch_place
from pghaven.setup.program import find_program, try_program
from pghaven.wal.commands import render_restore_command

_PLACE = "/var/tmp"  # noqa: S108  a new directory in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What somebody asks for that the configuration does not say: ``policy`` or a ``given`` point, ``backup`` by its
    label, questions to ``skip``."""

    policy: str | None = None
    given: RecoveryTarget | None = None
    backup: str | None = None
    skip: Sequence[str] = ()
    as_standby: bool = False


class DrillJob:
    """The drill of one cluster, by its configuration."""

    def __init__(self, config: Config, cluster: ClusterConfig, limits: Limits, repository: str | None = None) -> None:
        self._config = config
        self._cluster = cluster
        self._limits = limits
        self._repository = repository

    def make_settings(self, wishes: Wishes) -> DrillSettings:
        cluster, own = self._cluster, self._cluster.drill
        user = self._find_user()
        names = [
            "postgres",
            str(parse_conninfo(cluster.conninfo).get("user", "")),
            user.name if user else _own_name(),
        ]
        return DrillSettings(
            cluster=cluster.name,
            policy=_choose_policy(wishes, own.target),
            given=wishes.given,
            backup_label=wishes.backup,
            pg_bin=cluster.pg_bin,
            roles=tuple(name for name in names if name),
            own_checks=tuple(
                OwnCheck(name=one.name, database=one.database, sql=one.sql, expect=one.expect) for one in own.checks
            ),
            skipped=tuple(name for name in DRILL_QUESTIONS if name in (*own.skip, *wishes.skip)),
            preload=own.preload,
            timeout_seconds=own.timeout_seconds,
            as_standby=wishes.as_standby,
        )

    def run(
        self, settings: DrillSettings, directory: str | None = None, source: DrillSource | None = None
    ) -> DrillResult:
        """Raises what ``run_drill`` raises. ``source`` is where the files come from, by default backups."""
        above = directory or find_drill_place(self._cluster)
        user = self._find_user()
        with open_scratch_place(os.path.abspath(above), user) as place:
            chosen = source or BackupSource(self._find_sources())
            return run_drill(chosen, settings, place, self._make_restore(user), self._limits)

    def _find_sources(self) -> Sources:
        """The repositories, each opened once, with a warning for one in an older state than this host has seen."""
        sources = find_sources(self._config, self._cluster, self._repository, self._limits)
        opened: dict[str, Repository] = {}

        def open_once(place: RepositoryPlace) -> Repository:
            if place.name not in opened:
                opened[place.name] = sources.open(place)
            return opened[place.name]

        return Sources(sources.places, open_once)

    def _find_user(self) -> OsUser | None:
        """As root, whom the restored server runs as: the owner of the original, if that is on this host."""
        if os.geteuid() != 0:
            return None
        directory = self._cluster.data_directory
        owner = find_owner(directory) if os.path.isdir(directory) else None
        return find_server_user() if owner is None or owner.uid == 0 else owner

    def _make_restore(self, user: OsUser | None) -> MakeRestore:
        config, cluster = self._config, self._cluster
        program = find_program(cluster.program)

        def make(sourced: SourcedPlan) -> RestoreSettings:
            self._limits(Step(text="trying whether the restored server can fetch WAL"))
            # A standby goes on past the plan, to wherever the archive leads.
            plan_path = None if sourced.plan.request.standby else RESTORE_PLAN_FILE
            failure = try_program(program, config.source, cluster.name, user)
            if failure is not None:
                raise Refused(f"the restored server could not fetch WAL: {failure.reason}", hint=failure.hint)
            return RestoreSettings(
                place=BackupCatalog(sourced.repository, cluster.name).pack_place,
                processes=count_processes(cluster),
                restore_command=render_restore_command(program, config.source, cluster.name, plan_path),
                owner=None if user is None else (user.uid, user.gid),
                pace=self._limits.pace,
            )

        return make


def find_drill_place(cluster: ClusterConfig) -> str:
    """Below which directory a drill works where nobody names another one."""
    return cluster.drill.directory or os.environ.get("TMPDIR") or _PLACE


def _choose_policy(wishes: Wishes, configured: str) -> Policy:
    if wishes.as_standby:
        return Policy.LATEST
    return Policy.GIVEN if wishes.given is not None else Policy(wishes.policy or configured)


def _own_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name
