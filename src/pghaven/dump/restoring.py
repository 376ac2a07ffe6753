"""pg_restore at work, and the data of large tables streamed to it while it loads.

The one idea: a large table need not lie in a file before it is loaded. In its place is a named pipe; once pg_restore
opens that, a worker writes the table into it, each byte proven as in any file. pg_restore begins with the tables whose
files are the largest, and a pipe has no size, so only as many are streamed as begin at once, and only where the other
data is next to nothing. An end of data that is none never reaches pg_restore, which is ended before a pipe is closed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pghaven.dump.earlier import EarlierFile, EarlierReader
from pghaven.dump.extract import ExtractSettings
from pghaven.dump.programs import Calling, program_failed
from pghaven.errors import ServerUnsuitable
from pghaven.repository.codec import Buffer
from pghaven.runtime.crew import NOT_YET, Crew, NotYet

_FAILED_ENTRY = re.compile(r"from TOC entry [0-9]+; [0-9]+ [0-9]+ (.*)")
_STREAMED_BYTES_MIN = 16 << 20
# All data that is not streamed is loaded first, so it must be little.
_REST_PER_ALL = 10
_READ_BYTES = 4 << 20
_PARTS_AT_ONCE = 1024  # IOV_MAX
_PIPE_BYTES = 1 << 20
_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class StreamJob:
    """A file to be written into the pipe at ``path``."""

    path: str
    file: EarlierFile


class StreamWorker:
    """One per worker process; each job gives its path when all of the file is in the pipe."""

    def __init__(self, settings: ExtractSettings) -> None:
        self._reader = EarlierReader(settings.place, settings.packs)

    def __call__(self, job: StreamJob) -> str:
        """Whoever read may have ended, which its own status tells of."""
        try:
            fd = os.open(job.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return job.path
            raise
        try:
            os.set_blocking(fd, True)
            with suppress(OSError):  # a user may have as much in pipes already as the system allows
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            with suppress(BrokenPipeError):
                for at in range(0, job.file.size, _READ_BYTES):
                    size = min(_READ_BYTES, job.file.size - at)
                    _write(fd, self._reader.read_parts(job.file, at, size))
        finally:
            os.close(fd)
        return job.path

    def close(self) -> str | None:
        return None


def open_streamer(settings: ExtractSettings) -> StreamWorker:
    """What a crew calls once in each worker process."""
    return StreamWorker(settings)


def _write(fd: int, parts: list[Buffer]) -> None:
    for first in range(0, len(parts), _PARTS_AT_ONCE):
        some = parts[first : first + _PARTS_AT_ONCE]
        size = sum(map(len, some))
        written = os.writev(fd, some)
        rest = memoryview(b"".join(some))[written:] if written < size else b""
        while rest:
            rest = rest[os.write(fd, rest) :]


def choose_streamed(sizes: dict[str, int], jobs: int) -> frozenset[str]:
    """Which of these files, by their names and sizes, are streamed: none where that could make others wait."""
    largest = sorted((name for name in sizes if name[:-4].isdecimal()), key=lambda name: (-sizes[name], name))[:jobs]
    chosen = [name for name in largest if sizes[name] >= _STREAMED_BYTES_MIN]
    rest = sum(sizes.values()) - sum(sizes[name] for name in chosen)
    return frozenset(chosen) if rest * _REST_PER_ALL <= sum(sizes.values()) else frozenset()


def restore(
    calling: Calling,
    arguments: Sequence[str],
    streams: Sequence[StreamJob],
    *,
    target: str,
    source: tuple[ExtractSettings, int],
) -> None:
    """Run pg_restore, with what is streamed to it; ``source`` is where that comes from, and by how many workers.

    Raises ServerUnsuitable with the object that failed, Damaged naming a pack; then pg_restore has ended, and what it
    was loading is rolled back.
    """
    doing = f'load into "{target}"'
    try:
        if not streams:
            calling.run("pg_restore", arguments, doing=doing)
            return
        with Crew(size=source[1], setup=open_streamer, settings=source[0]) as crew, tempfile.TemporaryFile() as errors:
            process = calling.start("pg_restore", arguments, errors.fileno())
            _Feeding(process, streams).run(crew)
            if process.returncode:
                errors.seek(0)
                raise program_failed(process.returncode, errors.read(), doing)
    except ServerUnsuitable as error:
        found = _FAILED_ENTRY.search(error.detail or "")
        if found is None:
            raise
        raise ServerUnsuitable(
            f"{error.message} ({found[1]})",
            detail=error.detail,
            hint="Nothing after it was loaded. Mend that, or leave it out with --table or --schema.",
        ) from error


class _Feeding:
    """Gives each pipe its table once pg_restore has opened it. A thread waits for each, and nothing else is done in it;
    the end that it opens is held until the worker is done, so that pg_restore sees an end of data then and not before.
    """

    def __init__(self, process: subprocess.Popen[bytes], streams: Sequence[StreamJob]) -> None:
        self._process = process
        self._waiting = {job.path: job for job in streams}
        self._held: dict[str, int] = {}
        self._opened: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._open, args=(path,), daemon=True) for path in self._waiting]

    def run(self, crew: Crew[StreamJob, str]) -> None:
        """Until pg_restore has ended, which it has when this fails too."""
        for thread in self._threads:
            thread.start()
        try:
            crew.run(self._jobs(), self._take)
        finally:
            if self._process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._release()

    def _open(self, path: str) -> None:
        self._opened.put((path, os.open(path, os.O_WRONLY | os.O_CLOEXEC)))

    def _jobs(self) -> Generator[StreamJob | NotYet, None, None]:
        while self._process.poll() is None:
            try:
                path, fd = self._opened.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                yield NOT_YET
                continue
            self._held[path] = fd
            yield self._waiting.pop(path)

    def _take(self, path: str) -> None:
        os.close(self._held.pop(path))

    def _release(self) -> None:
        """Nobody waits for a reader any more, and no end is held."""
        readers = [os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) for path in self._waiting]
        for thread in self._threads:
            thread.join()
        while not self._opened.empty():
            path, fd = self._opened.get()
            self._held[path] = fd
        for fd in (*readers, *self._held.values()):
            os.close(fd)
        self._held.clear()
