"""What a worker process does: read a job's files, verify their pages, cut frames, fill packs.

The one idea: one buffer of 8 MiB is filled from one big file or from many small ones, so that page checksums run over
a thousand pages at once and a frame holds many files; nothing is allocated per file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from pghaven.backup.gather import FrameStore, Gatherer, Pieces
from pghaven.backup.jobs import BATCH_BYTES, RANGE_BYTES, BlocksJob, Job, PagesJob, Part, ReadJob, ScanJob
from pghaven.backup.pagecheck import PageChecker, Pages, open_file, pages_at, read_into
from pghaven.backup.results import ReadResult, WorkerPacks
from pghaven.backup.settled import read_settled
from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.page import BUILD_LSN, all_visible, page_lsns, pages_to_store
from pghaven.repository.blockmap import BULK_BYTES, EXTENT_BYTES, HOLE
from pghaven.repository.container import CELL_BYTES, CELL_HASH_BYTES, FRAME_BYTES, hash_cells
from pghaven.repository.known import KnownFrames
from pghaven.repository.manifest import HASH_BYTES
from pghaven.repository.pack import PackPlace, PackWriter
from pghaven.runtime.pace import Pace
from pghaven.runtime.spill import let_go

_NOWHERE = (HOLE, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker needs. ``verify`` is whether pages carry checksums; packs are stored under ``label``, but for
    frames that are among the ``known`` ones; ``pace`` is for reading."""

    place: PackPlace
    label: str
    level: int
    block_size: int
    verify: bool
    known: KnownFrames | None = None
    pace: Pace | None = None


class BackupWorker:
    """One per worker process; called with jobs, closed at the end."""

    def __init__(self, settings: WorkerSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._clock = clock
        self._block_size = settings.block_size
        self._buffer = bytearray(BATCH_BYTES)
        self._view = memoryview(self._buffer)
        self._packs = PackWriter(settings.place, settings.label, level=settings.level)
        self._frames = FrameStore(self._packs, settings.known)
        self._pages, self._bulk = Gatherer(self._frames), Gatherer(self._frames)
        self._checker = PageChecker(self._view, settings.block_size)
        self._zero = bytes(FRAME_BYTES)
        self.worker = os.getpid()

    def __call__(self, job: Job) -> ReadResult | WorkerPacks:
        reading = _Reading()
        if isinstance(job, BlocksJob):
            self._read_blocks(reading, job)
        elif isinstance(job, ScanJob):
            self._scan(reading, job)
        elif isinstance(job, PagesJob):
            self._compare_pages(reading, job)
        elif job.is_range:
            self._read_range(reading, job.files[0])
        else:
            self._read_batch(reading, job)
        let_go()
        return ReadResult(
            worker=self.worker,
            read_bytes=job.size_bytes,
            pieces=reading.pieces.columns(),
            vanished=tuple(reading.vanished),
            suspects=tuple(self._checker.take_suspects()),
            unchanged=tuple(reading.unchanged),
            unsettled=tuple(reading.unsettled),
            hashes=tuple(reading.hashes),
            packs=self._packs.take_stored(),
        )

    def close(self) -> ReadResult | WorkerPacks:
        pieces = Pieces()
        self._pages.flush(pieces)
        self._bulk.flush(pieces)
        return WorkerPacks(worker=self.worker, packs=self._packs.close(), pieces=pieces.columns())

    def _read(self, fd: int, path: str, view: memoryview, offset: int) -> int:
        """Fill the view from the file as far as it goes, at the pace that was given."""
        if self._settings.pace is not None:
            self._settings.pace.take(len(view))
        return read_into(fd, path, view, offset)

    # -- everything -------------------------------------------------------------------------------------------------

    def _read_range(self, reading: _Reading, part: Part) -> None:
        """A range of one big file, a buffer at a time; all of it is stored. What may be one of several has no hash."""
        hasher = None if part.is_main or not _is_all(part) else blake3()
        for at, got in self._fill(reading, part):
            if part.block >= 0 and self._settings.verify:
                self._checker.check([pages_at(part, 0, got, at, self._block_size)])
            self._store(reading.pieces, part.number, part.offset + at, got)
            if hasher is not None:
                hasher.update(self._view[:got])
        if hasher is not None and part.number not in reading.vanished:
            reading.hashes.append((part.number, hasher.digest(HASH_BYTES)))

    def _fill(self, reading: _Reading, part: Part) -> Iterator[tuple[int, int]]:
        """The buffer filled again and again from a range: where that begins in the range, and how much there was."""
        fd = open_file(part.path)
        if fd is None:
            reading.vanished.append(part.number)
            return
        try:
            os.posix_fadvise(fd, part.offset, part.length, os.POSIX_FADV_SEQUENTIAL)
            done = 0
            while done < part.length:
                want = min(BATCH_BYTES, part.length - done)
                got = self._read(fd, part.path, self._view[:want], part.offset + done)
                if got:
                    yield done, got
                done += got
                if got < want:
                    break  # cut short while we read: what is gone is in the WAL
        finally:
            os.close(fd)

    def _read_batch(self, reading: _Reading, job: ReadJob) -> None:
        """Many small files one after another in the buffer; relation files first, so that their pages lie aligned."""
        at = 0
        places: list[tuple[Part, int, int]] = []
        expected = job.expected or (b"",) * len(job.files)
        for with_pages in (True, False):
            for part, known in zip(job.files, expected, strict=True):
                if (part.block >= 0) is not with_pages:
                    continue
                got = self._read_small(reading, part, at)
                if got is None:
                    continue
                # Judged as it was read first: a page that is torn at the moment differs, and is stored.
                if known and got == part.length and _hash(self._view[at : at + got]) == known:
                    reading.unchanged.append(part.number)
                    continue
                places.append((part, at, got))
                at += got
                if with_pages and got % self._block_size:
                    at = self._pad(at)
        pages = [pages_at(part, start, got, 0, self._block_size) for part, start, got in places if part.block >= 0]
        if pages and self._settings.verify:
            self._checker.check(pages)
        for part, start, got in places:
            if not part.is_main and got:
                reading.hashes.append((part.number, _hash(self._view[start : start + got])))
        self._store_batch(reading.pieces, [(part.number, start, got) for part, start, got in places if got], at)

    def _read_small(self, reading: _Reading, part: Part, at: int) -> int | None:
        """A whole file into the buffer; returns how much there was, or None when it is gone."""
        if part.is_text:
            found = read_settled(part.path, self._view[at : at + part.room(self._block_size)], self._clock)
            if found is None:
                reading.vanished.append(part.number)
                return None
            if not found.is_settled:
                reading.unsettled.append(part.number)
            if self._settings.pace is not None:
                self._settings.pace.take(found.length)
            return found.length
        fd = open_file(part.path)
        if fd is None:
            reading.vanished.append(part.number)
            return None
        try:
            return self._read(fd, part.path, self._view[at : at + part.length], 0)
        finally:
            os.close(fd)

    def _pad(self, at: int) -> int:
        """Zeros behind an odd tail, so that the next file's pages stay aligned."""
        end = -(-at // self._block_size) * self._block_size
        self._view[at:end] = self._zero[: end - at]
        return end

    # -- what changed -----------------------------------------------------------------------------------------------

    def _scan(self, reading: _Reading, job: ScanJob) -> None:
        """Look at every page of main forks, and store those that may have changed."""
        scans = [_Scan(*one) for one in zip(job.known_bytes, job.extents, job.unlogged_marks, strict=True)]
        if job.is_range:
            (part,) = job.files
            for at, got in self._fill(reading, part):
                pages = pages_at(part, 0, got, at, self._block_size)
                self._keep_changed(reading, [(pages, scans[0])], job.since)
            return
        at = 0
        found: list[tuple[Pages, _Scan]] = []
        for part, scan in zip(job.files, scans, strict=True):
            length = self._read_small(reading, part, at)
            if length:
                found.append((pages_at(part, at, length, 0, self._block_size), scan))
                at = self._pad(at + length)
        self._keep_changed(reading, found, job.since)

    def _keep_changed(self, reading: _Reading, found: Sequence[tuple[Pages, _Scan]], since: Lsn) -> None:
        """Gather the changed pages of these parts of the buffer, which lie one after another from its beginning."""
        if not found:
            return
        bad = self._checker.check([pages for pages, _ in found]) if self._settings.verify else []
        block_size = self._block_size
        end = found[-1][0].at + found[-1][0].length
        mask = pages_to_store(self._view[: end - end % block_size], since=since, block_size=block_size)
        mask[bad] = True
        for pages, scan in found:
            first, count = pages.at // block_size, pages.length // block_size
            changed = mask[first : first + count]
            blocks = np.arange(pages.block_in_file, pages.block_in_file + count)
            changed |= blocks >= scan.known_bytes // block_size
            for extent in scan.extents:
                changed |= blocks * block_size // EXTENT_BYTES == extent
            view = self._view[pages.at : pages.at + count * block_size]
            if scan.unlogged_marks:
                changed |= all_visible(view, block_size=block_size)
            if count and pages.block == 0:
                # Written last of all, over zeros, which the parent may have seen.
                changed[0] |= page_lsns(view[:block_size], block_size=block_size)[0] == BUILD_LSN
            self._gather(reading, pages, changed)

    def _compare_pages(self, reading: _Reading, job: PagesJob) -> None:
        """Store the pages of files, or of a range of one, whose hashes are not those that are known."""
        for part, known in zip(job.files, job.known, strict=True):
            theirs = np.frombuffer(known, np.uint8).reshape(-1, CELL_HASH_BYTES)
            hasher, done = blake3(), 0
            for at, got in self._fill(reading, part):
                whole = got - got % CELL_BYTES
                pages = pages_at(part, 0, whole, at, self._block_size)
                if self._settings.verify:
                    self._checker.check([pages])
                ours = np.frombuffer(hash_cells(self._view[:whole]), np.uint8).reshape(-1, CELL_HASH_BYTES)
                differs = np.ones(len(ours), np.bool_)
                expected = theirs[at // CELL_BYTES : at // CELL_BYTES + len(ours)]
                differs[: len(expected)] = (ours[: len(expected)] != expected).any(axis=1)
                self._gather(reading, pages, differs)
                hasher.update(self._view[:whole])
                done += whole
            if done == part.length and _is_all(part):
                reading.hashes.append((part.number, hasher.digest(HASH_BYTES)))

    def _read_blocks(self, reading: _Reading, job: BlocksJob) -> None:
        """Read blocks of many files, neighbours in one go, and store them."""
        at = 0
        found: list[Pages] = []
        for part, column in zip(job.files, job.blocks, strict=True):
            fd = open_file(part.path)
            if fd is None:
                reading.vanished.append(part.number)
                continue
            try:
                for first, count in _neighbours(np.frombuffer(column, np.uint32), BATCH_BYTES // self._block_size):
                    size = count * self._block_size
                    if at + size > BATCH_BYTES:
                        self._store_blocks(reading, found)
                        at, found = 0, []
                    start = first * self._block_size
                    got = self._read(fd, part.path, self._view[at : at + size], start)
                    if got >= self._block_size:
                        found.append(pages_at(part, at, got - got % self._block_size, start, self._block_size))
                        at += found[-1].length
            finally:
                os.close(fd)
        self._store_blocks(reading, found)

    def _store_blocks(self, reading: _Reading, found: Sequence[Pages]) -> None:
        if found and self._settings.verify:
            self._checker.check(found)
        for pages in found:
            self._gather(reading, pages, np.ones(pages.length // self._block_size, np.bool_))

    def _gather(self, reading: _Reading, pages: Pages, wanted: npt.NDArray[np.bool_]) -> None:
        """Put these pages of a part of the buffer where they wait for others; zeros are stored nowhere.

        Many in a row and single ones are kept apart, as a restore writes them apart (``blockmap.invert_in_two``), and
        would have to unpack a frame twice that holds both.
        """
        block_size = self._block_size
        chosen = np.flatnonzero(wanted)
        if not len(chosen):
            return
        whole = np.frombuffer(self._view[pages.at : pages.at + len(wanted) * block_size], np.uint64)
        is_zero = np.zeros(len(wanted), np.bool_)
        is_zero[chosen] = ~whole.reshape(len(wanted), -1)[chosen].any(axis=1)
        for kind, members in ((False, chosen[~is_zero[chosen]]), (True, chosen[is_zero[chosen]])):
            for first, count in _neighbours(members, len(wanted)):
                offset = (pages.block_in_file + first) * block_size
                if kind:
                    reading.pieces.add(pages.number, offset, count * block_size, _NOWHERE)
                else:
                    start = pages.at + first * block_size
                    view = self._view[start : start + count * block_size]
                    gatherer = self._bulk if len(view) >= BULK_BYTES else self._pages
                    gatherer.add(reading.pieces, pages.number, offset, view)

    # -- frames -----------------------------------------------------------------------------------------------------

    def _store(self, pieces: Pieces, number: int, file_offset: int, length: int) -> None:
        for start in range(0, length, FRAME_BYTES):
            size = min(FRAME_BYTES, length - start)
            frame = self._view[start : start + size]
            if frame[:64] == self._zero[:64] and frame == self._zero[:size]:
                pieces.add(number, file_offset + start, size, _NOWHERE)
            else:
                pieces.add(number, file_offset + start, size, self._frames.append(frame))

    def _store_batch(self, pieces: Pieces, places: list[tuple[int, int, int]], end: int) -> None:
        """Cut the buffer into frames; a file that lies across a cut becomes two pieces."""
        frames = []
        for start in range(0, end, FRAME_BYTES):
            frames.append(self._frames.append(self._view[start : min(start + FRAME_BYTES, end)]))
        for number, at, length in places:
            done = 0
            while done < length:
                frame, inside = divmod(at + done, FRAME_BYTES)
                size = min(length - done, FRAME_BYTES - inside)
                pack, offset = frames[frame]
                pieces.add(number, done, size, (pack, offset + inside))
                done += size


@dataclass(frozen=True, slots=True)
class _Scan:
    """What else than its LSN makes a page of a file be stored: lying behind what the parent had, or in an extent, or
    being marked all-visible."""

    known_bytes: int
    extents: tuple[int, ...]
    unlogged_marks: bool


class _Reading:
    """What one job has found so far."""

    def __init__(self) -> None:
        self.pieces = Pieces()
        self.vanished: list[int] = []
        self.unchanged: list[int] = []
        self.unsettled: list[int] = []
        self.hashes: list[tuple[int, bytes]] = []


def _is_all(part: Part) -> bool:
    """Whether this is a whole file and not, perhaps, the first of its ranges."""
    return not part.offset and part.length != RANGE_BYTES


def _neighbours(numbers: npt.NDArray[Any], count_max: int) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers, which are in order, as (first, count)."""
    if not len(numbers):
        return
    cuts = np.flatnonzero(np.diff(numbers.astype(np.int64)) != 1) + 1
    for first, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(numbers)], strict=True):
        for start in range(first, end, count_max):
            yield int(numbers[start]), min(count_max, end - start)


def _hash(content: memoryview) -> bytes:
    return blake3(content).digest(HASH_BYTES)


def open_worker(settings: WorkerSettings) -> BackupWorker:
    """What a crew calls once in each worker process."""
    return BackupWorker(settings)
