"""What a segment covers, found from its ends, is what reading all of its records finds."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest

from pghaven.postgres.segment import SegmentName
from pghaven.postgres.walevent import XactKind, decode_xact
from pghaven.postgres.walrecord import RM_XACT, iter_records
from pghaven.postgres.walspan import WalSpan, find_span
from tests.unit.postgres.golden import MAJORS, read_segment
from tests.unit.postgres.walmaker import WalMaker

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def read_all(name: SegmentName, data: bytes) -> WalSpan:
    reader = iter_records([(name, data)])
    times, first = [], None
    for record in reader:
        first = first or record.start_lsn
        event = decode_xact(record) if record.rmid == RM_XACT else None
        if event is not None and event.kind is not XactKind.PREPARE:
            times.append(event.time)
    return WalSpan(
        first_record=first,
        last_record=reader.last_start_lsn,
        first_commit=times[0] if times else None,
        last_commit=times[-1] if times else None,
        has_commits=bool(times),
    )


@pytest.mark.parametrize("major", MAJORS)
def test_a_real_segment_of_every_version(major: int) -> None:
    golden = read_segment(major)
    found = find_span(golden.data, golden.name)
    expected = read_all(golden.name, golden.data)
    assert expected.first_commit is not None
    assert (found.first_record, found.first_commit, found.last_commit, found.has_commits) == (
        expected.first_record,
        expected.first_commit,
        expected.last_commit,
        True,
    )
    # The last record that begins in it may end in the next one.
    assert found.last_record is not None
    assert found.last_record >= expected.last_record


def commit(microseconds: int) -> bytes:
    return bytes([255, 8]) + struct.pack("<q", microseconds)


@pytest.mark.parametrize("before", range(0, 96, 8))
def test_ends_that_are_cut_by_a_page_are_found(before: int) -> None:
    maker = WalMaker(first_segment=5)
    room = 8192 - len(maker.area) - 24 - before
    maker.append(rmid=10, data=b"\xff\x00" + bytes(room - 2))
    first = maker.append(rmid=RM_XACT, info=0x80, data=commit(1_000_000))
    for number in range(200):
        maker.append(rmid=10, data=bytes([255, 100]) + number.to_bytes(100, "little"))
    last = maker.append(rmid=RM_XACT, info=0x21, data=commit(2_000_000))
    after = maker.append(rmid=10, data=b"\xff\x04abcd")
    ((name, data),) = list(maker.segments())
    found = find_span(bytes(data), name)
    assert (found.first_commit, found.last_commit) == (
        datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC),
        datetime(2000, 1, 1, 0, 0, 2, tzinfo=UTC),
    )
    assert found.last_record == after.start_lsn
    assert first.start_lsn < last.start_lsn


def test_what_looks_like_the_end_of_a_transaction_inside_a_record_is_none() -> None:
    maker = WalMaker(first_segment=5)
    false = struct.pack("<IIQBB2xI", 34, 700, maker.base + 8, 0, RM_XACT, 0) + commit(5)
    for _ in range(300):
        maker.append(rmid=10, data=(b"\xff" + bytes([4 + len(false)]) + bytes(6) + false))
    ((name, data),) = list(maker.segments())
    found = find_span(bytes(data), name)
    assert (found.first_commit, found.last_commit, found.has_commits) == (None, None, False)


def test_nonsense_is_told_as_nothing_known() -> None:
    golden = read_segment(MAJORS[-1])
    assert find_span(golden.data[:40], golden.name) == WalSpan(has_commits=False)
    assert find_span(golden.data[:40] + b"\xff" * 8000, golden.name).first_commit is None
