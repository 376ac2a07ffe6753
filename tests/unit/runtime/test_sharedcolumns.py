"""Columns that workers read where the process that made them has them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from pghaven.runtime.crew import Crew
from pghaven.runtime.shared import hold_shared
from pghaven.runtime.sharedcolumns import SharedColumns
from tests.unit.runtime.shared_jobs import Look

COUNT = 100_000


@pytest.mark.parametrize("size", [0, 2])
def test_workers_read_them_without_a_copy_of_their_own(size: int) -> None:
    odd = np.arange(3, dtype=np.uint8), np.zeros(0, np.uint32), np.array([b"ab"], "V2")
    columns = SharedColumns([np.arange(COUNT, dtype=np.uint64), *odd])
    found: list[object] = []
    with Crew(size=size, setup=Look, settings=columns) as crew:
        crew.run(iter(range(0, COUNT, 999)), found.append)
    place = os.fstat(columns.descriptor).st_ino, COUNT + 3 + 1
    assert {one for one in found if isinstance(one, tuple)} == {place}, "the same file, and all of what is in it"
    assert sorted(one for one in found if isinstance(one, int)) == list(range(0, COUNT, 999))


def test_what_nobody_has_any_more_is_closed() -> None:
    columns = SharedColumns([np.arange(5)])
    (descriptor,) = set(hold_shared()) & {columns.descriptor}
    del columns
    assert descriptor not in hold_shared()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
