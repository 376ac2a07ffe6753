"""A second thread that does one piece of work while its owner does another.

The one idea: a process that is started for one file has no time to load and set up a crew of workers. So this is a
thread and two locks, on what every interpreter has in it; it helps where both pieces of work let go of the interpreter
(compression, hashing). Fork before, never while one is at work.
"""

from __future__ import annotations

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Beside:
    """``begin`` one piece of work, do another, then ``finish``: what the first returned, or what it raised. A block;
    its end waits for what was begun."""

    def __init__(self) -> None:
        self._work: Callable[[], Any] | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        self._wanted, self._done = _thread.allocate_lock(), _thread.allocate_lock()
        self._wanted.acquire()
        self._done.acquire()
        self._is_begun = False

    def __enter__(self) -> Beside:
        _thread.start_new_thread(self._run, ())
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_begun:
            self._done.acquire()
        self._work = None
        self._wanted.release()
        self._done.acquire()

    def begin(self, work: Callable[[], Any]) -> None:
        """Have ``work`` done by the thread; what was begun before must be finished."""
        assert not self._is_begun
        self._work, self._is_begun = work, True
        self._wanted.release()

    def finish(self) -> Any:
        """Wait for what was begun. Raises what it raised."""
        self._done.acquire()
        self._is_begun = False
        error, result, self._error, self._result = self._error, self._result, None, None
        if error is not None:
            raise error
        return result

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            work = self._work
            if work is None:
                self._done.release()
                return
            try:
                self._result = work()
            except BaseException as error:  # noqa: BLE001  it is raised where the work is finished
                self._error = error
            self._done.release()
