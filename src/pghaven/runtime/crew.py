"""Worker processes for CPU-heavy pipelines: the authority on how they start, get work, fail and end.

The one idea: a crew is a block. Inside it jobs go to workers and results come back, a few in flight and never more;
when the block is left, for whatever reason, no worker is left either. The first failure stops the rest and is raised
in the caller as the error it was.

Workers are fresh interpreters (never forked: threads and object-store clients do not survive a fork) that import what
their setup names and not, as multiprocessing's "spawn" would, the program's main module. So a program needs no
``if __name__ == "__main__"`` guard, and workers are ready sooner: two in 30 ms where "spawn" takes 60 and more.
"""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Generic, Protocol, TypeVar, cast

from pghaven.errors import Cancelled
from pghaven.runtime.channel import Channel, Kind
from pghaven.runtime.shared import hold_shared
from pghaven.runtime.worker import GRACE_SECONDS

JOBS_IN_FLIGHT = 2  # for each worker: one at work and one waiting, so that it need not wait for us

QUIET_SECONDS = 1.0

Job = TypeVar("Job")
Result = TypeVar("Result")
Settings = TypeVar("Settings")
Job_contra = TypeVar("Job_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)

_START = (
    "import os, sys; os.setpriority(os.PRIO_PROCESS, 0, int(sys.argv[2])); sys.path[:] = sys.argv[3:]; "
    "from pghaven.runtime.worker import serve; serve(int(sys.argv[1]))"
)


class NotYet:
    """What a source of jobs gives while it has none and will have more."""


NOT_YET = NotYet()


def _do_nothing() -> None:
    pass


class Worker(Protocol[Job_contra, Result_co]):
    """What ``setup`` makes in each worker process."""

    def __call__(self, job: Job_contra, /) -> Result_co:
        """Do one job."""

    def close(self) -> Result_co | None:
        """Called once, after the last job; what it returns is delivered as one more result, unless None."""


class Crew(Generic[Job, Result]):
    """``size`` workers, each holding what ``setup(settings)`` returned in it.

        with Crew(size=2, setup=make_packer, settings=settings) as crew:
            crew.run(jobs, on_result)

    ``setup`` must be importable by its module's name (one of the main module is not); settings, jobs, results and
    errors must be picklable. A job or result that is ``bytes`` travels without pickling. Entering the block starts
    the workers and does not wait for them. They are as nice as this process, or ``nice`` where that is nicer. With
    ``size`` 0 the jobs are done in this process, one after another.
    """

    def __init__(
        self, *, size: int, setup: Callable[[Settings], Worker[Job, Result]], settings: Settings, nice: int = 0
    ) -> None:
        if size < 0:
            raise ValueError(f"a crew of {size}")
        self._size = size
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        self._nice = max(nice, ours) if nice else ours
        self._setup: Callable[[], Worker[Job, Result]] = partial(setup, settings)
        self._hands: list[_Hand] = []
        self._was_run = False

    def __enter__(self) -> Crew[Job, Result]:
        if self._size:
            setup = pickle.dumps(self._setup)
            try:
                for _ in range(self._size):
                    self._hands.append(_Hand(setup, self._nice))
            except BaseException:
                self._stop()
                raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._stop()

    def run(
        self,
        jobs: Iterator[Job | NotYet],
        on_result: Callable[[Result], None],
        on_quiet: Callable[[], None] = _do_nothing,
    ) -> None:
        """Have all jobs done and every worker closed. Once for each crew, inside its block.

        NOT_YET says that there is no job just now: results are taken, and jobs asked again at once, so whoever
        gives it waits a little before.

        ``jobs`` is pulled lazily and ``on_result`` called as results come, in whatever order, both in this thread;
        never more than two jobs a worker are between them. ``on_quiet`` is called, in this thread too, whenever
        nothing has come for a second. A worker that was not ready when the last job was given
        away may be ended without setup or close. Whatever fails first, in a worker, in ``jobs`` or in ``on_result``,
        ends all workers and is raised; Cancelled if a worker process died. An error from a worker that is no
        PghavenError carries the worker's traceback as a note. A worker ended at work runs its job's ``finally``
        blocks (SystemExit is raised in it) and has five seconds for that.
        """
        if self._was_run or len(self._hands) != self._size:
            raise RuntimeError("a crew runs once, inside its block")
        self._was_run = True
        try:
            if self._size:
                self._run_in_workers(jobs, on_result, on_quiet)
            else:
                self._run_here(jobs, on_result)
        finally:
            self._stop()

    def _run_here(self, jobs: Iterator[Job | NotYet], on_result: Callable[[Result], None]) -> None:
        worker = self._setup()
        for job in jobs:
            if not isinstance(job, NotYet):
                on_result(worker(job))
        last = worker.close()
        if last is not None:
            on_result(last)

    def _run_in_workers(
        self, jobs: Iterator[Job | NotYet], on_result: Callable[[Result], None], on_quiet: Callable[[], None]
    ) -> None:
        with selectors.DefaultSelector() as selector:
            for hand in self._hands:
                selector.register(hand.channel, selectors.EVENT_READ, hand)
            is_more, wait_seconds = True, QUIET_SECONDS
            while is_more or any(hand.is_closing for hand in self._hands):
                if is_more:
                    try:
                        wait_seconds = QUIET_SECONDS if self._hand_out(jobs) else 0.0
                    except StopIteration:
                        is_more, wait_seconds = False, QUIET_SECONDS
                        for hand in self._hands:
                            hand.finish()
                        continue
                for hand in self._hands:
                    if not hand.is_closed:
                        selector.modify(hand.channel, hand.interest, hand)
                ready = selector.select(wait_seconds)
                if not ready:
                    on_quiet()
                for key, events in ready:
                    hand = key.data
                    if events & selectors.EVENT_WRITE:
                        hand.flush()
                    result = hand.receive() if events & selectors.EVENT_READ else None
                    if hand.is_closed:
                        selector.unregister(hand.channel)
                    if result is not None:
                        on_result(cast("Result", result[0]))

    def _hand_out(self, jobs: Iterator[Job | NotYet]) -> bool:
        """Give jobs to the workers that have room, the idle ones first. False when there is none just now.

        Raises StopIteration when there are no more.

        None waits behind another while a worker is still starting: of two long jobs each worker gets one.
        """
        limit = JOBS_IN_FLIGHT if all(hand.is_ready for hand in self._hands) else 1
        while (hand := min(self._hands, key=_Hand.load)).load() < limit:
            job = next(jobs)
            if isinstance(job, NotYet):
                return False
            hand.give(job)
        return True

    def _stop(self) -> None:
        hands, self._hands = self._hands, []
        for hand in hands:
            hand.tell_to_stop()
        for hand in hands:
            hand.join()


class _Hand:
    """The crew's side of one worker process."""

    def __init__(self, setup: bytes, nice: int) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        with theirs:
            try:
                self._process = _start_process(theirs.fileno(), nice)
            except BaseException:
                self.channel.close()
                raise
        self.is_ready = False
        self.is_closing = False  # told to close, and has not answered yet
        self.is_closed = False
        self._in_flight = 0
        self._post(Kind.SETUP, setup)

    @property
    def interest(self) -> int:
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.channel.is_waiting else 0)

    def load(self) -> int:
        """The jobs given and not answered; a worker that is not ready yet counts as full."""
        return self._in_flight if self.is_ready else JOBS_IN_FLIGHT

    def give(self, job: object) -> None:
        self._post(Kind.JOB, job)
        self._in_flight += 1

    def finish(self) -> None:
        """Have the worker close after the jobs it has; one that is not ready has none and is left alone."""
        if self.is_ready:
            self.is_closing = True
            self._post(Kind.CLOSE, None)

    def flush(self) -> None:
        try:
            self.channel.flush()
        except (BrokenPipeError, ConnectionResetError):
            self.channel.discard()  # it is gone; what it said last is still to be received

    def receive(self) -> tuple[object] | None:
        """Take one message; a result as a tuple of one. Raises the worker's failure."""
        try:
            kind, value = self.channel.receive()
        except (EOFError, ConnectionResetError):
            raise self._died() from None
        if kind is Kind.FAILED:
            raise cast("Exception", value)
        if kind is Kind.READY:
            self.is_ready = True
            return None
        if kind is Kind.CLOSED:
            self.is_closing = False
            self.is_closed = True
            return None if value is None else (value,)
        self._in_flight -= 1
        return (value,)

    def tell_to_stop(self) -> None:
        if not self.is_closed:
            self._process.terminate()
        self.channel.close()

    def join(self) -> None:
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _post(self, kind: Kind, value: object) -> None:
        self.channel.post(kind, value)
        self.flush()

    def _died(self) -> Cancelled:
        self.join()
        status = self._process.returncode
        how = (
            f"was terminated by signal {-status}: {signal.strsignal(-status)}" if status < 0 else f"ended with {status}"
        )
        is_killed = status == -signal.SIGKILL
        return Cancelled(
            f"worker process {self._process.pid} {how}",
            hint="If memory ran out (the kernel's log says so), use fewer processes." if is_killed else None,
        )


def _start_process(descriptor: int, nice: int) -> subprocess.Popen[bytes]:
    """A fresh interpreter with our module path, and out of reach of the terminal's interrupts, which are ours."""
    isolation = "-I" if sys.flags.isolated else "-P"
    path = [entry for entry in sys.path if isinstance(entry, str)]
    shared = hold_shared()
    return subprocess.Popen(
        [
            sys.executable,
            isolation,
            *(f"-W{option}" for option in sys.warnoptions),
            "-c",
            _START,
            str(descriptor),
            str(nice),
            *path,
        ],
        pass_fds=[descriptor, *shared],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # what the program prints is not a worker's to mix into
        env={"OPENBLAS_NUM_THREADS": "1", **os.environ},  # one worker is one core
        process_group=0,
    )
