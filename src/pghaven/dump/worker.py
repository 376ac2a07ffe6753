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

from pghaven.backup.gather import KNOWN_PACKS, FrameStore, Gatherer, Pieces
from pghaven.backup.results import ReadResult, WorkerPacks
from pghaven.dump.cutting import cut_rows
from pghaven.dump.earlier import EarlierFile, EarlierReader, Places
from pghaven.dump.rows import SameRows, find_same_rows
from pghaven.errors import Damaged, NotPermitted, ObjectMissing
from pghaven.repository.blockmap import HOLE
from pghaven.repository.codec import Compressor
from pghaven.repository.container import hash_cells
from pghaven.repository.known import KnownFrames
from pghaven.repository.pack import PackPlace, PackWriter
from pghaven.runtime.mapped import map_bytes
from pghaven.runtime.pace import Pace

RANGE_BYTES = 16 << 20
# How far a table's rows are looked for from where they would be if nothing had moved.
SLACK_BYTES = 2 << 20
# Of so many bytes of new data, no more runs: many small ones are dearer to restore than to store again.
_BYTES_PER_RUN = 512
# Rows that changed are few, and each resembles its neighbours but for some digits: a level that is too dear for a whole
# table gives a quarter less for some milliseconds.
_ROWS_LEVEL = 9
# After so many frames in turn that are new, the rest of a range is looked through by its rows alone.
_NEW_FRAMES_MAX = 4
_PUNCH_HOLE, _KEEP_SIZE = 2, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpWorkerSettings:
    place: PackPlace
    label: str
    level: int
    known: KnownFrames | None
    pace: Pace | None = None


@dataclass(frozen=True, slots=True)
class RangeJob:
    """Bytes of a file that pg_dump has written. ``paths`` are all its names; the first is the one to read. ``is_last``:
    nothing follows. ``old`` is what the table was in an earlier dump, if that is known, and ``moved``
    how much farther on there is what is looked for; ``landmarks`` are those of the range, if they are known."""

    number: int
    paths: tuple[str, ...]
    offset: int
    length: int
    is_last: bool
    old: EarlierFile | None = None
    moved: int = 0
    landmarks: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class FilesJob:
    """Small files, each whole."""

    files: tuple[tuple[int, str, int], ...]  # number, path, size


DumpJob = RangeJob | FilesJob


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpPart:
    """What became of a job, as a backup's worker reports it, and how many bytes no earlier dump had."""

    result: ReadResult
    stored_anew: int = 0


class DumpWorker:
    """One per worker process; called with jobs, closed at the end."""

    def __init__(self, settings: DumpWorkerSettings) -> None:
        known = settings.known
        self._pace = settings.pace
        self._known = known
        self._packs = PackWriter(settings.place, settings.label, level=settings.level)
        self._gatherer = Gatherer(FrameStore(self._packs, None))
        level = max(settings.level, _ROWS_LEVEL)
        self._rows = Gatherer(FrameStore(self._packs, None, Compressor(level)))
        self._reader = EarlierReader(settings.place, known.packs if known is not None else ())
        self.worker = os.getpid()

    def __call__(self, job: DumpJob) -> DumpPart | WorkerPacks:
        pieces = Pieces()
        if isinstance(job, FilesJob):
            for number, path, size in job.files:
                with self._taken((path,), 0, size, is_last=True) as data:
                    self._gatherer.add(pieces, number, 0, data)
            total = sum(size for _, _, size in job.files)
            return DumpPart(result=self._result(pieces, total), stored_anew=total)
        with self._taken(job.paths, job.offset, job.length, is_last=job.is_last) as data:
            anew = self._store(pieces, job, data)
        return DumpPart(result=self._result(pieces, job.length), stored_anew=anew)

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
        anew = 0
        for begin, end in self._unknown(pieces, job, data):
            stretch = data[begin:end]
            old, old_at = self._read_old(job, job.offset + begin, end - begin)
            near = job.offset + begin + job.moved - old_at
            same = list(find_same_rows(bytes(stretch), old, near)) if old else []
            if not same or len(same) * _BYTES_PER_RUN > len(stretch):
                anew += len(stretch)
                self._store_frames(pieces, job, data, begin, end)
                continue
            anew += self._store_between(pieces, job, (begin, stretch), (same, old_at))
        return anew

    def _unknown(self, pieces: Pieces, job: RangeJob, data: memoryview) -> Iterator[tuple[int, int]]:
        """What is in no frame that is stored already, in stretches; what is gets its pieces."""
        waiting: tuple[int, int] | None = None
        in_turn = 0
        for begin, end in cut_rows(data, job.landmarks):
            place = None
            if self._known is not None and (job.old is None or in_turn < _NEW_FRAMES_MAX):
                place = self._known.find(hash_cells(data[begin:end]), end - begin)
            in_turn = in_turn + 1 if place is None else 0
            if place is not None:
                pieces.add(job.number, job.offset + begin, end - begin, (KNOWN_PACKS + place[0], place[1]))
                if waiting is not None:
                    yield waiting
                    waiting = None
            else:
                waiting = (waiting[0] if waiting is not None else begin, end)
        if waiting is not None:
            yield waiting

    def _read_old(self, job: RangeJob, begin: int, length: int) -> tuple[bytes, int]:
        """What the table was around a place, and where that begins. What cannot be read is not gone on from."""
        if job.old is None:
            return b"", 0
        first = max(begin + job.moved - SLACK_BYTES, 0)
        end = min(begin + job.moved + length + SLACK_BYTES, job.old.size)
        if first >= end:
            return b"", 0
        with suppress(Damaged, ObjectMissing, NotPermitted):
            return self._reader.read(job.old, first, end - first), first
        return b"", 0

    def _store_frames(self, pieces: Pieces, job: RangeJob, data: memoryview, begin: int, end: int) -> None:
        landmarks = job.landmarks
        if landmarks is not None:
            landmarks = tuple(one - begin for one in landmarks if begin < one < end)
        for first, last in cut_rows(data[begin:end], landmarks):
            frame = data[begin + first : begin + last]
            pieces.add(job.number, job.offset + begin + first, len(frame), self._packs.append(frame))

    def _store_between(
        self, pieces: Pieces, job: RangeJob, new: tuple[int, memoryview], known: tuple[list[SameRows], int]
    ) -> int:
        """Rows that are stored are pointed to, what lies between them is stored; returns how much that was."""
        assert job.old is not None
        (begin, stretch), (same, old_at) = new, known
        at = anew = 0
        places = Places(job.old)
        for run in [*same, SameRows(len(stretch), 0, 0)]:
            if run.at > at:
                self._rows.add(pieces, job.number, job.offset + begin + at, stretch[at : run.at])
                anew += run.at - at
            at = run.at
            for pack, offset, size in places.find(old_at + run.old_at, run.length):
                place = (HOLE, 0) if pack == HOLE else (KNOWN_PACKS + pack, offset)
                pieces.add(job.number, job.offset + begin + at, size, place)
                at += size
        return anew


def _punch(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a range back to the file system; where that cannot be done they stay until the file goes."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(offset), ctypes.c_long(length))


def open_dump_worker(settings: DumpWorkerSettings) -> DumpWorker:
    """What a crew calls once in each worker process."""
    return DumpWorker(settings)
