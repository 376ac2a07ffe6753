"""Reading WAL in tests, and changing it."""

from __future__ import annotations

import random
from collections.abc import Iterable

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.walpage import EndReason
from pghaven.postgres.walrecord import WalReader, WalRecord, iter_records
from tests.unit.postgres.walmaker import Made, WalMaker

Segments = list[tuple[SegmentName, bytes]]


def read(segments: Iterable[tuple[SegmentName, bytes]], start: int | None = None) -> tuple[list[WalRecord], WalReader]:
    reader = iter_records(segments, None if start is None else Lsn(start))
    records = list(reader)
    assert reader.end is not None
    return records, reader


def get_reason(reader: WalReader) -> EndReason:
    assert reader.end is not None
    return reader.end.reason


def get_end(reader: WalReader) -> int:
    assert reader.end is not None
    return int(reader.end.lsn)


def describe(records: Iterable[WalRecord]) -> list[tuple[int, int, int, int, int, bytes]]:
    return [(r.start_lsn, r.end_lsn, r.xid, r.rmid, r.info, r.data) for r in records]


def describe_made(records: Iterable[Made]) -> list[tuple[int, int, int, int, int, bytes]]:
    return [(r.start_lsn, r.end_lsn, r.xid, r.rmid, r.info, r.data) for r in records]


def make_wal(sizes: Iterable[int], block_size: int = 8192) -> WalMaker:
    maker = WalMaker(block_size=block_size)
    chance = random.Random(1)
    for number, size in enumerate(sizes):
        maker.append(xid=number, data=chance.randbytes(size))
    return maker


def with_bytes(segments: Segments, lsn: int, new: bytes) -> Segments:
    """The same WAL with other bytes at ``lsn``, in one segment."""
    changed = []
    for name, data in segments:
        at = lsn - name.start_lsn
        changed.append((name, data[:at] + new + data[at + len(new) :] if 0 <= at < len(data) else data))
    return changed
