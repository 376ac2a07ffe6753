"""Which standbys follow a server, and how far each has come, by the server's own word. Read-only.

The one idea: a standby that is connected is in pg_stat_replication, and one that is away may still have a slot that
keeps WAL for it; what only receives WAL, or takes a base backup, replays nothing and is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.postgres.lsn import Lsn
from pghaven.server.connection import Connection, server_errors

AWAY = "away"
"""The state of a slot that nobody uses; the others are those of pg_stat_replication."""

_QUERY = """
    WITH here AS (
        SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END AS lsn
    )
    SELECT sender.application_name, sender.client_addr::text, sender.state, sender.sync_state, slot.slot_name,
        slot.wal_status, sender.replay_lsn::text, pg_wal_lsn_diff(here.lsn, sender.replay_lsn)::bigint,
        extract(epoch FROM sender.replay_lag)::float8, pg_wal_lsn_diff(here.lsn, slot.restart_lsn)::bigint
      FROM here, pg_stat_replication AS sender LEFT JOIN pg_replication_slots AS slot ON slot.active_pid = sender.pid
     WHERE sender.replay_lsn IS NOT NULL AND coalesce(slot.slot_type, 'physical') = 'physical'
       AND slot.slot_name IS DISTINCT FROM %(receiver)s
    UNION ALL
    SELECT slot.slot_name, NULL, 'away', NULL, slot.slot_name, slot.wal_status, NULL, NULL, NULL,
        pg_wal_lsn_diff(here.lsn, slot.restart_lsn)::bigint
      FROM here, pg_replication_slots AS slot
     WHERE slot.slot_type = 'physical' AND NOT slot.active AND NOT slot.temporary
       AND slot.slot_name IS DISTINCT FROM %(receiver)s
     ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """One standby. ``address`` is None on this host's socket; ``replayed_lsn`` is how far it has come and
    ``behind_bytes`` what is left, None for one that is away. ``replay_seconds`` is how late it showed what the server
    committed, None as long as nothing is written. ``held_bytes`` are what the server keeps for its ``slot``."""

    name: str
    address: str | None
    state: str
    sync_state: str | None
    slot: str | None
    wal_status: str | None
    replayed_lsn: Lsn | None
    behind_bytes: int | None
    replay_seconds: float | None
    held_bytes: int | None

    @property
    def is_away(self) -> bool:
        return self.state == AWAY

    @property
    def is_lost(self) -> bool:
        """Whether its slot keeps nothing for it any more."""
        return self.wal_status == "lost"


def list_standbys(connection: Connection, receiver_slot: str | None) -> tuple[Standby, ...]:
    """All that the server knows of; the slot of our own receiver is none. Raises ServerUnsuitable."""
    with server_errors(connection, "list the standbys"):
        rows = connection.execute(_QUERY, {"receiver": receiver_slot}).fetchall()
    return tuple(
        Standby(
            name=row[0] or "(no name)",
            address=row[1],
            state=row[2] or "starting",
            sync_state=row[3],
            slot=row[4],
            wal_status=row[5],
            replayed_lsn=None if row[6] is None else Lsn.parse(row[6]),
            behind_bytes=None if row[7] is None else max(0, row[7]),
            replay_seconds=row[8],
            held_bytes=None if row[9] is None else max(0, row[9]),
        )
        for row in rows
    )
