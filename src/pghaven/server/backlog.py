"""WAL that a server has finished and not archived yet."""

from __future__ import annotations

import psycopg

from pghaven.server.connection import Connection


def count_waiting(connection: Connection) -> int | None:
    """The files marked ``.ready`` in ``archive_status``; None when the role may not look (pg_monitor may).

    Reads the whole directory on the server's side, which is slow only when very many files wait.
    """
    try:
        row = connection.execute("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'").fetchone()
    except psycopg.Error:
        return None
    return None if row is None else int(row[0])
