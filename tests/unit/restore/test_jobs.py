"""How the work of a restore is cut."""

from __future__ import annotations

import pytest

from pghaven.repository.pack import PACK_BYTES
from pghaven.restore.fetch import cut_jobs, find_job_bytes

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
