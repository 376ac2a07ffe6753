"""Bytes of a file as memory, without copying them.

The one idea: what was written a moment ago is in the kernel's memory already; whoever reads it once, front to back,
need not have it a second time.
"""

from __future__ import annotations

import mmap
import os

from pghaven.errors import Damaged


def map_bytes(fd: int, path: str, offset: int, length: int) -> memoryview:
    """``length`` bytes of an open file from ``offset`` on, to be read; the mapping goes with the last use of them.

    Raises Damaged for a file that is too short. Nobody may truncate it while they are used.
    """
    if not length:
        return memoryview(b"")
    if os.fstat(fd).st_size < offset + length:
        raise Damaged(f'"{path}" became shorter while it was read')
    skipped = offset % mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(fd, skipped + length, prot=mmap.PROT_READ, offset=offset - skipped)
    mapped.madvise(mmap.MADV_SEQUENTIAL)
    return memoryview(mapped)[skipped:]


def end_of_line(data: memoryview, begin: int) -> int:
    """Where the next line feed from ``begin`` on is, or -1."""
    step = 4096
    while begin < len(data):
        found = bytes(data[begin : begin + step]).find(b"\n")
        if found >= 0:
            return begin + found
        begin, step = begin + step, step * 4
    return -1
