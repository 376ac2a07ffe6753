"""Tablespaces made after the backup: their replay must not enter a directory that somebody else lives in.

The one idea: a copy that is recovered beside its source replays CREATE TABLESPACE with the source's own path, and
PostgreSQL then writes into the source's files. Nothing but stopping recovery before that record helps.
"""

from __future__ import annotations

import os

from pghaven.errors import Refused
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.waltablespace import find_tablespace_creations
from pghaven.wal.plan import FollowedPlan


def refuse_occupied_tablespaces(segment: SegmentName, content: bytes, plan: FollowedPlan) -> None:
    """Raises Refused when the plan leads through the making of a tablespace whose place is not empty.

    One that this data directory links to already was made by this very recovery, before it was interrupted.
    """
    directory = os.path.dirname(plan.source) or "."
    for made in find_tablespace_creations(segment, content):
        if made.start_lsn >= plan.expected_end_lsn or not os.path.isabs(made.path):
            continue
        if _link_of(directory, made.oid) == made.path or not _is_occupied(made.path):
            continue
        raise Refused(
            f'recovery would make tablespace {made.oid} in "{made.path}", which is not empty: '
            "it may be the tablespace of the server this is a copy of",
            detail=f"The tablespace was made after the backup, at {made.start_lsn} in WAL segment {segment}.",
            hint="Recover on another host, or to a target before that position; or, if nobody uses that directory any "
            "more, move its contents away and start the server again.",
        )


def _link_of(directory: str, oid: int) -> str | None:
    try:
        return os.readlink(os.path.join(directory, "pg_tblspc", str(oid)))
    except OSError:
        return None


def _is_occupied(path: str) -> bool:
    try:
        return bool(set(os.listdir(path)) - {"lost+found"})
    except FileNotFoundError:
        return False  # the server will stop by itself and ask for it
    except OSError:
        return True
