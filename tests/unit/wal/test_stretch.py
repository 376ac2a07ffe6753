"""How long a push may take after it has run out of time, by the size of its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Cancelled
from pghaven.wal.stretch import find_limit, stretched
from tests.support.synthetic import START

MIB = 1 << 20


@pytest.fixture
def wal_directory(tmp_path: Path) -> Path:
    (tmp_path / "pg_wal" / "archive_status").mkdir(parents=True)
    return tmp_path / "pg_wal"


def make_file(wal_directory: Path, size: int, name: str = "000000010000000000000001") -> str:
    path = wal_directory / name
    with path.open("wb") as file:
        file.truncate(size)
    return str(path)


def run_out_of_time(path: str, *, spent: float = 0.0, short_of: float = 0.0) -> float:
    """The limit that was not enough."""
    clock = ManualClock(START)
    with pytest.raises(Cancelled), stretched(path, 60.0, spent, clock) as limit:
        clock.advance(limit - spent - short_of)
        raise Cancelled("late")
    return limit


def test_a_large_file_has_twice_as_long_each_time_up_to_its_share(wal_directory: Path) -> None:
    path = make_file(wal_directory, 100 * MIB)
    assert [run_out_of_time(path) for _ in range(5)] == [60, 120, 240, 375, 375]


def test_what_is_spent_before_counts(wal_directory: Path) -> None:
    path = make_file(wal_directory, 64 * MIB)
    assert [run_out_of_time(path, spent=50) for _ in range(3)] == [60, 120, 240]


def test_a_file_of_the_usual_size_has_the_limit_itself(wal_directory: Path) -> None:
    path = make_file(wal_directory, 16 * MIB)
    assert [run_out_of_time(path) for _ in range(3)] == [60, 60, 60]
    assert not (wal_directory / "pghaven").exists(), "nothing is written for it"


def test_another_failure_gives_no_more_time(wal_directory: Path) -> None:
    path = make_file(wal_directory, 64 * MIB)
    run_out_of_time(path, short_of=1)
    assert find_limit(path, 60.0) == 60


def test_a_success_ends_it_and_no_other_file_has_it(wal_directory: Path) -> None:
    path = make_file(wal_directory, 64 * MIB)
    run_out_of_time(path)
    assert find_limit(make_file(wal_directory, 64 * MIB, "000000010000000000000002"), 60.0) == 60
    assert find_limit(path, 60.0) == 120
    with stretched(path, 60.0, 0.0) as limit:
        assert limit == 120
    assert find_limit(path, 60.0) == 60


def test_a_limit_that_was_raised_counts_and_what_cannot_be_read_does_not(wal_directory: Path) -> None:
    path = make_file(wal_directory, 64 * MIB)
    run_out_of_time(path)
    assert find_limit(path, 200.0) == 200
    (wal_directory / "pghaven" / "late").write_bytes(b"000000010000000000000001 \xff")
    assert find_limit(path, 60.0) == 60


def test_a_file_that_is_nowhere_near_a_server_has_the_limit_itself(tmp_path: Path) -> None:
    path = make_file(tmp_path, 64 * MIB)
    assert [run_out_of_time(path) for _ in range(2)] == [60, 60]
