"""Segments and the names of files in pg_wal."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName, WalFileKind, classify, is_valid_archive_name, is_valid_segment_size
from pghaven.postgres.timeline import Timeline

MIB = 1 << 20
SIZES = [MIB << shift for shift in range(11)]
sizes = st.sampled_from(SIZES)
timelines = st.integers(1, (1 << 32) - 1).map(Timeline)
positions = st.integers(0, (1 << 64) - 1).map(Lsn)


@given(timelines, positions, sizes)
def test_name_reads_back_to_the_same_segment(timeline: Timeline, lsn: Lsn, size: int) -> None:
    segment = SegmentName.containing(timeline, lsn, size)
    assert SegmentName.parse(str(segment), size) == segment
    assert classify(str(segment)) is WalFileKind.SEGMENT
    assert pickle.loads(pickle.dumps(segment)) == segment


@given(timelines, positions, sizes)
def test_segment_contains_the_position_it_was_asked_for(timeline: Timeline, lsn: Lsn, size: int) -> None:
    segment = SegmentName.containing(timeline, lsn, size)
    assert segment.start_lsn <= lsn < segment.start_lsn + size


@given(timelines, st.integers(1, (1 << 64) - 1).map(Lsn), sizes)
def test_segment_before_an_end_holds_the_last_byte(timeline: Timeline, end: Lsn, size: int) -> None:
    segment = SegmentName.before(timeline, end, size)
    assert segment.start_lsn < end <= segment.start_lsn + size


@given(timelines, positions, positions, sizes)
def test_names_of_one_timeline_sort_as_positions_do(timeline: Timeline, one: Lsn, other: Lsn, size: int) -> None:
    first, second = (SegmentName.containing(timeline, lsn, size) for lsn in (one, other))
    assert (str(first) < str(second)) == (first < second) == (first.number < second.number)


@pytest.mark.parametrize(
    ("size", "lsn", "name"),
    [
        (16 * MIB, "0/1000000", "000000010000000000000001"),
        (16 * MIB, "0/FFFFFFFF", "0000000100000000000000FF"),
        (16 * MIB, "1/0", "000000010000000100000000"),
        (MIB, "0/900160", "000000010000000000000009"),
        (MIB, "0/FFF00000", "000000010000000000000FFF"),
        (1024 * MIB, "0/C0000000", "000000010000000000000003"),
        (1024 * MIB, "1/0", "000000010000000100000000"),
    ],
)
def test_name_depends_on_the_segment_size(size: int, lsn: str, name: str) -> None:
    assert str(SegmentName.containing(Timeline(1), Lsn.parse(lsn), size)) == name


def test_timeline_in_the_name_is_hexadecimal() -> None:
    assert str(SegmentName(timeline=Timeline(10), number=1, segment_size=16 * MIB)) == "0000000A0000000000000001"


def test_next_goes_over_the_edge_of_four_gigabytes() -> None:
    last = SegmentName.parse("0000000100000000000000FF", 16 * MIB)
    assert str(last.next()) == "000000010000000100000000"
    assert last.end_lsn == last.next().start_lsn == 1 << 32


def test_very_last_segment_has_nothing_after_it() -> None:
    last = SegmentName.containing(Timeline(1), Lsn((1 << 64) - 1), 16 * MIB)
    assert str(last) == "00000001FFFFFFFF000000FF"
    with pytest.raises(ValueError, match="no WAL segment number"):
        last.next()
    with pytest.raises(ValueError, match="is not a WAL position"):
        _ = last.end_lsn


def test_nothing_lies_before_position_zero() -> None:
    with pytest.raises(ValueError, match="no WAL segment number"):
        SegmentName.before(Timeline(1), Lsn(0), 16 * MIB)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "00000001000000000000000",
        "00000001000000000000000g",
        "0000000100000000000000ff",
        "000000010000000000000001\n",
    ],
)
def test_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a WAL segment"):
        SegmentName.parse(name, 16 * MIB)


def test_name_impossible_for_the_segment_size_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be the name of a WAL segment of 16777216 bytes"):
        SegmentName.parse("000000010000000000000100", 16 * MIB)
    assert SegmentName.parse("000000010000000000000100", MIB).start_lsn == 0x10000000
    with pytest.raises(ValueError, match="0 is not a timeline"):
        SegmentName.parse("000000000000000000000001", 16 * MIB)


@pytest.mark.parametrize("size", [0, -1, MIB // 2, 3 * MIB, 2048 * MIB, 16 * MIB + 1])
def test_impossible_segment_sizes_are_refused(size: int) -> None:
    assert not is_valid_segment_size(size)
    with pytest.raises(ValueError, match="a WAL segment cannot have"):
        SegmentName.parse("000000010000000000000001", size)
    with pytest.raises(ValueError, match="a WAL segment cannot have"):
        SegmentName(timeline=Timeline(1), number=1, segment_size=size)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("000000010000000000000001", WalFileKind.SEGMENT),
        ("0000000A.history", WalFileKind.HISTORY),
        ("000000010000000000000001.partial", WalFileKind.PARTIAL),
        ("000000010000000000000001.00000028.backup", WalFileKind.BACKUP_HISTORY),
        ("000000010000000000000001.backup", WalFileKind.OTHER),
        ("000000010000000000000001.00000028.backup\n", WalFileKind.OTHER),
        ("00000001000000000000000a", WalFileKind.OTHER),
        ("0000000a.history", WalFileKind.OTHER),
        ("archive_status", WalFileKind.OTHER),
        ("", WalFileKind.OTHER),
    ],
)
def test_names_are_told_apart(name: str, kind: WalFileKind) -> None:
    assert classify(name) is kind


@pytest.mark.parametrize("name", ["000000010000000000000001", "0000000A.history", "...", "x" * 64])
def test_names_the_manual_allows_are_archived(name: str) -> None:
    assert is_valid_archive_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 65, "a/b", "../a", "a b", "a_b", "a-b", "ä", "a\n", "a\0", "١"])
def test_names_the_manual_does_not_allow_are_not(name: str) -> None:
    assert not is_valid_archive_name(name)
