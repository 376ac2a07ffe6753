"""What goes on around the writing of a restore's target, for as long as it is written.

The one idea: nobody else of us writes there meanwhile, the disk does not wait until all is unpacked, and what the
system refuses is told as what it means.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pghaven.errors import Locked
from pghaven.restore.request import RestorePlan
from pghaven.restore.targetfiles import writing_error
from pghaven.runtime.durable import sync_filesystem

_FLUSH_SECONDS = 1.0


@contextmanager
def reported(target: str) -> Iterator[None]:
    """Failures of the system while the target is written, as ours."""
    try:
        yield
    except OSError as error:
        raise writing_error(error, str(error.filename or target)) from error


@contextmanager
def reserved(plan: RestorePlan) -> Iterator[None]:
    """Keep others of us away from the target; ends with the process, however it ends. Raises Locked."""
    target = plan.request.target_dir
    with reported(target):
        os.makedirs(target, 0o700, exist_ok=True)
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f'another restore is at work in "{target}"', hint="Wait for it to end, or choose another directory."
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


@contextmanager
def flushing(plan: RestorePlan) -> Iterator[None]:
    """Have the disk write while the workers unpack, instead of all at the end."""
    stop = threading.Event()

    def flush() -> None:
        while not stop.wait(_FLUSH_SECONDS):
            for root in plan.roots:
                sync_filesystem(root.path)

    thread = threading.Thread(target=flush, name="flush", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
