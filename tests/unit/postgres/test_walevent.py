"""Ends of transactions and restore points, as pg_waldump tells them."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

import pytest

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.walevent import (
    EVENT_RESOURCE_MANAGERS,
    RestorePoint,
    XactEvent,
    XactKind,
    decode_restore_point,
    decode_xact,
)
from pghaven.postgres.walrecord import RM_XACT, RM_XLOG, XLOG_RESTORE_POINT, WalRecord, iter_records
from tests.unit.postgres.golden import MAJORS, GoldenSegment, read_segment


@pytest.fixture(params=MAJORS)
def golden(request: pytest.FixtureRequest) -> GoldenSegment:
    return read_segment(request.param)


def read_transactions(golden: GoldenSegment) -> list[XactEvent]:
    records = iter_records([(golden.name, golden.data)], resource_managers=EVENT_RESOURCE_MANAGERS)
    return [event for event in map(decode_xact, records) if event is not None]


def read_restore_points(golden: GoldenSegment) -> list[RestorePoint]:
    records = iter_records([(golden.name, golden.data)], resource_managers=EVENT_RESOURCE_MANAGERS)
    return [point for point in map(decode_restore_point, records) if point is not None]


def make_record(rmid: int, info: int, main: bytes, *, before: bytes = b"", magic: int = 0xD118) -> WalRecord:
    head = struct.pack("<BB", 255, len(main)) if len(main) < 256 else struct.pack("<BI", 254, len(main))
    return WalRecord(Lsn(1000), Lsn(1100), 55, rmid, info, before + head + main, magic)


def test_transactions_are_those_that_pg_waldump_tells(golden: GoldenSegment) -> None:
    found = [
        [str(event.start_lsn), str(event.kind), event.xid, f"{event.time:%Y-%m-%d %H:%M:%S.%f}"]
        for event in read_transactions(golden)
    ]
    assert found == [expected[:4] for expected in golden.transactions]


def test_golden_segments_have_every_kind_of_end(golden: GoldenSegment) -> None:
    assert {event.kind for event in read_transactions(golden)} == set(XactKind)


def test_a_prepared_transaction_ends_under_its_own_number_and_name(golden: GoldenSegment) -> None:
    events = read_transactions(golden)
    for gid, end in (("gid one", XactKind.ABORT_PREPARED), ("gid two", XactKind.COMMIT_PREPARED)):
        (prepared,) = (event for event in events if event.kind is XactKind.PREPARE and event.gid == gid)
        (ended,) = (event for event in events if event.kind is end)
        assert ended.xid == prepared.xid
        assert ended.time > prepared.time
        # regenerate.py runs even versions with wal_level = logical, which records the name again.
        assert ended.gid == (gid if golden.version.major % 2 == 0 else None)


def test_restore_points_are_those_that_pg_waldump_tells(golden: GoldenSegment) -> None:
    points = read_restore_points(golden)
    assert [[str(point.start_lsn), point.name] for point in points] == golden.restore_points
    commits = [event.time for event in read_transactions(golden)]
    for point in points:
        assert abs(point.time - commits[-1]) < timedelta(minutes=1)
        assert point.end_lsn == point.start_lsn + 104


def test_times_count_microseconds_from_2000() -> None:
    event = decode_xact(make_record(RM_XACT, 0x00, struct.pack("<q", 86_400_000_001)))
    assert event is not None
    assert event.time == datetime(2000, 1, 2, 0, 0, 0, 1, tzinfo=UTC)
    assert (event.kind, event.xid, event.gid) == (XactKind.COMMIT, 55, None)


@pytest.mark.parametrize("before", [b"", b"\xfc\x01\x02\x03\x04", b"\xfd\x01\x00", b"\xfd\x01\x00\xfc\x01\x02\x03\x04"])
def test_origin_and_top_level_number_may_come_before_the_main_data(before: bytes) -> None:
    event = decode_xact(make_record(RM_XACT, 0x20, struct.pack("<q", 0), before=before))
    assert event is not None
    assert event.kind is XactKind.ABORT


@pytest.mark.parametrize(("magic", "entry_size"), [(0xD110, 12), (0xD113, 12), (0xD116, 12), (0xD118, 16)])
def test_the_number_of_a_prepared_transaction_stands_behind_everything_else(magic: int, entry_size: int) -> None:
    flags = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 8
    main = struct.pack("<qI8x", 0, flags)
    for count, size in ((3, 4), (2, 12), (5, entry_size), (40, 16)):
        main += struct.pack("<I", count) + bytes(count * size)
    main += struct.pack("<I", 4711) + b"the gid\0" + bytes(16)
    event = decode_xact(make_record(RM_XACT, 0x30 | 0x80, main, magic=magic))
    assert event is not None
    assert (event.kind, event.xid, event.gid) == (XactKind.COMMIT_PREPARED, 4711, "the gid")


@pytest.mark.parametrize("info", [0x50, 0x60, 0x70])
def test_other_records_of_transactions_are_not_their_end(info: int) -> None:
    assert decode_xact(make_record(RM_XACT, info, bytes(16))) is None


def test_records_of_others_are_neither() -> None:
    for rmid in (RM_XLOG, 10, 200):
        assert decode_xact(make_record(rmid, 0x00, bytes(80))) is None
    assert decode_restore_point(make_record(10, XLOG_RESTORE_POINT, bytes(80))) is None
    assert decode_restore_point(make_record(RM_XLOG, 0x30, bytes(80))) is None


def test_a_restore_point_keeps_a_name_that_is_not_utf8() -> None:
    name = "müll".encode("latin-1")
    point = decode_restore_point(make_record(RM_XLOG, XLOG_RESTORE_POINT, struct.pack("<q64s", 0, name)))
    assert point is not None
    assert point.name.encode("utf-8", "surrogateescape") == name


@pytest.mark.parametrize(
    "record",
    [
        make_record(RM_XACT, 0x00, bytes(7)),
        make_record(RM_XACT, 0x10, bytes(40)),
        make_record(RM_XACT, 0x30, bytes(8)),
        make_record(RM_XACT, 0x40 | 0x80, struct.pack("<qI", 0, 1 << 1 | 1 << 4) + b"\xff\xff\xff\xff"),
        make_record(RM_XACT, 0x00, bytes(8), before=b"\x00"),
        WalRecord(Lsn(1000), Lsn(1100), 55, RM_XACT, 0x00, b"\xff", 0xD118),
        WalRecord(Lsn(1000), Lsn(1100), 55, RM_XACT, 0x00, b"", 0xD118),
    ],
)
def test_a_record_that_cannot_be_decoded_is_damage(record: WalRecord) -> None:
    with pytest.raises(Damaged, match="the WAL record at 0/3E8 cannot be decoded"):
        decode_xact(record)


def test_a_restore_point_without_a_name_is_damage() -> None:
    with pytest.raises(Damaged, match="cannot be decoded"):
        decode_restore_point(make_record(RM_XLOG, XLOG_RESTORE_POINT, bytes(60)))
