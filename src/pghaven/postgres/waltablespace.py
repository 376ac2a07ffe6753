"""WAL that makes a tablespace: found because its replay writes to a place outside the data directory.

The one idea: replay takes whatever directory the record names, even one that another server lives in, so whoever feeds
WAL to a restored copy must know. Follows tblspc_redo and create_tablespace_directories in tablespace.c.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.waldata import WalBytes

RM_TBLSPC: Final = 5
_XLOG_TBLSPC_CREATE: Final = 0x00
_ID_AND_PADDING: Final = bytes((_XLOG_TBLSPC_CREATE, RM_TBLSPC, 0, 0))
_ID_OFFSET: Final = 16  # of xl_info in XLogRecord
_ALIGNMENT: Final = 8
_RECORD_BYTES_MAX: Final = 2048  # a path has at most MAXPGPATH bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TablespaceCreation:
    """``path`` is where the tablespace was made, on the host that made it."""

    oid: int
    path: str
    start_lsn: Lsn


def find_tablespace_creations(segment: SegmentName, content: WalBytes) -> Iterator[TablespaceCreation]:
    """The tablespaces that WAL records beginning in this segment make. Cheap where there are none.

    A record that goes on in the next segment is not found.
    """
    if not _may_create(bytes(content)):
        return
    from pghaven.postgres.walrecord import INFO_MASK, iter_records

    for record in iter_records([(segment, content)], resource_managers=(RM_TBLSPC,)):
        if record.info & INFO_MASK == _XLOG_TBLSPC_CREATE and len(record.data) > 6:
            # A short main-data header (its mark and one byte of length) or a long one (mark and four bytes).
            begin = 2 if record.data[0] == 255 else 5
            (oid,) = struct.unpack_from("<I", record.data, begin)
            path = record.data[begin + 4 :].partition(b"\0")[0]
            yield TablespaceCreation(oid=oid, path=os.fsdecode(path), start_lsn=record.start_lsn)


def _may_create(data: bytes) -> bool:
    """Whether any place looks like such a record's header.

    Records are aligned, so only every eighth byte can be the resource manager's. Taken out and searched by themselves
    these cost 4 ms for 16 MiB; a search for the whole pattern, most of which is zeros, costs 30.
    """
    managers = data[_ID_OFFSET + 1 :: _ALIGNMENT]
    at = managers.find(RM_TBLSPC)
    while at >= 0:
        start = at * _ALIGNMENT
        if data.startswith(_ID_AND_PADDING, start + _ID_OFFSET):
            (total,) = struct.unpack_from("<I", data, start)
            if 24 < total <= _RECORD_BYTES_MAX:
                return True
        at = managers.find(RM_TBLSPC, at + 1)
    return False
