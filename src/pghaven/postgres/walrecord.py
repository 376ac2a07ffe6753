"""WAL records: reading them one after another over pages and segments, until they end.

The one idea: each record names its predecessor, its length and its CRC-32C, and each page it continues on says how
much of it is still to come. So reading stops at the first record that does not prove itself: that is where WAL ends,
or where it is damaged, and ``WalReader.end`` says which. What records mean is in ``walevent``.

Follows XLogDecodeNextRecord, ValidXLogRecordHeader, ValidXLogRecord and XLogFindNextRecord in xlogreader.c.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.waldata import FIRST_IS_CONTRECORD, FIRST_IS_OVERWRITE_CONTRECORD
from pghaven.postgres.walpage import EndReason, Segments, WalEnd, WalPages, WalStop

# Resource managers (rmgrlist.h) that pghaven reads.
RM_XLOG: Final = 0
RM_XACT: Final = 1

# The bits of xl_info that are the resource manager's own, and what they say for RM_XLOG (pg_control.h).
INFO_MASK: Final = 0xF0
XLOG_SWITCH: Final = 0x40
XLOG_RESTORE_POINT: Final = 0x70
XLOG_OVERWRITE_CONTRECORD: Final = 0xD0

_RECORD: Final = struct.Struct("<IIQBB2xI")
"""XLogRecord: xl_tot_len, xl_xid, xl_prev, xl_info, xl_rmid, padding, xl_crc."""
_RECORD_SIZE: Final = 24
_CRC_OFFSET: Final = 20


class WalRecord(NamedTuple):
    """One whole record whose CRC was right. A tuple, because a segment holds a hundred thousand of them.

    ``end_lsn`` is where the next record may begin: aligned to 8 bytes, and the next segment for a switch record.
    ``data`` is what follows the fixed header: block headers, block data, main data. ``magic`` is the WAL format.
    """

    start_lsn: Lsn
    end_lsn: Lsn
    xid: int
    rmid: int
    info: int
    data: bytes
    magic: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRecord:
    """The last record that could be read (None if there was none) and what came after it."""

    start_lsn: Lsn | None
    end_lsn: Lsn | None
    end: WalEnd


def iter_records(
    segments: Segments, start_lsn: Lsn | None = None, *, resource_managers: Collection[int] | None = None
) -> WalReader:
    """The records that begin at or after ``start_lsn``, or from the first that begins in the first segment.

    ``segments`` are consecutive, a later one may be of a later timeline, and the last may be cut off anywhere. They
    are taken one at a time, when reading gets there. With ``resource_managers`` only the records of these are given
    out, which is much faster; all are checked all the same. Whatever is wrong with the WAL ends the iteration and is
    told by ``WalReader.end``; nothing is raised for it.
    """
    return WalReader(segments, start_lsn, resource_managers)


def find_last_record(segments: Segments, start_lsn: Lsn | None = None) -> LastRecord:
    """Read all records, as ``iter_records`` does, and tell where they end."""
    reader = WalReader(segments, start_lsn, ())
    for _ in reader:
        raise AssertionError("no resource manager was asked for")
    assert reader.end is not None
    return LastRecord(start_lsn=reader.last_start_lsn, end_lsn=reader.last_end_lsn, end=reader.end)


class WalReader:
    """An iterator over records, good for one pass. The attributes are valid when it has ended.

    ``aborted`` are the positions of records that a crash cut short and the server declared void when it came up again
    (CreateOverwriteContrecordRecord in xlog.c). They are passed over, as in recovery.
    """

    def __init__(
        self, segments: Segments, start_lsn: Lsn | None = None, resource_managers: Collection[int] | None = None
    ) -> None:
        # Imported here: ``wal push`` judges pages and reads no records.
        from google_crc32c import value

        self.end: WalEnd | None = None
        self.last_start_lsn: Lsn | None = None
        self.last_end_lsn: Lsn | None = None
        self.aborted: list[Lsn] = []
        self._crc32c = value
        self._wanted = bytes(resource_managers is None or rmid in resource_managers for rmid in range(256))
        self._start_lsn = int(start_lsn or 0)
        self._pages = WalPages(segments)
        # Where the next record begins in the present segment, and the LSNs of the last one.
        self._position = 0
        self._previous: int | None = None
        self._previous_end = 0
        self._records = self._read()

    def __iter__(self) -> Iterator[WalRecord]:
        return self._records

    def __next__(self) -> WalRecord:
        return next(self._records)

    def _read(self) -> Iterator[WalRecord]:
        pages = self._pages
        try:
            self._open()
            while True:
                yield from self._read_within_page()
                if self._position < pages.end:
                    record = self._read_across_pages()
                    if record is not None:
                        yield record
                    continue
                self._turn_between_records()
        except WalStop as stop:
            self.end = stop.end
            if self._previous is not None:
                self.last_start_lsn, self.last_end_lsn = Lsn(self._previous), Lsn(self._previous_end)

    def _open(self) -> None:
        """Go to the first record that begins on the page of ``start_lsn`` or after it (XLogFindNextRecord)."""
        pages = self._pages
        pages.open(self._start_lsn)
        self._position = pages.contents
        while pages.info & FIRST_IS_CONTRECORD:
            self._position = pages.contents + _align(pages.remaining)
            if self._position < pages.end:
                break
            try:
                pages.turn()
            except WalStop as stop:
                if stop.end.reason is not EndReason.EXHAUSTED:
                    raise
                message = f"a record that begins before {stop.end.lsn} goes on after it"
                raise WalStop(EndReason.INCOMPLETE, stop.end.lsn, message) from stop
            self._position = pages.contents

    def _read_within_page(self) -> Iterator[WalRecord]:
        """The records that lie wholly on the present page. All but a few do, so this loop is where the time goes."""
        pages, wanted, crc32c, unpack = self._pages, self._wanted, self._crc32c, _RECORD.unpack_from
        data, base, limit, magic = pages.data, pages.base, pages.limit, pages.magic
        position, previous = self._position, self._previous
        try:
            while limit - position >= _RECORD_SIZE:
                total, xid, prev, info, rmid, crc = unpack(data, position)
                end = position + total
                if end > limit or total < _RECORD_SIZE:
                    break
                if prev != previous:
                    self._check_previous(prev, previous, base + position)
                body = data[position + _RECORD_SIZE : end]
                if crc32c(body + data[position : position + _CRC_OFFSET]) != crc:
                    raise _bad_checksum(base + position)
                previous = base + position
                position = end + 7 & ~7
                if rmid == RM_XLOG and info & INFO_MASK == XLOG_SWITCH:
                    position = pages.skip_rest_of_segment()
                if wanted[rmid] and previous >= self._start_lsn:
                    yield WalRecord(Lsn(previous), Lsn(base + position), xid, rmid, info, body, magic)
        finally:
            if previous != self._previous:
                self._previous_end = base + position
            self._position, self._previous = position, previous

    def _read_across_pages(self) -> WalRecord | None:
        """The record at the present position, which goes on on the next page; None if it is void or not wanted."""
        pages = self._pages
        start = pages.base + self._position
        pieces = [pages.data[self._position : pages.limit]]
        total = self._get_length(pieces[0])
        missing = total - len(pieces[0])
        while missing:
            self._turn_within_record(start)
            if pages.info & FIRST_IS_OVERWRITE_CONTRECORD:
                self._abandon(start)
                return None
            if not pages.info & FIRST_IS_CONTRECORD or pages.remaining != missing:
                where = Lsn(pages.base + pages.offset)
                raise WalStop(
                    EndReason.DAMAGED, start, f"WAL page {where} does not go on with the record at {Lsn(start)}"
                )
            end = min(pages.contents + missing, pages.end)
            if end > pages.limit:
                raise pages.cut_off(start)
            pieces.append(pages.data[pages.contents : end])
            missing -= len(pieces[-1])
        whole = b"".join(pieces)
        _, xid, prev, info, rmid, crc = _RECORD.unpack_from(whole)
        self._check_previous(prev, self._previous, start)
        body = whole[_RECORD_SIZE:]
        if self._crc32c(body + whole[:_CRC_OFFSET]) != crc:
            raise _bad_checksum(start)
        self._position = _align(end)
        if rmid == RM_XLOG and info & INFO_MASK == XLOG_SWITCH:
            self._position = pages.skip_rest_of_segment()
        self._previous, self._previous_end = start, pages.base + self._position
        if not self._wanted[rmid] or start < self._start_lsn:
            return None
        return WalRecord(Lsn(start), Lsn(self._previous_end), xid, rmid, info, body, pages.magic)

    def _get_length(self, beginning: bytes) -> int:
        """The length of the record at the present position, if there is one; ``beginning`` is its part of the page."""
        pages = self._pages
        lsn = pages.base + self._position
        total = int.from_bytes(beginning[:4], "little")
        if total == 0 and not any(beginning):
            if pages.limit < pages.end:
                raise pages.cut_off(lsn)
            if not pages.is_followed(pages.offset):
                raise WalStop(EndReason.END_OF_WAL, lsn, f"nothing was written after {Lsn(lsn)}")
            raise WalStop(EndReason.DAMAGED, lsn, f"there is no record at {Lsn(lsn)}, but there is WAL after it")
        if total < _RECORD_SIZE:
            raise WalStop(EndReason.DAMAGED, lsn, f"the record at {Lsn(lsn)} says that it has {total} bytes")
        if pages.limit < pages.end:
            raise pages.cut_off(lsn)
        return total

    def _turn_between_records(self) -> None:
        pages = self._pages
        pages.turn()
        if pages.info & FIRST_IS_CONTRECORD:
            where = pages.base + pages.offset
            message = f"WAL page {Lsn(where)} goes on with a record, but the record before it is whole"
            raise WalStop(EndReason.DAMAGED, where, message)
        self._position = pages.contents

    def _turn_within_record(self, start: int) -> None:
        try:
            self._pages.turn()
        except WalStop as stop:
            reason = EndReason.INCOMPLETE if stop.end.reason is EndReason.EXHAUSTED else stop.end.reason
            raise WalStop(reason, start, f"the record at {Lsn(start)} is not complete: {stop.end.message}") from stop

    def _abandon(self, start: int) -> None:
        """The server gave up the record at ``start``, and says so in the record that stands here instead."""
        pages = self._pages
        at = self._position = pages.contents
        # Fixed header, two bytes that introduce the main data, and in it first the LSN of what was given up. This is
        # the first record of a page, so it is whole, if there are bytes.
        if pages.limit - at < _RECORD_SIZE + 10:
            raise pages.cut_off(pages.base + at)
        _, _, _, info, rmid, _ = _RECORD.unpack_from(pages.data, at)
        (overwritten,) = struct.unpack_from("<Q", pages.data, at + _RECORD_SIZE + 2)
        if (rmid, info & INFO_MASK, overwritten) != (RM_XLOG, XLOG_OVERWRITE_CONTRECORD, start):
            message = f"the record at {Lsn(start)} is cut short, and what stands in its place is not about it"
            raise WalStop(EndReason.DAMAGED, pages.base + at, message)
        self.aborted.append(Lsn(start))

    def _check_previous(self, found: int, expected: int | None, lsn: int) -> None:
        # Of the first record read, one can only say that its predecessor must lie before it.
        if found != expected if expected is not None else found >= lsn:
            message = f"the record at {Lsn(lsn)} says that the record before it is at {Lsn(found)}"
            raise WalStop(EndReason.DAMAGED, lsn, message)


def _bad_checksum(lsn: int) -> WalStop:
    return WalStop(EndReason.DAMAGED, lsn, f"the record at {Lsn(lsn)} does not match its checksum")


def _align(size: int) -> int:
    """MAXALIGN: records begin at multiples of 8."""
    return size + 7 & ~7
