"""How the work of a restore is cut."""

from __future__ import annotations

import pytest

from pghaven.repository.pack import PACK_BYTES
from pghaven.restore.jobs import cut_jobs, find_job_bytes, mix

MIB = 1 << 20


@pytest.mark.parametrize("ratio", [1, 3, 8, 30])
def test_behind_a_server_a_pack_is_two_jobs_at_most(ratio: int) -> None:
    """Each is a request for half of it, or less."""
    plain = PACK_BYTES * ratio + 5
    runs = [(0, 0, plain, 0)]
    assert len(list(cut_jobs(runs, find_job_bytes(plain, is_served=True)))) <= 2
    assert len(list(cut_jobs(runs, find_job_bytes(plain, is_served=False)))) == -(-plain // (128 * MIB))


def test_jobs_hold_every_byte_once_and_none_is_larger_than_it_may() -> None:
    runs = [(0, 0, 100, 0), (1, 50, 7, 100), (2, 0, 250, 107)]
    parts = list(cut_jobs(runs, 100))
    assert all(sum(length for _, _, length, _ in part) <= 100 for part in parts)
    told = [(file, offset + at, place + at) for part in parts for file, offset, n, place in part for at in range(n)]
    assert told == [(file, offset + at, place + at) for file, offset, n, place in runs for at in range(n)]


def test_many_small_files_are_several_jobs() -> None:
    """Else one job takes seconds, of which nobody hears anything."""
    runs = [(number, 0, 8, 8 * number) for number in range(100)]
    parts = list(cut_jobs(runs, 200, [12] * 100))
    assert [len(part) for part in parts] == [10] * 10
    assert [run for part in parts for run in part] == runs


def test_a_file_that_costs_more_than_a_job_is_one() -> None:
    runs = [(0, 0, 8, 0), (1, 0, 8, 8)]
    assert list(cut_jobs(runs, 10, [12, 12])) == [runs[:1], runs[1:]]


def test_of_each_kind_of_jobs_the_same_share_is_done() -> None:
    """However different they are in number and size, and where it is not known exactly how much there is."""
    jobs = list(mix(((iter([10] * 30), 300), (iter([2] * 500), 1000), (iter([]), 0)), lambda job: job))
    assert sorted(jobs) == [2] * 500 + [10] * 30
    for end in range(1, len(jobs)):
        large, small = (jobs[:end].count(size) * size for size in (10, 2))
        assert abs(large / 300 - small / 1000) <= 0.05
    assert list(mix(((iter([1, 2]), 1), (iter([3, 4]), 100)), lambda job: job)) == [1, 3, 4, 2]
