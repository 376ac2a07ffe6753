"""What tells that a server has enough to do already: standbys that fall behind, WAL that is not archived yet."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from pghaven.server.backlog import count_waiting
from pghaven.server.connection import Connection

# How much WAL each standby of this server has not replayed, and this server itself if it is one: reading hinders it.
_STANDBYS = """
SELECT coalesce(nullif(application_name, ''), client_addr::text, pid::text),
       pg_wal_lsn_diff(
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, replay_lsn)
  FROM pg_stat_replication WHERE replay_lsn IS NOT NULL
UNION ALL
SELECT 'this server', pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
 WHERE pg_is_in_recovery() AND pg_last_wal_receive_lsn() IS NOT NULL
 ORDER BY 2 DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """The standby that is furthest behind in its replay, by bytes of WAL, and the files that wait to be archived."""

    standby: str | None
    standby_lag_bytes: int
    waiting_files: int


def read_pressure(connection: Connection, with_archive: bool) -> Pressure | None:
    """None when the server does not tell. Listing what waits for the archive is left out unless asked for."""
    try:
        row = connection.execute(_STANDBYS).fetchone()
    except psycopg.Error:
        return None
    standby, lag = (None, 0) if row is None else (str(row[0]), max(0, int(row[1])))
    waiting = count_waiting(connection) if with_archive else None
    return Pressure(standby=standby, standby_lag_bytes=lag, waiting_files=waiting or 0)
