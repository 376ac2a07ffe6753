"""WAL pages: their headers, whether a file is the segment its name says, and quick searches in raw segments.

The one idea: every WAL page says where it belongs (address, timeline, format), and the first page of a segment also
says whose it is (system identifier) and how long segments are. So a segment can be judged by its first 40 bytes.
What the pages hold is read by ``walrecord``. This module is on the path of ``wal push`` and imports nothing heavy.

Follows xlog_internal.h, and XLogReaderValidatePageHeader in xlogreader.c of PostgreSQL. WAL is taken to be
little-endian.
"""

from __future__ import annotations

import struct
from typing import Final

from pghaven.errors import Conflict, Damaged, Refused
from pghaven.light import dataclass
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.postgres.version import MajorVersion, find_by_wal_magic, supported_majors

WalBytes = bytes | bytearray | memoryview

SHORT_HEADER_SIZE: Final = 24
LONG_HEADER_SIZE: Final = 40

# xlp_info
FIRST_IS_CONTRECORD: Final = 0x0001
LONG_HEADER: Final = 0x0002
FIRST_IS_OVERWRITE_CONTRECORD: Final = 0x0008
ALL_FLAGS: Final = 0x000F

SHORT_HEADER: Final = struct.Struct("<HHIQI4x")
"""XLogPageHeaderData: xlp_magic, xlp_info, xlp_tli, xlp_pageaddr, xlp_rem_len, padding."""

_LONG_REST: Final = struct.Struct("<QII")
"""The rest of XLogLongPageHeaderData: xlp_sysid, xlp_seg_size, xlp_xlog_blcksz."""

WAL_BLOCK_SIZE_MIN: Final = 1 << 10
_WAL_BLOCK_SIZE_MAX: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WalPageHeader:
    """The header of one WAL page, as found: nothing in it has been judged.

    ``remaining_bytes`` is how much of a record that began on an earlier page is still to come, from this page on. The
    last three are None but on the first page of a segment; sizes are in bytes.
    """

    magic: int
    info: int
    timeline: int
    page_lsn: Lsn
    remaining_bytes: int
    system_identifier: int | None = None
    segment_size: int | None = None
    block_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentIdentity:
    """Whose WAL a segment is, by its own first page. ``timeline`` is that page's and may be an ancestor's."""

    system_identifier: int
    version: MajorVersion
    timeline: Timeline
    segment_size: int
    block_size: int


def parse_page_header(data: WalBytes) -> WalPageHeader:
    """The header at the start of ``data``. Raises Damaged if there are too few bytes for one."""
    if len(data) < SHORT_HEADER_SIZE:
        raise Damaged(f"a WAL page cannot have {len(data)} bytes")
    magic, info, timeline, page_lsn, remaining_bytes = SHORT_HEADER.unpack_from(data)
    system_identifier = segment_size = block_size = None
    if info & LONG_HEADER:
        if len(data) < LONG_HEADER_SIZE:
            raise Damaged(f"the first WAL page of a segment cannot have {len(data)} bytes")
        system_identifier, segment_size, block_size = _LONG_REST.unpack_from(data, SHORT_HEADER_SIZE)
    return WalPageHeader(
        magic=magic,
        info=info,
        timeline=timeline,
        page_lsn=Lsn(page_lsn),
        remaining_bytes=remaining_bytes,
        system_identifier=system_identifier,
        segment_size=segment_size,
        block_size=block_size,
    )


def check_segment(
    data: WalBytes,
    name: SegmentName,
    system_identifier: int | None = None,
    version: MajorVersion | None = None,
) -> SegmentIdentity:
    """Whether ``data`` is the whole segment ``name`` of this cluster, by its first page and its length.

    None as ``system_identifier`` or ``version`` means any (of the supported versions). Raises Conflict if the segment
    is another cluster's: another system identifier, version or segment size. Raises Damaged if it is not what its
    name says: cut off, never written, recycled, overwritten. The records in it are not read.
    """
    return check_segment_head(data, len(data), name, system_identifier, version)


def check_segment_head(
    head: WalBytes,
    size_bytes: int,
    name: SegmentName,
    system_identifier: int | None = None,
    version: MajorVersion | None = None,
) -> SegmentIdentity:
    """``check_segment`` of a file of so many bytes that begins with ``head``."""
    identity = check_first_page(head, name, system_identifier, version)
    if size_bytes != name.segment_size:
        raise Damaged(f'WAL segment "{name}" has {size_bytes} bytes, expected {name.segment_size}')
    return identity


def check_first_page(
    data: WalBytes,
    name: SegmentName,
    system_identifier: int | None = None,
    version: MajorVersion | None = None,
) -> SegmentIdentity:
    """``check_segment`` but for the length: the first 40 bytes are enough."""
    if len(data) < LONG_HEADER_SIZE:
        raise Damaged(f'WAL segment "{name}" has {len(data)} bytes, expected {name.segment_size}')
    if not any(data[:LONG_HEADER_SIZE]):
        raise Damaged(f'WAL segment "{name}" begins with zeros: nothing was ever written to it')
    header = parse_page_header(data)
    found = _check_version(header.magic, name, version)
    if header.info & ~ALL_FLAGS or not header.info & LONG_HEADER:
        raise Damaged(f'WAL segment "{name}" begins with invalid page flags {header.info:04X}')
    assert header.system_identifier is not None
    assert header.segment_size is not None
    assert header.block_size is not None
    if system_identifier is not None and header.system_identifier != system_identifier:
        raise Conflict(
            f'WAL segment "{name}" belongs to system identifier {header.system_identifier}, '
            f"but this cluster is {system_identifier}",
            hint="Either two clusters archive to one place, or this one was created anew under an old name.",
        )
    if header.segment_size != name.segment_size:
        raise Conflict(
            f'WAL segment "{name}" is from a cluster whose segments have {header.segment_size} bytes, '
            f"but this cluster's have {name.segment_size}"
        )
    _check_block_size(header.block_size, name)
    _check_place(header, name)
    return SegmentIdentity(
        system_identifier=header.system_identifier,
        version=found,
        timeline=Timeline(header.timeline),
        segment_size=header.segment_size,
        block_size=header.block_size,
    )


def is_wal_magic(magic: int) -> bool:
    """Whether some version of PostgreSQL, supported or not, may write this at the start of a page (xlp_magic)."""
    return magic & 0xFF00 == 0xD000 or magic & 0xFF00 == 0xD100


def _check_version(magic: int, name: SegmentName, wanted: MajorVersion | None) -> MajorVersion:
    found = find_by_wal_magic(magic)
    if found is None:
        if not is_wal_magic(magic):
            raise Damaged(f'WAL segment "{name}" begins with {magic:04X}, which no PostgreSQL writes')
        raise Refused(
            f'WAL segment "{name}" was written by a version of PostgreSQL that is not supported (format {magic:04X})',
            hint=f"Supported major versions are {supported_majors()}.",
        )
    if wanted is not None and found != wanted:
        raise Conflict(
            f'WAL segment "{name}" was written by PostgreSQL {found}, but this cluster is PostgreSQL {wanted}'
        )
    return found


def _check_block_size(block_size: int, name: SegmentName) -> None:
    if not WAL_BLOCK_SIZE_MIN <= block_size <= _WAL_BLOCK_SIZE_MAX or block_size & (block_size - 1):
        raise Damaged(f'WAL segment "{name}" says that its pages have {block_size} bytes, which cannot be')


def _check_place(header: WalPageHeader, name: SegmentName) -> None:
    if header.page_lsn != name.start_lsn:
        raise Damaged(
            f'WAL segment "{name}" begins with page {header.page_lsn}, expected {name.start_lsn}: '
            "it has the content of another segment"
        )
    if not 1 <= header.timeline <= name.timeline:
        raise Damaged(f'WAL segment "{name}" begins with a page of timeline {header.timeline}')


def may_contain_xid(segment: WalBytes, xid: int) -> bool:
    """Whether the number of transaction ``xid`` may stand in this segment, in part or whole.

    False is certain. True means that the records must be read, from the segment before on, where the record may
    begin. Takes some 10 ms for 16 MiB.
    """
    return _may_contain(segment, struct.pack("<I", xid))


def may_contain_restore_point(segment: WalBytes, name: str) -> bool:
    """Whether the name of a restore point may stand in this segment; as ``may_contain_xid``."""
    return _may_contain(segment, name.encode("utf-8", "surrogateescape") + b"\0")


def _may_contain(segment: WalBytes, wanted: bytes) -> bool:
    """Whether ``wanted`` lies in the segment, over page headers too, or could reach over either of its ends."""
    data = bytes(segment)
    if wanted in data:
        return True
    header = parse_page_header(data)
    block_size = header.block_size
    if block_size is None or block_size < WAL_BLOCK_SIZE_MIN:
        return True  # not the beginning of a segment; whoever reads its records will say so
    reach = len(wanted) - 1
    if any(data.endswith(wanted[:cut]) for cut in range(1, reach + 1)):
        return True
    if header.info & FIRST_IS_CONTRECORD and any(
        data.startswith(wanted[-cut:], LONG_HEADER_SIZE) for cut in range(1, reach + 1)
    ):
        return True
    seams = (
        data[boundary - reach : boundary] + data[boundary + SHORT_HEADER_SIZE : boundary + SHORT_HEADER_SIZE + reach]
        for boundary in range(block_size, len(data), block_size)
    )
    return any(wanted in seam for seam in seams)
