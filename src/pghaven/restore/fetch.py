"""What a restore's worker process does: read a pack in order and put its pages where they belong.

The one idea: jobs come by pack, not by file, so each pack is read once and each request is large. Paths are opened
below directories that this restore made itself, component by component without following links, so nothing outside the
target is ever written, whatever a manifest says.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass

from pghaven.errors import NotPermitted, Refused, StoreUnreachable
from pghaven.repository.container import FRAME_BYTES
from pghaven.repository.pack import PackPlace, PackRef, iter_pack_frames, load_pack_index
from pghaven.runtime.direct import DirectWriter, open_direct

_OPEN_FILES_MAX = 128
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """``roots`` maps a prefix of relative paths to the directory it is restored to: ``""`` is the data directory,
    ``pg_tblspc/<oid>`` a tablespace's own place."""

    place: PackPlace
    roots: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FileTarget:
    """A file as a worker writes it. ``uid`` is -1 to leave the owner alone."""

    directory: str
    name: bytes
    size: int
    mode: int
    mtime_ns: int
    uid: int
    gid: int

    @property
    def path(self) -> str:
        """Relative to the data directory, for messages."""
        return f"{self.directory}/{os.fsdecode(self.name)}"


Run = tuple[int, int, int, int]
"""A place in a job's ``files``, then file offset, length and offset in the pack."""


@dataclass(frozen=True, slots=True)
class FetchJob:
    """A pack and runs of it that are needed, in the order of their offsets in it.

    Without a pack the files are made with their sizes and nothing in them.
    """

    pack: PackRef | None
    files: tuple[FileTarget, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    written_bytes: int


class FetchWorker:
    """One per worker process."""

    def __init__(self, settings: FetchSettings) -> None:
        self._place = settings.place
        self._directories = Directories(settings.roots)
        self._open: OrderedDict[tuple[str, bytes], _OpenFile] = OrderedDict()
        self._direct = DirectWriter(FRAME_BYTES)

    def __call__(self, job: FetchJob) -> FetchResult:
        if job.pack is None:
            for target in job.files:
                self._make_empty(target)
            return FetchResult(written_bytes=0)
        index = load_pack_index(self._place, job.pack)
        needed = _needed_frames(job.runs, index.plain_offsets)
        written = 0
        for number, plain in iter_pack_frames(self._place, job.pack, index, sorted(needed)):
            start, end = index.plain_offsets[number], index.plain_offsets[number + 1]
            view = memoryview(plain)
            for file, file_offset, length, offset in needed[number]:
                first, last = max(offset, start), min(offset + length, end)
                self._write(job.files[file], file_offset + first - offset, view[first - start : last - start])
                written += last - first
        return FetchResult(written_bytes=written)

    def close(self) -> None:
        try:
            while self._open:
                self._close_oldest()
        except OSError as error:
            raise writing_error(error, _find_path(error, "")) from error
        self._direct.close()
        self._directories.close()

    def _make_empty(self, file: FileTarget) -> None:
        try:
            fd = os.open(file.name, _FILE_FLAGS | os.O_EXCL, file.mode, dir_fd=self._directories.open(file.directory))
            try:
                os.ftruncate(fd, file.size)
                settle(fd, file)
            finally:
                os.close(fd)
        except OSError as error:
            raise writing_error(error, file.path) from error

    def _write(self, file: FileTarget, offset: int, part: memoryview) -> None:
        try:
            if len(part) == file.size:
                self._write_whole(file, part)
                return
            opened = self._open_file(file)
            if opened.direct is not None and self._direct.fits(offset, len(part)):
                self._direct.write((opened.direct, opened.fd), offset, part, file.path)
                return
            while part:
                done = os.pwrite(opened.fd, part, offset)
                part, offset = part[done:], offset + done
        except OSError as error:
            raise writing_error(error, _find_path(error, file.path)) from error

    def _write_whole(self, file: FileTarget, part: memoryview) -> None:
        """A file that comes in one piece: most are small, so each system call counts."""
        fd = os.open(file.name, _FILE_FLAGS | os.O_EXCL, file.mode, dir_fd=self._directories.open(file.directory))
        try:
            while part:
                part = part[os.write(fd, part) :]
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
        if len(self._open) >= _OPEN_FILES_MAX:
            self._close_oldest()
        fd = os.open(file.name, _FILE_FLAGS, file.mode, dir_fd=self._directories.open(file.directory))
        opened = self._open[key] = _OpenFile(file, fd)
        if os.fstat(fd).st_nlink != 1:
            raise FileExistsError(errno.EEXIST, "it has another name somewhere else")
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


@dataclass(slots=True)
class _OpenFile:
    """A file that comes in pieces. ``direct`` is a second descriptor that passes by the page cache."""

    file: FileTarget
    fd: int
    direct: int | None = None


class Directories:
    """Open directories below the roots of a restore, reached without following any link below a root."""

    def __init__(self, roots: tuple[tuple[str, str], ...]) -> None:
        self._roots = dict(roots)
        self._open: OrderedDict[str, int] = OrderedDict()

    def open(self, relative: str) -> int:
        """A descriptor of the directory; it stays open until ``close`` or until many others were opened."""
        fd = self._open.get(relative)
        if fd is None:
            if len(self._open) >= _OPEN_FILES_MAX:
                _, oldest = self._open.popitem(last=False)
                os.close(oldest)
            fd = self._open[relative] = self._reach(relative)
        else:
            self._open.move_to_end(relative)
        return fd

    def _reach(self, relative: str) -> int:
        root = self._roots.get(relative)
        if root is not None:
            return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        parent, _, name = relative.rpartition("/")
        above = self._reach(parent)
        try:
            return os.open(name, _DIRECTORY_FLAGS, dir_fd=above)
        finally:
            os.close(above)

    def make(self, relative: str, mode: int, uid: int, gid: int) -> None:
        """Make one directory; its parent exists. Roots exist already and only get their mode and owner."""
        if relative not in self._roots:
            parent, _, name = relative.rpartition("/")
            above = self._reach(parent)
            try:
                os.mkdir(name, mode, dir_fd=above)
            finally:
                os.close(above)
        fd = self._reach(relative)
        try:
            os.fchmod(fd, mode)
            if uid >= 0:
                os.fchown(fd, uid, gid)
        finally:
            os.close(fd)

    def close(self) -> None:
        while self._open:
            _, fd = self._open.popitem()
            os.close(fd)


def settle(fd: int, file: FileTarget) -> None:
    """Give a finished file its owner and its time."""
    if file.uid >= 0:
        os.fchown(fd, file.uid, file.gid)
    os.utime(fd, ns=(file.mtime_ns, file.mtime_ns))


def writing_error(error: OSError, path: str) -> Exception:
    """Our error for a failed write into the target."""
    if isinstance(error, PermissionError):
        return NotPermitted(f'could not write "{path}": permission denied')
    if isinstance(error, FileExistsError):
        return Refused(f'"{path}" exists already', hint="Somebody else is writing into the target directory.")
    return StoreUnreachable(
        f'could not write "{path}": {error.strerror}',
        hint="The restore is not finished and the directory cannot be started. Make room or mend the disk, "
        "then run the same command again.",
    )


def _find_path(error: OSError, current: str) -> str:
    """What could not be written: a direct write fails while the next file is at work already, and names its own."""
    return error.filename if isinstance(error.filename, str) else current


def _needed_frames(runs: tuple[Run, ...], plain_offsets: tuple[int, ...]) -> dict[int, list[Run]]:
    """The runs that touch each frame; frames that nobody needs are not in it."""
    needed: dict[int, list[Run]] = {}
    for run in runs:
        _file, _file_offset, length, offset = run
        first = bisect_right(plain_offsets, offset) - 1
        last = bisect_right(plain_offsets, offset + length - 1) - 1
        for number in range(first, last + 1):
            needed.setdefault(number, []).append(run)
    return needed


def open_fetcher(settings: FetchSettings) -> FetchWorker:
    """What a crew calls once in each worker process."""
    return FetchWorker(settings)
