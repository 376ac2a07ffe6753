"""Memory that a process has freed and is about to need again.

The one idea: what is freed at the end of the heap goes back to the system, and each page of it is fetched and cleared
anew a moment later. A process that needs the same few MiB again and again keeps them.
"""

from __future__ import annotations

from typing import Final

_LARGE_BYTES: Final = 16 << 20


def keep_freed_memory() -> None:
    """Have this process keep up to 32 MiB of what it frees.

    glibc takes the size of the largest piece that was freed, up to 32 MiB, as the measure of what is large, and gives
    back twice as much at the earliest (mallopt(3), M_MMAP_THRESHOLD). No page of this piece is ever touched. Other C
    libraries are none the wiser.
    """
    bytes(_LARGE_BYTES)
