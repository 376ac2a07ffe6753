"""What a server says of one replication slot and of who uses it. Read-only.

The one idea: the server knows both ends, what it keeps for a receiver and what that receiver has told; so one query
tells whether WAL is received, and how far it has come.
"""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.postgres.lsn import Lsn
from pghaven.server.connection import Connection, server_errors

_QUERY = """
    SELECT slot.active, slot.wal_status, slot.restart_lsn::text, sender.state, sender.sync_state,
        sender.flush_lsn::text,
        CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), slot.restart_lsn)::bigint END
    FROM pg_replication_slots AS slot LEFT JOIN pg_stat_replication AS sender ON sender.pid = slot.active_pid
    WHERE slot.slot_name = %s AND slot.slot_type = 'physical'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotActivity:
    """``wal_status`` is that of pg_replication_slots, None for a slot that never reserved WAL; ``held_bytes`` are what
    the server keeps for it. The last three are those of pg_stat_replication, None while nobody uses it."""

    name: str
    is_active: bool
    wal_status: str | None
    restart_lsn: Lsn | None
    held_bytes: int | None
    state: str | None
    sync_state: str | None
    flushed_lsn: Lsn | None

    @property
    def is_lost(self) -> bool:
        """Whether it reserves nothing any more."""
        return self.wal_status == "lost"


def find_slot(connection: Connection, name: str) -> SlotActivity | None:
    """None when there is no physical slot of this name. Raises ServerUnsuitable."""
    with server_errors(connection, f'look at replication slot "{name}"'):
        row = connection.execute(_QUERY, (name,)).fetchone()
    if row is None:
        return None
    is_active, wal_status, restart, state, sync_state, flushed, held = row
    return SlotActivity(
        name=name,
        is_active=is_active,
        wal_status=wal_status,
        restart_lsn=None if restart is None else Lsn.parse(restart),
        held_bytes=held,
        state=state,
        sync_state=sync_state,
        flushed_lsn=None if flushed is None else Lsn.parse(flushed),
    )
