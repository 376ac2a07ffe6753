"""What the workers of ``test_sharedcolumns`` do: apart from other jobs, because it needs NumPy."""

from __future__ import annotations

import os

from pghaven.runtime.sharedcolumns import SharedColumns


class Look:
    """Gives the number in a row of the first of the columns; at the end which file they lie in, and their lengths."""

    def __init__(self, settings: SharedColumns) -> None:
        self._columns = settings

    def __call__(self, job: int) -> int:
        return int(self._columns.arrays[0][job])

    def close(self) -> tuple[int, int]:
        return os.fstat(self._columns.descriptor).st_ino, sum(map(len, self._columns.arrays))
