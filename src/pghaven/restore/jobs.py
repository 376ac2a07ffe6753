"""How the work of a restore is cut into jobs, and in which order these are done.

The one idea: every stretch of the work is like all of it. Large files are bound by the disk and go by bytes, small ones
by the system's work for each of them; done one after the other, either the disk or the processor would idle, and
nobody who saw how the first went could tell how long the second takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Final, TypeVar

Run = tuple[int, int, int, int]
"""A place in a job's ``files``, then file offset, length and offset in the pack."""

# What a file takes beside its bytes, for telling how far the work is: 0.04 to 0.17 ms where 1.2 GB of large ones take a
# second, from one machine to another.
FILE_COST_BYTES: Final = 96 << 10

_JOB_BYTES = 128 << 20

_Job = TypeVar("_Job")


def number_files(values: list[int]) -> tuple[list[int], list[int]]:
    """The different values in the order they appear, and for each value its place among them."""
    places: dict[int, int] = {}
    local = [places.setdefault(value, len(places)) for value in values]
    return list(places), local


def find_job_bytes(pack_bytes: int, *, is_served: bool) -> int:
    """How many bytes of a pack (of so many plain ones) are one job, so that workers end together and tell how far they
    are. Behind a server half a pack at least, since each part is a request."""
    return max(_JOB_BYTES, -(-pack_bytes // 2)) if is_served else _JOB_BYTES


def cut_jobs(runs: Iterable[Run], size: int, costs: Iterable[int] | None = None) -> Iterator[list[Run]]:
    """The runs in lists of at most ``size`` bytes each; a run that is longer is cut. ``costs`` are what each run counts
    for beside its bytes; one that alone has no room is a list of its own."""
    part: list[Run] = []
    room = size
    each = zip(runs, repeat(0) if costs is None else costs, strict=costs is not None)
    for (file, file_offset, length, pack_offset), cost in each:
        for done in range(0, length, size):
            step = min(size, length - done)
            if part and step + cost > room:
                yield part
                part, room = [], size
            part.append((file, file_offset + done, step, pack_offset + done))
            room -= step + cost
    if part:
        yield part


def mix(kinds: Sequence[tuple[Iterator[_Job], int]], measure: Callable[[_Job], int]) -> Iterator[_Job]:
    """The jobs of all kinds, so that of each about the same share is always done. With each kind comes how much it is
    in all, as far as that is known, and ``measure`` tells of a job how much it is."""
    done = [0.0] * len(kinds)
    waiting = list(range(len(kinds)))
    while waiting:
        number = min(waiting, key=done.__getitem__)
        jobs, whole = kinds[number]
        for job in jobs:
            done[number] += measure(job) / max(1, whole)
            yield job
            break
        else:
            waiting.remove(number)
