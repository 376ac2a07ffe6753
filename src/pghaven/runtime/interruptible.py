"""Calls into compiled code that would not let an interrupt through.

The one idea: Python looks at signals between its own instructions, in the main thread. So there a call that blocks
outside of Python is made by another thread, and the main thread waits for it in Python.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class _Call(Generic[Result]):
    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self._done = threading.Event()
        self._failure: BaseException | None = None
        self._result: list[Result] = []

    def run(self) -> None:
        try:
            self._result.append(self._call())
        except BaseException as error:  # noqa: BLE001  the root of a thread; raised again by whoever waits
            self._failure = error
        finally:
            self._done.set()

    def wait(self) -> Result:
        self._done.wait()
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                # It holds this frame, and so all callers' with what they hold, which may be a WAL segment of 1 GiB:
                # in a circle they would stay until somebody looks for circles.
                self._failure = None
        return self._result[0]


def call_interruptibly(call: Callable[[], Result]) -> Result:
    """What ``call`` returns or raises; KeyboardInterrupt, and what else a signal handler raises, comes through at once.

    An interrupted call goes on in its thread, unheard. Only the main thread gets signals; others call directly.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    made = _Call(call)
    threading.Thread(target=made.run, daemon=True).start()
    return made.wait()
