"""How long pg_wal has room, told by what waits in it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.wal.room import WalRoom, find_rate, measure_room
from tests.support.walfile import SEGMENT_SIZE, segment_name

START = 1_800_000_000


@pytest.fixture
def wal_directory(tmp_path: Path) -> Path:
    (tmp_path / "archive_status").mkdir()
    return tmp_path


def finish(directory: Path, number: int, moment: float) -> None:
    name = str(segment_name(number))
    (directory / name).write_bytes(bytes(SEGMENT_SIZE))
    os.utime(directory / name, (moment, moment))
    (directory / "archive_status" / f"{name}.ready").touch()


def clock_at(moment: float) -> ManualClock:
    return ManualClock(datetime.fromtimestamp(moment, UTC))


def test_the_rate_is_that_of_the_time_in_which_files_wait(wal_directory: Path) -> None:
    for number in range(5):
        finish(wal_directory, number, START + 10 * number)
    (wal_directory / str(segment_name(9))).write_bytes(bytes(SEGMENT_SIZE))  # not finished
    room = measure_room(str(wal_directory), clock_at(START + 40))
    assert room is not None
    assert (room.waiting, room.waiting_bytes) == (5, 5 * SEGMENT_SIZE)
    assert room.bytes_per_second == pytest.approx(SEGMENT_SIZE / 10)
    assert room.seconds == pytest.approx(room.free_bytes / (SEGMENT_SIZE / 10))


def test_a_server_that_has_fallen_silent_fills_slowly() -> None:
    finished = [(START + 10.0 * number, SEGMENT_SIZE) for number in range(5)]
    assert find_rate(finished, START + 400) == pytest.approx(SEGMENT_SIZE / 100)


@pytest.mark.parametrize("finished", [[], [(START, 1)], [(START, 1), (START + 5, 1)]])
def test_too_little_tells_no_rate(finished: list[tuple[float, int]]) -> None:
    assert find_rate(finished, START + 9) is None


def test_it_is_told_in_words() -> None:
    hours = WalRoom(waiting=5, waiting_bytes=5, free_bytes=36 << 30, bytes_per_second=1 << 20)
    assert hours.describe() == "pg_wal has room for 10 h 14 min at the present 1.00 MiB/s"
    unknown = WalRoom(waiting=1, waiting_bytes=5, free_bytes=36 << 30, bytes_per_second=None)
    assert unknown.describe() == "pg_wal has room for 36.0 GiB more"


def test_where_one_cannot_look_nothing_is_told(tmp_path: Path) -> None:
    assert measure_room(str(tmp_path / "nowhere")) is None
