"""The target's files and directories as a restore reaches them: below what it opened itself, never through a link.

The one idea: a path is opened component by component without following links below a root, so nothing outside the
target is ever read, written or removed, whatever a manifest says and whatever somebody lays in the way meanwhile.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass

from pghaven.errors import NotPermitted, Refused, TargetFailed

OPEN_FILES_MAX = 128
_PARTS_PER_CALL = os.sysconf("SC_IOV_MAX")
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class FileTarget:
    """A file as a worker writes it. ``uid`` is -1 to leave the owner alone. ``content_hash`` is the beginning of the
    hash of all it is to hold; empty when that is not known."""

    directory: str
    name: bytes
    size: int
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    content_hash: bytes = b""

    @property
    def path(self) -> str:
        """Relative to the data directory, for messages."""
        return f"{self.directory}/{os.fsdecode(self.name)}"


class Directories:
    """Open directories below the roots of a restore, reached without following any link below a root."""

    def __init__(self, roots: tuple[tuple[str, str], ...]) -> None:
        self._roots = dict(roots)
        self._open: OrderedDict[str, int] = OrderedDict()

    def open(self, relative: str) -> int:
        """A descriptor of the directory; it stays open until ``close`` or until many others were opened."""
        fd = self._open.get(relative)
        if fd is None:
            if len(self._open) >= OPEN_FILES_MAX:
                _, oldest = self._open.popitem(last=False)
                os.close(oldest)
            fd = self._open[relative] = self._reach(relative)
        else:
            self._open.move_to_end(relative)
        return fd

    def _reach(self, relative: str) -> int:
        root = self._roots.get(relative)
        if root is not None:
            return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        parent, _, name = relative.rpartition("/")
        above = self._reach(parent)
        try:
            return os.open(name, _DIRECTORY_FLAGS, dir_fd=above)
        finally:
            os.close(above)

    def make(self, relative: str, mode: int, owner: tuple[int, int], *, exist_ok: bool = False) -> None:
        """Make one directory; its parent exists. Roots, and with ``exist_ok`` others that exist already, only get their
        mode and owner (uid and gid, -1 to leave them alone)."""
        if relative not in self._roots:
            parent, _, name = relative.rpartition("/")
            above = self._reach(parent)
            try:
                os.mkdir(name, mode, dir_fd=above)
            except FileExistsError:
                if not exist_ok:
                    raise
            finally:
                os.close(above)
        fd = self._reach(relative)
        try:
            os.fchmod(fd, mode)
            if owner[0] >= 0:
                os.fchown(fd, *owner)
        finally:
            os.close(fd)

    def close(self) -> None:
        while self._open:
            _, fd = self._open.popitem()
            os.close(fd)


def write_at(fd: int, offset: int, parts: list[memoryview]) -> None:
    """Write parts that follow one another in a file, in as few calls as possible."""
    while parts:
        done = os.pwritev(fd, parts[:_PARTS_PER_CALL], offset)
        offset += done
        while parts and done >= len(parts[0]):
            done -= len(parts[0])
            parts = parts[1:]
        if done:
            parts = [parts[0][done:], *parts[1:]]


def settle(fd: int, file: FileTarget) -> None:
    """Give a finished file its owner and its time."""
    if file.uid >= 0:
        os.fchown(fd, file.uid, file.gid)
    os.utime(fd, ns=(file.mtime_ns, file.mtime_ns))


def writing_error(error: OSError, path: str) -> Exception:
    """Our error for a failed write into the target."""
    if isinstance(error, PermissionError):
        return NotPermitted(f'could not write "{path}": permission denied')
    if isinstance(error, FileExistsError):
        return Refused(f'"{path}" exists already', hint="Somebody else is writing into the target directory.")
    return TargetFailed(
        f'could not write "{path}": {error.strerror}',
        hint="The restore is not finished and the directory cannot be started. Make room or mend the disk, "
        "then run the same command again.",
    )
