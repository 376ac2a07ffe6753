"""A physical replication connection: the server's identity, slots, histories, and the stream of WAL.

The one idea: psycopg gives libpq's own calls, and those are all that streaming needs; so there is no other program
whose death, arguments and output would have to be watched, and what is reported as flushed is decided here.
Nothing waits while WAL streams: whoever has the connection polls it beside everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus

from pghaven.errors import NotPermitted, ServerUnsuitable, SlotInUse, SlotLost, WalRemoved
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.postgres.walstream import Keepalive, WalMessage, parse_message, render_status
from pghaven.server.connection import Connection, open_connection

_UNDEFINED_FILE = "58P01"
_OBJECT_IN_USE = "55006"
_NOT_IN_PREREQUISITE_STATE = "55000"
_UNDEFINED_OBJECT = "42704"
_INSUFFICIENT_PRIVILEGE = "42501"
_UNITS = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerIdentity:
    """What ``IDENTIFY_SYSTEM`` says; ``flushed_lsn`` is the end of what the server has."""

    system_identifier: int
    timeline: Timeline
    flushed_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """From where a slot reserves WAL; None for one that reserves nothing."""

    restart_lsn: Lsn | None
    timeline: Timeline | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTimeline:
    """Where the streamed timeline ended, and which one goes on from there."""

    timeline: Timeline
    switch_lsn: Lsn


class ReplicationConnection:
    """One of them. Close it with ``close``; all of it raises ServerUnsuitable, or one of the above."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pgconn: Any = connection.pgconn
        self.is_streaming = False

    def fileno(self) -> int:
        return int(self._pgconn.socket)

    @property
    def host(self) -> str:
        """Whom it is connected to, of several in the connection string."""
        info = self._connection.info
        return f"{info.host or 'a local socket'} port {info.port}"

    @property
    def major(self) -> int:
        return int(self._connection.info.server_version) // 10000

    def read_parameter(self, name: str) -> str | None:
        """What the server has said of itself when it let us in, such as ``in_hot_standby``; None when it has not."""
        return self._connection.info.parameter_status(name)

    def close(self) -> None:
        self._connection.close()

    # -- before streaming -------------------------------------------------------------------------------------------

    def identify(self) -> ServerIdentity:
        row = self._ask("IDENTIFY_SYSTEM", "identify the server")
        return ServerIdentity(
            system_identifier=int(row[0] or 0), timeline=Timeline(int(row[1] or 0)), flushed_lsn=Lsn.parse(row[2] or "")
        )

    def read_segment_size(self) -> int:
        """In bytes."""
        text = self._ask("SHOW wal_segment_size", "ask for the size of WAL segments")[0] or ""
        digits = text.rstrip("kMGB")
        return int(digits) * _UNITS[text.removeprefix(digits) or "B"]

    def read_slot(self, name: str) -> SlotState | None:
        """None when there is none of this name."""
        kind, lsn, timeline = self._ask(f"READ_REPLICATION_SLOT {name}", "look at the replication slot")
        if kind is None:
            return None
        return SlotState(
            restart_lsn=None if lsn is None else Lsn.parse(lsn),
            timeline=None if timeline is None else Timeline(int(timeline)),
        )

    def create_slot(self, name: str) -> None:
        """Make a slot that reserves WAL from now on, or rather from the last checkpoint's start on."""
        self._ask(f"CREATE_REPLICATION_SLOT {name} PHYSICAL RESERVE_WAL", f'create replication slot "{name}"')

    def drop_slot(self, name: str) -> None:
        self._execute(f"DROP_REPLICATION_SLOT {name}", f'drop replication slot "{name}"')

    def read_history(self, timeline: Timeline) -> bytes:
        """The history file of a timeline, as it is."""
        result = self._execute(f"TIMELINE_HISTORY {timeline}", f"read the history of timeline {timeline}")
        return bytes(result.get_value(0, 1) or b"")

    # -- streaming --------------------------------------------------------------------------------------------------

    def start(self, slot: str, lsn: Lsn, timeline: Timeline) -> NextTimeline | None:
        """Begin to stream; what follows where the timeline ends just there. Raises SlotLost, SlotInUse."""
        command = f"START_REPLICATION SLOT {slot} PHYSICAL {lsn} TIMELINE {timeline}"
        try:
            self._pgconn.send_query(command.encode())
            result = self._pgconn.get_result()
        except psycopg.Error as error:
            raise self._failed(error) from error
        if result.status == ExecStatus.TUPLES_OK:
            return self._read_next(result)
        if result.status != ExecStatus.COPY_BOTH:
            self._drain()
            raise _explain(result, f"stream WAL from {lsn} of timeline {timeline}", is_start=True)
        self._pgconn.nonblocking = 1
        self.is_streaming = True
        return None

    def receive(self) -> Iterator[WalMessage | Keepalive]:
        """What has arrived; nothing when there is nothing yet. ``is_streaming`` is False when that was the end of the
        timeline: then ask for ``finish``."""
        try:
            self._pgconn.consume_input()
            while self.is_streaming:
                length, data = self._pgconn.get_copy_data(1)
                if length > 0:
                    yield parse_message(data)
                elif length == 0:
                    return
                else:
                    self.is_streaming = False
        except psycopg.Error as error:
            raise self._failed(error) from error

    def report(self, written: Lsn, flushed: Lsn, now: datetime, *, ask: bool = False) -> None:
        """Tell the server how far we are, and have it answer if asked. It may remove what is flushed, and takes commits
        in it for safe."""
        try:
            self._pgconn.put_copy_data(render_status(written, flushed, now, ask=ask))
            self._pgconn.flush()
        except psycopg.Error as error:
            raise self._failed(error) from error

    def leave(self) -> None:
        """Say goodbye in the midst of a stream."""
        with suppress(psycopg.Error):
            self._pgconn.put_copy_end()
            self._pgconn.flush()

    def finish(self) -> NextTimeline:
        """After the end of a timeline. Raises what ended the stream, when it was not that."""
        try:
            result = self._pgconn.get_result()
            if result is not None and result.status == ExecStatus.COPY_IN:
                self._pgconn.put_copy_end()
                self._pgconn.nonblocking = 0
                self._pgconn.flush()
                result = self._pgconn.get_result()
        except psycopg.Error as error:
            raise self._failed(error) from error
        self._pgconn.nonblocking = 0
        if result is None or result.status != ExecStatus.TUPLES_OK:
            if result is not None and result.status == ExecStatus.FATAL_ERROR:
                raise _explain(result, "receive WAL")
            raise ServerUnsuitable("the server ended the stream of WAL", hint="It is probably shutting down.")
        return self._read_next(result)

    def _read_next(self, result: Any) -> NextTimeline:
        timeline, lsn = int(result.get_value(0, 0)), bytes(result.get_value(0, 1)).decode()
        self._drain()
        return NextTimeline(timeline=Timeline(timeline), switch_lsn=Lsn.parse(lsn))

    def _drain(self) -> None:
        while self._pgconn.get_result() is not None:
            pass

    # -- commands ---------------------------------------------------------------------------------------------------

    def _execute(self, command: str, doing: str) -> Any:
        try:
            result = self._pgconn.exec_(command.encode())
        except psycopg.Error as error:
            raise self._failed(error) from error
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            raise _explain(result, doing)
        return result

    def _ask(self, command: str, doing: str) -> list[str | None]:
        result = self._execute(command, doing)
        values = [result.get_value(0, column) for column in range(result.nfields)]
        return [None if value is None else bytes(value).decode() for value in values]

    def _failed(self, error: psycopg.Error) -> ServerUnsuitable:
        lines = str(error).splitlines() or [type(error).__name__]
        return ServerUnsuitable(f"lost the connection to the server: {lines[0]}")


def connect_for_replication(
    conninfo: str, application_name: str, *, os_user: str | None = None
) -> ReplicationConnection:
    """Raises UsageError for a malformed ``conninfo``, ServerUnsuitable. Blocks as ``connection.connect`` does.

    ``application_name`` is what ``synchronous_standby_names`` may name.
    """
    more = {"replication": "true", "application_name": application_name}
    return ReplicationConnection(open_connection(conninfo, os_user=os_user, more=more))


def _explain(result: Any, doing: str, *, is_start: bool = False) -> ServerUnsuitable | NotPermitted:
    field = result.error_field
    state = (field(DiagnosticField.SQLSTATE) or b"").decode()
    message = (field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode("utf-8", "replace")
    detail = (field(DiagnosticField.MESSAGE_DETAIL) or b"").decode("utf-8", "replace") or None
    text = f"could not {doing}: {message}"
    if state == _UNDEFINED_FILE:
        return WalRemoved(text, detail=detail)
    if is_start and state in (_UNDEFINED_OBJECT, _NOT_IN_PREREQUISITE_STATE):
        return SlotLost(text, detail=detail)
    if state == _OBJECT_IN_USE:
        return SlotInUse(text, detail=detail, hint="Another receiver has it. One slot is for one receiver.")
    if state == _INSUFFICIENT_PRIVILEGE:
        return NotPermitted(text, detail=detail, hint="The role needs the attribute REPLICATION.")
    return ServerUnsuitable(text, detail=detail)
