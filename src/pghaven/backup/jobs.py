"""The pieces of work a backup hands to its workers.

The one idea: workers get whole frames' worth of work and never ask back, so a job carries everything that decides what
becomes of a file: whether all of it is stored, which of its pages, or only what differs from its parent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pghaven.backup.listing import Listing
from pghaven.postgres.lsn import Lsn

# A big file is read in ranges of this size, the largest files first, so that all workers are busy to the end.
RANGE_BYTES = 64 << 20
# Small files are read together: one frame, one call of the checksum function and one message serve many of them.
BATCH_BYTES = 8 << 20
BATCH_FILES = 1024
SMALL_FILE_BYTES = 4 << 20
_TEXT_SUFFIX = ".conf"
# Configuration that is rewritten while it is read may have become longer than it was when it was listed.
_TEXT_ROOM_BYTES = 64 << 10
# Blocks that changed are read in jobs of about this many.
_BLOCKS_PER_JOB = 4096


class Part(NamedTuple):
    """A range of a file. ``block`` is the number of its first block within its relation, or -1 for files without page
    checksums; ``is_main`` whether LSNs tell what changed in it; ``is_text`` whether it is configuration, which is
    rewritten in place while it is read and is in no WAL."""

    number: int
    path: str
    offset: int
    length: int
    block: int
    is_main: bool
    is_text: bool = False

    def room(self, block_size: int) -> int:
        """How many bytes of a buffer it may take. Pages stay aligned in it."""
        if self.is_text:
            return self.length + _TEXT_ROOM_BYTES
        return self.length if self.block < 0 else -(-self.length // block_size) * block_size


@dataclass(frozen=True, slots=True)
class ReadJob:
    """A range of one big file, or many whole small ones; all of it is stored.

    ``expected`` may give for each file the hash that its contents had in the parent (or nothing): a file that still has
    it is not stored, and reported as unchanged.
    """

    files: tuple[Part, ...]
    size_bytes: int
    is_range: bool
    expected: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanJob:
    """A range of one big main fork, or many whole small ones; pages with an LSN from ``since`` on are stored.

    ``known_bytes`` is for each file how long it was in the parent: what lies behind is stored too. ``extents`` are the
    numbers of those (of 1 MiB) in it that are to be stored whole. In a file with ``unlogged_marks`` pages may have been
    marked all-visible without their LSN being moved, so those that are marked are stored.
    """

    files: tuple[Part, ...]
    size_bytes: int
    is_range: bool
    since: Lsn
    known_bytes: tuple[int, ...]
    extents: tuple[tuple[int, ...], ...]
    unlogged_marks: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksJob:
    """Blocks of many files that are to be stored, for each as a column (u4) of their numbers within the file."""

    files: tuple[Part, ...]
    blocks: tuple[bytes, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PagesJob:
    """Ranges of big files, or whole small ones, in pages of 8 KiB; those that differ from the parent's are stored.

    ``known`` has for each file the hashes (of 16 bytes) that the parent's pages have, zeros where none is known; what
    lies behind its end is stored too.
    """

    files: tuple[Part, ...]
    known: tuple[bytes, ...]
    size_bytes: int


Job = ReadJob | ScanJob | BlocksJob | PagesJob


def iter_jobs(listing: Listing, block_size: int, numbers: Iterable[int] | None = None) -> Iterator[ReadJob]:
    """Everything that is to be read and stored, or only these files, which are gone through twice: ranges of big ones
    first, the largest first."""
    wanted = range(len(listing.size)) if numbers is None else numbers
    for parts in iter_ranges(listing, wanted, block_size):
        yield ReadJob((parts,), parts.length, is_range=True)
    for batch in iter_batches(listing, wanted, block_size):
        yield ReadJob(batch, sum(part.length for part in batch), is_range=False)


def part_of(listing: Listing, number: int) -> Part:
    """The whole of one file."""
    return Part(
        number=number,
        path=listing.path(number),
        offset=0,
        length=listing.size[number],
        block=listing.first_block[number],
        is_main=bool(listing.is_main[number]),
        is_text=listing.first_block[number] < 0 and os.fsdecode(listing.names[number]).endswith(_TEXT_SUFFIX),
    )


def iter_ranges(listing: Listing, numbers: Iterable[int], block_size: int) -> Iterator[Part]:
    """The big ones of these files in ranges, the largest first."""
    sizes = listing.size
    for number in sorted((n for n in numbers if sizes[n] > SMALL_FILE_BYTES), key=lambda n: -sizes[n]):
        whole = part_of(listing, number)
        for start in range(0, whole.length, RANGE_BYTES):
            block = whole.block + start // block_size if whole.block >= 0 else -1
            yield whole._replace(offset=start, length=min(RANGE_BYTES, whole.length - start), block=block)


def iter_batches(listing: Listing, numbers: Iterable[int], block_size: int) -> Iterator[tuple[Part, ...]]:
    """The small ones of these files, as many together as a worker's buffer holds; empty ones need no work, but for
    configuration that may be empty at this moment only."""
    batch: list[Part] = []
    batch_room = 0
    for number in numbers:
        if listing.size[number] > SMALL_FILE_BYTES:
            continue
        part = part_of(listing, number)
        if not part.length and not part.is_text:
            continue
        room = part.room(block_size)
        if batch and (batch_room + room > BATCH_BYTES or len(batch) == BATCH_FILES):
            yield tuple(batch)
            batch, batch_room = [], 0
        batch.append(part)
        batch_room += room
    if batch:
        yield tuple(batch)


def iter_block_jobs(blocks: Iterable[tuple[Part, bytes]], block_size: int) -> Iterator[BlocksJob]:
    """Files with the numbers of the blocks (u4, in order) to be read of each, in jobs of some thousands."""
    files: list[Part] = []
    columns: list[bytes] = []
    count = 0
    for part, column in blocks:
        for start in range(0, len(column), 4 * _BLOCKS_PER_JOB):
            piece = column[start : start + 4 * _BLOCKS_PER_JOB]
            files.append(part)
            columns.append(piece)
            count += len(piece) // 4
            if count >= _BLOCKS_PER_JOB:
                yield BlocksJob(files=tuple(files), blocks=tuple(columns), size_bytes=count * block_size)
                files, columns, count = [], [], 0
    if files:
        yield BlocksJob(files=tuple(files), blocks=tuple(columns), size_bytes=count * block_size)
