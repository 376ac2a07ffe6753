"""How ``wal refill`` ends: by what kept a repository from its share."""

from __future__ import annotations

import pytest

from pghaven.cli.wal_refill import end_refill
from pghaven.wal.refilling import RefilledRepository


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [((0, 0), 0), ((0, 14), 14), ((10, 0), 10), ((14, 12), 12), ((16, 14), 16), ((13, 13), 13)],
)
def test_whatever_wants_somebody_goes_before_a_store_that_is_away(statuses: tuple[int, ...], expected: int) -> None:
    found = [
        RefilledRepository(repository=f"r{number}", filled={}, error="why" if status else None, exit_status=status)
        for number, status in enumerate(statuses)
    ]
    assert end_refill(found) == expected
