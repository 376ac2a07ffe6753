"""What a segment covers: its first and last record, and the times of its first and last end of a transaction.

The one idea: these stand near the two ends of a segment, and a record proves itself by its neighbours, each of which
names the position of the one before. So looking from both ends inwards finds them without reading what lies between.
This module is on the path of ``wal push`` and imports nothing heavy; where it would take long it leaves out an answer.

Follows xlogrecord.h and xact.h; ``walrecord`` reads all records, and proves each by its CRC.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from pghaven.light import dataclass
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.waldata import (
    FIRST_IS_CONTRECORD,
    LONG_HEADER_SIZE,
    SHORT_HEADER_SIZE,
    WAL_BLOCK_SIZE_MIN,
    parse_page_header,
)

if TYPE_CHECKING:
    from mmap import mmap

_HEADER: Final = struct.Struct("<IIQBBH")
"""XLogRecord up to its padding: xl_tot_len, xl_xid, xl_prev, xl_info, xl_rmid, padding."""
_RECORD_SIZE: Final = 24
# Commit, abort, and those of prepared transactions (xact.h); the other bits of xl_info say more about each.
_ENDS: Final = frozenset(info for info in range(256) if info & 0x70 in {0x00, 0x20, 0x30, 0x40})
_XACT: Final = 1
_RMGR_BUILT_IN_MAX: Final = 31
_RMGR_CUSTOM_MIN: Final = 128
_ORIGIN, _TOP_XID, _SHORT, _LONG = 253, 252, 255, 254
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_SANE_MICROSECONDS: Final = 300 * 366 * 86400 * 1_000_000

# How far is looked from either end, and how often what looks like the end of a transaction may be none.
_REACH_BYTES: Final = 576 << 10
_CHUNK_BYTES: Final = 64 << 10
_TAIL_BYTES: Final = 64 << 10
_CANDIDATES: Final = 2000
_TRIES: Final = 300
# So few positions are looked at one by one.
_FEW: Final = 64
# No record is longer (XLogRecordMaxSize is larger, but a gigabyte of record is not looked for here).
_DISTANCE_MAX: Final = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class WalSpan:
    """What a segment covers; None is what was not found cheaply, or is not there.

    ``first_commit`` and ``last_commit`` are the times of the first and the last commit or abort that lie whole in the
    segment, in the order of WAL, which is within moments the order of time. ``has_commits`` is False where it is known
    that there is none.
    """

    first_record: Lsn | None = None
    last_record: Lsn | None = None
    first_commit: datetime | None = None
    last_commit: datetime | None = None
    has_commits: bool | None = None


def find_span(content: bytes | mmap, segment: SegmentName) -> WalSpan:
    """Look into a segment whose first page has been checked; it may be cut off. Raises nothing."""
    try:
        return _Segment(content, segment).find()
    except (struct.error, IndexError, ValueError, OverflowError):
        return WalSpan()


class _Segment:
    def __init__(self, content: bytes | mmap, segment: SegmentName) -> None:
        self._data = content
        self._base = int(segment.start_lsn)
        header = parse_page_header(content[:LONG_HEADER_SIZE])
        self._block = max(header.block_size or 0, WAL_BLOCK_SIZE_MIN)
        self._is_continued = bool(header.info & FIRST_IS_CONTRECORD)
        self._remaining = header.remaining_bytes if self._is_continued else 0
        self._end = _find_written_end(content)

    def find(self) -> WalSpan:
        first = self._advance(LONG_HEADER_SIZE, self._remaining)
        first_commit, was_tried = self._find_commit(forward=True)
        last_commit, was_tried_back = self._find_commit(forward=False)
        was_all_tried = was_tried and was_tried_back and self._end <= 2 * (_REACH_BYTES - _CHUNK_BYTES)
        return WalSpan(
            first_record=None if first >= self._end else Lsn(self._base + first),
            last_record=self._find_last(),
            first_commit=first_commit,
            last_commit=last_commit,
            has_commits=True if first_commit or last_commit else False if was_all_tried else None,
        )

    # -- positions --------------------------------------------------------------------------------------------------

    def _advance(self, position: int, size: int) -> int:
        """Where the next record begins after ``size`` bytes of one from ``position`` on, over page headers."""
        room = self._block - position % self._block
        if size > room:
            pages, rest = divmod(size - room, self._block - SHORT_HEADER_SIZE)
            position += room + pages * self._block + (SHORT_HEADER_SIZE + rest if rest else 0)
        else:
            position += size
        position = position + 7 & ~7
        return position if position % self._block else position + SHORT_HEADER_SIZE

    def _read(self, position: int, size: int) -> bytes:
        """Bytes of a record, without the page headers between them."""
        room = self._block - position % self._block
        if size <= room:
            return self._data[position : position + size]
        pieces = [self._data[position : position + room]]
        position, size = position + room, size - room
        while size > 0 and position < len(self._data):
            take = min(size, self._block - SHORT_HEADER_SIZE)
            pieces.append(self._data[position + SHORT_HEADER_SIZE : position + SHORT_HEADER_SIZE + take])
            position, size = position + self._block, size - take
        return b"".join(pieces)

    def _is_record(self, position: int, total: int, previous: int) -> bool:
        """Whether the record after it, or the one before it, names or leads to this position."""
        following = self._advance(position, total)
        if following + _RECORD_SIZE <= len(self._data):
            named = int.from_bytes(self._read(following, 16)[8:], "little")
            if named == self._base + position:
                return True
        before = previous - self._base
        if not LONG_HEADER_SIZE <= before < position or before % 8:
            return False
        length = int.from_bytes(self._data[before : before + 4], "little")
        return length >= _RECORD_SIZE and self._advance(before, length) == position

    # -- ends of transactions -----------------------------------------------------------------------------------------

    def _find_commit(self, *, forward: bool) -> tuple[datetime | None, bool]:
        """The first or last end of a transaction within reach, and whether all within reach was tried."""
        tries = 0
        for begin, end in self._iter_chunks(forward=forward):
            for position in self._list_candidates(begin, end, forward=forward, only_ends=True):
                head = self._read_header(position)
                if head is None or head[4] != _XACT or head[3] not in _ENDS or head[0] < _RECORD_SIZE + 10:
                    continue
                tries += 1
                if tries > _TRIES:
                    return None, False
                time = self._read_commit(position, head[0], head[2])
                if time is not None:
                    return time, True
        return None, True

    def _iter_chunks(self, *, forward: bool) -> Iterator[tuple[int, int]]:
        """Parts of the segment from one end inwards, as far as is looked."""
        if forward:
            limit = min(_REACH_BYTES, self._end)
            for begin in range(0, limit, _CHUNK_BYTES):
                yield begin, min(begin + _CHUNK_BYTES, limit)
        else:
            last = -(-self._end // _CHUNK_BYTES) * _CHUNK_BYTES
            for end in range(last, max(last - _REACH_BYTES, 0), -_CHUNK_BYTES):
                yield end - _CHUNK_BYTES, min(end, self._end)

    def _list_candidates(self, begin: int, end: int, *, forward: bool, only_ends: bool) -> list[int]:
        """Positions from ``begin`` up to ``end`` whose bytes may be a record's header, in the order of looking.

        All positions are judged at once, by the bytes that are the same in every header here: each is taken from all
        positions as one number, and what is left of their disjunction where it is zero is a candidate. As soon as few
        are left the other bytes are looked at in these alone. A header that is cut by a page's end is not found by its
        bytes: those places come with the others.
        """
        count = max(0, (min(end, len(self._data) - _HEADER.size) - begin + 7) // 8)
        rest = list(self._header_bytes(only_ends=only_ends))
        lane, table = rest.pop(0)
        judged = self._judge(begin + lane, count, table)
        if judged.count(0) > _FEW:
            wrong = int.from_bytes(judged, "little")
            while rest and judged.count(0) > _FEW:
                lane, table = rest.pop(0)
                wrong |= int.from_bytes(self._judge(begin + lane, count, table), "little")
                judged = wrong.to_bytes(count, "little")
        found: list[int] = []
        at = judged.find(0) if forward else judged.rfind(0)
        while at >= 0 and len(found) < _CANDIDATES:
            position = begin + at * 8
            is_whole = SHORT_HEADER_SIZE <= position % self._block <= self._block - _HEADER.size
            if is_whole and not any(table[self._data[position + lane]] for lane, table in rest):
                found.append(position)
            at = judged.find(0, at + 1) if forward else judged.rfind(0, 0, at)
        first_edge = begin // self._block + 1
        for edge in range(first_edge * self._block, end + 1, self._block):
            for position in (edge - 16, edge - 8):
                rmgr = position + 17 + SHORT_HEADER_SIZE
                can_end = not only_ends or (rmgr < len(self._data) and self._data[rmgr] == _XACT)
                if can_end and begin <= position < end:
                    found.append(position)
        return sorted(found, reverse=not forward)

    def _judge(self, begin: int, count: int, table: bytes) -> bytes:
        """One byte of so many positions, zero where it can stand there."""
        return self._data[begin : begin + count * 8 : 8].translate(table)

    def _header_bytes(self, *, only_ends: bool) -> Iterator[tuple[int, bytes]]:
        """Places in a header, and for each the table that makes a byte zero if it can stand there."""
        if only_ends:
            yield 17, _allow((_XACT,))
            yield 16, _allow(_ENDS)
        yield 18, _allow((0,))
        yield 19, _allow((0,))
        if self._base >> 32 == (self._base - 1) >> 32:
            # The record before lies in this segment, or at most 32 MiB before it. In the first of 4 GiB it may not.
            low = self._base >> 24 & 0xFF
            step = (len(self._data) - 1 >> 24) + 1
            yield 11, _allow(range(max(low - 2, 0), min(low + step, 256)))
            for place in range(4):
                yield 12 + place, _allow((self._base >> 32 + 8 * place & 0xFF,))

    def _read_header(self, position: int) -> tuple[int, ...] | None:
        """The fields of what may be a record; None for what cannot be one."""
        if position < LONG_HEADER_SIZE:
            return None
        if position % self._block + _HEADER.size <= self._block:
            if position + _HEADER.size > len(self._data):
                return None
            head = _HEADER.unpack_from(self._data, position)
        else:
            cut = self._read(position, _HEADER.size)
            if len(cut) < _HEADER.size:
                return None
            head = _HEADER.unpack(cut)
        total, _, previous, _, _, padding = head
        distance = self._base + position - previous
        return None if padding or previous % 8 or not 0 < distance < _DISTANCE_MAX or total < _RECORD_SIZE else head

    def _read_commit(self, position: int, total: int, previous: int) -> datetime | None:
        if self._advance(position, total) > len(self._data) + SHORT_HEADER_SIZE:
            return None  # it goes on in the next segment
        if not self._is_record(position, total, previous):
            return None
        return _read_time(self._read(position, min(total, 64))[_RECORD_SIZE:])

    def _find_last(self) -> Lsn | None:
        begin = max((self._end - _TAIL_BYTES) // self._block * self._block, 0)
        for at in self._list_candidates(begin, self._end, forward=False, only_ends=False):
            head = self._read_header(at)
            if head is None or _RMGR_BUILT_IN_MAX < head[4] < _RMGR_CUSTOM_MIN:
                continue
            if self._is_record(at, head[0], head[2]):
                return Lsn(self._base + at)
        return None


def _find_written_end(content: bytes | mmap) -> int:
    """Where nothing but zeros follows: a segment that was switched away from is not full."""
    end = len(content)
    zeros = bytes(_TAIL_BYTES)
    while end >= _TAIL_BYTES and content[end - _TAIL_BYTES : end] == zeros:
        end -= _TAIL_BYTES
    return (
        end - _TAIL_BYTES + len(content[end - _TAIL_BYTES : end].rstrip(b"\0"))
        if end >= _TAIL_BYTES
        else len(content[:end].rstrip(b"\0"))
    )


@lru_cache(maxsize=16)
def _allow(values: Iterable[int]) -> bytes:
    allowed = set(values)
    return bytes(value not in allowed for value in range(256))


def _read_time(data: bytes) -> datetime | None:
    """The time at the start of the main data, after what tells of replication origins and parent transactions."""
    position = 0
    while data[position] not in (_SHORT, _LONG):
        if data[position] not in (_ORIGIN, _TOP_XID):
            return None
        position += 3 if data[position] == _ORIGIN else 5
    position += 2 if data[position] == _SHORT else 5
    (microseconds,) = struct.unpack_from("<q", data, position)
    if not 0 < microseconds < _SANE_MICROSECONDS:
        return None
    return _EPOCH + timedelta(microseconds=microseconds)
