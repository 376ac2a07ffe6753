"""Damage to WAL: whatever byte is wrong, no wrong record is read, and none behind it."""

from __future__ import annotations

import random
import struct

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.walpage import EndReason
from tests.unit.postgres.golden import MAJORS, GoldenSegment, read_segment
from tests.unit.postgres.walreading import describe, describe_made, get_end, get_reason, make_wal, read, with_bytes


@pytest.fixture(params=MAJORS)
def golden(request: pytest.FixtureRequest) -> GoldenSegment:
    return read_segment(request.param)


def flip(data: bytes, at: int, chance: random.Random) -> bytes:
    return data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :]


def test_a_wrong_byte_in_any_record_ends_the_reading_before_it(golden: GoldenSegment) -> None:
    chance = random.Random(golden.version.major)
    base = golden.name.start_lsn
    everything, _ = read([(golden.name, golden.data)])
    for index in chance.sample(range(len(everything)), 60):
        record = everything[index]
        # Bytes of the record: those of its pages, without their headers and the padding at its end.
        length = len(record.data) + 24
        positions = [at for at in range(record.start_lsn, record.start_lsn + 2 * length + 100) if at % 8192 >= 24]
        damaged = flip(golden.data, chance.choice(positions[:length]) - base, chance)
        records, reader = read([(golden.name, damaged)])
        assert records == everything[:index]
        assert get_end(reader) == record.start_lsn
        # A length that reaches into the unwritten rest of the segment looks like a crash.
        near_end = golden.name.start_lsn + golden.data.rfind(bytes([golden.version.wal_magic & 0xFF, 0xD1]))
        assert get_reason(reader) is EndReason.DAMAGED or record.start_lsn >= near_end


@pytest.mark.parametrize("block_size", [1024, 8192])
def test_any_wrong_byte_of_any_record_ends_the_reading_before_it(block_size: int) -> None:
    chance = random.Random(block_size)
    maker = make_wal([chance.choice((0, 10, 100, 5000)) for _ in range(40)], block_size)
    maker.append(data=bytes(100))
    for index, made in enumerate(maker.made[:-1]):
        spots = [at for part in made.positions for at in part]
        for at in {*spots[:24], *chance.sample(spots, min(len(spots), 10))}:
            (name, data), *_ = maker.segments()
            records, reader = read([(name, flip(data, at - maker.base, chance))])
            assert describe(records) == describe_made(maker.made[:index])
            assert get_end(reader) == made.start_lsn
            assert get_reason(reader) in (EndReason.DAMAGED, EndReason.END_OF_WAL)


@pytest.mark.parametrize("field", [0, 1, 3, *range(8, 16)])
def test_a_wrong_byte_in_a_page_header_ends_the_reading_at_the_page(golden: GoldenSegment, field: int) -> None:
    chance = random.Random(field)
    everything, _ = read([(golden.name, golden.data)])
    written = (golden.records[-1][0] - golden.name.start_lsn) // 8192
    for page in chance.sample(range(1, written), 8):
        damaged = flip(golden.data, page * 8192 + field, chance)
        records, reader = read([(golden.name, damaged)])
        assert records == everything[: len(records)]
        assert get_end(reader) == everything[len(records)].start_lsn or get_end(reader) % 8192 == 0
        assert get_end(reader) <= golden.name.start_lsn + page * 8192
        assert get_reason(reader) is EndReason.DAMAGED


def test_a_wrong_rest_length_ends_the_reading_at_the_record() -> None:
    maker = make_wal([100] * 10 + [20000, 100])
    segments = with_bytes(maker.segments(), maker.base + 8192 + 16, b"\0\0")
    records, reader = read(segments)
    assert describe(records) == describe_made(maker.made[:10])
    assert (get_reason(reader), get_end(reader)) == (EndReason.DAMAGED, maker.made[10].start_lsn)


@pytest.mark.parametrize(("flags", "size"), [(0x0000, 20000), (0x0008, 20000), (0x0002, 20000), (0x0001, 8192 - 64)])
def test_wrong_page_flags_end_the_reading_at_the_page(flags: int, size: int) -> None:
    maker = make_wal([size, 100])
    segments = with_bytes(maker.segments(), maker.base + 8192 + 2, struct.pack("<H", flags))
    records, reader = read(segments)
    assert describe(records) == describe_made(maker.made[: len(records)])
    assert get_reason(reader) is EndReason.DAMAGED
    assert get_end(reader) <= maker.base + 8192 + 24


@pytest.mark.parametrize("size", [512, 4096, 8192, 65536])
def test_a_hole_of_zeros_is_damage_and_not_the_end_of_wal(golden: GoldenSegment, size: int) -> None:
    chance = random.Random(size)
    everything, _ = read([(golden.name, golden.data)])
    # Reading begins inside a record, whose rest nothing vouches for.
    first, last = (golden.records[index][0] - golden.name.start_lsn for index in (0, -1))
    for _ in range(10):
        at = chance.randrange(first + size, last - size - 16384) // size * size
        damaged = golden.data[:at] + bytes(size) + golden.data[at + size :]
        records, reader = read([(golden.name, damaged)])
        assert records == everything[: len(records)]
        if damaged == golden.data:
            continue  # zeros in a page image
        assert get_reason(reader) is EndReason.DAMAGED
        assert get_end(reader) <= golden.name.start_lsn + at + size


@pytest.mark.parametrize("kept", [0, 8192, 500_000, 1_000_000])
def test_a_segment_that_ends_in_zeros_is_damage_if_the_next_one_was_written(kept: int) -> None:
    maker = make_wal([1000] * 1200)
    (first, one), second, *_ = maker.segments()
    records, reader = read([(first, one[:kept].ljust(len(one), b"\0")), second])
    assert describe(records) == describe_made(maker.made[: len(records)])
    assert get_reason(reader) is EndReason.DAMAGED
    unwritten = (second[0], bytes(len(one)))
    records, reader = read([(first, one[: kept // 8192 * 8192].ljust(len(one), b"\0")), unwritten])
    assert get_reason(reader) is EndReason.END_OF_WAL


def test_a_valid_record_in_another_records_place_is_damage() -> None:
    maker = make_wal([100, 100, 100])
    first, second, _ = maker.made
    stale = maker.area[first.start_lsn - maker.base : first.end_lsn - maker.base]
    records, reader = read(with_bytes(maker.segments(), second.start_lsn, bytes(stale)))
    assert len(records) == 1
    assert (get_reason(reader), get_end(reader)) == (EndReason.DAMAGED, second.start_lsn)


def test_a_segment_that_is_too_long_is_damage(golden: GoldenSegment) -> None:
    _, reader = read([(golden.name, golden.data + b"\0")])
    assert get_reason(reader) is EndReason.DAMAGED


def test_damage_is_told_with_its_place() -> None:
    maker = make_wal([100, 100, 100])
    _, reader = read(with_bytes(maker.segments(), maker.made[1].start_lsn + 30, b"\xff\xff"))
    assert reader.end is not None
    assert reader.end.message == f"the record at {Lsn(maker.made[1].start_lsn)} does not match its checksum"
