"""What WAL records say that recovery can be told to stop at: ends of transactions and restore points.

The one idea: these few records carry the times, transaction numbers and names that recovery targets are compared
with, so whether a target can be reached is known before anything is restored.

Follows xactdesc.c (ParseCommitRecord, ParseAbortRecord, ParsePrepareRecord), DecodeXLogRecord in xlogreader.c, and
getRecordTimestamp and recoveryStopsBefore in xlogrecovery.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.waldata import WalBytes
from pghaven.postgres.walrecord import INFO_MASK, RM_XACT, RM_XLOG, XLOG_RESTORE_POINT, WalRecord, iter_records

EVENT_RESOURCE_MANAGERS: Final = (RM_XLOG, RM_XACT)
"""For ``iter_records``: the only records that hold events."""

# xl_info of RM_XACT (xact.h).
_XACT_OPERATION_MASK: Final = 0x70
_XACT_HAS_INFO: Final = 0x80

# xl_xact_xinfo.xinfo
_HAS_DATABASE: Final = 1 << 0
_HAS_SUBTRANSACTIONS: Final = 1 << 1
_HAS_RELATIONS: Final = 1 << 2
_HAS_INVALIDATIONS: Final = 1 << 3
_HAS_TWO_PHASE: Final = 1 << 4
_HAS_GID: Final = 1 << 7
_HAS_STATISTICS: Final = 1 << 8

_ID_DATA_LONG: Final = 254
_ID_DATA_SHORT: Final = 255
_PART_SIZES: Final = {252: 5, 253: 3}
"""Other parts that a record without blocks may have (xlogrecord.h): top-level xid, replication origin."""

_PREPARE: Final = struct.Struct("<8xI4xq30xH")
"""xl_xact_prepare: (magic, total_len) xid (database) prepared_at (owner … initfileinval) gidlen."""
_PREPARE_SIZE: Final = 72

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Of TimestampTz, which counts microseconds."""


class XactKind(StrEnum):
    """How a transaction ended, or that it was prepared (two-phase commit)."""

    COMMIT = "commit"
    PREPARE = "prepare"
    ABORT = "abort"
    COMMIT_PREPARED = "commit_prepared"
    ABORT_PREPARED = "abort_prepared"


_XACT_KINDS: Final = {
    0x00: XactKind.COMMIT,
    0x10: XactKind.PREPARE,
    0x20: XactKind.ABORT,
    0x30: XactKind.COMMIT_PREPARED,
    0x40: XactKind.ABORT_PREPARED,
}
_SECOND_PHASES: Final = (XactKind.COMMIT_PREPARED, XactKind.ABORT_PREPARED)


@dataclass(frozen=True, slots=True, kw_only=True)
class XactEvent:
    """The end of a transaction, or its preparation. ``time`` is the server's clock then, in UTC.

    ``xid`` is the transaction's own number, for the second phase of a prepared one too, as recovery_target_xid means
    it. ``gid`` is its global name if it was prepared; on commits and aborts, only ``wal_level = logical`` records it.
    """

    kind: XactKind
    xid: int
    time: datetime
    gid: str | None
    start_lsn: Lsn
    end_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePoint:
    """A restore point. ``end_lsn`` is what pg_create_restore_point returned."""

    name: str
    time: datetime
    start_lsn: Lsn
    end_lsn: Lsn


def decode_xact(record: WalRecord) -> XactEvent | None:
    """The end or preparation of a transaction, if the record is one. Raises Damaged if it cannot be decoded."""
    if record.rmid != RM_XACT:
        return None
    kind = _XACT_KINDS.get(record.info & _XACT_OPERATION_MASK)
    if kind is None:
        return None
    try:
        data = _get_main_data(record)
        xid, time, gid = _read_prepare(data) if kind is XactKind.PREPARE else _read_end(record, kind, data)
    except (struct.error, IndexError, ValueError) as error:
        raise _undecodable(record, error) from error
    return XactEvent(
        kind=kind,
        xid=xid,
        time=_get_time(time),
        gid=gid,
        start_lsn=record.start_lsn,
        end_lsn=record.end_lsn,
    )


def list_commit_times(segment: SegmentName, content: WalBytes) -> list[datetime]:
    """The times of all commits and aborts that lie whole in a segment, in the order of WAL. Raises Damaged."""
    events = (decode_xact(record) for record in iter_records([(segment, content)], resource_managers=(RM_XACT,)))
    return [event.time for event in events if event is not None and event.kind is not XactKind.PREPARE]


def decode_restore_point(record: WalRecord) -> RestorePoint | None:
    """The restore point, if the record is one. Raises Damaged if it cannot be decoded.

    The name is in the encoding of the database it was made in; what is not UTF-8 is kept as surrogates.
    """
    if record.rmid != RM_XLOG or record.info & INFO_MASK != XLOG_RESTORE_POINT:
        return None
    try:
        time, name = struct.unpack_from("<q64s", _get_main_data(record))
    except (struct.error, IndexError, ValueError) as error:
        raise _undecodable(record, error) from error
    return RestorePoint(name=_get_text(name), time=_get_time(time), start_lsn=record.start_lsn, end_lsn=record.end_lsn)


def _get_main_data(record: WalRecord) -> bytes:
    """The part of a record that belongs to no block; records of transactions and restore points have no other.

    What comes before it says which transaction or replication origin the record belongs to (XLogRecordAssemble).
    """
    data = record.data
    position = 0
    while position < len(data):
        part = data[position]
        if part == _ID_DATA_SHORT:
            length, position = data[position + 1], position + 2
            return data[position : position + length]
        if part == _ID_DATA_LONG:
            (length,) = struct.unpack_from("<I", data, position + 1)
            return data[position + 5 : position + 5 + length]
        if part not in _PART_SIZES:
            raise ValueError(f"a part {part} is not expected")
        position += _PART_SIZES[part]
    return b""


def _read_prepare(data: bytes) -> tuple[int, int, str | None]:
    """xid, time and global name from xl_xact_prepare."""
    xid, time, gid_length = _PREPARE.unpack_from(data)
    return xid, time, _get_text(data[_PREPARE_SIZE : _PREPARE_SIZE + gid_length])


def _read_end(record: WalRecord, kind: XactKind, data: bytes) -> tuple[int, int, str | None]:
    """xid, time and global name from xl_xact_commit or xl_xact_abort; parts come in the order of their flags here."""
    (time,) = struct.unpack_from("<q", data)
    if kind not in _SECOND_PHASES:
        return record.xid, time, None
    position = 8
    flags = 0
    if record.info & _XACT_HAS_INFO:
        (flags,) = struct.unpack_from("<I", data, position)
        position += 4
    if flags & _HAS_DATABASE:
        position += 8
    # Before version 18 (format D118) a dropped statistics entry had a number of 32 bits instead of 64.
    statistics_size = 16 if record.magic >= 0xD118 else 12
    for flag, entry_size in (
        (_HAS_SUBTRANSACTIONS, 4),
        (_HAS_RELATIONS, 12),
        (_HAS_STATISTICS, statistics_size),
        (_HAS_INVALIDATIONS, 16),
    ):
        if flags & flag:
            (count,) = struct.unpack_from("<I", data, position)
            position += 4 + count * entry_size
    if not flags & _HAS_TWO_PHASE:
        raise ValueError("the second phase of a transaction does not say of which")
    (xid,) = struct.unpack_from("<I", data, position)
    return xid, time, _get_text(data[position + 4 :]) if flags & _HAS_GID else None


def _get_text(data: bytes) -> str:
    """A C string, up to its zero byte."""
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _get_time(microseconds: int) -> datetime:
    """A TimestampTz."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _undecodable(record: WalRecord, error: Exception) -> Damaged:
    return Damaged(f"the WAL record at {record.start_lsn} cannot be decoded: {error}")
