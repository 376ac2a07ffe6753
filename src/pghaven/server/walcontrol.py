"""Orders to a running server about its WAL: finish a segment, name a moment, checkpoint.

The one idea: each is one function call that needs one privilege, and says which when it is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.errors import Refused, UsageError
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.server.connection import Connection, fetch_one, server_errors

_RESTORE_POINT_BYTES = 63
_SWITCH = "EXECUTE ON FUNCTION pg_catalog.pg_switch_wal()"
_RESTORE_POINT = "EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchedWal:
    """``end_lsn`` is the end of the last record in ``segment``, which is complete and will be archived."""

    end_lsn: Lsn
    segment: SegmentName


def switch_wal(connection: Connection) -> SwitchedWal:
    """Finish the current segment, so that it is archived now.

    A segment with nothing in it is not switched: the one before is named then, which is complete already.
    Raises Refused on a standby, NotPermitted with the GRANT needed, ServerUnsuitable.
    """
    _require_primary(connection, "switch to a new WAL segment")
    with server_errors(connection, "switch to a new WAL segment", privilege=_SWITCH):
        # The name is worked out here: what pg_walfile_name says of a segment's boundary changed in 17.
        end_lsn, timeline_name, segment_size = fetch_one(
            connection,
            "SELECT lsn::text, left(pg_walfile_name(lsn), 8), bytes_per_wal_segment"
            " FROM (SELECT pg_switch_wal() AS lsn OFFSET 0) AS switched, pg_control_init()",
        )
    end = Lsn.parse(end_lsn)
    return SwitchedWal(end_lsn=end, segment=SegmentName.before(Timeline(int(timeline_name, 16)), end, segment_size))


def create_restore_point(connection: Connection, name: str) -> Lsn:
    """Name this moment, so that a restore can stop at it; gives the end of the record.

    Raises UsageError for a name longer than 63 bytes, and otherwise as ``switch_wal``.
    """
    if not 0 < len(name.encode()) <= _RESTORE_POINT_BYTES:
        raise UsageError(f"the name of a restore point has 1 to {_RESTORE_POINT_BYTES} bytes")
    _require_primary(connection, "create a restore point")
    with server_errors(connection, "create a restore point", privilege=_RESTORE_POINT):
        (lsn,) = fetch_one(connection, "SELECT pg_create_restore_point(%s)::text", name)
    return Lsn.parse(lsn)


def run_checkpoint(connection: Connection) -> None:
    """An immediate checkpoint (restart point on a standby). Blocks until it is done."""
    with server_errors(connection, "run a checkpoint", privilege="pg_checkpoint"):
        connection.execute("CHECKPOINT")


def _require_primary(connection: Connection, doing: str) -> None:
    with server_errors(connection, doing):
        (in_recovery,) = fetch_one(connection, "SELECT pg_is_in_recovery()")
    if in_recovery:
        raise Refused(f"cannot {doing} on a standby", hint="Connect to the primary.")
