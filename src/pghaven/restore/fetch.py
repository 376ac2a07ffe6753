"""What a restore's worker process does: read a pack in order and put its pages where they belong.

The one idea: jobs come by pack, not by file, so each pack is read once and each request is large. Where files are there
already, what ``compare`` proves to be right is neither fetched nor written.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

from pghaven.errors import Damaged
from pghaven.events import Listener, Notice
from pghaven.repository.container import FRAME_BYTES, Index
from pghaven.repository.pack import PackPlace, PackRef, iter_pack_frames, load_pack_cells, load_pack_index
from pghaven.repository.readahead import ReadAhead
from pghaven.restore.compare import Comparison, LocalFiles, Piece, adopt, cut_runs, make_zero
from pghaven.restore.jobs import Run
from pghaven.restore.request import RestorePlan
from pghaven.restore.targetfiles import OPEN_FILES_MAX, Directories, FileTarget, settle, write_at, writing_error
from pghaven.runtime.direct import DirectWriter, open_direct
from pghaven.runtime.pace import Pace
from pghaven.store.api import Store
from pghaven.store.metered import find_server_store
from pghaven.units import render_size

_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_REWRITE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """``roots`` maps a prefix of relative paths to the directory it is restored to: ``""`` is the data directory,
    ``pg_tblspc/<oid>`` a tablespace's own place. ``in_place``: files may be there already, right in part. ``pace`` is
    for what is written, or compared with what is there."""

    place: PackPlace
    roots: tuple[tuple[str, str], ...]
    in_place: bool = False
    pace: Pace | None = None


# What a worker process holds (one that reads from a server holds two large ranges), and the one that hands out the
# work; tests/unit/restore/test_memory.py finds less.
WORKER_MEMORY_BYTES = 64 << 20
SERVER_WORKER_MEMORY_BYTES = 96 << 20
COORDINATOR_MEMORY_BYTES = 110 << 20


def find_memory(processes: int, *, is_in_place: bool, is_served: bool) -> int:
    """The most memory in bytes that all processes of a restore hold together, however many files and bytes there are.

    New files are written in two passes, and the second one's workers are there from the beginning, idle, with half of
    ``WORKER_MEMORY_BYTES`` at most. ``is_served``: the repository is behind a server.
    """
    one = SERVER_WORKER_MEMORY_BYTES if is_served else WORKER_MEMORY_BYTES
    return COORDINATOR_MEMORY_BYTES + processes * (one if is_in_place else 2 * WORKER_MEMORY_BYTES)


def describe_means(processes: int, store: Store, *, is_in_place: bool) -> str:
    """With what a restore works, in words."""
    memory = find_memory(processes, is_in_place=is_in_place, is_served=find_server_store(store) is not None)
    return f"{processes} processes, using at most {render_size(memory)} of memory"


@dataclass(frozen=True, slots=True)
class FetchJob:
    """A pack and runs of it that are needed, in the order of their offsets in it.

    Without a pack the files are made with their sizes, and what the runs name of them is to be zero (in a new file it
    is)."""

    pack: PackRef | None
    files: tuple[FileTarget, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """In bytes of files: ``written_bytes``, and ``proven_bytes`` that were there already. ``fetched_bytes`` are stored
    ones, of frames that were needed. ``new_files`` were made whole, in one piece."""

    new_files: int = 0
    written_bytes: int = 0
    proven_bytes: int = 0
    fetched_bytes: int = 0
    notice: Notice | None = None


class FileSource(Protocol):
    """Where files come from that are in no pack."""

    def fill(self, plan: RestorePlan, owner: tuple[int, int] | None, tell: Listener) -> FetchResult:
        """Put everything but pg_control and what the restore itself writes below the plan's roots, which are there.

        ``owner`` (uid, gid) is None for our own.
        """


class FetchWorker:
    """One per worker process."""

    def __init__(self, settings: FetchSettings) -> None:
        self._place = settings.place
        self._directories = Directories(settings.roots)
        self._open: OrderedDict[tuple[str, bytes], _OpenFile] = OrderedDict()
        self._direct = DirectWriter(FRAME_BYTES)
        self._comparison = Comparison() if settings.in_place else None
        self._pace = settings.pace
        self._new_files = 0
        # A directory answers at once, and a second reader would only take memory.
        self._ahead = ReadAhead(self._place) if find_server_store(self._place.store) is not None else None
        self._coming: dict[int, _Coming] = {}

    def foresee(self, job: FetchJob) -> None:
        """Have a job's pack on its way; where files are there already, its index alone."""
        if self._ahead is not None and job.pack is not None:
            self._coming[id(job)] = _Coming(self._ahead, job.pack, job.runs, whole=self._comparison is None)

    def __call__(self, job: FetchJob) -> FetchResult:
        if self._pace is not None:
            self._pace.take(sum(run[2] for run in job.runs))
        if job.pack is None:
            return self._clear(job) if self._comparison is not None else self._make_empty(job)
        if id(job) not in self._coming:
            self.foresee(job)
        coming = self._coming.pop(id(job), None)
        index = coming.reading.index if coming is not None else load_pack_index(self._place, job.pack)
        notice = None
        if coming is not None and self._comparison is None:
            needed, frames = coming.needed, coming.reading.iter_frames()
        else:
            needed = cut_runs(job.runs, index.plain_offsets)
            if self._comparison is not None:
                try:
                    needed = self._compare(self._comparison, job, index, needed)
                except _UnprovenCells as damage:
                    notice = damage.notice
            frames = iter_pack_frames(self._place, job.pack, index, sorted(needed))
        written = fetched = 0
        files_before = self._new_files
        for number, plain in frames:
            written += self._write_pieces(job.files, needed[number], memoryview(plain))
            fetched += index.stored_lengths[number]
        total = sum(run[2] for run in job.runs)
        return FetchResult(
            new_files=self._new_files - files_before,
            written_bytes=written,
            proven_bytes=total - written,
            fetched_bytes=fetched,
            notice=notice,
        )

    def _compare(
        self, comparison: Comparison, job: FetchJob, index: Index, frames: dict[int, list[Piece]]
    ) -> dict[int, list[Piece]]:
        """What of these frames is to be written. Raises _UnprovenCells."""
        pack = job.pack
        assert pack is not None

        @cache
        def load_cells() -> tuple[bytes, ...]:
            try:
                return load_pack_cells(self._place, pack, index)
            except Damaged as error:
                raise _UnprovenCells(error) from error

        needed: dict[int, list[Piece]] = {}
        with LocalFiles(self._directories, job.files) as local:
            for number, pieces in frames.items():
                differing = comparison.find_differing(
                    local, pieces, index.plain_lengths[number], partial(_cells_of, load_cells, number)
                )
                if differing:
                    needed[number] = differing
        return needed

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        try:
            while self._open:
                self._close_oldest()
        except OSError as error:
            raise writing_error(error, _find_path(error, "")) from error
        self._direct.close()
        self._directories.close()

    def _make_empty(self, job: FetchJob) -> FetchResult:
        for file in job.files:
            try:
                fd = self._create(file)
                try:
                    os.ftruncate(fd, file.size)
                    settle(fd, file)
                finally:
                    os.close(fd)
            except OSError as error:
                raise writing_error(error, file.path) from error
        return FetchResult(new_files=len(job.files))

    def _clear(self, job: FetchJob) -> FetchResult:
        """Have the files there, with zeros where the runs say so."""
        written = 0
        path = ""
        try:
            with LocalFiles(self._directories, job.files) as local:
                for number, file in enumerate(job.files):
                    path = file.path
                    local.make(number)
                for number, offset, length, _ in job.runs:
                    path = job.files[number].path
                    fd = local.make(number)
                    zeroed = make_zero(fd, offset, length)
                    if zeroed:
                        settle(fd, job.files[number])
                    written += zeroed
        except OSError as error:
            raise writing_error(error, path) from error
        return FetchResult(written_bytes=written, proven_bytes=sum(run[2] for run in job.runs) - written)

    def _create(self, file: FileTarget) -> int:
        self._new_files += 1
        return os.open(file.name, _FILE_FLAGS | os.O_EXCL, file.mode, dir_fd=self._directories.open(file.directory))

    def _write_pieces(self, files: tuple[FileTarget, ...], pieces: list[Piece], view: memoryview) -> int:
        """Write parts of a frame; those that follow one another in a file go together."""
        written = 0
        parts: list[memoryview] = []
        begin = end = (-1, 0)  # of the parts: a file and an offset in it
        for number, offset, length, at in pieces:
            if (number, offset) != end:
                self._write(files, begin, parts)
                parts, begin = [], (number, offset)
            parts.append(view[at : at + length])
            end = (number, offset + length)
            written += length
        self._write(files, begin, parts)
        return written

    def _write(self, files: tuple[FileTarget, ...], begin: tuple[int, int], parts: list[memoryview]) -> None:
        if not parts:
            return
        number, offset = begin
        file = files[number]
        try:
            if sum(map(len, parts)) == file.size:
                self._write_whole(file, parts)
                return
            opened = self._open_file(file)
            if opened.direct is not None and len(parts) == 1 and self._direct.fits(offset, len(parts[0])):
                self._direct.write((opened.direct, opened.fd), offset, parts[0], file.path)
                return
            write_at(opened.fd, offset, parts)
        except OSError as error:
            raise writing_error(error, _find_path(error, file.path)) from error

    def _write_whole(self, file: FileTarget, parts: list[memoryview]) -> None:
        """A file that comes in one piece: most are small, so each system call counts."""
        if self._comparison is None:
            fd = self._create(file)
        else:
            fd = os.open(file.name, _REWRITE_FLAGS, file.mode, dir_fd=self._directories.open(file.directory))
        try:
            if self._comparison is not None:
                adopt(fd, file)
            write_at(fd, 0, parts)
            settle(fd, file)
        finally:
            os.close(fd)

    def _open_file(self, file: FileTarget) -> _OpenFile:
        """Open, and kept so for the next piece; several workers may write one file."""
        key = (file.directory, file.name)
        found = self._open.get(key)
        if found is not None:
            self._open.move_to_end(key)
            return found
        if len(self._open) >= OPEN_FILES_MAX:
            self._close_oldest()
        fd = os.open(file.name, _FILE_FLAGS, file.mode, dir_fd=self._directories.open(file.directory))
        opened = self._open[key] = _OpenFile(file, fd)
        if self._comparison is not None:
            adopt(fd, file)
        elif os.fstat(fd).st_nlink != 1:
            raise FileExistsError(errno.EEXIST, "it has another name somewhere else")
        else:
            os.ftruncate(fd, file.size)
            if file.uid >= 0:
                os.fchown(fd, file.uid, file.gid)
        opened.direct = open_direct(fd)
        return opened

    def _close_oldest(self) -> None:
        self._direct.drain()
        _, opened = self._open.popitem(last=False)
        settle(opened.fd, opened.file)
        os.close(opened.fd)
        if opened.direct is not None:
            os.close(opened.direct)


class _Coming:
    """A job's pack on its way. ``needed``, its frames and the pieces in them, is there when the first frame is."""

    def __init__(self, ahead: ReadAhead, pack: PackRef, runs: tuple[Run, ...], *, whole: bool) -> None:
        self.needed: dict[int, list[Piece]] = {}
        self._runs = runs
        self.reading = ahead.begin(pack, self._choose if whole else lambda _: ())

    def _choose(self, index: Index) -> list[int]:
        self.needed.update(cut_runs(self._runs, index.plain_offsets))
        return sorted(self.needed)


@dataclass(slots=True)
class _OpenFile:
    """A file that comes in pieces. ``direct`` is a second descriptor that passes by the page cache."""

    file: FileTarget
    fd: int
    direct: int | None = None


def _find_path(error: OSError, current: str) -> str:
    """What could not be written: a direct write fails while the next file is at work already, and names its own."""
    return error.filename if isinstance(error.filename, str) else current


def _cells_of(load: Callable[[], tuple[bytes, ...]], number: int) -> bytes:
    return load()[number]


class _UnprovenCells(Exception):
    """The hashes that would tell which pages are in place are damaged; the pages in the pack need not be."""

    def __init__(self, damage: Damaged) -> None:
        super().__init__(damage.message)
        self.notice = Notice(
            level="warning",
            code="cells",
            text=f"pages cannot be compared, so all of them are fetched: {damage.message}",
        )


def open_fetcher(settings: FetchSettings) -> FetchWorker:
    """What a crew calls once in each worker process."""
    return FetchWorker(settings)
