"""Child processes that do work side by side, tell what they have done, and can be left behind.

The one idea: as in ``limit``, whoever PostgreSQL waits for never touches a store. It forks a child for each piece of
work before any thread or client of a store exists, listens to all of them at once, and lets go of those that hang.

What a child tells is a tuple of plain values (text, numbers, None), as ``marshal`` writes them. It has no other way to
say anything: if it held our output open, whoever reads that would wait for a child that hangs.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pghaven import errors
from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import Cancelled, PghavenError
from pghaven.wal.limit import fork_child, unblock_interrupts

Tell = Callable[[Any], None]

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 16
_POLL_MAX_MS = (1 << 31) - 1
# From its last word to its end a child has this long: closing what it had open can hang as everything else can.
_END_SECONDS = 1.0
_END_POLL_SECONDS = 0.001

_left: set[int] = set()
_writer: int | None = None
"""In a child, the end of the pipe to its parent. Its own children close it: else they would seem to be the child."""


class Child:
    """A running child. ``status`` is its exit status when it has ended, minus the signal that ended it; ``trace`` is
    that of the bug it ended by, if it did."""

    def __init__(self, pid: int, reader: int) -> None:
        self._pid = pid
        self._buffer = b""
        self._end_by: float | None = None
        self.reader = reader
        self.status: int | None = None
        self.trace: str | None = None

    def receive(self) -> list[Any]:
        """What it has told since the last time; ``status`` is set when that was all and it has ended, or does not end
        within a moment and is killed. Blocks if there is nothing yet."""
        data = os.read(self.reader, _READ_BYTES)
        if not data:
            self._reap()
        self._buffer += data
        told = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            message = marshal.loads(self._buffer[_LENGTH.size : end])  # noqa: S302  our own child wrote it
            self._buffer = self._buffer[end:]
            if isinstance(message, str):
                self.trace = message
            else:
                told.append(message)
        return told

    @property
    def is_ending(self) -> bool:
        """Whether it has nothing more to say, and has not ended yet."""
        return self._end_by is not None and self.status is None

    def _reap(self) -> None:
        now = SYSTEM_CLOCK.monotonic()
        self._end_by = now + _END_SECONDS if self._end_by is None else self._end_by
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self.status = os.waitstatus_to_exitcode(status)
        elif now >= self._end_by:
            self.end(signal.SIGKILL)
            self.status = -signal.SIGKILL
            _left.add(self._pid)

    def leave(self) -> None:
        """Kill it, and hear no more of it. It is not waited for: if it hangs in the kernel it would take us with it."""
        self.end(signal.SIGKILL)
        self.status = -signal.SIGKILL
        _left.add(self._pid)
        os.close(self.reader)

    def end(self, number: signal.Signals) -> None:
        """Ask it to end."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)


def start_child(work: Callable[[Tell], None], *, keep: Collection[int] | None = None) -> Child:
    """Do ``work`` in a child process; it is given the means to tell us. The child ends with status 0 when it returns,
    with "cancelled" when it is interrupted, and with 1 when it raises anything else. With ``keep`` it holds nothing
    else open that we have: no lock, no connection outlives us in it. Raises Cancelled if no process can be made."""
    return Child(*fork_child(partial(_run_as_child, work, keep)))


def reap_left() -> None:
    """In a process that goes on: let those that were left behind, and have ended since, be gone."""
    for pid in list(_left):
        if os.waitpid(pid, os.WNOHANG)[0]:
            _left.remove(pid)


def wait_for_any(children: Sequence[Child], seconds: float) -> Iterator[Child]:
    """Those that have something to say or have ended, or are to be asked again whether they have, as soon as there are
    any; none when time is up."""
    poll = select.poll()
    ending = [child for child in children if child.is_ending]
    by_reader = {child.reader: child for child in children if child not in ending}
    for reader in by_reader:
        poll.register(reader, select.POLLIN | select.POLLHUP)
    seconds = min(seconds, _END_POLL_SECONDS) if ending else seconds
    for reader, _ in poll.poll(min(max(seconds, 0.0) * 1000, _POLL_MAX_MS)):
        yield by_reader[reader]
    yield from ending


def render_error(error: PghavenError) -> tuple[str, str, str | None, str | None]:
    """An error as plain values."""
    return type(error).__name__, error.message, error.detail, error.hint


def parse_error(told: Sequence[Any]) -> PghavenError:
    """The inverse of ``render_error``."""
    name, message, detail, hint = told
    found: type[PghavenError] = getattr(errors, name)
    error = found.__new__(found)
    PghavenError.__init__(error, message, detail=detail, hint=hint)
    return error


def explain_end(child: Child) -> Exception:
    """Why a child told nothing before its end."""
    status = child.status or 0
    if status == Cancelled.exit_status:
        return Cancelled("the process that did the work was interrupted")
    if status < 0:
        return Cancelled(f"the process that did the work was ended by {signal.Signals(-status).name}")
    return ChildTrouble(f"the process that did the work failed with status {status}\n{child.trace or ''}")


class ChildTrouble(Exception):
    """A process ended by a bug; the text holds its trace."""


def _close_all_but(keep: Collection[int]) -> None:
    following = 3
    for descriptor in (*sorted(keep), os.sysconf("SC_OPEN_MAX")):
        os.closerange(following, descriptor)
        following = descriptor + 1


def _run_as_child(work: Callable[[Tell], None], keep: Collection[int] | None, writer: int) -> None:
    global _writer  # noqa: PLW0603  there is one for each process
    status = 1

    def tell(message: Any) -> None:
        data = marshal.dumps(message)
        view = memoryview(_LENGTH.pack(len(data)) + data)
        while view:
            view = view[os.write(writer, view) :]

    try:
        if _writer is not None:
            os.close(_writer)
        _writer = writer
        _left.clear()
        unblock_interrupts()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        if keep is not None:
            _close_all_but({writer, *keep})
        work(tell)
        status = 0
    except KeyboardInterrupt:
        status = Cancelled.exit_status  # whoever interrupted us is answered by our parent
    except BaseException:  # noqa: BLE001  the root of a process
        import traceback

        tell(traceback.format_exc())
    finally:
        os._exit(status)
