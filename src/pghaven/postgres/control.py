"""The control file, ``global/pg_control``: who a cluster is, what state it is in, and how it was built.

The one idea: the layout is fixed for a control version, and the versions we read (1300 to 1800) differ only in where
the checksum at the end lies, so one structure serves all. Sources: pg_control.h, controldata_utils.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pghaven.errors import Damaged, ServerUnsuitable
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.postgres.version import MajorVersion, find_by_control, supported_majors
from pghaven.units import since_epoch

CONTROL_PATH: Final = "global/pg_control"
"""Relative to the data directory."""

CONTROL_FILE_SIZE: Final = 8192
"""What the server writes (PG_CONTROL_FILE_SIZE); everything behind the checksum is zero."""

# struct ControlFileData on a little-endian machine with 8-byte alignment, the only kind supported. The checkpoint's
# own wal_level (17 and later) stands where there was padding before, so that all versions agree up to the nonce.
_FIELDS: Final = (
    ("system_identifier", "Q"),
    ("control_version", "I"),
    ("catalog_version", "I"),
    ("state", "I4x"),
    ("modified", "q"),
    ("checkpoint_lsn", "Q"),
    ("redo", "Q"),
    ("timeline", "I"),
    ("prev_timeline", "I"),
    ("full_page_writes", "?7x"),
    ("next_xid", "Q"),
    ("next_oid", "I"),
    ("next_multi", "I"),
    ("next_multi_offset", "I"),
    ("oldest_xid", "I"),
    ("oldest_xid_database", "I"),
    ("oldest_multi", "I"),
    ("oldest_multi_database", "I4x"),
    ("checkpoint_time", "q"),
    ("oldest_commit_timestamp_xid", "I"),
    ("newest_commit_timestamp_xid", "I"),
    ("oldest_active_xid", "I4x"),
    ("unlogged_lsn", "Q"),
    ("min_recovery_point", "Q"),
    ("min_recovery_timeline", "I4x"),
    ("backup_start", "Q"),
    ("backup_end", "Q"),
    ("backup_end_required", "?3x"),
    ("wal_level", "I"),
    ("wal_log_hints", "?3x"),
    ("max_connections", "i"),
    ("max_worker_processes", "i"),
    ("max_wal_senders", "i"),
    ("max_prepared_transactions", "i"),
    ("max_locks_per_transaction", "i"),
    ("track_commit_timestamp", "?3x"),
    ("max_align", "I"),
    ("float_format", "d"),
    ("block_size", "I"),
    ("segment_blocks", "I"),
    ("wal_block_size", "I"),
    ("wal_segment_size", "I"),
    ("name_length", "I"),
    ("index_max_keys", "I"),
    ("toast_max_chunk_size", "I"),
    ("large_object_block_size", "I"),
    ("float8_by_value", "?3x"),
    ("data_checksum_version", "I"),
)
_LAYOUT: Final = struct.Struct("<" + "".join(code for _, code in _FIELDS))
# Where the CRC lies, by control version: since 1800 default_char_signedness stands before the nonce.
_CRC_OFFSETS: Final = {1300: 288, 1700: 288, 1800: 292}
_FLOAT_FORMAT: Final = 1234567.0
_MAX_ALIGN: Final = 8


class DatabaseState(StrEnum):
    """What the server was doing when it last wrote the file (DBState); the values are pg_controldata's words."""

    STARTING_UP = "starting up"
    SHUT_DOWN = "shut down"
    SHUT_DOWN_IN_RECOVERY = "shut down in recovery"
    SHUTTING_DOWN = "shutting down"
    IN_CRASH_RECOVERY = "in crash recovery"
    IN_ARCHIVE_RECOVERY = "in archive recovery"
    IN_PRODUCTION = "in production"

    @property
    def is_shut_down(self) -> bool:
        """Whether the files are complete without any WAL before the last checkpoint being replayed."""
        return self in {DatabaseState.SHUT_DOWN, DatabaseState.SHUT_DOWN_IN_RECOVERY}


_STATES: Final = tuple(DatabaseState)
_WAL_LEVELS: Final = ("minimal", "replica", "logical")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFile:
    """What a control file says. Positions are 0/0 and timelines None where the server has none to tell.

    ``segment_blocks`` is the number of blocks in one file of a large relation; sizes are in bytes.
    """

    system_identifier: int
    control_version: int
    catalog_version: int
    state: DatabaseState
    modified: datetime
    checkpoint_lsn: Lsn
    checkpoint_redo_lsn: Lsn
    checkpoint_timeline: Timeline
    prev_timeline: Timeline
    checkpoint_time: datetime
    full_page_writes: bool
    next_xid: int
    oldest_xid: int
    min_recovery_point: Lsn
    min_recovery_timeline: Timeline | None
    backup_start_lsn: Lsn
    backup_end_lsn: Lsn
    backup_end_required: bool
    wal_level: str
    wal_log_hints: bool
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    track_commit_timestamp: bool
    block_size: int
    segment_blocks: int
    wal_block_size: int
    wal_segment_size: int
    data_checksum_version: int

    @property
    def version(self) -> MajorVersion | None:
        """The supported major version that wrote this; None for any other."""
        return find_by_control(self.control_version, self.catalog_version)

    @property
    def has_data_checksums(self) -> bool:
        return self.data_checksum_version > 0


def parse_control(data: bytes | bytearray | memoryview) -> ControlFile:
    """The contents of ``global/pg_control``, 296 bytes of it or more.

    Raises ServerUnsuitable for a control version we do not know, and Damaged when the checksum does not match. A
    running server writes the file in place, and a reader may see half of a write: read again before believing it.
    """
    if len(data) < min(_CRC_OFFSETS.values()) + 4:
        raise Damaged(f"{CONTROL_PATH}: only {len(data)} bytes")
    _check_crc(data)
    return _build(dict(zip((name for name, _ in _FIELDS), _LAYOUT.unpack_from(data), strict=True)))


def _check_crc(data: bytes | bytearray | memoryview) -> None:
    import google_crc32c

    (control_version,) = struct.unpack_from("<I", data, 8)
    offset = _CRC_OFFSETS.get(control_version)
    if offset is None:
        if int.from_bytes(control_version.to_bytes(4, "big"), "little") in _CRC_OFFSETS:
            raise ServerUnsuitable(f"{CONTROL_PATH} was written on a big-endian machine, which is not supported")
        raise ServerUnsuitable(
            f"{CONTROL_PATH} has control version {control_version}, which is not supported, or it is damaged",
            hint=f"Supported major versions are {supported_majors()}.",
        )
    if len(data) < offset + 4:
        raise Damaged(f"{CONTROL_PATH}: only {len(data)} bytes")
    (stored,) = struct.unpack_from("<I", data, offset)
    computed = google_crc32c.value(bytes(data[:offset]))
    if stored != computed:
        raise Damaged(f"{CONTROL_PATH}: CRC is {stored:08X} but its contents give {computed:08X}")


def _build(raw: dict[str, Any]) -> ControlFile:
    """A matching checksum says the file is as written, not that every number in it can be."""
    if raw["float_format"] != _FLOAT_FORMAT or raw["max_align"] != _MAX_ALIGN:
        raise ServerUnsuitable(f"{CONTROL_PATH} was written on a machine of another kind, which is not supported")
    try:
        return ControlFile(
            system_identifier=raw["system_identifier"],
            control_version=raw["control_version"],
            catalog_version=raw["catalog_version"],
            state=_STATES[raw["state"]],
            modified=since_epoch(raw["modified"]),
            checkpoint_lsn=Lsn(raw["checkpoint_lsn"]),
            checkpoint_redo_lsn=Lsn(raw["redo"]),
            checkpoint_timeline=Timeline(raw["timeline"]),
            prev_timeline=Timeline(raw["prev_timeline"]),
            checkpoint_time=since_epoch(raw["checkpoint_time"]),
            full_page_writes=raw["full_page_writes"],
            next_xid=raw["next_xid"],
            oldest_xid=raw["oldest_xid"],
            min_recovery_point=Lsn(raw["min_recovery_point"]),
            min_recovery_timeline=Timeline(raw["min_recovery_timeline"]) if raw["min_recovery_timeline"] else None,
            backup_start_lsn=Lsn(raw["backup_start"]),
            backup_end_lsn=Lsn(raw["backup_end"]),
            backup_end_required=raw["backup_end_required"],
            wal_level=_WAL_LEVELS[raw["wal_level"]],
            wal_log_hints=raw["wal_log_hints"],
            max_connections=raw["max_connections"],
            max_worker_processes=raw["max_worker_processes"],
            max_wal_senders=raw["max_wal_senders"],
            max_prepared_transactions=raw["max_prepared_transactions"],
            max_locks_per_transaction=raw["max_locks_per_transaction"],
            track_commit_timestamp=raw["track_commit_timestamp"],
            block_size=raw["block_size"],
            segment_blocks=raw["segment_blocks"],
            wal_block_size=raw["wal_block_size"],
            wal_segment_size=raw["wal_segment_size"],
            data_checksum_version=raw["data_checksum_version"],
        )
    except (ValueError, IndexError, OverflowError) as error:
        raise Damaged(f"{CONTROL_PATH}: {error}") from error
