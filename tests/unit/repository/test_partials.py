"""Pieces of a segment that is not finished: how they are joined, and what is read of them."""

from __future__ import annotations

import pytest

from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.partials import (
    Piece,
    find_newest_partial,
    join_pieces,
    list_partial_timelines,
    list_pieces,
    put_piece,
    read_partial,
    remove_pieces,
)
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.repository.walstore import WalArchive
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import SEALED, SEGMENT_SIZE, make_repository, make_segment, open_archive

ONE, OTHER = "00000001", "00000002"
TIMELINE = Timeline(1)


@pytest.fixture(params=[pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")])
def archive(request: pytest.FixtureRequest) -> WalArchive:
    return open_archive(make_repository(MemoryStore(), keyring=request.param))


def segment(number: int) -> SegmentName:
    return SegmentName(timeline=TIMELINE, number=number, segment_size=SEGMENT_SIZE)


def piece(begin: int, end: int, *, number: int = 3, receiver: str = ONE) -> Piece:
    return Piece(segment=segment(number), receiver=receiver, begin=begin, end=end)


def keep(archive: WalArchive, *pieces: Piece) -> None:
    for one in pieces:
        put_piece(archive, one, make_segment(one.segment.number)[one.begin : one.end], {"end": one.end})


@pytest.mark.parametrize(
    ("spans", "joined"),
    [
        ([], []),
        ([(0, 8)], [(0, 8)]),
        ([(8, 16)], []),
        ([(0, 8), (16, 24)], [(0, 8)]),
        ([(0, 8), (8, 16), (16, 24)], [(0, 8), (8, 16), (16, 24)]),
        ([(0, 8), (0, 16), (8, 16), (16, 24)], [(0, 16), (16, 24)]),
        ([(0, 16), (8, 32), (8, 24), (30, 40)], [(0, 16), (8, 32), (30, 40)]),
        ([(0, 32), (8, 16)], [(0, 32)]),
    ],
)
def test_pieces_are_joined_as_far_as_they_reach(spans: list[tuple[int, int]], joined: list[tuple[int, int]]) -> None:
    assert [(one.begin, one.end) for one in join_pieces(piece(*span) for span in reversed(spans))] == joined


def test_a_partial_is_read_padded_to_a_whole_segment(archive: WalArchive) -> None:
    keep(archive, piece(0, 8192), piece(8192, 10000), piece(0, 100, number=2))
    partial = find_newest_partial(archive, TIMELINE)
    assert partial is not None
    assert partial.segment == segment(3)
    assert partial.end_lsn == segment(3).start_lsn + 10000
    assert partial.read_facts()["end"] == 10000
    assert partial.read() == make_segment(3)[:10000] + bytes(SEGMENT_SIZE - 10000)
    assert list_partial_timelines(archive) == (TIMELINE,)


def test_the_pieces_of_two_receivers_are_never_joined(archive: WalArchive) -> None:
    keep(archive, piece(0, 8192), piece(8192, 20000, receiver=OTHER), piece(0, 4096, receiver=OTHER))
    partial = find_newest_partial(archive, TIMELINE)
    assert partial is not None
    assert partial.pieces == (piece(0, 8192),)


def test_only_the_last_segment_s_partial_is_read(archive: WalArchive) -> None:
    keep(archive, piece(0, 8192), piece(0, 4096, number=4))
    assert read_partial(archive, segment(3)) is None
    found = read_partial(archive, segment(4))
    assert found is not None
    assert found[0].pieces == (piece(0, 4096, number=4),)


def test_what_is_removed_is_no_part_of_it_and_may_be_removed_again(archive: WalArchive) -> None:
    keep(archive, piece(0, 8192), piece(8192, 9000))
    for _ in range(2):
        remove_pieces(archive, [piece(8192, 9000)])
    assert [found for found, _ in list_pieces(archive, TIMELINE)] == [piece(0, 8192)]


def test_names_that_are_no_piece_s_are_passed_over(archive: WalArchive) -> None:
    keep(archive, piece(0, 8192), piece(8192, 8192), piece(0, SEGMENT_SIZE + 1))
    assert [found for found, _ in list_pieces(archive, TIMELINE)] == [piece(0, 8192)]
    assert find_newest_partial(archive, Timeline(2)) is None
