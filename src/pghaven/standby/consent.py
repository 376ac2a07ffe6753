"""Changing the server that a standby is to follow, as ``--apply`` allows: settings, the role, pg_hba.conf.

The one idea: the same that was shown is done, in the order in which one needs the other; what is in force only after a
restart stops here, because nobody's server is restarted by us.
"""

from __future__ import annotations

import os
from dataclasses import replace

from pghaven.errors import NotFound, Refused
from pghaven.events import Listener, Notice
from pghaven.server.settings_apply import apply_settings
from pghaven.setup.restart import render_restart_command
from pghaven.standby.access import Obstacle, Refusal, add_hba_line, add_password, explain, make_password, make_role
from pghaven.standby.build import BuildPlan, plan_build, upstream_session

_TRIES = 4
"""A login may be refused for one reason after another: no role, no line for it, no password."""


def require_ready(plan: BuildPlan) -> None:
    """Raises Refused with everything that the upstream lacks, each with its reason and its remedy."""
    if plan.is_ready:
        return
    lines = [
        f"{one.name} is {one.current or '(empty)'} and must be {one.wanted}: {one.reason}"
        + (" (in force after a restart)." if one.needs_restart else ".")
        for one in plan.settings
        if one.required
    ]
    if plan.role_statement is not None:
        lines.append(f"The role must be able to stream; as a superuser, run: {plan.role_statement}")
    elif isinstance(plan.login, Refusal):
        error = explain(plan.login, plan.role or "")
        lines.append(f"{error.message[0].upper()}{error.message[1:]}. {error.hint}")
    raise Refused(
        "the server to be followed is not ready for a standby",
        detail="\n".join(lines),
        hint="Do that, or have it done: the same command with --apply",
    )


def apply_needs(plan: BuildPlan, listener: Listener) -> BuildPlan:
    """Change the upstream until a standby can be built; the plan as it is then.

    Raises Refused for what needs a restart, or is out of reach, with the command or the line; NotPermitted with the
    GRANT needed.
    """
    if plan.settings:
        _apply_settings(plan, listener)
        plan = plan_build(plan.request)
    for _ in range(_TRIES):
        if plan.is_ready:
            return plan
        plan = plan_build(_open_door(plan, listener).request)
    require_ready(plan)
    return plan


def _apply_settings(plan: BuildPlan, listener: Listener) -> None:
    assert plan.upstream is not None
    with upstream_session(plan.request) as connection:
        applied = apply_settings(connection, plan.settings)
    facts = plan.upstream.server
    restart = render_restart_command(
        facts.data_directory, facts.settings.get("config_file", ""), facts.major.major, None
    )
    required = {one.name for one in plan.settings if one.required}
    for name in applied.in_force:
        _tell(listener, f"{name} is changed on the server it follows, and in force")
    for one in applied.overridden:
        place = f" by {one.place}" if one.place else ""
        text = f"{one.name} is written, but overridden{place} ({one.source})"
        listener(Notice(level="warning", code="overridden", text=text))
    waiting = [name for name in applied.needs_restart if name in required]
    if waiting:
        raise Refused(
            f"{', '.join(waiting)} is changed on the server to be followed, and in force after its restart",
            hint=f"Restart it, then run this again: {restart}",
        )
    for name in applied.needs_restart:
        _tell(listener, f"{name} is changed on the server it follows, and in force after: {restart}")


def _open_door(plan: BuildPlan, listener: Listener) -> BuildPlan:
    """Take away one obstacle. Raises what cannot be taken away."""
    assert plan.upstream is not None
    assert plan.role is not None
    request, role = plan.request, plan.role
    if plan.role_statement is not None:
        password = None
        if plan.upstream.role is None:
            password = make_password()
            passfile = request.passfile or _choose_passfile(plan)
            add_password(passfile, plan.primary_conninfo or "", role, password, request.user)
            request = replace(request, passfile=passfile)
            _tell(listener, f'the password of role "{role}" is in {passfile}')
        with upstream_session(request) as connection:
            make_role(connection, plan.role_statement, role, password)
        _tell(listener, f"done on the server it follows: {plan.role_statement}")
        return replace(plan, request=request)
    login = plan.login
    if isinstance(login, Refusal) and login.obstacle is Obstacle.NO_ENTRY and login.hba_line is not None:
        with upstream_session(request) as connection:
            why = f"the standby {request.name}"
            path = add_hba_line(connection, plan.upstream.server, login.hba_line, why)
        _tell(listener, f"added to {path}: {login.hba_line}")
        return plan
    if isinstance(login, Refusal):
        raise explain(login, role)
    return plan


def _choose_passfile(plan: BuildPlan) -> str:
    user = plan.request.user
    home = os.path.expanduser("~") if user is None else user.home
    if not os.path.isdir(home):
        raise NotFound(
            f'the user that runs the standby has no home directory "{home}" for a password file',
            hint="Name a place with --passfile FILE.",
        )
    return os.path.join(home, ".pgpass")


def _tell(listener: Listener, text: str) -> None:
    listener(Notice(level="info", code="upstream_changed", text=text))
