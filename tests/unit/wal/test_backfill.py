"""What a standby's pg_wal has whole, and what of that a repository should have and lacks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.wal.backfill import list_lacking, list_whole, mark_waiting, push_waiting
from tests.support.walfile import (
    BLOCK_SIZE,
    SEGMENT_SIZE,
    SYSTEM_IDENTIFIER,
    WalSite,
    make_segment,
    render_history,
    segment_name,
)


class StandbySite(WalSite):
    """``have`` puts segments into ``pg_wal`` as a receiver leaves them: a mark for all but the one it is writing."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.wal = self.data_directory / "pg_wal"
        self.statuses = self.wal / "archive_status"
        self.statuses.mkdir()

    def have(self, *numbers: int, timeline: int = 1, marked: bool = True) -> None:
        for number in numbers:
            name = segment_name(number, timeline)
            self.write(name, make_segment(name))
            if marked:
                (self.statuses / f"{name}.done").touch()

    def archive_them(self, *numbers: int) -> None:
        for number in numbers:
            name = segment_name(number)
            self.archive.put(str(name), make_segment(name), {})

    def whole(self) -> list[int]:
        return [one.number for one in list_whole(str(self.wal), SYSTEM_IDENTIFIER, SEGMENT_SIZE)]

    def lacking(self) -> tuple[str, ...]:
        return list_lacking(str(self.wal), [self.archive])


@pytest.fixture
def standby(tmp_path: Path) -> StandbySite:
    return StandbySite(tmp_path)


def test_what_the_archive_lacks_is_found_in_order_and_what_it_holds_is_not(standby: StandbySite) -> None:
    standby.have(3, 4, 5, 6)
    standby.archive_them(3, 5)
    assert standby.lacking() == (str(segment_name(4)), str(segment_name(6)))


def test_the_segment_that_is_being_received_is_not_whole(standby: StandbySite) -> None:
    standby.have(3)
    standby.have(4, marked=False)
    assert standby.whole() == [3]
    standby.have(5, marked=False)  # the receiver has gone on to the next one
    assert standby.whole() == [3, 4]


def test_a_recycled_file_is_no_segment_whatever_it_is_called(standby: StandbySite) -> None:
    standby.have(3)
    standby.write(segment_name(7), make_segment(segment_name(2)))
    assert standby.whole() == [3]


def test_a_segment_of_which_a_page_is_an_older_one_is_not_whole(standby: StandbySite) -> None:
    standby.have(3, 4)
    content = make_segment(segment_name(4))[: -2 * BLOCK_SIZE] + make_segment(segment_name(1))[-2 * BLOCK_SIZE :]
    standby.write(segment_name(4), content)
    standby.archive_them(2)
    assert standby.lacking() == (str(segment_name(3)),)


def test_a_segment_that_is_zeros_behind_its_records_is_not_whole_without_a_switch(standby: StandbySite) -> None:
    standby.have(3)
    standby.write(segment_name(3), make_segment(segment_name(3))[: 4 * BLOCK_SIZE].ljust(SEGMENT_SIZE, b"\0"))
    assert standby.lacking() == ()


def test_the_segment_in_which_a_timeline_took_over_is_left_to_its_partial(standby: StandbySite) -> None:
    standby.have(3, 4, 5)
    fork = Lsn(5 * SEGMENT_SIZE + 4096)
    standby.write("00000002.history", render_history((1, fork)))
    standby.have(5, 6, timeline=2)
    standby.archive_them(3)
    wanted = ["00000002.history", segment_name(4), segment_name(5, 2), segment_name(6, 2)]
    assert standby.lacking() == tuple(map(str, wanted))


def test_what_the_archives_history_has_left_behind_is_not_lacking(standby: StandbySite) -> None:
    standby.have(3, 4, 5)
    standby.archive_them(3)
    standby.archive.put("00000002.history", render_history((1, Lsn(5 * SEGMENT_SIZE))), {})
    assert standby.lacking() == (str(segment_name(4)),)


def test_what_is_older_than_all_that_an_archive_has_is_not_brought_back(standby: StandbySite) -> None:
    standby.have(1, 2, 3, 4)
    standby.archive_them(3)
    assert standby.lacking() == (str(segment_name(4)),)


def test_what_waits_is_marked_once_and_keeps_no_second_mark(standby: StandbySite) -> None:
    standby.have(3)
    standby.have(4, marked=False)
    names = [str(segment_name(3)), str(segment_name(4))]
    assert mark_waiting(str(standby.wal), names) == tuple(names)
    assert mark_waiting(str(standby.wal), names) == ()
    assert sorted(os.listdir(standby.statuses)) == [f"{name}.ready" for name in names]


def test_a_push_goes_on_behind_one_that_fails(standby: StandbySite) -> None:
    from pghaven.errors import StoreUnreachable

    pushed = []

    def push(path: str) -> None:
        pushed.append(path)
        if path.endswith("3"):
            raise StoreUnreachable("it is away")

    names = [str(segment_name(3)), str(segment_name(4))]
    done = push_waiting(str(standby.wal), names, push)
    assert done.names == (names[1],)
    assert done.failed == ((names[0], "it is away"),)
    assert pushed == [str(standby.wal / name) for name in names]
