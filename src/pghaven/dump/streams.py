"""The data of large tables on its way from pg_dump to the workers, through pipes and not through files.

The one idea: pg_dump writes its table of contents before it dumps any table, and opens whatever is there by a file's
name. So the table of contents is read through a pipe while pg_dump's own workers are stopped, and a named pipe is put
where each large table's file would come to be. Whatever of that cannot be done, or comes too late, is harmless: pg_dump
then makes an ordinary file, which is taken as any other.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from pghaven.dump.archive import ArchiveEntry, parse_contents
from pghaven.dump.exchange import render_question
from pghaven.dump.relay import Relay
from pghaven.dump.spooled import TOC_FILE, SpooledFile
from pghaven.errors import PghavenError, StoreUnreachable
from pghaven.runtime.crew import NOT_YET, NotYet
from pghaven.runtime.sharedslots import SharedSlots

SLOT_BYTES = 4 << 20
"""How much of a table is one job."""

# Smaller tables gain nothing: what pg_dump writes of them is taken when it is done.
STREAMED_BYTES_MIN = 16 << 20
_STREAMS_MAX = 256  # a descriptor each
_PIPE_BYTES = 1 << 20  # what anybody may have
_ROUNDS_AT_ONCE = 1000
FIRST_WAIT_SECONDS = 0.005
# pg_dump writes 4 KiB at a time. Who took each at once would be woken for each: in this time a pipe becomes half full.
PAUSE_SECONDS = 0.001
# Stays in the processor's own caches while it is hashed and counted; and pg_dump, which cannot write while we read,
# would busily wait for the end of a longer one.
_READ_BYTES = 256 << 10
_ALREADY_MUCH = _PIPE_BYTES // 4

Emit = Callable[[SpooledFile, int, int, bool], bool]
"""Called with a file, the slot that its next part is in, that part's length, and whether it is the last; says whether
it keeps the slot."""


@dataclass(slots=True)
class _Stream:
    """One table's pipe. ``slot`` holds ``fill`` bytes, ``rest`` what comes before them if there is no slot yet."""

    file: SpooledFile
    fd: int
    slot: int | None = None
    fill: int = 0
    rest: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What the pipes of a pg_dump with ``jobs`` connections need: slots, and about how large tables are by their OIDs.
    Where there is a ``relay`` the server writes into the pipes, and pg_dump only the end of each."""

    slots: SharedSlots
    sizes: Mapping[int, int]
    jobs: int
    relay: Relay | None = None


@dataclass(slots=True)
class Streams:
    """All pipes of one pg_dump."""

    path: str
    means: Means
    user: tuple[int, int] | None
    open_file: Callable[[str], SpooledFile]
    waiting: dict[int, _Stream] = field(default_factory=dict)
    poller: select.poll = field(default_factory=select.poll)
    names: set[str] = field(default_factory=set)
    is_flowing: bool = False

    # -- before the first table ------------------------------------------------------------------------------------

    def prepare(self, process: subprocess.Popen[bytes], ended: int) -> Iterator[NotYet]:
        """Wait until pg_dump has made its directory and its table of contents, and put the pipes in their places.

        The directory must not be there before: pg_dump takes an empty one only. It is when this ends, if pg_dump got
        so far. Raises StoreUnreachable for a full spool.
        """
        for _ in self._wait(ended, lambda: os.path.isdir(self.path), _ROUNDS_AT_ONCE):
            yield NOT_YET
        toc = os.path.join(self.path, TOC_FILE)
        is_any_large = any(size >= STREAMED_BYTES_MIN for size in self.means.sizes.values())
        can_see_children = os.path.exists(f"/proc/{process.pid}/task/{process.pid}/children")  # not with every kernel
        if not (is_any_large and can_see_children and os.path.isdir(self.path) and self._make_pipe(toc)):
            return
        # It cannot open that before we do, and its own processes are there by then.
        children: list[int] = []
        for _ in self._wait(ended, lambda: len(_list_children(process.pid)) >= self.means.jobs, 0):
            yield NOT_YET
        try:
            children += _list_children(process.pid)
            for child in children:
                _signal(child, signal.SIGSTOP)
            parts = self._read_contents(toc, ended)
            with suppress(PghavenError):  # of a version that is not known
                self._make_pipes(parse_contents(b"".join(parts)).entries)
        finally:
            for child in children:
                _signal(child, signal.SIGCONT)
            with suppress(FileNotFoundError):
                os.unlink(toc)
        if parts:
            _write(toc, b"".join(parts))
            self._give(toc)

    def _wait(self, ended: int, condition: Callable[[], bool], rounds_at_once: int) -> Iterator[None]:
        """Until it holds, or the process has ended; with a chance to do something else after so many looks."""
        rounds = 0
        while not condition():
            rounds += 1
            if rounds > rounds_at_once:
                yield
            if select.select([ended], [], [], PAUSE_SECONDS)[0]:
                return

    def _read_contents(self, toc: str, ended: int) -> list[bytes]:
        """Nothing if pg_dump ends before it writes any."""
        fd = os.open(toc, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        parts: list[bytes] = []
        try:
            while True:
                ready = select.select([ended, fd], [], [])[0]
                part = os.read(fd, 64 << 10) if fd in ready else b""
                if not part:
                    return parts
                parts.append(part)
        finally:
            os.close(fd)

    def _make_pipes(self, entries: tuple[ArchiveEntry, ...]) -> None:
        tables = [one for one in entries if one.description == "TABLE DATA" and one.file]
        sizes = {one.file: self.means.sizes.get(one.oid, 0) for one in tables}
        large = sorted((name for name, size in sizes.items() if size >= STREAMED_BYTES_MIN), key=lambda n: -sizes[n])
        questions = {one.file: render_question(one.copy) for one in tables}
        for name in large[:_STREAMS_MAX]:
            path = os.path.join(self.path, name)
            if not self._make_pipe(path):
                continue
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            _set_pipe_size(fd, _PIPE_BYTES)
            self.waiting[fd] = _Stream(self.open_file(name), fd)
            self.names.add(name)
            self.poller.register(fd, select.POLLIN)
            if self.means.relay is not None and questions[name]:
                self.means.relay.point({questions[name]: path.encode()})

    def _make_pipe(self, path: str) -> bool:
        try:
            os.mkfifo(path, 0o600)
        except OSError:  # there is a file already, or there are no named pipes
            return False
        self._give(path)
        return True

    def _give(self, path: str) -> None:
        if self.user is not None:
            os.chown(path, *self.user, follow_symlinks=False)

    # -- while tables are dumped -----------------------------------------------------------------------------------

    def take(self, emit: Emit) -> Iterator[None]:
        """Take what has come, giving control back after each part that ``emit`` has been called with."""
        self.is_flowing = False
        is_much = True
        while is_much:
            is_much = False
            for fd, event in self.poller.poll(0):
                stream = self.waiting[fd]
                self.is_flowing = True
                if stream.slot is None and not self._begin_slot(stream):
                    continue
                if not event & select.POLLIN:
                    self._finish(stream, emit)
                    yield
                    continue
                size = self._read(stream)
                is_much = is_much or size >= _ALREADY_MUCH
                if stream.fill == self.means.slots.size_bytes:
                    self._pass_on(stream, emit)
                    yield

    def _begin_slot(self, stream: _Stream) -> bool:
        stream.slot = self.means.slots.take()
        if stream.slot is None:
            return False
        stream.fill = len(stream.rest)
        self.means.slots.view(stream.slot)[: stream.fill] = stream.rest
        stream.rest = b""
        return True

    def _read(self, stream: _Stream) -> int:
        """As much as the pipe has, and a pipe's size at most."""
        assert stream.slot is not None
        taken, room = 0, self.means.slots.view(stream.slot)[stream.fill :][:_PIPE_BYTES]
        with suppress(BlockingIOError):
            while taken < len(room):
                size = os.readv(stream.fd, [room[taken : taken + _READ_BYTES]])
                stream.file.digest(room[taken : taken + size])
                taken += size
                if size < _READ_BYTES:
                    break
        stream.fill += taken
        return taken

    def _pass_on(self, stream: _Stream, emit: Emit) -> None:
        """All but what belongs to the next part."""
        assert stream.slot is not None
        slot, data = stream.slot, self.means.slots.view(stream.slot)[: stream.fill]
        length = stream.file.cut(data, is_last=False)
        stream.rest, stream.slot = bytes(data[length:]), None
        if not emit(stream.file, slot, length, False):
            self.means.slots.give_back(slot)

    def _finish(self, stream: _Stream, emit: Emit) -> None:
        assert stream.slot is not None
        file, slot = stream.file, stream.slot
        length = file.cut(self.means.slots.view(slot)[: stream.fill], is_last=True)
        file.finish()
        stream.slot = None
        self._close(stream)
        os.unlink(file.path)
        if not emit(file, slot, length, True):
            self.means.slots.give_back(slot)

    def _close(self, stream: _Stream) -> None:
        self.poller.unregister(stream.fd)
        del self.waiting[stream.fd]
        os.close(stream.fd)

    def close(self) -> None:
        """Leave all pipes; what was not taken is lost."""
        for stream in list(self.waiting.values()):
            self._close(stream)
            if stream.slot is not None:
                self.means.slots.give_back(stream.slot)


def _write(path: str, content: bytes) -> None:
    try:
        with open(path, "xb") as stream:
            stream.write(content)
    except OSError as error:
        raise StoreUnreachable(
            f'could not write "{path}": {error.strerror}',
            hint="Set dump_spool in the configuration to a directory with more room.",
        ) from error


def _set_pipe_size(fd: int, size: int) -> None:
    with suppress(OSError):  # a user may have as much in pipes already as the system allows
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)


def _list_children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as stream:
            return [int(word) for word in stream.read().split()]
    except OSError:  # it has just ended
        return []


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
