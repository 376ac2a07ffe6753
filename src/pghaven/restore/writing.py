"""What goes on around the writing of a restore's target, for as long as it is written.

The one idea: nobody else of us writes there meanwhile, the disk does not wait until all is unpacked, and what the
system refuses is told as what it means; of what it could not write it tells once, so that is remembered.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

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


class Disks:
    """The file systems of some directories, held open from before the first write on, so that each tells of a write
    that failed, also when somebody else has heard of it. Once one did, nothing there can be trusted any more."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._open: dict[str, int] = {}
        self._failure: OSError | None = None
        try:
            for path in paths:
                self._open[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise

    def sync(self) -> None:
        """Make everything durable. Raises OSError with the path, again once it has."""
        for path, descriptor in self._open.items():
            self.require_whole()
            try:
                sync_filesystem(descriptor)
            except OSError as error:
                self._failure = OSError(error.errno, error.strerror, path)
        self.require_whole()

    def require_whole(self) -> None:
        """Raises OSError where a write is known to have failed."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


@contextmanager
def flushing(disks: Disks) -> Iterator[None]:
    """Have the disks write while the workers unpack, instead of all at the end."""
    stop = threading.Event()

    def flush() -> None:
        with suppress(OSError):  # the next to look is told
            while not stop.wait(_FLUSH_SECONDS):
                disks.sync()

    thread = threading.Thread(target=flush, name="flush", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
