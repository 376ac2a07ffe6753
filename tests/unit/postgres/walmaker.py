"""WAL made to measure: records laid out over pages and segments as PostgreSQL's xlog.c does it.

For what a golden segment cannot show: other page sizes, records over several segments, crashes, timelines.
``pg_waldump`` reads what this makes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from google_crc32c import value as crc32c

from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A record as it was asked for. ``positions`` are those of its bytes, page headers left out."""

    start_lsn: int
    end_lsn: int
    xid: int
    rmid: int
    info: int
    data: bytes
    positions: tuple[range, ...]


class WalMaker:
    """Appends records. LSNs are absolute; ``segments()`` gives whole segments, zero where nothing was written."""

    def __init__(
        self,
        *,
        first_segment: int = 5,
        block_size: int = 8192,
        magic: int = 0xD118,
        system_identifier: int = 7000000000000000001,
    ) -> None:
        self.first_segment = first_segment
        self.block_size = block_size
        self.magic = magic
        self.system_identifier = system_identifier
        self.timeline = 1
        self.base = first_segment * MIB
        self.area = bytearray()
        self.previous = self.base - 100
        self.made: list[Made] = []
        self._begin_page(0, 0)

    @property
    def position(self) -> int:
        return self.base + len(self.area)

    def append(self, rmid: int = 10, info: int = 0, xid: int = 700, data: bytes = b"") -> Made:
        """``data`` is all that follows the fixed header."""
        whole = self._make_record(rmid, info, xid, data)
        self._begin_page_if_due(0, 0)
        start = self.position
        positions = self._put(whole)
        self.area += bytes(-len(self.area) % 8)
        made = Made(
            start_lsn=start,
            end_lsn=self.position,
            xid=xid,
            rmid=rmid,
            info=info,
            data=data,
            positions=tuple(positions),
        )
        self.previous = start
        self.made.append(made)
        return made

    def append_main(self, rmid: int, info: int, main: bytes, xid: int = 0) -> Made:
        """A record with main data only."""
        head = struct.pack("<BB", 255, len(main)) if len(main) < 256 else struct.pack("<BI", 254, len(main))
        return self.append(rmid, info, xid, head + main)

    def switch(self) -> Made:
        """A switch record, and the rest of the segment as zeros."""
        made = self.append(0, 0x40, 0, b"")
        self.area += bytes(-len(self.area) % MIB)
        self.made[-1] = replace(made, end_lsn=self.position)
        return self.made[-1]

    def crash_within_record(self, size: int, pages: int) -> int:
        """Begin a record, lose it after the page it begins on and ``pages`` - 1 more, and come up again."""
        self._begin_page_if_due(0, 0)
        start = self.position
        self._put(self._make_record(10, 0, 700, bytes(size)))
        boundary = len(self.area) - len(self.area) % self.block_size
        first = (start - self.base) // self.block_size * self.block_size + pages * self.block_size
        assert first <= boundary, "the record does not go on for so many pages"
        del self.area[first:]
        self._begin_page(0x0008, 0)
        self.append_main(0, 0xD0, struct.pack("<Qq", start, 0))
        return start

    def segments(self) -> list[tuple[SegmentName, bytes]]:
        whole = bytes(self.area) + bytes(-len(self.area) % MIB)
        return [
            (
                SegmentName(timeline=Timeline(self.timeline), number=self.first_segment + index, segment_size=MIB),
                whole[index * MIB : (index + 1) * MIB],
            )
            for index in range(len(whole) // MIB)
        ]

    def _make_record(self, rmid: int, info: int, xid: int, data: bytes) -> bytes:
        head = struct.pack("<IIQBB2x", 24 + len(data), xid, self.previous, info, rmid)
        return head + struct.pack("<I", crc32c(data + head)) + data

    def _put(self, whole: bytes) -> list[range]:
        positions = []
        rest = whole
        while rest:
            self._begin_page_if_due(0x0001, len(rest))
            room = self.block_size - len(self.area) % self.block_size
            piece, rest = rest[:room], rest[room:]
            positions.append(range(self.position, self.position + len(piece)))
            self.area += piece
        return positions

    def _begin_page_if_due(self, info: int, remaining: int) -> None:
        if len(self.area) % self.block_size == 0:
            self._begin_page(info, remaining)

    def _begin_page(self, info: int, remaining: int) -> None:
        is_first = len(self.area) % MIB == 0
        self.area += struct.pack(
            "<HHIQI4x", self.magic, info | (0x0002 if is_first else 0), self.timeline, self.position, remaining
        )
        if is_first:
            self.area += struct.pack("<QII", self.system_identifier, MIB, self.block_size)
