"""A wish to end, that whoever works for long looks at, and that wakes whoever waits.

The one idea: work that has something to bring to an end is not interrupted in the midst of it; it is asked, and asked
a second time it may be interrupted.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """One wish. ``fileno`` can be polled: it is readable once the wish was made."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self.is_requested = False

    def fileno(self) -> int:
        return self._reader

    def request(self) -> None:
        if not self.is_requested:
            self.is_requested = True
            os.write(self._writer, b"x")

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Signals that ask for an end make the wish; the second one interrupts. One that is ignored stays ignored."""
    stop = Stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_requested:
            raise KeyboardInterrupt(signal.Signals(number).name)
        stop.request()

    earlier = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in earlier.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        stop.close()
