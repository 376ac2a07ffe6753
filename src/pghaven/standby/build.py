"""Building a standby: what the server it follows must give, its slot, the copy, its settings, its start.

    look at the upstream → plan → (with consent: settings, role, pg_hba.conf) → slot → copy → settings → start

The one idea: everything that can refuse is asked before the first byte is copied, the standby's own login included; and
a slot that was made for a copy which then failed goes again, because it would hold WAL for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import Cancelled, PghavenError, ServerUnsuitable
from pghaven.events import Listener, Notice, Step
from pghaven.postgres.settings import SettingAdvice
from pghaven.server.connection import Connection, connect, fetch_one, server_errors
from pghaven.server.identity import OsUser
from pghaven.server.instance import Instance
from pghaven.server.postmaster import STATUS_READY
from pghaven.server.programs import Programs
from pghaven.standby.access import Refusal, try_login
from pghaven.standby.needs import (
    CARRIED,
    SlotAction,
    SlotPlan,
    list_stale_slots,
    list_too_small,
    plan_settings,
    plan_slot,
    render_role_statement,
)
from pghaven.standby.programs import read_numbers
from pghaven.standby.settings import StandbySettings, render_primary_conninfo, write_standby
from pghaven.standby.upstream import Answer, Upstream, look_at_upstream
from pghaven.standby.view import StandbyState, connect_to, look_at_standby

LOG_FILE = "pghaven.recovery.log"
_POLL_SECONDS = 0.05
_START_SECONDS = 600.0
_STREAM_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """``upstream`` is None for a standby that the archive alone feeds. ``role`` is whom it connects as, by default the
    role of ``upstream``; ``user`` runs its server, None for ourselves. ``senders`` the copy itself needs."""

    cluster: str
    data_directory: str
    upstream: str | None
    name: str
    role: str | None = None
    slot: str | None = None
    reuse_slot: bool = False
    delay_seconds: float = 0.0
    passfile: str | None = None
    port: int | None = None
    user: OsUser | None = None
    senders: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """``login`` is the standby's own, as it was tried. ``settings`` should change on the upstream, required ones first;
    ``role_statement`` makes the role one that may stream."""

    request: BuildRequest
    upstream: Upstream | None = None
    settings: tuple[SettingAdvice, ...] = ()
    role: str | None = None
    role_statement: str | None = None
    slot: SlotPlan | None = None
    primary_conninfo: str | None = None
    login: Answer | Refusal | None = None
    notices: tuple[Notice, ...] = field(default=())

    @property
    def is_ready(self) -> bool:
        """Whether the standby can be built and will be let in, without anything being changed before."""
        return (
            not any(one.required for one in self.settings)
            and self.role_statement is None
            and not isinstance(self.login, Refusal)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """``raised`` are settings that were larger on the upstream; ``state`` is None for one that was not started."""

    settings: StandbySettings
    raised: Mapping[str, int]
    state: StandbyState | None


def plan_build(request: BuildRequest) -> BuildPlan:
    """Ask the upstream; changes nothing. Raises ServerUnsuitable, NotPermitted, Refused and SlotInUse for the slot."""
    if request.upstream is None:
        return BuildPlan(request=request)
    with closing(_connect(request)) as connection:
        role = request.role or connection.info.user
        upstream = look_at_upstream(connection, role)
    slot = None if request.slot is None else plan_slot(upstream, request.slot, reuse=request.reuse_slot)
    conninfo = render_primary_conninfo(
        request.upstream,
        upstream.host,
        upstream.port,
        role=role,
        application_name=request.name,
        passfile=request.passfile,
    )
    return BuildPlan(
        request=request,
        upstream=upstream,
        settings=plan_settings(upstream, slot, request.senders),
        role=role,
        role_statement=render_role_statement(role, upstream.role),
        slot=slot,
        primary_conninfo=conninfo,
        login=try_login(conninfo, os_user=None if request.user is None else request.user.name, with_history=True),
        notices=list_stale_slots(upstream, request.slot),
    )


def _connect(request: BuildRequest) -> Connection:
    assert request.upstream is not None
    return connect(request.upstream, os_user=None if request.user is None else request.user.name)


@contextmanager
def upstream_session(request: BuildRequest) -> Iterator[Connection]:
    """A session with the upstream. Raises as ``connection.connect``."""
    with closing(_connect(request)) as connection:
        yield connection


def make_slot(plan: BuildPlan) -> bool:
    """Have the upstream keep WAL from now on; whether a slot was made. Raises ServerUnsuitable, NotPermitted."""
    if plan.slot is None or plan.slot.action is SlotAction.REUSE:
        return False
    with upstream_session(plan.request) as connection:
        doing = f'create replication slot "{plan.slot.name}"'
        with server_errors(connection, doing, privilege="the attribute REPLICATION"):
            if plan.slot.action is SlotAction.REPLACE:
                fetch_one(connection, "SELECT pg_drop_replication_slot(%s)", plan.slot.name)
            fetch_one(connection, "SELECT pg_create_physical_replication_slot(%s, true)", plan.slot.name)
    return True


def drop_slot(plan: BuildPlan) -> None:
    """Take back what ``make_slot`` made; nothing is raised, since something else has failed already."""
    if plan.slot is not None:
        with suppress(PghavenError), upstream_session(plan.request) as connection:
            connection.execute("SELECT pg_drop_replication_slot(%s)", (plan.slot.name,))


def run_build(
    plan: BuildPlan,
    settings: StandbySettings,
    programs: Programs,
    copy: Callable[[], None],
    listener: Listener,
) -> Built:
    """Make the slot, have ``copy`` bring the data, and make a standby of it; not started. Raises what these raise."""
    for notice in plan.notices:
        listener(notice)
    made = make_slot(plan)
    try:
        copy()
        raised = find_too_small(plan, programs, listener)
        wanted = replace(settings, more={**settings.more, **{name: str(value) for name, value in raised.items()}})
        write_standby(plan.request.data_directory, wanted)
    except BaseException:
        if made:
            drop_slot(plan)
        raise
    return Built(settings=wanted, raised=raised, state=None)


def find_too_small(plan: BuildPlan, programs: Programs, listener: Listener) -> Mapping[str, int]:
    """The settings that a hot standby may not have smaller than its upstream, and which this configuration has so."""
    if plan.upstream is None:
        return {}
    own = read_numbers(programs, plan.request.data_directory, CARRIED, plan.request.user)
    theirs = {name: int(plan.upstream.server.settings[name]) for name in CARRIED}
    raised = list_too_small(own, theirs)
    for name, value in raised.items():
        text = f"{name} is raised from {own[name]} to {value}, as the server it follows has it"
        listener(Notice(level="info", code="raised", text=text))
    return raised


def start_standby(
    data_directory: str,
    programs: Programs,
    like: str,
    *,
    must_stream: bool,
    listener: Listener,
    clock: Clock = SYSTEM_CLOCK,
) -> StandbyState:
    """Start a standby and wait until it answers, and, where it is to, streams; the server goes on after an error.

    Raises ServerUnsuitable with the server's own words when it does not come up or does not stream, Cancelled.
    """
    instance = Instance(data_directory, programs, log_path=f"{data_directory}/{LOG_FILE}", clock=clock)
    listener(Step(text="starting the standby"))
    instance.start(timeout_seconds=None)
    return wait_for_standby(instance, like, must_stream=must_stream, listener=listener, clock=clock)


def wait_for_standby(
    instance: Instance, like: str, *, must_stream: bool, listener: Listener, clock: Clock
) -> StandbyState:
    deadline = clock.monotonic() + _START_SECONDS
    while instance.wait_ready(timeout_seconds=_START_SECONDS).status != STATUS_READY:
        if clock.monotonic() > deadline:
            raise Cancelled("the standby was not consistent in time", detail=instance.read_log_tail() or None)
        clock.sleep(_POLL_SECONDS)
    deadline = clock.monotonic() + _STREAM_SECONDS
    with closing(connect_to(instance.data_directory, like)) as connection:
        listener(Step(text="waiting for WAL from the server it follows" if must_stream else "looking at the standby"))
        while True:
            state = look_at_standby(connection)
            if state.is_streaming or not must_stream:
                return state
            if clock.monotonic() > deadline:
                raise ServerUnsuitable(
                    f"the standby runs, but receives nothing from the server it follows after {_STREAM_SECONDS:g} s",
                    detail=instance.read_log_tail() or None,
                    hint="Its log says why. It replays what the archive has all the same.",
                )
            clock.sleep(_POLL_SECONDS)
