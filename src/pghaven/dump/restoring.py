"""pg_restore at work, and the data of large tables streamed to it while it loads.

The one idea: a large table need not lie in a file before it is loaded. In its place is a named pipe; once pg_restore
opens that, a thread writes the table into it, each byte proven as in any file. pg_restore begins with the tables whose
files are the largest, and a pipe has no size; so a table that must not come late is written out as a file, as few as
that takes. An end of data that is none never reaches pg_restore, which is ended before a pipe is closed.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from pghaven.clock import SYSTEM_CLOCK
from pghaven.dump.earlier import EarlierFile, EarlierReader
from pghaven.dump.extract import ExtractSettings
from pghaven.dump.programs import Calling, program_failed
from pghaven.repository.codec import Buffer

_STREAMED_BYTES_MIN = 4 << 20
_STREAMS_MAX = 256  # a thread waits for each
# A byte is written out in a file so many times sooner than a server has loaded it.
_SOONER = 6
_READ_BYTES = 4 << 20
_PARTS_AT_ONCE = 1024  # IOV_MAX
_PIPE_BYTES = 1 << 20
# How long a full pipe is left to be read: less than the fastest session takes to empty it.
_DRAIN_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class StreamJob:
    """A file to be written into the pipe at ``path``."""

    path: str
    file: EarlierFile


def choose_streamed(sizes: Mapping[str, int], jobs: int) -> frozenset[str]:
    """Which of these files, by their names and sizes, are streamed: all large ones but those whose coming late would
    cost more than writing them out first does."""
    large = [name for name in sizes if name[:-4].isdecimal() and sizes[name] >= _STREAMED_BYTES_MIN]
    large.sort(key=lambda name: (-sizes[name], name))
    del large[_STREAMS_MAX:]
    choices = [frozenset(large[count:]) for count in (*range(min(2 * jobs, len(large))), len(large))]
    return min(choices, key=lambda streamed: _foresee(sizes, streamed, jobs))


def _foresee(sizes: Mapping[str, int], streamed: frozenset[str], jobs: int) -> float:
    """How long a load takes, in bytes that one session loads: files are written out, then pg_restore takes them in the
    order of their sizes, and pipes after them in the order of their numbers, which stand in their names."""
    written = sorted((size for name, size in sizes.items() if name not in streamed), reverse=True)
    piped = [sizes[name] for name in sorted(streamed, key=lambda name: int(name[:-4]))]
    sessions = [0] * jobs
    for size in (*written, *piped):
        heapq.heapreplace(sessions, sessions[0] + size)
    return max(sessions) + sum(written) / _SOONER / jobs


def restore(
    calling: Calling,
    arguments: Sequence[str],
    streams: Sequence[StreamJob],
    *,
    target: str,
    source: ExtractSettings,
) -> None:
    """Run pg_restore, with what is streamed to it; ``source`` is where that comes from.

    Raises ServerUnsuitable with the object that failed, Damaged naming a pack; then pg_restore has ended, and what it
    was loading is rolled back.
    """
    doing = f'load into "{target}"'
    arguments = ["--verbose", *arguments]  # else it does not name the object that failed
    if not streams:
        calling.run("pg_restore", arguments, doing=doing)
        return
    with tempfile.TemporaryFile() as errors:
        process = calling.start("pg_restore", arguments, errors.fileno())
        _Feeding(process, streams, source).run()
        if process.returncode:
            errors.seek(0)
            raise program_failed(process.returncode, errors.read(), doing)


class _Feeding:
    """A thread for each pipe: it waits until pg_restore has opened that, writes the table into it, and ends.

    Threads and no worker processes: nearly all that is done holds no lock of the interpreter, and a server takes rows
    more slowly than one process unpacks them for several of its sessions.
    """

    def __init__(self, process: subprocess.Popen[bytes], streams: Sequence[StreamJob], source: ExtractSettings) -> None:
        self._process = process
        self._source = source
        self._waiting = {job.path for job in streams}
        self._is_over = threading.Event()
        self._ending = threading.Lock()
        self._failures: list[Exception] = []
        self._held: list[int] = []
        self._threads = [threading.Thread(target=self._feed, args=(job,), daemon=True) for job in streams]

    def run(self) -> None:
        """Until pg_restore has ended, which it has when this fails too. Raises what kept a table from being whole."""
        try:
            for thread in self._threads:
                thread.start()
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            self._end()
        if self._failures:
            raise self._failures[0]

    def _feed(self, job: StreamJob) -> None:
        try:
            fd = os.open(job.path, os.O_WRONLY | os.O_CLOEXEC)
            self._waiting.discard(job.path)
            try:
                if not self._is_over.is_set():
                    self._write_all(fd, job.file)
            except Exception:
                self._held.append(fd)  # its end would be taken for that of the table
                raise
            os.close(fd)
        except Exception as error:  # noqa: BLE001  the root of a thread: whatever it is, run raises it
            self._failures.append(error)
            self._kill()

    def _write_all(self, fd: int, file: EarlierFile) -> None:
        """One part is read while another is written. Whoever reads may have ended, which its own status tells of.

        Who sleeps in a write to a full pipe is woken for every page that is read, on the reader's processor and in its
        time. So a large pipe is filled, left alone for a moment, and filled again.
        """
        with suppress(OSError):  # a user may have as much in pipes already as the system allows
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(fd, fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < _PIPE_BYTES)
        with suppress(BrokenPipeError):
            for parts in _read_ahead(self._source, file):
                _write(fd, parts)

    def _kill(self) -> None:
        """All processes of pg_restore; its number is its own until it is waited for."""
        with self._ending, suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def _end(self) -> None:
        """Nobody waits for a reader any more, and no end is held."""
        self._is_over.set()
        self._kill()
        with self._ending:
            self._process.wait()
        readers = [os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) for path in self._waiting.copy()]
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for fd in (*readers, *self._held):
            os.close(fd)


def _read_ahead(source: ExtractSettings, file: EarlierFile) -> Iterator[list[Buffer]]:
    """A file's contents, of which the next part is on its way while one is used. Raises Damaged, ObjectMissing."""
    reader = EarlierReader(source.place, source.packs)
    with ThreadPoolExecutor(1, "stream") as thread:
        ahead = thread.submit(reader.read_parts, file, 0, min(_READ_BYTES, file.size))
        for at in range(0, file.size, _READ_BYTES):
            parts, following = ahead.result(), at + _READ_BYTES
            if following < file.size:
                size = min(_READ_BYTES, file.size - following)
                ahead = thread.submit(reader.read_parts, file, following, size)
            yield parts


def _write(fd: int, parts: Sequence[Buffer]) -> None:
    rest = deque(memoryview(one) for one in parts)
    while rest:
        try:
            written = os.writev(fd, list(islice(rest, _PARTS_AT_ONCE)))
        except BlockingIOError:
            SYSTEM_CLOCK.sleep(_DRAIN_SECONDS)
            continue
        while rest and written >= len(rest[0]):
            written -= len(rest.popleft())
        if written:
            rest[0] = rest[0][written:]
