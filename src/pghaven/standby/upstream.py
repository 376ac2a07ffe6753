"""The server that a standby follows, as far as a standby is concerned: its role, its settings, its slots.

The one idea: a primary and a standby are asked the same things, so a cascading standby is built as any other; where a
replication role may not look into the server, the replication protocol itself tells enough.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass

from pghaven.errors import NotPermitted, PghavenError, ServerUnsuitable
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, Timeline, parse_history
from pghaven.server.connection import Connection, connect, server_errors
from pghaven.server.probe import ServerFacts, probe_server
from pghaven.server.replication import connect_for_replication

_SLOTS = """
    SELECT slot.slot_name, slot.slot_type, slot.active, slot.wal_status,
        pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
            slot.restart_lsn)::bigint,
        concat_ws(' at ', nullif(sender.application_name, ''), coalesce(host(sender.client_addr), 'a local socket'))
    FROM pg_replication_slots AS slot LEFT JOIN pg_stat_replication AS sender ON sender.pid = slot.active_pid
    ORDER BY 1
"""
_ROLE = "SELECT rolcanlogin, rolreplication OR rolsuper FROM pg_roles WHERE rolname = %s"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSlot:
    """``held_bytes`` is what the server keeps for it, None when it reserves nothing; ``user`` who uses it now."""

    name: str
    is_physical: bool
    is_active: bool
    is_lost: bool
    held_bytes: int | None
    user: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRole:
    """What the role may do with which the standby is to connect."""

    name: str
    can_login: bool
    can_replicate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """``host`` and ``port`` are where the session found it; ``role`` is None when there is none of that name."""

    server: ServerFacts
    host: str
    port: int
    slots: tuple[UpstreamSlot, ...]
    sender_count: int
    role: UpstreamRole | None

    def find_slot(self, name: str) -> UpstreamSlot | None:
        return next((slot for slot in self.slots if slot.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server says of itself over the replication protocol; ``lsn`` is the end of what it has."""

    system_identifier: int
    timeline: Timeline
    lsn: Lsn
    is_standby: bool
    host: str
    history: History | None = None


def look_at_upstream(connection: Connection, role: str) -> Upstream:
    """Everything that is to be known of it. Raises ServerUnsuitable, NotPermitted with the GRANT that helps."""
    facts = probe_server(connection)
    with server_errors(connection, "look at its replication slots and roles", privilege="pg_monitor"):
        slots = tuple(
            UpstreamSlot(
                name=name,
                is_physical=kind == "physical",
                is_active=bool(is_active),
                is_lost=status == "lost",
                held_bytes=held,
                user=user if is_active else None,
            )
            for name, kind, is_active, status, held, user in connection.execute(_SLOTS).fetchall()
        )
        found = connection.execute(_ROLE, (role,)).fetchone()
        senders = connection.execute("SELECT count(*) FROM pg_stat_replication").fetchone()
    info = connection.info
    return Upstream(
        server=facts,
        host=info.host,
        port=info.port,
        slots=slots,
        sender_count=int(senders[0]) if senders else 0,
        role=None if found is None else UpstreamRole(name=role, can_login=bool(found[0]), can_replicate=bool(found[1])),
    )


def ask_server(conninfo: str, name: str, *, os_user: str | None = None, with_history: bool = False) -> Answer:
    """Ask by the replication protocol, which every role with REPLICATION may. Raises ServerUnsuitable, NotPermitted."""
    with closing(connect_for_replication(conninfo, name, os_user=os_user)) as connection:
        found = connection.identify()
        history = None
        if with_history:
            text = b"" if found.timeline == 1 else connection.read_history(found.timeline)
            history = parse_history(text.decode("utf-8", "replace"), found.timeline)
        return Answer(
            system_identifier=found.system_identifier,
            timeline=found.timeline,
            lsn=found.flushed_lsn,
            is_standby=connection.read_parameter("in_hot_standby") == "on",
            host=connection.host,
            history=history,
        )


def find_answer(conninfo: str, name: str, *, os_user: str | None = None) -> tuple[Answer | None, str | None]:
    """As ``ask_server``; without an answer, why there is none."""
    try:
        return ask_server(conninfo, name, os_user=os_user), None
    except (ServerUnsuitable, NotPermitted) as error:
        return None, error.message


def is_still_answering(conninfo: str, os_user: str | None) -> bool:
    """Whether anybody lets an ordinary session in there."""
    with suppress(PghavenError):
        connect(conninfo, os_user=os_user).close()
        return True
    return False
