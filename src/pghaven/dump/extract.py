"""Files of a dump out of the repository, into a directory that pg_restore can read.

The one idea: only the files that are asked for are fetched, each in parts that several workers take, and every byte is
proven by its frame's hash before it is written.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pghaven.dump.earlier import EarlierFile, EarlierReader, cut_out_file
from pghaven.errors import Refused, StoreUnreachable, TargetFailed
from pghaven.events import Listener, Progress
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.codec import Buffer
from pghaven.repository.manifest import Manifest
from pghaven.repository.pack import PackPlace, PackRef
from pghaven.runtime.crew import Crew

_PART_BYTES = 16 << 20
_READ_BYTES = 4 << 20
_PARTS_AT_ONCE = 1024  # IOV_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSettings:
    place: PackPlace
    packs: Sequence[PackRef]


@dataclass(frozen=True, slots=True)
class ExtractJob:
    """Some bytes of a file, to be written at their place in ``path``."""

    path: str
    file: EarlierFile
    begin: int
    length: int


class ExtractWorker:
    """One per worker process; each job gives the bytes it wrote."""

    def __init__(self, settings: ExtractSettings) -> None:
        self._reader = EarlierReader(settings.place, settings.packs)

    def __call__(self, job: ExtractJob) -> int:
        fd = os.open(job.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            for at in range(job.begin, job.begin + job.length, _READ_BYTES):
                size = min(_READ_BYTES, job.begin + job.length - at)
                _write(fd, at, self._reader.read_parts(job.file, at, size))
        except OSError as error:
            raise writing_failed(job.path, error) from error
        finally:
            os.close(fd)
        return job.length

    def close(self) -> int | None:
        return None


def _write(fd: int, at: int, parts: list[Buffer]) -> None:
    """Parts that follow one another, as they lie in memory."""
    for first in range(0, len(parts), _PARTS_AT_ONCE):
        some = parts[first : first + _PARTS_AT_ONCE]
        size = sum(map(len, some))
        written = os.pwritev(fd, some, at)
        if written < size:  # the rest in one piece: it is rare
            rest = memoryview(b"".join(some))[written:]
            while rest:
                rest = rest[os.pwrite(fd, rest, at + size - len(rest)) :]
        at += size


def open_extractor(settings: ExtractSettings) -> ExtractWorker:
    """What a crew calls once in each worker process."""
    return ExtractWorker(settings)


def extract_files(
    catalog: BackupCatalog,
    manifest: Manifest,
    wanted: Sequence[tuple[str, str]],
    *,
    processes: int,
    listener: Listener,
) -> int:
    """Write files of a dump: (path in the dump, path of the new file). Returns their bytes. Nothing is flushed.

    Raises Refused for a file that is there already, Damaged naming the pack, TargetFailed for a full disk.
    """
    numbers = {os.fsdecode(manifest.files.path(number)): number for number in range(len(manifest.files.size))}
    files = [(target, cut_out_file(manifest, numbers[source])) for source, target in wanted]
    total = sum(file.size for _, file in files)
    done = 0

    def take(written: int | None) -> None:
        nonlocal done
        done += written or 0
        listener(Progress(phase="fetching", done_bytes=done, total_bytes=total))

    for directory in sorted({os.path.dirname(target) for target, _ in files}):
        os.makedirs(directory, 0o700, exist_ok=True)
    for target, _ in files:
        if os.path.lexists(target):
            raise Refused(f'"{target}" is there already', hint="Name a directory that is new or empty.")
    settings = ExtractSettings(place=catalog.pack_place, packs=manifest.packs)
    with Crew(size=processes, setup=open_extractor, settings=settings) as crew:
        crew.run(_iter_jobs(files), take)
    return done


def _iter_jobs(files: Sequence[tuple[str, EarlierFile]]) -> Iterator[ExtractJob]:
    for target, file in files:
        for begin in range(0, max(file.size, 1), _PART_BYTES):
            length = min(_PART_BYTES, file.size - begin)
            yield ExtractJob(target, file.near(begin, begin + length), begin, length)


@contextmanager
def open_scratch(directory: str) -> Iterator[str]:
    """A new directory below this one, with one in it for a dump; gone when the block is left."""
    try:
        place = tempfile.mkdtemp(prefix="pghaven-load-", dir=directory)
    except OSError as error:
        raise StoreUnreachable(f'could not make a directory in "{directory}": {error.strerror}') from error
    try:
        os.mkdir(os.path.join(place, "dump"), 0o700)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def writing_failed(path: str, error: OSError) -> TargetFailed:
    """The error for a file that could not be written."""
    hint = "Name a directory with more room." if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    return TargetFailed(f'could not write "{path}": {error.strerror}', hint=hint)
