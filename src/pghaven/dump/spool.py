"""pg_dump at work in a directory, and its files as jobs as they come to be.

The one idea: pg_dump writes plain data into a directory that is emptied behind its back. Where it is faster than the
repository it is stopped for a while, so the directory stays small; only its exit status says that a dump is whole, and
until then nothing of it counts.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import IO

from pghaven.dump.programs import Calling, program_failed
from pghaven.dump.spooled import TOC_FILE, SpooledFile
from pghaven.dump.streams import FIRST_WAIT_SECONDS, PAUSE_SECONDS, Means, Streams
from pghaven.dump.worker import RANGE_BYTES, DumpJob, FilesJob, RangeJob
from pghaven.errors import StoreUnreachable
from pghaven.runtime.crew import NOT_YET, NotYet
from pghaven.runtime.mapped import map_bytes
from pghaven.runtime.watching import ClosedFiles

SPOOL_BYTES_MAX = 1 << 30
SMALL_BYTES = 32 << 10
_FILES_PER_JOB = 256
_WAIT_SECONDS = 0.05
_END_SECONDS = 30
_LOOK_EVERY = 32  # while tables are streamed the directory is looked at only once in so many pauses
_WAITS_IDLE = 40
_TAKEN = "-taken"  # what is added to the directory's name for the one with other names of its files


@contextmanager
def open_spool(directory: str, calling: Calling) -> Iterator[str]:
    """A new directory below this one that pg_dump's user can write to; gone when the block is left."""
    try:
        path = tempfile.mkdtemp(prefix="pghaven-dump-", dir=directory)
        if calling.user is not None and os.geteuid() == 0:
            os.chown(path, calling.user.uid, calling.user.gid)
    except OSError as error:
        raise StoreUnreachable(
            f'could not make a directory in "{directory}" for pg_dump to write to: {error.strerror}',
            hint="Set dump_spool in the configuration to a directory with room that pg_dump's user can enter.",
        ) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _open_end(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """A descriptor that can be read once the process has ended."""
    fd = os.pidfd_open(process.pid)
    try:
        yield fd
    finally:
        os.close(fd)


class Spool:
    """One database's pg_dump. ``number_file`` gives each new file its number; ``settle`` is told of each file that is
    whole at once, and says whether it needs no job; ``make_range`` makes the job of a part of any other, which is given
    with its offset, its length and whether it is the last. ``stops`` counts how often pg_dump had to wait. ``streams``
    is for what is not to pass through a file."""

    def __init__(
        self,
        calling: Calling,
        path: str,
        *,
        number_file: Callable[[str], int],
        settle: Callable[[SpooledFile], bool],
        make_range: Callable[[SpooledFile, int, int, bool], RangeJob],
        bytes_max: int,
        streams: Means | None = None,
    ) -> None:
        self._calling = calling
        self._path = path
        self._number_file = number_file
        self._settle = settle
        self._make_range = make_range
        self._bytes_max = bytes_max
        self._stopped = False
        self._used = self._idle = 0
        self._is_over = False
        self._small: list[tuple[int, str, int]] = []
        self._small_bytes = 0
        user = (calling.user.uid, calling.user.gid) if calling.user is not None and os.geteuid() == 0 else None
        self._streams = Streams(path, streams, user, self._file) if streams is not None else None
        self.files: dict[str, SpooledFile] = {}
        self.stops = 0

    def run(self, arguments: list[str], doing: str, after: Callable[[], None]) -> Iterator[DumpJob | NotYet]:
        """Run pg_dump and give its files as jobs, NOT_YET while it has nothing for us, so that workers are listened to.

        ``after`` is called when it is done and its table of contents there.

        Raises ServerUnsuitable with what pg_dump said, StoreUnreachable for a full spool.
        """
        os.mkdir(self._path + _TAKEN, 0o700)
        if self._streams is None:
            os.mkdir(self._path, 0o700)
            user = self._calling.user
            if user is not None and os.geteuid() == 0:
                os.chown(self._path, user.uid, user.gid, follow_symlinks=False)
        with tempfile.TemporaryFile() as errors:
            process = self._calling.start("pg_dump", arguments, errors.fileno())
            try:
                with _open_end(process) as ended:
                    if self._streams is not None:
                        yield from self._streams.prepare(process, ended)
                    if os.path.isdir(self._path):
                        yield from self._take_all(process, ended)
            finally:
                self._end(process)
                if self._streams is not None:
                    self._streams.close()
            self._require_success(process, errors, doing)
            after()
            self._is_over = True
            yield from self._take_finished(sorted(os.listdir(self._path)))
            yield from self._flush()

    def _take_all(self, process: subprocess.Popen[bytes], ended: int) -> Iterator[DumpJob | NotYet]:
        """Until pg_dump has ended, and of what is streamed all that it has written."""
        rounds = 0
        with ClosedFiles(self._path) as closed:
            while process.poll() is None:
                is_flowing = self._streams is not None and self._streams.is_flowing
                names = closed.wait(self._pause_seconds(), ended)
                yield from self._take_streams()
                rounds += 1
                if names or not is_flowing or not rounds % _LOOK_EVERY:
                    yield from self._take_finished(names)
                    yield from self._take_growing()
                    self._hold_back(process)
                if not names:
                    yield NOT_YET
        while True:
            yield from self._take_streams()
            if self._streams is None or not self._streams.is_flowing:
                return
            yield NOT_YET

    def _pause_seconds(self) -> float:
        if self._streams is None or not self._streams.waiting:
            return _WAIT_SECONDS
        return PAUSE_SECONDS if self._streams.is_flowing else FIRST_WAIT_SECONDS

    # -- files ------------------------------------------------------------------------------------------------------

    def _take_streams(self) -> Iterator[DumpJob]:
        if self._streams is None:
            return
        jobs: list[DumpJob] = []

        def emit(file: SpooledFile, slot: int, length: int, is_last: bool) -> bool:
            offset = file.done_bytes - length
            if not length or (is_last and not offset and self._settle(file)):
                return False
            jobs.append(replace(self._make_range(file, offset, length, is_last), paths=(), slot=slot))
            return True

        for _ in self._streams.take(emit):
            yield from jobs
            jobs.clear()

    def _is_streamed(self, name: str) -> bool:
        return self._streams is not None and name in self._streams.names

    def _file(self, name: str) -> SpooledFile:
        if name not in self.files:
            path = os.path.join(self._path, name)
            self.files[name] = SpooledFile(number=self._number_file(name), name=name, path=path)
        return self.files[name]

    def _take_finished(self, names: tuple[str, ...] | list[str]) -> Iterator[DumpJob]:
        for name in names:
            if self._is_streamed(name) or (name == TOC_FILE and not self._is_over) or self._file(name).hash:
                continue  # the table of contents is read, by ``after``, before it goes
            file = self._file(name)
            try:
                size = os.stat(file.path).st_size
            except FileNotFoundError:
                continue
            if not file.done_bytes and size <= RANGE_BYTES:
                yield from self._take_whole(file, size)
                continue
            while size - file.done_bytes > RANGE_BYTES:
                yield self._range(file, RANGE_BYTES, is_last=False)
            yield self._range(file, size - file.done_bytes, is_last=True)

    def _take_growing(self) -> Iterator[DumpJob]:
        """Ranges of files that pg_dump is writing still."""
        with os.scandir(self._path) as entries:
            names = [one.name for one in entries if one.name != TOC_FILE and not self._is_streamed(one.name)]
        for name in names:
            file = self._file(name)
            if file.hash:
                continue
            with suppress(FileNotFoundError):
                while os.stat(file.path).st_size - file.done_bytes > RANGE_BYTES:
                    yield self._range(file, RANGE_BYTES, is_last=False)

    def _range(self, file: SpooledFile, length: int, *, is_last: bool) -> RangeJob:
        offset = file.done_bytes
        length = self._read(file, length, is_last=is_last)
        if is_last:
            file.finish()
        if not file.other_path:
            # Workers write (they punch holes), and what is closed by this name is not taken for closed by pg_dump.
            file.other_path = f"{self._path}{_TAKEN}/{file.name}"
            os.link(file.path, file.other_path)
        return self._make_range(file, offset, length, is_last)

    def _read(self, file: SpooledFile, length: int, *, is_last: bool) -> int:
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return file.take(map_bytes(fd, file.path, file.done_bytes, length), is_last=is_last)
        finally:
            os.close(fd)

    def _take_whole(self, file: SpooledFile, size: int) -> Iterator[DumpJob]:
        self._read(file, size, is_last=True)
        file.finish()
        if not size or self._settle(file):
            os.unlink(file.path)
        elif size > SMALL_BYTES:
            yield self._make_range(file, 0, size, True)
        else:
            self._small.append((file.number, file.path, size))
            self._small_bytes += size
            if self._small_bytes > RANGE_BYTES - SMALL_BYTES or len(self._small) >= _FILES_PER_JOB:
                yield from self._flush()

    def _flush(self) -> Iterator[DumpJob]:
        if self._small:
            yield FilesJob(files=tuple(self._small))
        self._small, self._small_bytes = [], 0

    # -- the process ------------------------------------------------------------------------------------------------

    def _hold_back(self, process: subprocess.Popen[bytes]) -> None:
        """Stop pg_dump while too much lies on the disk that no worker has taken yet."""
        used = 0
        with os.scandir(self._path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    used += entry.stat().st_blocks * 512
        if used > self._bytes_max and not self._stopped:
            self._signal(process, signal.SIGSTOP)
            self._stopped = True
            self.stops += 1
        elif self._stopped and used < self._bytes_max // 2:
            self._go_on(process)
        elif self._stopped:
            # All that is left may be parts that are too small to be taken before their files end.
            self._idle = self._idle + 1 if used == self._used else 0
            if self._idle >= _WAITS_IDLE:
                self._bytes_max *= 2
                self._go_on(process)
        self._used = used

    def _go_on(self, process: subprocess.Popen[bytes]) -> None:
        self._signal(process, signal.SIGCONT)
        self._stopped = False
        self._idle = 0

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            self._signal(process, signal.SIGTERM)
            self._signal(process, signal.SIGCONT)
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._signal(process, signal.SIGKILL)
                process.wait()

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def _require_success(self, process: subprocess.Popen[bytes], errors: IO[bytes], doing: str) -> None:
        if process.returncode == 0:
            return
        errors.seek(0)
        said = errors.read()
        if b"No space left on device" in said:
            raise StoreUnreachable(
                f'could not {doing}: no room is left in "{os.path.dirname(self._path)}"',
                hint="Set dump_spool in the configuration to a directory with more room.",
            )
        raise program_failed(process.returncode, said, doing)
