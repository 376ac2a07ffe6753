"""Where WAL says that the server came up with other settings, ``wal_level`` above all.

The one idea: there are few such records, so a look at three words of every possible place tells in milliseconds that a
segment has none, and records are read only where one may be.

Follows XLogReportParameters in xlog.c: a server whose ``wal_level`` is another than it was writes this record before it
lets anybody in, also when the new one is minimal.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.waldata import WalBytes, parse_page_header
from pghaven.postgres.walrecord import INFO_MASK, RM_XLOG, WalRecord

_XLOG_PARAMETER_CHANGE: Final = 0x60
WAL_LEVEL_MINIMAL: Final = 0

_CHANGE: Final = struct.Struct("<20xi4x")
"""xl_parameter_change: five limits, wal_level, two switches and padding."""
# XLogRecordDataHeaderShort: what follows is data of this length.
_DATA_HEADER: Final = bytes([255, _CHANGE.size])
_RECORD_BYTES: Final = 24 + len(_DATA_HEADER) + _CHANGE.size
# XLogRecord as words of 8 bytes: length and transaction (0), predecessor, then info, resource manager (0) and CRC.
_FIRST_WORD: Final = np.uint64(_RECORD_BYTES)
_INFO_WORD: Final = 2
_INFO_BITS: Final = np.uint64(0xFFFFFFF0)
_INFO: Final = np.uint64(_XLOG_PARAMETER_CHANGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterChange:
    """The server came up with this ``wal_level``: 0 minimal, 1 replica, 2 logical."""

    wal_level: int
    start_lsn: Lsn


def may_contain_parameter_change(segment: WalBytes) -> bool:
    """Whether such a record may begin in this segment. False is certain; takes a millisecond or two for 16 MiB.

    Raises Damaged if this is not the beginning of a segment or not whole pages.
    """
    block_size = parse_page_header(segment).block_size
    if not block_size or len(segment) % block_size:
        raise Damaged(f"{len(segment)} bytes do not begin like a WAL segment, or end within a page")
    words = np.frombuffer(segment, "<u8")
    # Records begin at multiples of 8, so a length and a transaction number are never torn apart.
    (places,) = np.nonzero(words == _FIRST_WORD)
    page_words = block_size // 8
    on_page = places % page_words < page_words - _INFO_WORD
    whole = places[on_page]
    # Of a record that goes on on the next page so early nothing more is known here.
    return len(whole) < len(places) or bool(np.any(words[whole + _INFO_WORD] & _INFO_BITS == _INFO))


def decode_parameter_change(record: WalRecord) -> ParameterChange | None:
    """The change of parameters, if the record is one. Raises Damaged if it cannot be decoded."""
    if record.rmid != RM_XLOG or record.info & INFO_MASK != _XLOG_PARAMETER_CHANGE:
        return None
    if len(record.data) != len(_DATA_HEADER) + _CHANGE.size or not record.data.startswith(_DATA_HEADER):
        raise Damaged(f"the WAL record at {record.start_lsn} cannot be decoded: it is no change of parameters")
    (wal_level,) = _CHANGE.unpack_from(record.data, len(_DATA_HEADER))
    return ParameterChange(wal_level=wal_level, start_lsn=record.start_lsn)
