"""Pages in a worker's buffer: their checksums, and another look at those that seem wrong.

The one idea: a page may be half written at the moment it is read, so one that fails its checksum is read again, in
place; what the caller stores afterwards is the best reading there was.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pghaven.backup.jobs import Part
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import NotPermitted, StoreUnreachable
from pghaven.postgres.page import ChecksumWork, page_lsns, verify_pages

# A page may be half written at the moment we read it. PostgreSQL's own base backup reads such a page once more; a busy
# disk can take longer, so we look several times, doubling the pause: together about a quarter of a second.
_REREADS = 7
_REREAD_PAUSE_SECONDS = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectPage:
    """A page that failed its checksum on every reading: torn, or corrupt; its LSN decides once the stop is known."""

    file: int
    block_in_file: int
    block: int
    lsn: int


@dataclass(frozen=True, slots=True)
class Pages:
    """A part of the buffer that holds pages of one file. ``block`` counts within the relation."""

    number: int
    path: str
    at: int
    length: int
    block_in_file: int
    block: int


def pages_at(part: Part, at: int, length: int, within: int, block_size: int) -> Pages:
    """The pages of a part of a file from ``within`` it on, which lie at ``at`` in the buffer."""
    first = (part.offset + within) // block_size
    return Pages(part.number, part.path, at, length, first, part.block + within // block_size)


class PageChecker:
    """Checks pages that lie in one buffer. Collects the pages that stay bad until they are taken."""

    def __init__(self, view: memoryview, block_size: int) -> None:
        self._view = view
        self._block_size = block_size
        self._work = ChecksumWork()
        self._suspects: list[SuspectPage] = []

    def take_suspects(self) -> list[SuspectPage]:
        taken, self._suspects = self._suspects, []
        return taken

    def check(self, parts: Sequence[Pages]) -> list[int]:
        """Check every whole page of these parts of the buffer, which lie one after another from its beginning.

        Returns which pages of the buffer stay bad.
        """
        block_size = self._block_size
        numbers = []
        for part in parts:
            whole = part.length // block_size
            blocks = np.arange(part.block, part.block + whole, dtype=np.uint32)
            if part.length % block_size:
                blocks = np.append(blocks, np.uint32(0))
            numbers.append(blocks)
        blocks = np.concatenate(numbers)
        end = len(blocks) * block_size  # never past the buffer: jobs leave room for whole pages
        suspects = verify_pages(self._view[:end], blocks, self._work, block_size=block_size)
        if not len(suspects):
            return []
        bad = []
        ends = np.cumsum([len(part) for part in numbers])
        for index in suspects.tolist():
            which = int(np.searchsorted(ends, index, "right"))
            part = parts[which]
            page = index - (int(ends[which]) - len(numbers[which]))
            if (page + 1) * block_size <= part.length and self._stays_bad(part, page):
                bad.append(index)
        return bad

    def _stays_bad(self, part: Pages, page: int) -> bool:
        """Read a page that failed its checksum again, until it is good or stays bad."""
        block_size = self._block_size
        at = part.at + page * block_size
        view = self._view[at : at + block_size]
        block = np.array([part.block + page], np.uint32)
        pause = _REREAD_PAUSE_SECONDS
        for _ in range(_REREADS):
            SYSTEM_CLOCK.sleep(pause)
            pause *= 2
            fd = open_file(part.path)
            if fd is None:
                return False  # dropped: nobody will miss the page
            try:
                again = os.pread(fd, block_size, (part.block_in_file + page) * block_size)
            finally:
                os.close(fd)
            if len(again) < block_size:
                return False  # cut off: WAL replay cuts it off as well
            view[:] = again
            if not len(verify_pages(view, block, self._work, block_size=block_size)):
                return False
        self._suspects.append(
            SuspectPage(
                file=part.number,
                block_in_file=part.block_in_file + page,
                block=int(block[0]),
                lsn=int(page_lsns(view, block_size=block_size)[0]),
            )
        )
        return True


def open_file(path: str) -> int | None:
    """A descriptor, or None when the file is gone. Raises NotPermitted, StoreUnreachable naming it."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise NotPermitted(
            f'could not read "{path}": permission denied',
            hint="Run pghaven as the user that owns the data directory, or as root.",
        ) from error
    except OSError as error:
        raise StoreUnreachable(f'could not open "{path}": {error.strerror}') from error


def read_into(fd: int, path: str, view: memoryview, offset: int) -> int:
    """Fill the view from the file as far as it goes; returns how many bytes there were."""
    done = 0
    try:
        while done < len(view):
            got = os.preadv(fd, [view[done:]], offset + done)
            if not got:
                break
            done += got
    except OSError as error:
        raise StoreUnreachable(
            f'could not read "{path}" at offset {offset + done}: {error.strerror}',
            hint="The disk under the data directory may be failing. The backup was not made.",
        ) from error
    return done
