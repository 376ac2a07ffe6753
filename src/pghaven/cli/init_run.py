"""What ``init`` does, in the order in which a failure leaves least behind.

    ask the server → repository → registration → configuration file → settings

The one idea: everything that can refuse is asked before anything is written.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass

from pghaven.backup.checks import check_data_directory
from pghaven.cli.init_place import InitPlace, write_starter
from pghaven.cli.sealing import choose_sealing
from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import NotPermitted, Refused
from pghaven.events import Listener, Notice, Step
from pghaven.postgres.datadir import WAL_DIRECTORY
from pghaven.repository.layout import PROBE
from pghaven.repository.place import RepositoryPlace
from pghaven.server.connection import Connection
from pghaven.server.identity import OsUser
from pghaven.server.privileges import render_setup_sql
from pghaven.server.probe import ServerFacts, probe_server
from pghaven.server.settings_apply import AppliedSettings, OverriddenSetting, apply_settings
from pghaven.setup.program import ProgramFailure, find_program, try_program
from pghaven.setup.register import (
    PreparedRepository,
    find_server_os_user,
    find_unwritable,
    make_lineage,
    open_server,
    prepare_repository,
    render_missing,
)
from pghaven.setup.restart import render_restart_command
from pghaven.setup.sealing import NO_RECOVERY, RecoveryOrder
from pghaven.setup.settings import SetupPlan, plan_setup, read_written_command
from pghaven.store.probe import Probe, require_promises
from pghaven.wal.commands import render_archive_command
from pghaven.wal.marks import Marks


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    place: InitPlace
    apply: bool
    new_lineage: bool
    encryption: bool | None = None
    recovery: RecoveryOrder = NO_RECOVERY


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRepository:
    """``probe`` is what trying an object store has shown; None for a directory, and for one with a single writer."""

    name: str
    url: str
    is_new: bool
    newly_registered: bool
    is_sealed: bool = False
    key_file: str | None = None
    probe: Probe | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InitResult:
    """``plan`` is as it was before anything was applied; ``applied`` is None without --apply or with nothing to do.
    ``restart_command`` is None when no restart is needed."""

    place: InitPlace
    facts: ServerFacts
    repositories: tuple[InitRepository, ...]
    plan: SetupPlan
    applied: AppliedSettings | None
    restart_command: str | None
    missing_privileges: tuple[str, ...]
    archive_command: str

    @property
    def is_ready(self) -> bool:
        """Whether the server archives from now on, without anything more to be done."""
        if self.applied is None:
            return self.plan.is_ready
        done = set(self.applied.in_force)
        open_ones = [one for one in self.plan.change if one.name not in done] + list(self.plan.waiting)
        return not any(one.required for one in open_ones)

    @property
    def did_anything(self) -> bool:
        new = any(one.is_new or one.newly_registered for one in self.repositories)
        return new or self.place.is_new or self.applied is not None


def run_init(request: InitRequest, listener: Listener, *, clock: Clock = SYSTEM_CLOCK) -> InitResult:
    """Set a cluster up. Raises ServerUnsuitable, NotPermitted with every GRANT, Refused for a name or a directory of
    another cluster and for a program the server cannot run, StoreUnreachable, UsageError."""
    place = request.place
    listener(Step(text="asking the server"))
    access = open_server(place.cluster.conninfo, place.cluster.data_directory or None)
    with closing(access.connection) as connection:
        facts = probe_server(connection)
        place = place.with_data_directory(facts.data_directory)
        check_data_directory(place.cluster.data_directory, facts)
        user = find_server_os_user(place.cluster.data_directory)
        program = find_program(place.cluster.program)
        command = render_archive_command(program, place.config_path, place.cluster.name)
        repositories = _register(request, place, facts, (user, clock, listener))
        if place.is_new:
            write_starter(place, None if user is None else user.gid)
        if access.missing:
            _warn(
                listener,
                "privileges",
                f'role "{facts.role}" lacks privileges',
                render_missing(facts.role, access.missing),
            )
        failure = _find_obstacle(place, repositories, program, user)
        plan = plan_setup(facts, command, read_written_command(connection), fails_over=place.cluster.ha.is_configured)
        applied = _apply(connection, plan, failure) if request.apply and plan.change else None
    if failure is not None and applied is None:
        _warn(listener, "program", f"archiving would fail: {failure.reason}", failure.hint)
    for lost in applied.overridden if applied else ():
        _warn_overridden(listener, lost)
    restart = None
    if plan.waiting or (applied and applied.needs_restart):
        config_file = facts.settings.get("config_file", "")
        restart = render_restart_command(
            place.cluster.data_directory, config_file, facts.major.major, place.cluster.pg_bin
        )
    return InitResult(
        place=place,
        facts=facts,
        repositories=tuple(one for one, _ in repositories),
        plan=plan,
        applied=applied,
        restart_command=restart,
        missing_privileges=access.missing,
        archive_command=command,
    )


def _register(
    request: InitRequest, place: InitPlace, facts: ServerFacts, means: tuple[OsUser | None, Clock, Listener]
) -> list[tuple[InitRepository, PreparedRepository]]:
    user, clock, listener = means
    make = choose_sealing(place.config_path, request.encryption, request.recovery, listener)
    done = []
    for config in place.repositories:
        prepared = prepare_repository(
            RepositoryPlace(name=config.name, store=config.store, key=config.key), user, clock, make
        )
        probe = require_promises(prepared.repository.store, PROBE)
        newly = prepared.repository.register_lineage(
            place.cluster.name, make_lineage(facts, clock), new_lineage=request.new_lineage
        )
        if newly:
            _forget_marks(place, config.name, listener)
        told = InitRepository(
            name=config.name,
            url=config.url,
            is_new=prepared.is_new,
            newly_registered=newly,
            is_sealed=prepared.repository.descriptor.is_sealed,
            key_file=config.key_file,
            probe=probe,
        )
        done.append((told, prepared))
    return done


def _forget_marks(place: InitPlace, repository: str, listener: Listener) -> None:
    """What waits in ``pg_wal`` may be marked as held by a repository that had the name before this one was made."""
    try:
        Marks(os.path.join(place.cluster.data_directory, WAL_DIRECTORY)).clear(repository)
    except OSError as error:
        text = f'could not take away the marks of WAL that another repository "{repository}" held: {error}'
        _warn(listener, "marks", text, "Remove the files in its marks directory, or WAL may be missing.")


def _find_obstacle(
    place: InitPlace,
    repositories: list[tuple[InitRepository, PreparedRepository]],
    program: tuple[str, ...],
    user: OsUser | None,
) -> ProgramFailure | None:
    """Why the server's user could not archive, if something speaks against it."""
    for _, prepared in repositories:
        unwritable = find_unwritable(prepared.repository, user)
        if unwritable is not None:
            hint = "Give the directory, and what is in it, to the user the server runs as."
            return ProgramFailure(reason=unwritable, hint=hint)
    return try_program(program, place.config_path, place.cluster.name, user)


def _apply(connection: Connection, plan: SetupPlan, failure: ProgramFailure | None) -> AppliedSettings:
    if failure is not None:
        raise Refused(
            f"the server's settings are left as they are, because archiving would fail: {failure.reason}",
            hint=failure.hint,
        )
    try:
        return apply_settings(connection, plan.change)
    except NotPermitted as error:
        names = tuple(one.name for one in plan.change)
        statements = render_setup_sql(connection.info.user, names)
        raise NotPermitted(
            error.message,
            detail=f"These statements, run by a superuser, allow it:\n{statements.rstrip()}",
            hint=error.hint,
        ) from error


def _warn(listener: Listener, code: str, text: str, hint: str) -> None:
    listener(Notice(level="warning", code=code, text=text, hint=hint))


def _warn_overridden(listener: Listener, lost: OverriddenSetting) -> None:
    where = f" ({lost.place})" if lost.place else ""
    _warn(
        listener,
        "overridden",
        f"{lost.name} was written, but {lost.source}{where} wins over it",
        "Remove it there, or change it there, and reload or restart the server.",
    )
