"""Durable files: the authority on what must be flushed, and when, before something may be called written.

The one idea: a file is durable after its own fsync *and* that of the directory naming it, and a failed fsync is never
tried again on the same descriptor, because the kernel has then forgotten what it could not write (the kernel's
"fsyncgate"; PostgreSQL panics for the same reason, ``data_sync_elevel`` in src/backend/storage/file/fd.c). So nothing
here retries: the caller discards what it wrote and writes it anew.

Everything here raises plain OSError; whoever knows what the file was for says so.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from pghaven.light import dataclass

Buffer = bytes | bytearray | memoryview

_BUFFERS_PER_CALL = os.sysconf("SC_IOV_MAX")
_NO_DIRECTORY_SYNC = frozenset({errno.EBADF, errno.EINVAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerOf:
    """The user and group a file belongs to, so that root can leave new files to those who will use them.

    ``OwnerOf.path(directory).give(descriptor)`` does nothing unless the process is root and the owner differs.
    """

    uid: int
    gid: int

    @classmethod
    def path(cls, path: str | int) -> OwnerOf:
        """The owner of a path (symbolic links followed) or of an open descriptor."""
        status = os.stat(path)
        return cls(uid=status.st_uid, gid=status.st_gid)

    def give(self, target: str | int) -> None:
        """Make this the owner of a path (a symbolic link itself, not its target) or of an open descriptor."""
        if os.geteuid() != 0:
            return
        status = os.fstat(target) if isinstance(target, int) else os.lstat(target)
        if (status.st_uid, status.st_gid) == (self.uid, self.gid):
            return
        if isinstance(target, int):
            os.fchown(target, self.uid, self.gid)
        else:
            os.lchown(target, self.uid, self.gid)


def write_fully(descriptor: int, buffers: Sequence[Buffer]) -> int:
    """Write all buffers in order, however short the kernel's single writes are; returns the bytes written."""
    views = [memoryview(buffer).cast("B") for buffer in buffers if memoryview(buffer).nbytes]
    total = 0
    first = 0
    while first < len(views):
        written = os.writev(descriptor, views[first : first + _BUFFERS_PER_CALL])
        total += written
        while first < len(views) and written >= views[first].nbytes:
            written -= views[first].nbytes
            first += 1
        if written:
            views[first] = views[first][written:]
    return total


def fsync_directory(directory: str | int) -> None:
    """Make a directory's entries durable. ``directory`` is a path or an open descriptor.

    File systems that cannot flush a directory at all say EBADF or EINVAL, which is passed over as PostgreSQL does
    (``fsync_fname_ext`` in src/common/file_utils.c); every other failure is raised.
    """
    descriptor = directory if isinstance(directory, int) else os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        if not isinstance(directory, int):
            os.close(descriptor)


def write_durably(path: str, data: Buffer | Sequence[Buffer], mode: int = 0o640, owner: OwnerOf | None = None) -> None:
    """Put a file in place, replacing any other, so that after a crash the path holds the old content or the new.

    Durable when it returns. Never writes through a symbolic link: one at ``path`` is replaced by the file.
    """
    buffers = [data] if isinstance(data, bytes | bytearray | memoryview) else data
    directory = os.path.dirname(path) or "."
    temporary = os.path.join(directory, f".{os.path.basename(path)[:200]}.{os.urandom(6).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_fully(descriptor, buffers)
            if owner is not None:
                owner.give(descriptor)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):  # the failure that led here is the one to report
            os.unlink(temporary)
        raise
    fsync_directory(directory)


def make_directories_durably(path: str, mode: int = 0o750, owner: OwnerOf | None = None) -> None:
    """Make a directory and what is missing above it; their names are durable when it returns. Existing is fine."""
    missing: list[str] = []
    current = os.path.abspath(path)
    while not os.path.isdir(current):
        missing.append(current)
        current = os.path.dirname(current)
    for directory in reversed(missing):
        try:
            os.mkdir(directory, mode)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(directory).st_mode):
                raise
        else:
            os.chmod(directory, mode)
            if owner is not None:
                owner.give(directory)
        fsync_directory(os.path.dirname(directory))


def sync_filesystem(place: str | int) -> None:
    """Make everything durable that was written to the file system holding ``place`` (a file or directory).

    syncfs(2) where the C library has it; otherwise all file systems are flushed, without a report. A write that failed
    is reported once to each descriptor that was open then, and to one that was opened later only if nobody had asked
    before (Linux 5.8). So where anybody may ask, ``place`` is a descriptor from before the first write.
    """
    import ctypes  # here, because this alone needs it and it costs 3 ms

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    descriptor = place if isinstance(place, int) else os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), place if isinstance(place, str) else None)
    finally:
        if not isinstance(place, int):
            os.close(descriptor)
