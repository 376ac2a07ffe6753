"""Judging segments by their first page, and quick searches, on segments of real servers and on damaged ones."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import replace

import pytest

from pghaven.errors import Damaged, Refused
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.postgres.version import SUPPORTED
from pghaven.postgres.waldata import (
    check_first_page,
    check_segment,
    is_wal_magic,
    may_contain_restore_point,
    may_contain_xid,
    parse_page_header,
)
from tests.unit.postgres.golden import MAJORS, GoldenSegment, read_segment
from tests.unit.postgres.walmaker import MIB, WalMaker

GOLDEN = read_segment(MAJORS[-1])


def overwrite(data: bytes, offset: int, code: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(code, changed, offset, value)
    return bytes(changed)


@pytest.fixture(params=MAJORS)
def golden(request: pytest.FixtureRequest) -> GoldenSegment:
    return read_segment(request.param)


def test_a_real_segment_is_what_its_name_says(golden: GoldenSegment) -> None:
    identity = check_segment(golden.data, golden.name, golden.system_identifier, golden.version)
    assert identity.system_identifier == golden.system_identifier
    assert identity.version == golden.version
    assert identity.timeline == golden.name.timeline
    assert (identity.segment_size, identity.block_size) == (MIB, 8192)


def test_the_first_40_bytes_say_whose_segment_it_is(golden: GoldenSegment) -> None:
    beginning = memoryview(golden.data)[:40]
    assert check_first_page(beginning, golden.name).system_identifier == golden.system_identifier
    header = parse_page_header(beginning)
    assert (header.magic, header.page_lsn) == (golden.version.wal_magic, golden.name.start_lsn)
    # Golden segments begin inside a record of which 20,000 bytes and some headers are left.
    assert header.remaining_bytes > 20000


def test_pages_inside_a_segment_do_not_say_whose_they_are(golden: GoldenSegment) -> None:
    header = parse_page_header(golden.data[8192:])
    assert header.page_lsn == golden.name.start_lsn + 8192
    assert (header.system_identifier, header.segment_size, header.block_size) == (None, None, None)


def test_another_clusters_segment_is_refused_naming_both_identifiers() -> None:
    with pytest.raises(Refused, match=f"system identifier {GOLDEN.system_identifier}, but this cluster is 77"):
        check_segment(GOLDEN.data, GOLDEN.name, 77)


def test_another_versions_segment_is_refused_naming_both_versions() -> None:
    with pytest.raises(Refused, match="written by PostgreSQL 18, but this cluster is PostgreSQL 15"):
        check_segment(GOLDEN.data, GOLDEN.name, GOLDEN.system_identifier, SUPPORTED[0])


def test_an_unsupported_versions_segment_is_refused() -> None:
    with pytest.raises(Refused, match=r"not supported \(format D10D\)") as caught:
        check_segment(overwrite(GOLDEN.data, 0, "<H", 0xD10D), GOLDEN.name)
    assert caught.value.hint == "Supported major versions are 15, 16, 17 and 18."


def test_a_segment_of_another_size_is_refused() -> None:
    bigger = SegmentName(timeline=Timeline(1), number=GOLDEN.name.number // 16, segment_size=16 * MIB)
    with pytest.raises(Refused, match="segments have 1048576 bytes, but this cluster's have 16777216"):
        check_segment(GOLDEN.data, bigger)


@pytest.mark.parametrize("size", [40, 8192, MIB - 1, MIB + 1])
def test_a_segment_of_the_wrong_length_is_damaged(size: int) -> None:
    data = GOLDEN.data[:size].ljust(size, b"\0")
    with pytest.raises(Damaged, match=f"has {size} bytes, expected {MIB}"):
        check_segment(data, GOLDEN.name)
    check_first_page(data, GOLDEN.name)


@pytest.mark.parametrize("size", [0, 1, 23, 24, 39])
def test_too_few_bytes_for_a_header_are_damaged(size: int) -> None:
    with pytest.raises(Damaged, match=f"has {size} bytes"):
        check_segment(GOLDEN.data[:size], GOLDEN.name)
    with pytest.raises(Damaged, match=f"cannot have {size} bytes"):
        parse_page_header(GOLDEN.data[:size])


def test_a_segment_nothing_was_written_to_is_damaged() -> None:
    with pytest.raises(Damaged, match="begins with zeros"):
        check_segment(bytes(MIB), GOLDEN.name)


def test_a_segment_under_another_segments_name_is_damaged() -> None:
    with pytest.raises(Damaged, match="the content of another segment"):
        check_segment(GOLDEN.data, GOLDEN.name.next())


@pytest.mark.parametrize(
    ("offset", "code", "value", "says"),
    [
        (0, "<H", 0x4142, "begins with 4142, which no PostgreSQL writes"),
        (2, "<H", 0x0001, "invalid page flags 0001"),
        (2, "<H", 0x0012, "invalid page flags 0012"),
        (4, "<I", 0, "a page of timeline 0"),
        (4, "<I", 2, "a page of timeline 2"),
        (36, "<I", 0, "pages have 0 bytes"),
        (36, "<I", 8191, "pages have 8191 bytes"),
        (36, "<I", 1 << 17, "pages have 131072 bytes"),
    ],
)
def test_an_impossible_header_is_damaged(offset: int, code: str, value: int, says: str) -> None:
    with pytest.raises(Damaged, match=says):
        check_segment(overwrite(GOLDEN.data, offset, code, value), GOLDEN.name)


def test_a_segment_may_begin_on_an_ancestors_timeline() -> None:
    later = replace(GOLDEN.name, timeline=Timeline(3))
    assert check_segment(GOLDEN.data, later).timeline == Timeline(1)


def test_every_supported_format_is_one_of_postgresqls() -> None:
    assert all(is_wal_magic(version.wal_magic) for version in SUPPORTED)
    assert not is_wal_magic(0)


def test_what_is_in_a_segment_is_never_missed_by_the_quick_search(golden: GoldenSegment) -> None:
    for _, _, xid, _, _ in golden.transactions:
        assert may_contain_xid(golden.data, xid)
    for _, name in golden.restore_points:
        assert may_contain_restore_point(golden.data, name)


def test_the_quick_search_rules_out_what_is_not_there(golden: GoldenSegment) -> None:
    assert not may_contain_xid(golden.data, 0x7FEDCBA9)
    assert not may_contain_restore_point(memoryview(golden.data), "never made")
    assert not may_contain_restore_point(golden.data, "before the price")


@pytest.mark.parametrize("shift", range(0, 112, 4))
def test_the_quick_search_sees_over_page_headers(shift: int) -> None:
    maker = WalMaker(block_size=1024)
    maker.append(data=bytes(1024 - 40 - 24 - 112 + shift))
    maker.append_main(0, 0x70, struct.pack("<q64s", 0, b"where the page ends"))
    (_, data), *_ = maker.segments()
    assert may_contain_restore_point(data, "where the page ends")
    assert not may_contain_restore_point(data, "where the page begins")


@pytest.mark.parametrize("room", range(8, 136, 8))
def test_the_quick_search_sees_what_two_segments_share(room: int) -> None:
    maker = WalMaker()
    while MIB - len(maker.area) > 8192:
        maker.append(data=bytes(800))
    maker.append(data=bytes(MIB - len(maker.area) - room - 24))
    assert len(maker.area) == MIB - room
    made = maker.append_main(0, 0x70, struct.pack("<q64s", 0, b"n" * 63))
    # In the record: the fixed header, 2 bytes that introduce the main data, the time.
    name = [position for part in made.positions for position in part][24 + 2 + 8 :][:64]
    for index in {(position - maker.base) // MIB for position in name}:
        assert may_contain_restore_point(maker.segments()[index][1], "n" * 63)


def test_judging_a_segment_loads_nothing_heavy() -> None:
    program = (
        "import sys, pghaven.postgres.waldata; "
        "print([name for name in ('numpy', 'google_crc32c', 'psycopg', 'click') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
