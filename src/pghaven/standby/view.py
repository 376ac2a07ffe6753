"""What a standby says of itself: what it has, what it has replayed, where it comes from.

The one idea: these are facts of one moment, in one value, on which building, promoting and looking all decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pghaven.errors import NotFound, ServerUnsuitable
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.server.connection import Connection, connect, fetch_one, server_errors
from pghaven.server.identity import OsUser, find_owner
from pghaven.server.postmaster import is_running
from pghaven.server.probe import read_timeline

_STATE = """
    SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system()),
        pg_last_wal_receive_lsn()::text, pg_last_wal_replay_lsn()::text, pg_last_xact_replay_timestamp(),
        clock_timestamp(), CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END,
        (SELECT bytes_per_wal_segment FROM pg_control_init())
"""
_RECEIVER = "SELECT status, sender_host, sender_port, slot_name, latest_end_lsn::text FROM pg_stat_wal_receiver"
_SETTINGS = (
    "primary_conninfo",
    "primary_slot_name",
    "restore_command",
    "recovery_min_apply_delay",
    "archive_mode",
    "archive_command",
    "data_directory",
    "server_version_num",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """The process that receives WAL. ``status`` is that of pg_stat_wal_receiver."""

    status: str
    host: str | None
    port: int | None
    slot: str | None
    upstream_lsn: Lsn | None
    """Up to where the sender had WAL when it last said so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyState:
    """``received_lsn`` is None when nothing was streamed since the start; ``replayed_at`` is when the last transaction
    that was replayed was committed."""

    is_standby: bool
    system_identifier: int
    segment_size: int
    timeline: Timeline
    received_lsn: Lsn | None
    replayed_lsn: Lsn
    replayed_at: datetime | None
    asked_at: datetime
    pause_state: str | None
    receiver: Receiver | None
    settings: Mapping[str, str]

    @property
    def has_lsn(self) -> Lsn:
        """Up to where it has WAL, replayed or not."""
        return max(self.replayed_lsn, self.received_lsn or self.replayed_lsn)

    @property
    def is_streaming(self) -> bool:
        return self.receiver is not None and self.receiver.status == "streaming"

    @property
    def delay_seconds(self) -> float:
        return int(self.settings.get("recovery_min_apply_delay") or 0) / 1000


def find_conninfo(data_directory: str, like: str) -> str:
    """How to reach the server that runs in a directory of this host: its own socket and port, with role and database of
    ``like``.

    Raises NotFound when none runs there, ServerUnsuitable when it has no socket.
    """
    running = is_running(data_directory)
    if running is None:
        raise NotFound(f'no server runs in "{data_directory}"', hint="Start it first.")
    if running.socket_directory is None or running.port is None:
        raise ServerUnsuitable(f'the server in "{data_directory}" has no socket yet', hint="Ask again in a moment.")
    parts: dict[str, Any] = {
        name: value for name, value in conninfo_to_dict(like).items() if name in ("user", "dbname")
    }
    parts |= {"host": running.socket_directory, "port": running.port}
    parts.setdefault("dbname", "postgres")
    return make_conninfo("", **parts)


def connect_to(data_directory: str, like: str) -> Connection:
    """A session with the server in a directory. Raises as ``find_conninfo`` and ``connection.connect``."""
    owner = find_owner_name(data_directory)
    return connect(find_conninfo(data_directory, like), os_user=owner)


def find_owner_name(data_directory: str) -> str | None:
    owner = find_directory_owner(data_directory)
    return None if owner is None else owner.name


def find_directory_owner(data_directory: str) -> OsUser | None:
    """Raises NotFound when the directory is not there."""
    try:
        return find_owner(data_directory)
    except OSError as error:
        raise NotFound(f'could not look at "{data_directory}": {error.strerror}') from error


def look_at_standby(connection: Connection) -> StandbyState:
    """Raises NotPermitted with the GRANT that helps, ServerUnsuitable."""
    with server_errors(connection, "look at the standby", privilege="pg_monitor"):
        row = fetch_one(connection, _STATE)
        query = "SELECT name, coalesce(setting, '') FROM pg_settings WHERE name = ANY(%s)"
        settings: dict[str, str] = dict(connection.execute(query, (list(_SETTINGS),)).fetchall())
        found = connection.execute(_RECEIVER).fetchone()
        timeline = read_timeline(connection)
        is_standby, identifier, received, replayed, replayed_at, asked_at, pause_state, segment_size = row
        if not is_standby:
            (replayed,) = fetch_one(connection, "SELECT pg_current_wal_lsn()::text")
    return StandbyState(
        is_standby=bool(is_standby),
        system_identifier=int(identifier) % (1 << 64),
        segment_size=int(segment_size),
        timeline=timeline,
        received_lsn=None if received is None else Lsn.parse(received),
        replayed_lsn=Lsn.parse(replayed or "0/0"),
        replayed_at=replayed_at,
        asked_at=asked_at,
        pause_state=pause_state,
        receiver=None if found is None or found[0] is None else _receiver(found),
        settings=settings,
    )


def _receiver(row: tuple[Any, ...]) -> Receiver:
    status, host, port, slot, latest = row
    return Receiver(
        status=status, host=host, port=port, slot=slot, upstream_lsn=None if latest is None else Lsn.parse(latest)
    )
