"""A hard limit on the time a command takes: the work is done by a child that can be left behind.

The one idea: a process that hangs in the kernel (a frozen file system, a dead disk, a mount whose server is gone)
cannot end itself, and its parent waits for it. So whoever PostgreSQL waits for must not touch the store: it forks
before anything else, and when the time is up it kills the child and goes, whether or not the child can die.

Forking is safe here because it happens before any thread or any client of a store exists.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import Cancelled

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_SECONDS = 2.0
_REAP_SECONDS = 0.001
_POLL_MAX_MS = (1 << 31) - 1


def run_within(seconds: float, work: Callable[[], int], report: Callable[[BaseException], int]) -> int | None:
    """Do ``work`` in a child process; its exit status, or minus the signal that ended it; None when time was up.

    What ``work`` raises becomes a status, in the child, by ``report``. When we are interrupted the child is asked to
    end, and given a moment to clean up. A child that is interrupted by itself ends with the status "cancelled".
    Raises Cancelled if no process can be made.
    """
    child, reader = fork_child(lambda _: end_as_child(work, report))
    try:
        unblock_interrupts()
        deadline = SYSTEM_CLOCK.monotonic() + seconds
        status = reap(child, deadline) if _has_ended(reader, seconds) else None
        if status is None:
            os.kill(child, signal.SIGKILL)
        return status
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        if not _has_ended(reader, _GRACE_SECONDS):
            os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(reader)


def fork_child(run: Callable[[int], None]) -> tuple[int, int]:
    """Have a child process ``run``, which must not return; its process id, and the end of a pipe to read from. ``run``
    is given the end to write to, which the child holds for as long as it lives.

    Interrupts are held back from here on, until the caller can end what it has started and unblocks them: one that
    came in between would leave a child that nobody ends. Raises Cancelled if no process can be made.
    """
    try:
        reader, writer = os.pipe()
    except OSError as error:
        raise Cancelled(f"could not start a process: {error.strerror}") from error
    signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        child = os.fork()
    except OSError as error:
        unblock_interrupts()
        os.close(reader)
        os.close(writer)
        raise Cancelled(f"could not start a process: {error.strerror}") from error
    if child == 0:
        os.close(reader)
        run(writer)
    os.close(writer)
    return child, reader


def unblock_interrupts() -> None:
    """Let interrupts come again after ``fork_child``, here or in the child."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)


def _has_ended(reader: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(reader, select.POLLHUP)
    return bool(poll.poll(min(seconds * 1000, _POLL_MAX_MS)))


def reap(child: int, deadline: float) -> int | None:
    """The status of a child that has let go of its pipe; None if it does not end, because closing what it had open
    hangs too."""
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if SYSTEM_CLOCK.monotonic() >= deadline:
            return None
        SYSTEM_CLOCK.sleep(_REAP_SECONDS)


def end_as_child(work: Callable[[], int], report: Callable[[BaseException], int]) -> None:
    """Do the work of this process, and end it with the status of that."""
    status = Cancelled.exit_status
    try:
        unblock_interrupts()
        status = work()
    except KeyboardInterrupt:
        pass  # whoever interrupted us is answered by our parent
    except BaseException as error:  # noqa: BLE001  the root of a process
        status = report(error)
    finally:
        os._exit(status)
