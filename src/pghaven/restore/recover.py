"""Running the recovery of a restored directory at once, and holding it to the plan.

The one idea: until the point it reached has been compared with the plan nobody can connect: no TCP, and its socket in a
directory that is the server's alone. A server that came up short is stopped again and is a failure, never a success
with a footnote.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import Cancelled, CheckFailed, ServerUnsuitable
from pghaven.events import Listener, Notice, Step
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline, parse_history
from pghaven.restore.following import SETTINGS, ReplayWatch
from pghaven.restore.request import RestorePlan
from pghaven.server.connection import Connection, connect, fetch_one, server_errors
from pghaven.server.identity import find_owner
from pghaven.server.instance import Instance
from pghaven.server.postmaster import STATUS_READY
from pghaven.server.programs import find_programs
from pghaven.units import render_duration

_POLL_SECONDS = 0.02
_SOCKET_PATH_BYTES = 107  # sun_path of Linux, without its end
_LONGEST_SOCKET = "/.s.PGSQL.65535"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What recovery came to. ``state`` is "open", "paused", "shut down", "standby", or "stopped" when everything is
    back but the server cannot run with its own settings; ``conninfo`` is None when no server runs."""

    state: str
    reached_lsn: Lsn
    timeline: Timeline
    seconds: float
    conninfo: str | None


def run_recovery(
    plan: RestorePlan, pg_bin: str | None, listener: Listener, *, opens: bool = True, clock: Clock = SYSTEM_CLOCK
) -> Recovery:
    """Start the restored server, let it recover, check the point it reached, and let clients in; or have it stopped
    then, where somebody else ``opens`` it.

    A recovered server that then fails with its own settings is a warning: what was hard is done, and safe on disk.
    Raises ServerUnsuitable with the server's own words when recovery stops, CheckFailed when it ended before the plan.
    """
    target = plan.request.target_dir
    instance = Instance(
        target,
        find_programs(plan.manifest.facts.major, pg_bin),
        log_path=f"{target}/pghaven.recovery.log",
        clock=clock,
    )
    began = clock.monotonic()
    listener(Step(text=f"replaying WAL up to {plan.wal.end_lsn}, segment {plan.wal.last_segment}"))
    action = plan.request.target.action
    if plan.request.standby:
        return _start_standby(plan, instance, began, clock)
    # A paused server outlives us, and nobody would remove a directory made for it.
    made = None if action == "pause" and _can_hold_sockets(target) else _private_directory(target)
    try:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": made or target,
            "unix_socket_permissions": "0700",  # a data directory may be open to its group
            "recovery_init_sync_method": "syncfs",  # the restore has just flushed all files; one by one takes minutes
            **SETTINGS,
        }
        watch = ReplayWatch(plan, listener, clock)
        if action != "pause":
            settings["hot_standby"] = "off"  # a pause needs it; otherwise nobody may look in before the end
        instance.start(settings, timeout_seconds=None)
        if action == "pause":
            return _await_pause(plan, instance, began, clock, watch)
        if action == "shutdown":
            return _await_shutdown(plan, instance, began, clock, watch)
        reached, timeline = await_promotion(plan, instance, clock, watch=watch)
        require_reached(plan, instance, reached)
        listener(Step(text=f"recovery reached {reached} after {render_duration(clock.monotonic() - began)}"))
        instance.stop("fast", timeout_seconds=600)
    except BaseException:
        # Nobody watches it any more. The next start goes on from where it is.
        instance.stop("immediate")
        raise
    finally:
        if made is not None and instance.is_running() is None:
            shutil.rmtree(made, ignore_errors=True)
    seconds = clock.monotonic() - began
    conninfo = _open(plan, instance, listener) if opens else None
    return Recovery(
        state="stopped" if conninfo is None else "open",
        reached_lsn=reached,
        timeline=timeline,
        seconds=seconds,
        conninfo=conninfo,
    )


def _open(plan: RestorePlan, instance: Instance, listener: Listener) -> str | None:
    """Start the recovered server with its own settings; None, with a warning, when it does not run with them."""
    try:
        instance.start()
        return instance.conninfo
    except ServerUnsuitable as error:
        where = "postgresql.conf" if plan.request.port is None else "postgresql.auto.conf"
        text = f"recovery is complete, but the server does not run with its own settings: {error.message}"
        hint = f"Nothing is missing. If its port is taken, choose another one in {where}, and start it."
        listener(Notice(level="warning", code="not_open", text=text, hint=hint))
        return None


def _can_hold_sockets(target: str) -> bool:
    """Whether the data directory itself does as the value of unix_socket_directories: short, and with nothing in its
    name that is read as a list or a quote there."""
    return len(os.fsencode(target + _LONGEST_SOCKET)) <= _SOCKET_PATH_BYTES and bool(re.fullmatch(r"[\w/.+-]+", target))


def _private_directory(target: str) -> str:
    """Where only the server's own user can connect; short, because a socket's path is limited to 107 bytes."""
    path = tempfile.mkdtemp(prefix="pghaven-")
    found = os.stat(target)
    if os.geteuid() == 0:
        os.chown(path, found.st_uid, found.st_gid)
    return path


def await_promotion(
    plan: RestorePlan,
    instance: Instance,
    clock: Clock,
    *,
    deadline: float | None = None,
    watch: ReplayWatch | None = None,
) -> tuple[Lsn, Timeline]:
    """Wait until recovery has ended and the server writes a timeline of its own; returns where that one begins, and
    its number. ``watch`` is asked to look meanwhile.

    Raises ServerUnsuitable with the server's words when it ends, CheckFailed when it is on another timeline than the
    plan's, Cancelled at the ``deadline`` (of the monotonic clock).
    """
    while True:
        left = None if deadline is None else max(0.0, deadline - clock.monotonic())
        running = instance.wait_ready(timeout_seconds=left, on_wait=None if watch is None else lambda _: watch())
        if watch is not None:
            watch()
        if running.status == STATUS_READY:
            break
        if left == 0.0:
            raise Cancelled("recovery did not end in time", detail=instance.read_log_tail() or None)
        clock.sleep(_POLL_SECONDS)
    target = plan.request.target_dir
    names = sorted(name for name in os.listdir(f"{target}/pg_wal") if name.endswith(".history"))
    if not names:
        raise CheckFailed("the server opened without having been through archive recovery")
    with open(f"{target}/pg_wal/{names[-1]}", encoding="utf-8", errors="replace") as file:
        history = parse_history(file.read(), Timeline.parse_history_name(names[-1]))
    last = history.entries[-1]
    if last.timeline != plan.wal.timeline:
        instance.stop("immediate")
        raise CheckFailed(f"recovery ended on timeline {last.timeline}, the plan was {plan.wal.timeline}")
    return last.switch_lsn, history.timeline


def require_reached(plan: RestorePlan, instance: Instance, reached: Lsn) -> None:
    """Raises CheckFailed when that is less than was planned; then the server is stopped."""
    if reached >= plan.wal.end_lsn:
        return
    instance.stop("immediate")
    raise CheckFailed(
        f"recovery ended at {reached}, before the planned {plan.wal.end_lsn}: transactions are missing",
        detail=instance.read_log_tail(),
        hint="The server was stopped again. `pghaven verify` finds damaged WAL; an earlier target may be reachable.",
    )


def _await_pause(plan: RestorePlan, instance: Instance, began: float, clock: Clock, watch: ReplayWatch) -> Recovery:
    """Wait until recovery is paused at its target; the server stays up for looking, for its own user only."""
    instance.wait_ready(timeout_seconds=None, on_wait=lambda _: watch())
    with _look_in(instance, plan.request.target_dir) as connection:
        while True:
            instance.wait_ready(timeout_seconds=None)
            watch()
            with server_errors(connection, "watch recovery"):
                state, text = fetch_one(
                    connection, "SELECT pg_get_wal_replay_pause_state(), pg_last_wal_replay_lsn()::text"
                )
            if state == "paused":
                break
            clock.sleep(_POLL_SECONDS)
    reached = Lsn.parse(text)
    require_reached(plan, instance, reached)
    return Recovery(
        state="paused",
        reached_lsn=reached,
        timeline=plan.wal.timeline,
        seconds=clock.monotonic() - began,
        conninfo=instance.conninfo,
    )


def _await_shutdown(plan: RestorePlan, instance: Instance, began: float, clock: Clock, watch: ReplayWatch) -> Recovery:
    from pghaven.postgres.control import parse_control

    while instance.child_pid is not None:
        watch()
        clock.sleep(_POLL_SECONDS)
    with open(f"{plan.request.target_dir}/global/pg_control", "rb") as file:
        control = parse_control(file.read())
    if not control.state.is_shut_down:
        raise ServerUnsuitable("the server ended before it reached its target", detail=instance.read_log_tail())
    reached = control.min_recovery_point
    require_reached(plan, instance, reached)
    return Recovery(
        state="shut down",
        reached_lsn=reached,
        timeline=plan.wal.timeline,
        seconds=clock.monotonic() - began,
        conninfo=None,
    )


def _start_standby(plan: RestorePlan, instance: Instance, began: float, clock: Clock) -> Recovery:
    try:
        instance.start(timeout_seconds=None)
        instance.wait_ready(timeout_seconds=None)
    except ServerUnsuitable as error:
        hint = (
            "Every file is in place, and the directory is ready to start: nothing has to be restored again. "
            f'If its port is taken, choose another in "{plan.request.target_dir}/postgresql.auto.conf" and start it.'
        )
        raise ServerUnsuitable(error.message, detail=error.detail, hint=error.hint or hint) from error
    with _look_in(instance, plan.request.target_dir) as connection, server_errors(connection, "look at the standby"):
        (text,) = fetch_one(connection, "SELECT coalesce(pg_last_wal_replay_lsn()::text, '0/0')")
    return Recovery(
        state="standby",
        reached_lsn=Lsn.parse(text),
        timeline=plan.wal.timeline,
        seconds=clock.monotonic() - began,
        conninfo=instance.conninfo,
    )


def _look_in(instance: Instance, target: str) -> Connection:
    owner = find_owner(target)
    return connect(f"{instance.conninfo} dbname=postgres", os_user=owner.name if owner else None)
