"""What a worker process does: read a job's files, verify their pages, cut frames, fill packs.

The one idea: one buffer of 8 MiB is filled from one big file or from many small ones, so that page checksums run over
a thousand pages at once and a frame holds many files; nothing is allocated per file.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass

import numpy as np

from pghaven.backup.listing import BATCH_BYTES, ReadJob
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import NotPermitted, StoreUnreachable
from pghaven.postgres.page import ChecksumWork, page_lsns, verify_pages
from pghaven.repository.blockmap import HOLE
from pghaven.repository.container import FRAME_BYTES
from pghaven.repository.pack import PackPlace, PackRef, PackWriter

# A page may be half written at the moment we read it. PostgreSQL's own base backup reads such a page once more; a busy
# disk can take longer, so we look several times, doubling the pause: together about a quarter of a second.
_REREADS = 7
_REREAD_PAUSE_SECONDS = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker needs. ``verify`` is whether pages carry checksums; packs are stored under ``label``."""

    place: PackPlace
    label: str
    level: int
    block_size: int
    verify: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectPage:
    """A page that failed its checksum on every reading: torn, or corrupt; its LSN decides once the stop is known."""

    file: int
    block_in_file: int
    block: int
    lsn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResult:
    """What became of one job. ``pieces`` are five columns as bytes: file u4, offset u8, length u8, pack u4, offset u8;
    pack numbers are this worker's own."""

    worker: int
    read_bytes: int
    pieces: tuple[bytes, bytes, bytes, bytes, bytes]
    vanished: tuple[int, ...]
    suspects: tuple[SuspectPage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPacks:
    """A worker's last word: its packs in the order of their numbers, all durable."""

    worker: int
    packs: tuple[PackRef, ...]


class BackupWorker:
    """One per worker process; called with jobs, closed at the end."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._buffer = bytearray(BATCH_BYTES)
        self._view = memoryview(self._buffer)
        self._packs = PackWriter(settings.place, settings.label, level=settings.level)
        self._work = ChecksumWork()
        self._zero = bytes(FRAME_BYTES)
        self.worker = os.getpid()

    def __call__(self, job: ReadJob) -> ReadResult | WorkerPacks:
        reading = _Reading()
        if job.is_range:
            self._read_range(reading, job.files[0])
        else:
            self._read_batch(reading, job)
        return ReadResult(
            worker=self.worker,
            read_bytes=job.size_bytes,
            pieces=reading.pieces.columns(),
            vanished=tuple(reading.vanished),
            suspects=tuple(reading.suspects),
        )

    def close(self) -> ReadResult | WorkerPacks:
        return WorkerPacks(worker=self.worker, packs=self._packs.close())

    def _read_range(self, reading: _Reading, part: tuple[int, str, int, int, int]) -> None:
        """A range of one big file, a buffer at a time."""
        number, path, start, length, block = part
        fd = _open(path)
        if fd is None:
            reading.vanished.append(number)
            return
        try:
            os.posix_fadvise(fd, start, length, os.POSIX_FADV_SEQUENTIAL)
            done = 0
            while done < length:
                want = min(BATCH_BYTES, length - done)
                got = _read_into(fd, path, self._view[:want], start + done)
                if block >= 0 and self._settings.verify:
                    first = block + done // self._settings.block_size
                    pages = _Pages(number, path, 0, got, (start + done) // self._settings.block_size, first)
                    self._verify(reading, [pages])
                self._store(reading.pieces, number, start + done, got)
                done += got
                if got < want:
                    break  # cut short while we read: what is gone is in the WAL
        finally:
            os.close(fd)

    def _read_batch(self, reading: _Reading, job: ReadJob) -> None:
        """Many small files one after another in the buffer; relation files first, so that their pages lie aligned."""
        at = 0
        block_size = self._settings.block_size
        places: list[tuple[int, int, int]] = []
        pages: list[_Pages] = []
        view = self._view
        for checked in (True, False):
            for number, path, _start, length, block in job.files:
                if (block >= 0) is not checked:
                    continue
                fd = _open(path)
                if fd is None:
                    reading.vanished.append(number)
                    continue
                try:
                    got = _read_into(fd, path, view[at : at + length], 0)
                finally:
                    os.close(fd)
                if not got:
                    continue
                places.append((number, at, got))
                if checked and self._settings.verify:
                    pages.append(_Pages(number, path, at, got, 0, block))
                at += got
                if checked and got % block_size:
                    pad = block_size - got % block_size  # an odd tail: the next file's pages stay aligned
                    view[at : at + pad] = self._zero[:pad]
                    at += pad
        if pages:
            self._verify(reading, pages)
        self._store_batch(reading.pieces, places, at)

    def _store(self, pieces: _Pieces, number: int, file_offset: int, length: int) -> None:
        for start in range(0, length, FRAME_BYTES):
            size = min(FRAME_BYTES, length - start)
            frame = self._view[start : start + size]
            if frame[:64] == self._zero[:64] and frame == self._zero[:size]:
                pieces.add(number, file_offset + start, size, HOLE, 0)
            else:
                pack, offset = self._packs.append(frame)
                pieces.add(number, file_offset + start, size, pack, offset)

    def _store_batch(self, pieces: _Pieces, places: list[tuple[int, int, int]], end: int) -> None:
        """Cut the buffer into frames; a file that lies across a cut becomes two pieces."""
        frames = []
        for start in range(0, end, FRAME_BYTES):
            frames.append(self._packs.append(self._view[start : min(start + FRAME_BYTES, end)]))
        for number, at, length in places:
            done = 0
            while done < length:
                frame, inside = divmod(at + done, FRAME_BYTES)
                size = min(length - done, FRAME_BYTES - inside)
                pack, offset = frames[frame]
                pieces.add(number, done, size, pack, offset + inside)
                done += size

    def _verify(self, reading: _Reading, parts: list[_Pages]) -> None:
        """Check every whole page of these parts of the buffer, which lie one after another from its beginning."""
        block_size = self._settings.block_size
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
            return
        ends = np.cumsum([len(part) for part in numbers])
        for index in suspects.tolist():
            which = int(np.searchsorted(ends, index, "right"))
            part = parts[which]
            page = index - (int(ends[which]) - len(numbers[which]))
            if (page + 1) * block_size <= part.length:
                self._look_again(reading, part, page)

    def _look_again(self, reading: _Reading, part: _Pages, page: int) -> None:
        """Read a page that failed its checksum again, until it is good or stays bad."""
        block_size = self._settings.block_size
        at = part.at + page * block_size
        view = self._view[at : at + block_size]
        block = np.array([part.block + page], np.uint32)
        pause = _REREAD_PAUSE_SECONDS
        for _ in range(_REREADS):
            SYSTEM_CLOCK.sleep(pause)
            pause *= 2
            fd = _open(part.path)
            if fd is None:
                return  # dropped: nobody will miss the page
            try:
                again = os.pread(fd, block_size, (part.block_in_file + page) * block_size)
            finally:
                os.close(fd)
            if len(again) < block_size:
                return  # cut off: WAL replay cuts it off as well
            view[:] = again
            if not len(verify_pages(view, block, self._work, block_size=block_size)):
                return
        reading.suspects.append(
            SuspectPage(
                file=part.number,
                block_in_file=part.block_in_file + page,
                block=int(block[0]),
                lsn=int(page_lsns(view, block_size=block_size)[0]),
            )
        )


@dataclass(frozen=True, slots=True)
class _Pages:
    """A part of the buffer that holds pages of one file. ``block`` counts within the relation."""

    number: int
    path: str
    at: int
    length: int
    block_in_file: int
    block: int


class _Pieces:
    """Columns of pieces; a piece that follows the last one in file and pack makes that one longer."""

    def __init__(self) -> None:
        self.file = array("I")
        self.offset = array("Q")
        self.length = array("Q")
        self.pack = array("I")
        self.pack_offset = array("Q")

    def add(self, file: int, offset: int, length: int, pack: int, pack_offset: int) -> None:
        if (
            self.file
            and self.file[-1] == file
            and self.pack[-1] == pack != HOLE
            and self.offset[-1] + self.length[-1] == offset
            and self.pack_offset[-1] + self.length[-1] == pack_offset
        ):
            self.length[-1] += length
            return
        self.file.append(file)
        self.offset.append(offset)
        self.length.append(length)
        self.pack.append(pack)
        self.pack_offset.append(pack_offset)

    def columns(self) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        return (
            self.file.tobytes(),
            self.offset.tobytes(),
            self.length.tobytes(),
            self.pack.tobytes(),
            self.pack_offset.tobytes(),
        )


class _Reading:
    """What one job has found so far."""

    def __init__(self) -> None:
        self.pieces = _Pieces()
        self.vanished: list[int] = []
        self.suspects: list[SuspectPage] = []


def _open(path: str) -> int | None:
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


def _read_into(fd: int, path: str, view: memoryview, offset: int) -> int:
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


def open_worker(settings: WorkerSettings) -> BackupWorker:
    """What a crew calls once in each worker process."""
    return BackupWorker(settings)
