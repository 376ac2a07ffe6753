"""A process of its own that outlives whoever started it.

The one idea: it takes nothing along. Descriptors that it held would keep a pipe open that somebody reads to its end,
or a lock; a working directory could not be unmounted; and signals to its starter's group or session would end it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress

from pghaven.errors import Cancelled


def start_detached(work: Callable[[], None], keep: Collection[int] = ()) -> None:
    """Have a new process, in a session of its own and in ``/``, do ``work``. It inherits only the descriptors in
    ``keep``; what ``work`` raises ends it. Raises Cancelled if no process can be made.

    To be called before any thread or client of a store exists.
    """
    try:
        child = os.fork()
    except OSError as error:
        raise Cancelled(f"could not start a process: {error.strerror}") from error
    if child:
        os.waitpid(child, 0)
        return
    with suppress(BaseException):  # there is nobody to be told
        os.setsid()
        if os.fork() == 0:
            _let_go(keep)
            work()
    os._exit(0)


def _let_go(keep: Collection[int]) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    at = 3
    for kept in sorted(keep):
        os.closerange(at, kept)
        at = kept + 1
    os.closerange(at, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
