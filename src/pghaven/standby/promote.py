"""Making a standby the primary: what would be lost, what the archive still has, what the archive lacks, and then.

    look → refuse while the primary answers → replay what is archived → backfill → promote → see it archive

The one idea: what PostgreSQL leaves to chance is made sure of before: that all archived WAL is replayed, that what this
standby alone has reaches the archive, and that nobody else goes on writing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from psycopg import sql

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import Cancelled, Damaged, NotPermitted, PghavenError, Refused, StoreUnreachable
from pghaven.events import Listener, Notice, Step
from pghaven.postgres.datadir import WAL_DIRECTORY
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import TARGET_SETTINGS, RecoveryTarget, render_recovery_settings
from pghaven.postgres.timeline import Timeline
from pghaven.repository.place import RepositoryPlace
from pghaven.repository.walstore import WalArchive
from pghaven.server.connection import Connection, fetch_one, server_errors
from pghaven.server.instance import Instance
from pghaven.server.probe import read_timeline
from pghaven.server.settings_apply import reload_configuration
from pghaven.server.walcontrol import switch_wal
from pghaven.standby.lineage import ArchiveView, Standing, find_held_end, find_place, open_archives
from pghaven.standby.stopping import find_stop
from pghaven.standby.upstream import Answer, find_answer
from pghaven.standby.view import StandbyState, connect_to, find_owner_name, look_at_standby
from pghaven.units import render_duration, render_size
from pghaven.wal.announced import read_membership
from pghaven.wal.backfill import Backfilled, list_lacking, mark_waiting, push_waiting

_POLL_SECONDS = 0.05
_IDLE_SECONDS = 30.0
"""Recovery asks for archived WAL every five seconds; one that has not moved for so long is stuck."""
_ARCHIVE_SECONDS = 60.0
_PROMOTE_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteRequest:
    """``like`` has role and database for sessions with the standby; ``primary`` is whom it follows, None for what its
    own settings say. ``push`` archives one file. ``target`` ends replay before all is replayed."""

    cluster: str
    data_directory: str
    like: str
    primary: str | None
    places: Sequence[RepositoryPlace]
    push: Callable[[str], object]
    restore_command: str
    target: RecoveryTarget | None = None
    primary_may_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldEnd:
    """Up to where one repository leads; None when it has nothing behind what is replayed, or could not be asked."""

    repository: str
    end_lsn: Lsn | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotePlan:
    """``primary`` is what the server it follows answers, else ``silence`` says why it does not. ``lacking`` are files
    that this standby has and a repository lacks. ``stop`` is the request's target as a position."""

    request: PromoteRequest
    state: StandbyState
    primary: Answer | None
    silence: str | None
    held: tuple[HeldEnd, ...]
    lacking: tuple[str, ...]
    stop: RecoveryTarget | None = None

    @property
    def archived_lsn(self) -> Lsn | None:
        """Up to where the repositories lead, if that is beyond what is replayed."""
        ends = [one.end_lsn for one in self.held if one.end_lsn is not None and one.end_lsn > self.state.replayed_lsn]
        return max(ends, default=None)

    @property
    def lost_bytes(self) -> int | None:
        """What the primary has and nobody here; None when it does not say."""
        if self.primary is None:
            return None
        return max(0, self.primary.lsn - max(self.state.has_lsn, self.archived_lsn or Lsn(0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """``timeline`` begins at ``lsn``. ``archived`` are the repositories that have its history and first segment."""

    timeline: Timeline
    lsn: Lsn
    replayed_bytes: int
    backfilled: Backfilled
    archived: tuple[str, ...]
    host: str
    port: int
    seconds: float


def plan_promotion(request: PromoteRequest) -> PromotePlan:
    """Look at everything; changes nothing.

    Raises NotFound when no server runs there, Refused for one that is no standby or that the archive's line has left,
    ServerUnsuitable, NotPermitted."""
    with closing(connect_to(request.data_directory, request.like)) as connection:
        state = look_at_standby(connection)
    if not state.is_standby:
        raise Refused(
            f'the server in "{request.data_directory}" is no standby: it is open for writing on timeline '
            f"{state.timeline}",
            hint="Nothing is to be done. `pghaven standby status` shows a standby.",
        )
    if read_membership(request.data_directory) is not None:
        raise Refused(
            "this server is a member of a cluster that Patroni decides for",
            hint="Have Patroni promote it: patronictl failover. What is promoted here it would take back.",
        )
    conninfo = request.primary or state.settings.get("primary_conninfo") or ""
    primary: Answer | None = None
    silence: str | None = "it follows no server"
    if conninfo:
        primary, silence = find_answer(conninfo, "pghaven", os_user=find_owner_name(request.data_directory))
    views = open_archives(request.places, request.cluster, state.system_identifier)
    archives = [view.archive for view in views if view.archive is not None]
    for view in views:
        _refuse_left(view, state)
    lacking = list_lacking(f"{request.data_directory}/{WAL_DIRECTORY}", archives) if archives else ()
    held = tuple(_find_end(view, state) for view in views)
    stop = None
    if request.target is not None:
        end = max([state.has_lsn, *(one.end_lsn for one in held if one.end_lsn is not None)])
        stop = find_stop(request.target, state, views, request.data_directory, end)
    return PromotePlan(
        request=request, state=state, primary=primary, silence=silence, held=held, lacking=lacking, stop=stop
    )


def _refuse_left(view: ArchiveView, state: StandbyState) -> None:
    if view.archive is None:
        return
    place = find_place(view.archive, state.timeline, state.has_lsn)
    if not place.is_sound:
        at = "" if place.left_at is None else f", which left it at {place.left_at}"
        raise Refused(
            f"the standby is {place.standing} in repository {view.name}: it has {state.has_lsn} of timeline "
            f"{state.timeline}, and there is timeline {place.newest}{at}",
            hint="Another server was promoted. Have this one follow it: pghaven standby rejoin",
        )
    if place.standing is Standing.BEHIND and place.left_at is not None and state.timeline < place.newest:
        # It may be on its way; promoted now it would begin a second branch.
        raise Refused(
            f"another server was promoted to timeline {place.newest} at {place.left_at}, and this standby is at "
            f"{state.has_lsn} of timeline {state.timeline}",
            hint="It follows there by itself through its restore_command. Promote it when it has arrived, if at all.",
        )


def _find_end(view: ArchiveView, state: StandbyState) -> HeldEnd:
    try:
        if view.archive is None:
            return HeldEnd(repository=view.name, end_lsn=None, error=view.error.message if view.error else None)
        end = find_held_end(view.archive, state.timeline, state.replayed_lsn)
    except (Damaged, StoreUnreachable, NotPermitted) as error:
        return HeldEnd(repository=view.name, end_lsn=None, error=error.message)
    return HeldEnd(repository=view.name, end_lsn=end, error=None)


def require_promotable(plan: PromotePlan) -> None:
    """Raises Refused while the primary answers, and for a standby whose replay somebody has paused."""
    state, primary = plan.state, plan.primary
    if primary is not None and not plan.request.primary_may_run:
        ahead = f"{render_size(plan.lost_bytes)} ahead" if plan.lost_bytes else "with nothing that is not here"
        lost = f"it is at {primary.lsn}, {ahead}"
        raise Refused(
            f"the server it follows still answers at {primary.host}: {lost}",
            hint="Stop it first, so that its last WAL comes here and nobody writes to it any more; then promote. "
            "Where it cannot be stopped and nobody reaches it: --while-primary-runs",
        )
    if state.pause_state not in (None, "not paused") and plan.request.target is None:
        raise Refused(
            f"replay is paused at {state.replayed_lsn}",
            hint="SELECT pg_wal_replay_resume() goes on with all there is; "
            f"--target-lsn {state.replayed_lsn} promotes it as it is.",
        )


def run_promotion(
    plan: PromotePlan, listener: Listener, *, pg_instance: Instance, clock: Clock = SYSTEM_CLOCK
) -> Promoted:
    """Promote. Raises Cancelled when replay or promotion do not get on, ServerUnsuitable, NotPermitted."""
    require_promotable(plan)
    began = clock.monotonic()
    request = plan.request
    archives = open_archives(request.places, request.cluster, plan.state.system_identifier)
    backfilled = backfill(plan.lacking, request, listener)
    with closing(connect_to(request.data_directory, request.like)) as connection:
        if request.target is None:
            _replay_all(plan, connection, listener, clock)
    if request.target is not None:
        _stop_at_target(plan, pg_instance, listener, clock)
    else:
        with closing(connect_to(request.data_directory, request.like)) as connection:
            listener(Step(text="promoting"))
            with server_errors(
                connection, "promote", privilege="EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer)"
            ):
                (done,) = fetch_one(connection, "SELECT pg_promote(true, %s)", _PROMOTE_SECONDS)
            if not done:
                raise Cancelled(f"the standby was told to promote, and was not primary after {_PROMOTE_SECONDS} s")
    with closing(connect_to(request.data_directory, request.like)) as connection:
        with server_errors(connection, "look at the new primary"):
            timeline = read_timeline(connection)
        replayed = _find_begin(request, timeline) or plan.state.replayed_lsn
        archived = see_archived(connection, archives, timeline, listener, clock)
        info = connection.info
        return Promoted(
            timeline=timeline,
            lsn=replayed,
            replayed_bytes=max(0, replayed - plan.state.replayed_lsn),
            backfilled=backfilled,
            archived=archived,
            host=info.host,
            port=info.port,
            seconds=clock.monotonic() - began,
        )


def backfill(lacking: Sequence[str], request: PromoteRequest, listener: Listener) -> Backfilled:
    """Have the archive hold what this standby has and it lacks; what fails waits in ``pg_wal`` for the new primary."""
    if not lacking:
        return Backfilled(names=())
    directory = f"{request.data_directory}/{WAL_DIRECTORY}"
    listener(Step(text=f"archiving {len(lacking)} files that only this standby has"))
    mark_waiting(directory, lacking)
    done = push_waiting(directory, lacking, request.push)
    for name, reason in done.failed:
        text = f'"{name}" is not in every repository yet: {reason}; it waits to be archived once more'
        listener(Notice(level="warning", code="not_backfilled", text=text))
    return done


def _replay_all(plan: PromotePlan, connection: Connection, listener: Listener, clock: Clock) -> None:
    """Wait until everything archived or received is replayed; a delay is passed over."""
    if plan.state.delay_seconds:
        with server_errors(connection, "end the delay", privilege="ALTER SYSTEM ON PARAMETER recovery_min_apply_delay"):
            connection.execute("ALTER SYSTEM SET recovery_min_apply_delay = 0")
        reload_configuration(connection, clock)
    wanted = max(plan.archived_lsn or Lsn(0), plan.state.has_lsn)
    last, moved = Lsn(0), clock.monotonic()
    while True:
        with server_errors(connection, "watch replay"):
            (text,) = fetch_one(connection, "SELECT pg_last_wal_replay_lsn()::text")
        replayed = Lsn.parse(text)
        if replayed >= wanted:
            return
        now = clock.monotonic()
        if replayed != last:
            last, moved = replayed, now
        elif now - moved > _IDLE_SECONDS:
            if replayed >= max(plan.archived_lsn or Lsn(0), plan.state.replayed_lsn):
                return  # what was received beyond ends in the midst of a record
            raise Cancelled(
                f"the repository leads to {wanted}, but replay has stood at {replayed} for "
                f"{render_duration(now - moved)}",
                hint="The server's log says why; its restore_command must reach the repository.",
            )
        listener(Step(text=f"replaying WAL up to {wanted}, now at {replayed}"))
        clock.sleep(_POLL_SECONDS)


def _stop_at_target(plan: PromotePlan, instance: Instance, listener: Listener, clock: Clock) -> None:
    """Restart the standby so that it replays to its target and promotes there."""
    request, target = plan.request, plan.stop
    assert target is not None
    listener(Step(text="restarting the standby to stop at the target"))
    pairs = render_recovery_settings(target, restore_command=request.restore_command, timeline="latest")
    with closing(connect_to(request.data_directory, request.like)) as connection:
        for name, value in pairs:
            if name.startswith(("recovery_target", "recovery_min")) and name != "recovery_target_timeline":
                statement = sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
                with server_errors(connection, f"set {name}", privilege=f"ALTER SYSTEM ON PARAMETER {name}"):
                    connection.execute(statement)
    instance.stop("fast")
    instance.start(timeout_seconds=None)
    last, deadline = None, clock.monotonic() + _PROMOTE_SECONDS
    while True:
        instance.wait_ready(timeout_seconds=_PROMOTE_SECONDS)
        try:
            with closing(connect_to(request.data_directory, request.like)) as connection:
                if fetch_one(connection, "SELECT pg_is_in_recovery()") == (False,):
                    _forget_target(connection, clock)
                    return
                (replayed,) = fetch_one(connection, "SELECT pg_last_wal_replay_lsn()::text")
                if replayed != last:
                    last, deadline = replayed, clock.monotonic() + _PROMOTE_SECONDS
        except PghavenError:
            pass  # it is not consistent yet
        if clock.monotonic() > deadline:
            raise Cancelled(
                "the standby did not reach the target in time; it goes on replaying, and promotes when it does",
                detail=instance.read_log_tail() or None,
            )
        clock.sleep(_POLL_SECONDS)


def _forget_target(connection: Connection, clock: Clock) -> None:
    """What was for this once goes: whoever copies this server's files would stop there, too, or not start."""
    with server_errors(connection, "take the target out of postgresql.auto.conf"):
        for name in (*TARGET_SETTINGS, "recovery_target_inclusive", "recovery_target_action"):
            connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
    reload_configuration(connection, clock)


def _find_begin(request: PromoteRequest, timeline: Timeline) -> Lsn | None:
    """Where the new timeline begins, by its own history file."""
    from pghaven.postgres.timeline import parse_history

    try:
        with open(f"{request.data_directory}/{WAL_DIRECTORY}/{timeline.history_name}", encoding="utf-8") as file:
            history = parse_history(file.read(), timeline)
    except (OSError, Damaged):
        return None
    return history.entries[-1].switch_lsn if history.entries else None


def see_archived(
    connection: Connection, views: Sequence[ArchiveView], timeline: Timeline, listener: Listener, clock: Clock
) -> tuple[str, ...]:
    """The repositories that the new timeline has reached; a warning for each that it has not."""
    state = look_at_standby(connection)
    if state.settings.get("archive_mode") not in ("on", "always"):
        text = "the new primary does not archive: archive_mode is off"
        listener(Notice(level="warning", code="not_archiving", text=text, hint="Set it up with: pghaven init --apply"))
        return ()
    try:
        segment = str(switch_wal(connection).segment)
    except PghavenError as error:
        text = f"could not try whether the new primary archives: {error.message}"
        listener(Notice(level="warning", code="not_tried", text=text, hint=error.hint))
        return ()
    listener(Step(text="waiting for the new timeline in the archive"))
    open_views = [view for view in views if view.archive is not None]
    waiting, deadline = list(open_views), clock.monotonic() + _ARCHIVE_SECONDS
    while waiting and clock.monotonic() < deadline:
        waiting = [view for view in waiting if not _has(view.archive, timeline.history_name, segment)]
        if waiting:
            clock.sleep(_POLL_SECONDS)
    late = [view.name for view in views if view.archive is None or view in waiting]
    for name in late:
        text = f'repository "{name}" does not have the new timeline yet: it is not protected there'
        hint = "pg_stat_archiver and the server's log say why; the program and the configuration of archive_command "
        listener(Notice(level="warning", code="not_archived", text=text, hint=f"{hint}must be those of this host."))
    return tuple(view.name for view in open_views if view not in waiting)


def _has(archive: WalArchive | None, *names: str) -> bool:
    try:
        return archive is not None and all(archive.exists(name) for name in names)
    except PghavenError:
        return False
