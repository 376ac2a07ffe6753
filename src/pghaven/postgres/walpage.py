"""The pages of WAL, one after another over segments.

The one idea: reading ends at the first page that is not the next one in line, and the bytes there and behind it tell
why: WAL was never written so far, it was not given, or it is damaged. PostgreSQL need not tell these apart, because it
has nothing better to do than to stop; in an archive they are good news, a gap, and bad news.

Follows XLogReaderValidatePageHeader in xlogreader.c. Beyond it, a page must not be of a later timeline than its
segment. WAL that was not archived but left behind by a crash of the machine may have later pages on disk and not the
earlier ones; that is called damage here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pghaven.errors import Damaged, Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.waldata import (
    ALL_FLAGS,
    LONG_HEADER,
    LONG_HEADER_SIZE,
    SHORT_HEADER,
    SHORT_HEADER_SIZE,
    WAL_BLOCK_SIZE_MIN,
    WalBytes,
    check_first_page,
    is_wal_magic,
)

Segments = Iterable[tuple[SegmentName, WalBytes]]


class EndReason(StrEnum):
    """Why reading ended."""

    EXHAUSTED = "exhausted"
    """The last segment given was read to its end, and nothing before it is missing."""
    INCOMPLETE = "incomplete"
    """What comes next was not given: a segment is missing or cut off, or a record goes on after the last one."""
    END_OF_WAL = "end_of_wal"
    """Nothing was written here: zeros, or the old content of a recycled segment."""
    DAMAGED = "damaged"
    """Something was written, and it is not what PostgreSQL writes there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalEnd:
    """Why and where reading ended; ``lsn`` is where the first record begins that could not be read."""

    reason: EndReason
    lsn: Lsn
    message: str


class WalStop(Exception):
    """Ends the reading of WAL. Does not leave the modules that read it."""

    def __init__(self, reason: EndReason, lsn: int, message: str) -> None:
        super().__init__(message)
        self.end = WalEnd(reason=reason, lsn=Lsn(lsn), message=message)


class WalPages:
    """The present page of consecutive segments, and the way to the next. Methods raise WalStop.

    Positions are offsets into the bytes of the present segment; adding ``base`` makes them LSNs. The present page goes
    from ``offset`` to ``end``, there are bytes of it up to ``limit``, and after its header it has ``contents``.
    ``info`` are its flags, and ``remaining`` the bytes still to come of a record that began on an earlier page.
    """

    def __init__(self, segments: Segments) -> None:
        self._segments = iter(segments)
        self._name: SegmentName | None = None
        self._system_identifier: int | None = None
        self._block_size = WAL_BLOCK_SIZE_MIN
        self._segment_size = 0
        self._timeline = 1
        self.magic = 0
        self.data = b""
        self.base = 0
        self.offset = self.end = self.limit = self.contents = 0
        self.info = self.remaining = 0

    def open(self, lsn: int) -> None:
        """Go to the page that contains ``lsn``; 0 means the first page there is. Earlier segments are passed over."""
        found = next((given for given in self._segments if lsn < given[0].start_lsn + given[0].segment_size), None)
        if found is None:
            raise WalStop(EndReason.INCOMPLETE, lsn, f"no WAL segment with {Lsn(lsn)} was given")
        name, data = found
        if 0 < lsn < name.start_lsn:
            raise WalStop(EndReason.INCOMPLETE, lsn, f'the first WAL segment given, "{name}", is after {Lsn(lsn)}')
        self._segment_size = name.segment_size
        self._enter(name, data)
        inside = lsn - self.base if lsn else 0
        if inside >= self._block_size:
            self._turn_to(inside - inside % self._block_size)

    def turn(self) -> None:
        """Go to the next page, if need be of the next segment."""
        if self.end < self._segment_size:
            self._turn_to(self.end)
            return
        lsn = self.base + self._segment_size
        following = next(self._segments, None)
        if following is None:
            raise WalStop(EndReason.EXHAUSTED, lsn, f'WAL segment "{self._name}" was read to its end and is the last')
        name, data = following
        if name.start_lsn != lsn or name.segment_size != self._segment_size:
            raise WalStop(EndReason.INCOMPLETE, lsn, f'WAL segment "{name}" does not follow "{self._name}"')
        self._enter(name, data)

    def skip_rest_of_segment(self) -> int:
        """Leave all further pages of the present segment out; returns where it ends, as a position."""
        self.end = self._segment_size
        return self.end

    def _enter(self, name: SegmentName, data: WalBytes) -> None:
        self._name, self.data, self.base = name, bytes(data), int(name.start_lsn)
        if len(data) > self._segment_size:
            message = f'WAL segment "{name}" has {len(data)} bytes, expected {self._segment_size}'
            raise WalStop(EndReason.DAMAGED, self.base, message)
        if len(data) < LONG_HEADER_SIZE:
            raise self.cut_off(self.base)
        if self._is_unwritten(0):
            raise self._judge_unwritten(0)
        try:
            header = check_first_page(self.data, name, self._system_identifier)
        except (Damaged, Refused) as error:
            raise WalStop(EndReason.DAMAGED, self.base, error.message) from error
        if self.magic == 0:
            self._system_identifier, self._block_size = header.system_identifier, header.block_size
            self.magic = header.version.wal_magic
        elif header.block_size != self._block_size:
            message = f'WAL segment "{name}" has pages of {header.block_size} bytes, expected {self._block_size}'
            raise WalStop(EndReason.DAMAGED, self.base, message)
        self._turn_to(0)

    def _turn_to(self, offset: int) -> None:
        assert self._name is not None
        lsn = self.base + offset
        if len(self.data) < offset + SHORT_HEADER_SIZE:
            raise self.cut_off(lsn)
        magic, info, timeline, page_lsn, remaining = SHORT_HEADER.unpack_from(self.data, offset)
        if magic != self.magic or page_lsn != lsn:
            if self._is_unwritten(offset):
                raise self._judge_unwritten(offset)
            message = f"WAL page {Lsn(lsn)} says that it is page {Lsn(page_lsn)} in format {magic:04X}"
            raise WalStop(EndReason.DAMAGED, lsn, message)
        if info & ~ALL_FLAGS:
            raise WalStop(EndReason.DAMAGED, lsn, f"WAL page {Lsn(lsn)} has invalid flags {info:04X}")
        if not self._timeline <= timeline <= self._name.timeline:
            message = f'WAL page {Lsn(lsn)} of segment "{self._name}" is of timeline {timeline} after {self._timeline}'
            raise WalStop(EndReason.DAMAGED, lsn, message)
        self._timeline = timeline
        self.info, self.remaining = info, remaining
        self.offset, self.end = offset, offset + self._block_size
        self.limit = min(self.end, len(self.data))
        self.contents = offset + (LONG_HEADER_SIZE if info & LONG_HEADER else SHORT_HEADER_SIZE)

    def _is_unwritten(self, offset: int) -> bool:
        """Whether the page is all zero, or is an earlier page: what this file held before it was recycled."""
        magic, _, _, page_lsn, _ = SHORT_HEADER.unpack_from(self.data, offset)
        if magic == 0:
            return not any(self.data[offset : offset + self._block_size])
        return is_wal_magic(magic) and page_lsn % WAL_BLOCK_SIZE_MIN == 0 and page_lsn < self.base + offset

    def _judge_unwritten(self, offset: int) -> WalStop:
        lsn = self.base + offset
        if self.is_followed(offset):
            return WalStop(EndReason.DAMAGED, lsn, f"WAL page {Lsn(lsn)} was not written, but there is WAL after it")
        return WalStop(EndReason.END_OF_WAL, lsn, f"nothing was written to WAL page {Lsn(lsn)}")

    def is_followed(self, offset: int) -> bool:
        """Whether a page after the one at ``offset`` was written, in this segment or as the first of the next.

        Takes the next segment, so it is for when reading ends.
        """
        for later in range(offset + self._block_size, len(self.data) - SHORT_HEADER_SIZE + 1, self._block_size):
            if _is_written(self.data, later, self.base + later):
                return True
        _, data = next(self._segments, (None, b""))
        return len(data) >= SHORT_HEADER_SIZE and _is_written(data, 0, self.base + self._segment_size)

    def cut_off(self, lsn: int) -> WalStop:
        """There are no bytes for what begins at ``lsn``."""
        return WalStop(
            EndReason.INCOMPLETE,
            lsn,
            f'WAL segment "{self._name}" has only {len(self.data)} of {self._segment_size} bytes',
        )


def _is_written(data: WalBytes, offset: int, lsn: int) -> bool:
    """Whether there is the page that belongs at ``lsn``, by its header."""
    magic, _, _, page_lsn, _ = SHORT_HEADER.unpack_from(data, offset)
    return is_wal_magic(magic) and bool(page_lsn == lsn)
