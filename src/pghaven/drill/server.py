"""The server of a drill: recovered as far as a marker, then to the planned point, then closed off and questioned.

    files → recovery, stopping at the marker (read only) → recovery to the target (nobody may look in) → stop
      → pages are checked on disk → started again, without a network → questions

The one idea: it is held to the restore's plan at each step, by ``wal get`` and here, and it lives in a scratch place
whose end is its end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from pghaven.clock import Clock
from pghaven.drill.settings import find_network_words, find_quiet_words, render_session_options, render_settings
from pghaven.errors import Cancelled, CheckFailed, ServerUnsuitable
from pghaven.postgres.control import parse_control
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import RecoveryTarget, TargetKind, render_recovery_settings
from pghaven.postgres.timeline import Timeline
from pghaven.restore.recover import await_promotion, require_reached
from pghaven.restore.request import RestorePlan
from pghaven.runtime.durable import OwnerOf, write_durably
from pghaven.server.connection import Connection, closing_on_error, connect, fetch_one, server_errors
from pghaven.server.instance import Instance
from pghaven.server.programs import Programs
from pghaven.server.scratch import ScratchPlace, find_launcher

_POLL_SECONDS = 0.02
_STOP_SECONDS = 600.0
_START_SECONDS = 600.0
_STATEMENT_MS_MAX = (1 << 31) - 1
_AUTO_CONF = "postgresql.auto.conf"

_Found = TypeVar("_Found")


class DrillServer:
    """The server of a plan's target directory, whose files are in place. ``roles`` are names that the superuser may
    have; ``deadline`` is of the monotonic clock; a statement may take ``statement_seconds``."""

    def __init__(
        self,
        plan: RestorePlan,
        place: ScratchPlace,
        programs: Programs,
        *,
        restore_command: str,
        preload: Sequence[str],
        roles: Sequence[str],
        deadline: float,
        statement_seconds: float,
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._place = place
        self._programs = place.find_reachable(programs)
        self._restore_command = restore_command
        self._roles = tuple(dict.fromkeys(roles))
        self._role: str | None = None
        self._deadline = deadline
        self._statement_ms = min(int(statement_seconds * 1000), _STATEMENT_MS_MAX)
        self._clock = clock
        self.data_directory = plan.request.target_dir
        self.control = parse_control(plan.manifest.control)
        self._empty = place.path("drill.conf")
        self._settings = {
            "config_file": self._empty,
            "ident_file": self._empty,
            **render_settings(self.control, programs.major, preload),
            **place.isolation(programs.major),
        }
        self._quiet = find_quiet_words()
        self._instance = self._make_instance(())
        self._disarm()

    @property
    def programs(self) -> Programs:
        return self._programs

    def _disarm(self) -> None:
        """What the restored configuration says is of no effect from here on."""
        owner = OwnerOf.path(self.data_directory)
        write_durably(f"{self.data_directory}/{_AUTO_CONF}", b"", 0o600, owner)
        with open(self._empty, "x", encoding="utf-8") as file:
            file.write("# A drill's server takes all its settings from its command line.\n")
        os.chmod(self._empty, 0o644)

    def _make_instance(self, before: Sequence[str]) -> Instance:
        user = self._place.user
        return Instance(
            self.data_directory,
            self._programs,
            log_path=self._place.path("server.log"),
            os_user=None if user is None else user.name,
            launcher=(*before, *self._quiet, *find_launcher()),
            clock=self._clock,
        )

    def read_log_tail(self) -> str:
        return self._instance.read_log_tail()

    def end(self) -> None:
        """Nothing of it is kept."""
        with suppress(Cancelled):
            self._instance.stop("immediate")

    # -- recovery ---------------------------------------------------------------------------------------------------

    def _recovery_settings(self, target: RecoveryTarget) -> Mapping[str, str]:
        return dict(
            render_recovery_settings(target, restore_command=self._restore_command, timeline=self._plan.wal.timeline)
        )

    def recover_to(self, lsn: Lsn, look: Callable[[Callable[[str], Connection]], _Found]) -> _Found:
        """Recover up to this position and no record further, and have ``look`` read what is there then.

        ``look`` is given what connects to a database. Raises ServerUnsuitable with the server's words, CheckFailed
        when it does not stop just there, Cancelled.
        """
        target = RecoveryTarget(kind=TargetKind.LSN, lsn=lsn, inclusive=False, action="pause")
        settings = {**self._settings, "hot_standby": "on", **self._recovery_settings(target)}
        self._instance.start(settings, timeout_seconds=None)
        self._instance.wait_ready(timeout_seconds=self._left())
        with self.connect("postgres") as connection:
            reached = self._await_pause(connection)
        if reached != lsn:
            raise CheckFailed(f"recovery stopped at {reached}, not at the marker {lsn}")
        found = look(self.connect)
        self._instance.stop("fast", timeout_seconds=_STOP_SECONDS)
        return found

    def _await_pause(self, connection: Connection) -> Lsn:
        while True:
            with server_errors(connection, "watch recovery"):
                in_recovery, state, text = fetch_one(
                    connection,
                    "SELECT r, CASE WHEN r THEN pg_get_wal_replay_pause_state() END, pg_last_wal_replay_lsn()::text"
                    " FROM pg_is_in_recovery() AS r",
                )
            if not in_recovery:
                raise CheckFailed("the server did not stop at the marker: it opened", detail=self.read_log_tail())
            if state == "paused":
                return Lsn.parse(text)
            if self._left() == 0.0:
                raise Cancelled("recovery did not reach the marker in time", detail=self.read_log_tail())
            self._clock.sleep(_POLL_SECONDS)

    def recover(self) -> tuple[Lsn, Timeline]:
        """Recover to the planned point and open; returns where that was, and the new timeline.

        Raises ServerUnsuitable with the server's words, CheckFailed when it came up short, Cancelled.
        """
        settings = {**self._settings, "hot_standby": "off", **self._recovery_settings(self._plan.wal.recovery)}
        self._instance.start(settings, timeout_seconds=None)
        reached, timeline = await_promotion(self._plan, self._instance, self._clock, deadline=self._deadline)
        require_reached(self._plan, self._instance, reached)
        return reached, timeline

    def follow(self) -> tuple[Lsn, Timeline]:
        """Be a standby until the planned point is replayed, then be promoted; returns as ``recover``. The directory has
        its standby.signal.

        Raises ServerUnsuitable with the server's words, CheckFailed when it came up short, Cancelled.
        """
        settings = {
            **self._settings,
            "hot_standby": "on",
            **self._recovery_settings(RecoveryTarget(kind=TargetKind.LATEST)),
            "wal_retrieve_retry_interval": "200ms",  # it asks again until it is promoted
        }
        self._instance.start(settings, timeout_seconds=None)
        self._instance.wait_ready(timeout_seconds=self._left())
        with self.connect("postgres") as connection:
            self._await_replay(connection)
            with server_errors(connection, "promote the standby"):
                (is_done,) = fetch_one(connection, "SELECT pg_promote(true, %s)", max(1, int(self._left())))
        if not is_done:
            raise Cancelled("the standby was not promoted in time", detail=self.read_log_tail())
        reached, timeline = await_promotion(self._plan, self._instance, self._clock, deadline=self._deadline)
        require_reached(self._plan, self._instance, reached)
        return reached, timeline

    def _await_replay(self, connection: Connection) -> None:
        query = "SELECT pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn(), '0/0')::text"
        while True:
            with server_errors(connection, "watch the standby"):
                in_recovery, text = fetch_one(connection, query)
            if not in_recovery:
                raise CheckFailed("the standby opened by itself", detail=self.read_log_tail())
            if Lsn.parse(text) >= self._plan.wal.end_lsn:
                return
            if self._left() == 0.0:
                raise Cancelled(f"the standby came to {text} only, in time", detail=self.read_log_tail())
            self._clock.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Shut it down, so that its files are complete."""
        self._instance.stop("fast", timeout_seconds=_STOP_SECONDS)

    @contextmanager
    def open_closed(self) -> Iterator[None]:
        """Start it for questions, where this host allows that without any network, until the block is left."""
        user = self._place.user
        # With another identity only the user's own kind of network can be made; the server's user makes it.
        self._instance = self._make_instance(find_network_words(None if user is None else user.uid))
        try:
            self._instance.start({**self._settings, "max_wal_senders": "0"}, timeout_seconds=_START_SECONDS)
            yield
        finally:
            self.end()

    def _left(self) -> float:
        return max(0.0, self._deadline - self._clock.monotonic())

    # -- looking in -------------------------------------------------------------------------------------------------

    def connect(self, database: str) -> Connection:
        """A superuser's session. Raises ServerUnsuitable."""
        if self._role is None:
            self._role = self._find_superuser()
        return self._connect_as(self._role, database)

    def _connect_as(self, role: str, database: str) -> Connection:
        from psycopg.conninfo import make_conninfo

        user = self._place.user
        options = render_session_options(self._programs.major)
        conninfo = make_conninfo(self._place.conninfo(database, role), options=options)
        connection = connect(conninfo, os_user=None if user is None else user.name)
        with closing_on_error(connection), server_errors(connection, "prepare the session"):
            connection.execute(f"SET statement_timeout = {self._statement_ms}")
        return connection

    def _find_superuser(self) -> str:
        """Everybody may look up who is one; names that may exist are tried."""
        failure: ServerUnsuitable | None = None
        for role in self._roles:
            for database in ("postgres", "template1"):
                try:
                    with self._connect_as(role, database) as connection:
                        query = "SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1"
                        with server_errors(connection, "look up a superuser"):
                            return str(fetch_one(connection, query)[0])
                except ServerUnsuitable as error:
                    failure = error
        assert failure is not None
        tried = ", ".join(f'"{role}"' for role in self._roles)
        raise ServerUnsuitable(
            f"could not connect to the restored server as any of {tried}: {failure.message}",
            hint="Name a role that may log in as user in the cluster's conninfo.",
        )
