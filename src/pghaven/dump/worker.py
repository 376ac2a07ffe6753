"""What a worker process of a dump does: read what pg_dump has written so far, find what is stored, store the rest.

The one idea: pg_dump's files are only on their way through. What a worker has read it takes from the disk at once, so
that a dump of any size needs room for what is between pg_dump and the repository and no more.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain

import numpy as np

from pghaven.backup.gather import KNOWN_PACKS, FrameStore, Gatherer, Pieces
from pghaven.backup.results import ReadResult, WorkerPacks
from pghaven.dump.cutting import cut_rows, find_cuts
from pghaven.dump.earlier import EarlierFile, EarlierReader, EarlierText
from pghaven.dump.rows import SameRows, find_same_rows
from pghaven.errors import Damaged, NotPermitted, ObjectMissing
from pghaven.repository.blockmap import HOLE
from pghaven.repository.codec import PatientCompressor
from pghaven.repository.container import hash_cells
from pghaven.repository.known import KnownFrames
from pghaven.repository.pack import PackPlace, PackWriter
from pghaven.runtime.mapped import map_bytes
from pghaven.runtime.pace import Pace
from pghaven.runtime.sharedslots import SharedSlots

# So much is still in the processor's caches when the next process comes to it.
RANGE_BYTES = 8 << 20
# How far a table's rows are looked for from where they are thought to be.
SLACK_BYTES = 2 << 20
# Of so many bytes of new data, no more runs: many small ones are dearer to restore than to store again.
_BYTES_PER_RUN = 512
# After so many frames in turn that are new, the rest of a range is looked through by its rows alone; where all of the
# range before was new, after one.
_NEW_FRAMES_MAX = 4
# Memory up to this size is used again, not given back and taken anew, page by page, for each frame: see mallopt(3).
_HEAP_BYTES = 64 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_PUNCH_HOLE, _KEEP_SIZE = 2, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpWorkerSettings:
    place: PackPlace
    label: str
    level: int
    known: KnownFrames | None
    pace: Pace | None = None
    slots: SharedSlots | None = None


@dataclass(frozen=True, slots=True)
class RangeJob:
    """Bytes that pg_dump has written. ``paths`` are all names of their file; the first is the one to read. With
    ``slot`` they never were in a file, and are there. ``is_last``: nothing follows. ``cuts`` are those of the range, if
    they are known. ``old`` is what the table was in an earlier dump, if that is known; ``moved`` is how much farther on
    there is what is looked for, and ``anchors`` are places in the range, each with the one in the old file that is
    thought to be the same."""

    number: int
    paths: tuple[str, ...]
    offset: int
    length: int
    is_last: bool
    old: EarlierFile | None = None
    moved: int = 0
    anchors: tuple[tuple[int, int], ...] = ()
    cuts: tuple[int, ...] | None = None
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class FilesJob:
    """Small files, each whole."""

    files: tuple[tuple[int, str, int], ...]  # number, path, size


DumpJob = RangeJob | FilesJob


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpPart:
    """What became of a job, as a backup's worker reports it, and how many bytes no earlier dump had; ``slot``
    is free again."""

    result: ReadResult
    stored_anew: int = 0
    slot: int | None = None


class DumpWorker:
    """One per worker process; called with jobs, closed at the end."""

    def __init__(self, settings: DumpWorkerSettings) -> None:
        known = settings.known
        self._pace = settings.pace
        self._slots = settings.slots
        self._known = known
        self._packs = PackWriter(settings.place, settings.label, level=settings.level)
        self._gatherer = Gatherer(FrameStore(self._packs, None))
        self._rows = Gatherer(FrameStore(self._packs, None, PatientCompressor(settings.level)))
        self._is_new: dict[int, bool] = {}
        self._reader = EarlierReader(settings.place, known.packs if known is not None else (), is_compared=True)
        self.worker = os.getpid()

    def __call__(self, job: DumpJob) -> DumpPart | WorkerPacks:
        pieces = Pieces()
        if isinstance(job, FilesJob):
            for number, path, size in job.files:
                with self._taken((path,), 0, size, is_last=True) as data:
                    self._gatherer.add(pieces, number, 0, data)
            total = sum(size for _, _, size in job.files)
            return DumpPart(result=self._result(pieces, total), stored_anew=total)
        if job.slot is not None:
            assert self._slots is not None
            if self._pace is not None:
                self._pace.take(job.length)
            anew = self._store(pieces, job, self._slots.view(job.slot)[: job.length])
        else:
            with self._taken(job.paths, job.offset, job.length, is_last=job.is_last) as data:
                anew = self._store(pieces, job, data)
        return DumpPart(result=self._result(pieces, job.length), stored_anew=anew, slot=job.slot)

    def close(self) -> DumpPart | WorkerPacks:
        pieces = Pieces()
        self._gatherer.flush(pieces)
        self._rows.flush(pieces)
        return WorkerPacks(worker=self.worker, packs=self._packs.close(), pieces=pieces.columns())

    def _result(self, pieces: Pieces, read_bytes: int) -> ReadResult:
        return ReadResult(worker=self.worker, read_bytes=read_bytes, pieces=pieces.columns(), vanished=(), suspects=())

    @contextmanager
    def _taken(self, paths: tuple[str, ...], offset: int, length: int, *, is_last: bool) -> Iterator[memoryview]:
        """These bytes, which are no longer on the disk when the block is left.

        Of a file in several parts the name stays: another worker may not have opened it yet.
        """
        if self._pace is not None:
            self._pace.take(length)
        path, is_whole = paths[0], is_last and not offset
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield map_bytes(fd, path, offset, length)
            if not is_whole:
                _punch(fd, offset, length)
        finally:
            os.close(fd)
        for name in paths if is_whole else ():
            os.unlink(name)

    # -- a table's data ---------------------------------------------------------------------------------------------

    def _store(self, pieces: Pieces, job: RangeJob, data: memoryview) -> int:
        """Store a range; returns how much of it was not stored yet."""
        cuts = tuple(find_cuts(data)) if job.cuts is None else job.cuts
        anew = 0
        for begin, end in self._unknown(pieces, job, data, cuts):
            same = self._find_same(job, data, begin, end)
            if not same or len(same) * _BYTES_PER_RUN > end - begin:
                anew += end - begin
                for first, last in cut_rows(data[begin:end], [one - begin for one in cuts if begin < one < end]):
                    frame = data[begin + first : begin + last]
                    pieces.add(job.number, job.offset + begin + first, len(frame), self._packs.append(frame))
                continue
            anew += self._store_between(pieces, job, (data, begin, end), same)
        return anew

    def _unknown(
        self, pieces: Pieces, job: RangeJob, data: memoryview, cuts: tuple[int, ...]
    ) -> Iterator[tuple[int, int]]:
        """What is in no frame that is stored already, in stretches; what is gets its pieces."""
        waiting: tuple[int, int] | None = None
        in_turn, found = 0, 0
        most = 1 if self._is_new.get(job.number) else _NEW_FRAMES_MAX
        for begin, end in cut_rows(data, cuts):
            place = None
            if self._known is not None and (job.old is None or in_turn < most):
                place = self._known.find(hash_cells(data[begin:end]), end - begin)
            in_turn = in_turn + 1 if place is None else 0
            if place is not None:
                found += 1
                pieces.add(job.number, job.offset + begin, end - begin, (KNOWN_PACKS + place[0], place[1]))
                if waiting is not None:
                    yield waiting
                    waiting = None
            else:
                waiting = (waiting[0] if waiting is not None else begin, end)
        self._is_new[job.number] = not found
        if waiting is not None:
            yield waiting

    def _find_same(self, job: RangeJob, data: memoryview, begin: int, end: int) -> list[SameRows]:
        """Rows of the range's bytes that the old file has. What cannot be read is not gone on from."""
        if job.old is None:
            return []
        moved = job.offset + job.moved
        for at, there in job.anchors:
            if at <= begin:
                moved = there - at
        anchors = [(at - begin, there) for at, there in job.anchors if begin < at <= end]
        if not anchors and begin + moved >= job.old.size:
            return []  # rows that were added at the end
        old = EarlierText(self._reader, job.old, end + moved + SLACK_BYTES // 8)
        with suppress(Damaged, ObjectMissing, NotPermitted):
            return list(find_same_rows(data[begin:end], old, max(begin + moved, 0), anchors))
        return []

    def _store_between(
        self, pieces: Pieces, job: RangeJob, new: tuple[memoryview, int, int], same: list[SameRows]
    ) -> int:
        """Rows that are stored are pointed to, what lies between them is stored; returns how much that was."""
        assert job.old is not None
        data, at, end = new
        begin, anew = at, 0
        between: list[tuple[int, memoryview]] = []
        for run_at, _, length in [*same, SameRows(end - begin, 0, 0)]:
            stop = begin + run_at
            if stop > at:
                between.append((job.offset + at, data[at:stop]))
                anew += stop - at
            at = stop + length
        self._rows.add_parts(pieces, job.number, between)
        found = np.fromiter(chain.from_iterable(same), np.uint64, 3 * len(same)).reshape(-1, 3)
        which, pack, offset, size = job.old.place_all(found[:, 1], found[:, 2])
        many = np.bincount(which, minlength=len(same))
        before = np.cumsum(size) - size
        first = np.repeat(before[np.cumsum(many) - many], many)
        is_hole = pack == HOLE
        columns = (
            np.full(len(which), job.number, np.uint32),
            found[which, 0] + (before - first) + np.uint64(job.offset + begin),
            size,
            np.where(is_hole, pack, pack + np.uint32(KNOWN_PACKS)),
            np.where(is_hole, np.uint64(0), offset),
        )
        pieces.extend([column.tobytes() for column in columns])
        return anew


def _use_memory_again() -> None:
    with suppress(AttributeError):  # other C libraries have other ways
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _HEAP_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _HEAP_BYTES)


def _punch(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a range back to the file system; where that cannot be done they stay until the file goes."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(offset), ctypes.c_long(length))


def open_dump_worker(settings: DumpWorkerSettings) -> DumpWorker:
    """What a crew calls once in each worker process."""
    _use_memory_again()
    return DumpWorker(settings)
