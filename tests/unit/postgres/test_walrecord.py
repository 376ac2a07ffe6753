"""Reading WAL: real servers' segments against pg_waldump, and made-up WAL against what was asked for."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pghaven.postgres.timeline import Timeline
from pghaven.postgres.walpage import EndReason
from pghaven.postgres.walrecord import RM_XACT, find_last_record, iter_records
from tests.unit.postgres.golden import MAJORS, GoldenSegment, read_segment
from tests.unit.postgres.walmaker import MIB, WalMaker
from tests.unit.postgres.walreading import describe, describe_made, get_end, get_reason, make_wal, read, with_bytes

# The order of rmgrlist.h; numbers are never given anew.
MANAGERS = (
    *("XLOG", "Transaction", "Storage", "CLOG", "Database", "Tablespace", "MultiXact", "RelMap", "Standby", "Heap2"),
    *("Heap", "Btree", "Hash", "Gin", "Gist", "Sequence", "SPGist", "BRIN", "CommitTs", "ReplicationOrigin"),
    *("Generic", "LogicalMessage"),
)


@pytest.fixture(params=MAJORS)
def golden(request: pytest.FixtureRequest) -> GoldenSegment:
    return read_segment(request.param)


# What real servers write


def test_records_are_those_that_pg_waldump_finds(golden: GoldenSegment) -> None:
    records, _ = read([(golden.name, golden.data)])
    assert [(r.start_lsn, len(r.data) + 24, r.xid, MANAGERS[r.rmid]) for r in records] == golden.records


def test_golden_segments_have_records_over_two_and_over_many_pages(golden: GoldenSegment) -> None:
    pages = [(start + length - 1) // 8192 - start // 8192 for start, length, _, _ in golden.records if length > 24]
    assert pages.count(1) > 20
    assert max(pages) > 5


def test_a_record_ends_where_the_next_begins_but_for_page_headers(golden: GoldenSegment) -> None:
    records, _ = read([(golden.name, golden.data)])
    for record, following in pairwise(records):
        assert record.end_lsn % 8 == 0
        gap = following.start_lsn - record.end_lsn
        assert gap == (24 if record.end_lsn % 8192 == 0 else 0)


def test_a_segment_that_ends_with_a_switch_is_read_to_its_end(golden: GoldenSegment) -> None:
    last = find_last_record([(golden.name, golden.data)])
    assert last.start_lsn == golden.records[-1][0]
    assert last.end_lsn == golden.name.end_lsn
    assert (last.end.reason, last.end.lsn) == (EndReason.EXHAUSTED, golden.name.end_lsn)


def test_reading_may_begin_at_any_record(golden: GoldenSegment) -> None:
    everything, _ = read([(golden.name, golden.data)])
    for index in random.Random(1).sample(range(len(everything)), 25):
        records, _ = read([(golden.name, golden.data)], everything[index].start_lsn)
        assert records == everything[index:]


def test_reading_may_begin_between_records(golden: GoldenSegment) -> None:
    everything, _ = read([(golden.name, golden.data)])
    for index in random.Random(2).sample(range(1, len(everything)), 25):
        records, _ = read([(golden.name, golden.data)], everything[index - 1].start_lsn + 1)
        assert records == everything[index:]


def test_only_the_resource_managers_asked_for_are_given_out(golden: GoldenSegment) -> None:
    everything, _ = read([(golden.name, golden.data)])
    some = list(iter_records([(golden.name, golden.data)], resource_managers=(RM_XACT,)))
    assert some == [record for record in everything if record.rmid == RM_XACT]


# Where WAL ends


def test_wal_ends_where_nothing_was_written() -> None:
    maker = make_wal([100] * 300)
    records, reader = read(maker.segments())
    assert describe(records) == describe_made(maker.made)
    assert (get_reason(reader), get_end(reader)) == (EndReason.END_OF_WAL, maker.position)


def test_wal_ends_at_a_page_boundary_too() -> None:
    maker = make_wal([8192 - 40 - 24])
    assert maker.position % 8192 == 0
    records, reader = read(maker.segments())
    assert len(records) == 1
    assert (get_reason(reader), get_end(reader)) == (EndReason.END_OF_WAL, maker.position)


def test_wal_ends_within_a_record_of_which_only_the_beginning_was_written() -> None:
    maker = make_wal([100] * 20 + [30000])
    last = maker.made[-1]
    segments = with_bytes(maker.segments(), maker.base + 16384, bytes(MIB - 16384))
    records, reader = read(segments)
    assert describe(records) == describe_made(maker.made[:-1])
    assert (get_reason(reader), get_end(reader)) == (EndReason.END_OF_WAL, last.start_lsn)


def test_a_recycled_segment_is_the_end_of_wal(golden: GoldenSegment) -> None:
    records, reader = read([(golden.name, golden.data), (golden.name.next(), golden.data)])
    assert len(records) == len(golden.records)
    assert (get_reason(reader), get_end(reader)) == (EndReason.END_OF_WAL, golden.name.end_lsn)


def test_recycled_pages_behind_the_last_record_are_the_end_of_wal() -> None:
    older = make_wal([500] * 1000).segments()[0][1]
    maker = WalMaker(first_segment=6)
    for _ in range(100):
        maker.append(data=bytes(100))
    written = -(-len(maker.area) // 8192) * 8192
    name, data = maker.segments()[0]
    records, reader = read([(name, data[:written] + older[written:])])
    assert describe(records) == describe_made(maker.made)
    assert (get_reason(reader), get_end(reader)) == (EndReason.END_OF_WAL, maker.position)


def test_an_empty_segment_is_the_end_of_wal() -> None:
    name = make_wal([]).segments()[0][0]
    records, reader = read([(name, bytes(MIB))])
    assert (records, get_reason(reader), get_end(reader)) == ([], EndReason.END_OF_WAL, name.start_lsn)
    assert (reader.last_start_lsn, reader.last_end_lsn) == (None, None)


def test_no_segments_are_no_wal() -> None:
    records, reader = read([])
    assert (records, get_reason(reader)) == ([], EndReason.INCOMPLETE)


@pytest.mark.parametrize("block_size", [1024, 8192, 65536])
def test_wal_cut_off_anywhere_gives_the_records_that_are_whole(block_size: int) -> None:
    chance = random.Random(block_size)
    maker = make_wal([chance.choice((0, 3, 30, 100, 1000, 9000, 70000)) for _ in range(60)], block_size)
    (name, data), *_ = maker.segments()
    for _ in range(150):
        cut = chance.randrange(len(maker.area))
        whole = [made for made in maker.made if made.positions[-1].stop <= maker.base + cut]
        records, reader = read([(name, data[:cut])])
        assert describe(records) == describe_made(whole)
        assert get_reason(reader) is EndReason.INCOMPLETE
        # Where the next record begins, or the page it would begin on.
        assert get_end(reader) >= (whole[-1].end_lsn if whole else maker.base)
        assert len(whole) == len(maker.made) or get_end(reader) <= maker.made[len(whole)].start_lsn


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 300), st.integers(0, 20000)), max_size=80),
    block_size=st.sampled_from([1024, 2048, 8192, 32768]),
    start=st.integers(0, 80),
)
def test_what_was_written_is_read(sizes: list[int], block_size: int, start: int) -> None:
    maker = make_wal(sizes, block_size)
    records, reader = read(maker.segments())
    assert describe(records) == describe_made(maker.made)
    assert get_end(reader) == maker.position
    if start < len(maker.made):
        records, _ = read(maker.segments(), maker.made[start].start_lsn)
        assert describe(records) == describe_made(maker.made[start:])


# Several segments


def test_a_record_may_go_over_several_segments() -> None:
    maker = make_wal([100, 3 * MIB, 100])
    assert len(maker.segments()) == 4
    records, reader = read(maker.segments())
    assert describe(records) == describe_made(maker.made)
    assert get_reason(reader) is EndReason.END_OF_WAL


def test_reading_that_begins_inside_a_long_record_begins_behind_it() -> None:
    maker = make_wal([100, 3 * MIB, 100])
    for segments in (maker.segments()[1:], maker.segments()[2:], maker.segments()[3:]):
        records, _ = read(segments)
        assert describe(records) == describe_made(maker.made[2:])


def test_a_long_record_without_its_beginning_and_its_end_is_not_complete() -> None:
    maker = make_wal([100, 3 * MIB, 100])
    records, reader = read(maker.segments()[1:3])
    assert (records, get_reason(reader)) == ([], EndReason.INCOMPLETE)


def test_segments_before_the_start_are_passed_over() -> None:
    maker = make_wal([60000] * 60)
    middle = maker.made[40]
    assert middle.start_lsn > maker.base + 2 * MIB
    records, _ = read(maker.segments(), middle.start_lsn)
    assert describe(records) == describe_made(maker.made[40:])


def test_after_a_switch_reading_goes_on_in_the_next_segment() -> None:
    maker = make_wal([100] * 5)
    switch = maker.switch()
    maker.append(data=b"first of the next")
    records, _ = read(maker.segments())
    assert describe(records) == describe_made(maker.made)
    assert switch.end_lsn == maker.base + MIB
    assert records[-1].start_lsn == maker.base + MIB + 40


def test_a_switch_record_may_cross_a_page_boundary() -> None:
    maker = make_wal([8192 - 40 - 24 - 16])
    maker.switch()
    maker.append(data=b"first of the next")
    assert [len(part) for part in maker.made[1].positions] == [16, 8]
    records, _ = read(maker.segments())
    assert describe(records) == describe_made(maker.made)


def test_a_missing_segment_ends_the_reading() -> None:
    maker = make_wal([60000] * 60)
    first, _, third, *_ = maker.segments()
    records, reader = read([first, third])
    assert describe(records) == describe_made(maker.made[: len(records)])
    assert get_reason(reader) is EndReason.INCOMPLETE
    assert get_end(reader) == maker.made[len(records)].start_lsn


def test_a_record_that_goes_on_after_the_last_segment_is_not_complete() -> None:
    maker = make_wal([60000] * 60)
    records, reader = read(maker.segments()[:2])
    assert get_reason(reader) is EndReason.INCOMPLETE
    assert get_end(reader) == maker.made[len(records)].start_lsn


@pytest.mark.parametrize("start", [-MIB, 100 * MIB])
def test_a_start_that_no_segment_has_is_said(start: int) -> None:
    maker = make_wal([100])
    records, reader = read(maker.segments(), maker.base + start)
    assert (records, get_reason(reader)) == ([], EndReason.INCOMPLETE)


def test_a_segment_of_another_cluster_ends_the_reading() -> None:
    mine, other = make_wal([60000] * 20), WalMaker(first_segment=6, system_identifier=42)
    records, reader = read([mine.segments()[0], other.segments()[0]])
    assert get_reason(reader) is EndReason.DAMAGED
    assert reader.end is not None
    assert "belongs to system identifier 42" in reader.end.message
    assert describe(records) == describe_made(mine.made[: len(records)])


def test_a_later_timeline_may_begin_inside_a_segment_that_is_named_for_it() -> None:
    maker = make_wal([60000] * 20)
    assert maker.position > maker.base + MIB
    maker.timeline = 3
    for _ in range(20):
        maker.append(data=bytes(60000))
    (first, one), (second, two), *rest = maker.segments()
    path = [(replace(first, timeline=Timeline(1)), one), (second, two), *rest]
    records, _ = read(path)
    assert describe(records) == describe_made(maker.made)


def test_pages_do_not_go_back_to_an_earlier_timeline() -> None:
    maker = WalMaker()
    maker.timeline = 3
    for _ in range(200):
        maker.append(data=bytes(100))
    assert get_reason(read(maker.segments())[1]) is EndReason.END_OF_WAL
    _, reader = read(with_bytes(maker.segments(), maker.base + 2 * 8192 + 4, struct.pack("<I", 2)))
    assert get_reason(reader) is EndReason.DAMAGED
    assert get_end(reader) <= maker.base + 2 * 8192


def test_a_page_of_a_later_timeline_than_its_segment_is_damage() -> None:
    maker = make_wal([100] * 200)
    segments = with_bytes(maker.segments(), maker.base + 8192 + 4, struct.pack("<I", 2))
    _, reader = read(segments)
    assert get_reason(reader) is EndReason.DAMAGED


# Crashes


@pytest.mark.parametrize("pages", [1, 2, 4])
def test_a_record_given_up_after_a_crash_is_passed_over(pages: int) -> None:
    maker = make_wal([100] * 100)
    start = maker.crash_within_record(40000, pages)
    maker.append(data=b"after the crash")
    records, reader = read(maker.segments())
    assert describe(records) == describe_made(maker.made)
    assert reader.aborted == [start]
    assert get_reason(reader) is EndReason.END_OF_WAL


def test_a_record_given_up_at_a_segments_end_is_passed_over() -> None:
    maker = WalMaker()
    while MIB - len(maker.area) > 8192:
        maker.append(data=bytes(1000))
    start = maker.crash_within_record(20000, 1)
    assert maker.position > maker.base + MIB
    maker.append(data=b"after the crash")
    records, reader = read(maker.segments())
    assert describe(records) == describe_made(maker.made)
    assert reader.aborted == [start]
    # Reading that begins with the second segment knows nothing of it.
    records, reader = read(maker.segments()[1:])
    assert describe(records) == describe_made(maker.made[-2:])
    assert reader.aborted == []


def test_a_record_given_up_must_be_the_one_that_was_given_up() -> None:
    maker = make_wal([100] * 100)
    start = maker.crash_within_record(40000, 1)
    maker.made.clear()
    other = make_wal([100] * 100)
    other.append(data=bytes(16))
    other.crash_within_record(40000, 1)
    page = (start - maker.base) // 8192 * 8192 + 8192
    (name, data), (_, wrong) = maker.segments()[0], other.segments()[0]
    _, reader = read([(name, data[:page] + wrong[page:])])
    assert (get_reason(reader), get_end(reader)) == (EndReason.DAMAGED, maker.base + page + 24)
