"""WAL that a server has finished and not archived yet."""

from __future__ import annotations

import psycopg

from pghaven.server.connection import Connection

_WAITING = """
    SELECT count(*) FROM pg_ls_archive_statusdir()
    WHERE name LIKE '%%.ready' AND (%(up_to)s::text IS NULL OR left(name, 24) COLLATE "C" <= %(up_to)s)
"""


def count_waiting(connection: Connection, up_to: str | None = None) -> int | None:
    """The files marked ``.ready`` in ``archive_status``, those up to a segment's name if one is given; None when the
    role may not look (pg_monitor may).

    Reads the whole directory on the server's side, which is slow only when very many files wait.
    """
    try:
        row = connection.execute(_WAITING, {"up_to": up_to}).fetchone()
    except psycopg.Error:
        return None
    return None if row is None else int(row[0])
