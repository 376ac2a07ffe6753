"""The inside of a worker process of a ``crew``.

The one idea: a worker serves until it is told to close, told to stop (SIGTERM), or alone. Once it is ready, stopping is
an exception in the main thread, so that what a job has begun is cleaned up by the job's own ``finally``. One that can
prepare for jobs (``Foresees``) is told of each when it comes, while the one before it is at work.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import NoReturn, Protocol, runtime_checkable

from pghaven.errors import PghavenError
from pghaven.runtime.channel import Channel, Kind

GRACE_SECONDS = 5.0  # from being told to stop to being ended without asking


@runtime_checkable
class Foresees(Protocol):
    """A worker that can do something for a job before its turn."""

    def foresee(self, job: object, /) -> None:
        """Called once with each job, in their order, in another thread; must not wait for the job at work."""


def serve(descriptor: int) -> None:
    """Do what comes over this socket, then end the process. The main function of a worker process.

    What was closed has nothing left to do, and taking an interpreter apart costs as much as half of what it has loaded.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the crew decides what an interrupt means
    os.set_inheritable(descriptor, False)
    connection = socket.socket(fileno=descriptor)
    threading.Thread(target=_end_when_alone, args=(descriptor,), name="pghaven-alone", daemon=True).start()
    channel = Channel(connection)
    try:
        _work(channel)
    except Exception as error:  # noqa: BLE001 the root of a worker: whatever it is, the crew raises it
        with suppress(OSError):  # nobody is left to hear it
            channel.send(Kind.FAILED, _presentable(error))
        raise SystemExit(1) from None
    try:
        sys.stderr.flush()
    finally:
        os._exit(0)


def _work(channel: Channel) -> None:
    _, setup = _receive(channel)
    worker = pickle.loads(setup)()  # type: ignore[arg-type]  # noqa: S301 our own parent sent it
    signal.signal(signal.SIGTERM, _leave)  # not before: an exception amid imports may be lost in their callbacks
    channel.send(Kind.READY, None)
    receive = _receive_ahead(channel, worker) if isinstance(worker, Foresees) else lambda: _receive(channel)
    while True:
        kind, job = receive()
        if kind is Kind.CLOSE:
            break
        channel.send(Kind.RESULT, worker(job))
    last = worker.close()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing is left to be stopped
    channel.send(Kind.CLOSED, last)


def _receive(channel: Channel) -> tuple[Kind, object]:
    try:
        return channel.receive()
    except (EOFError, ConnectionResetError):
        raise SystemExit(1) from None


def _receive_ahead(channel: Channel, worker: Foresees) -> Callable[[], tuple[Kind, object]]:
    """Receive in another thread, and tell the worker of each job there; what it returns gives the next message."""
    messages: SimpleQueue[tuple[Kind, object] | BaseException] = SimpleQueue()

    def receive() -> None:
        try:
            kind = Kind.JOB
            while kind is not Kind.CLOSE:
                kind, job = _receive(channel)
                if kind is Kind.JOB:
                    worker.foresee(job)
                messages.put((kind, job))
        except BaseException as error:  # noqa: BLE001  the root of a thread; raised again by whoever takes messages
            messages.put(error)

    def take() -> tuple[Kind, object]:
        message = messages.get()
        if isinstance(message, BaseException):
            raise message
        return message

    threading.Thread(target=receive, name="pghaven-jobs", daemon=True).start()
    return take


def _leave(_signal: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, so that cleaning up is not itself interrupted
    raise SystemExit(128 + signal.SIGTERM)


def _end_when_alone(descriptor: int) -> None:
    """Wait, in a thread of its own, until the crew's end is closed, which the kernel does when that process dies.

    Not prctl(PR_SET_PDEATHSIG): that fires when the *thread* that started us ends, and it leaves no time to clean up.
    """
    poller = select.poll()
    poller.register(descriptor, select.POLLHUP | select.POLLRDHUP)
    poller.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_SECONDS)
    os._exit(1)


def _presentable(error: Exception) -> Exception:
    """The error as it can cross to the crew; one that is not ours takes its traceback along as a note."""
    if not isinstance(error, PghavenError):
        error.add_note(f"in worker process {os.getpid()}:\n" + "".join(traceback.format_exception(error)).rstrip())
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 our own
    except Exception:  # noqa: BLE001 an error's own pickling may fail in any way
        substitute = RuntimeError(repr(error))
        substitute.__notes__ = list(getattr(error, "__notes__", ()))
        return substitute
    return error
