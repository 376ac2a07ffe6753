"""A directory as a store: the authority on which system calls, in which order, make an object durable and unique.

The one idea: an object comes into being by one link(2), which fails if the name is taken, of a temporary file whose
content is durable already. So a reader sees all of it or nothing, of many writers exactly one wins, and after a crash
there is a whole object, none, or a temporary file that no listing shows.

    open O_EXCL → write → fsync → close → link → unlink the temporary → fsync the directory → only now "done"

Every name is looked up in a directory opened for it: on NFS that makes the client ask the server, where by a path or a
descriptor kept open it would go on repeating "not there" from its cache (close-to-open).

Directories are made on demand and removed with their last object (``tree``). On NFS one that another process removes
turns stale under our descriptor (ESTALE). That proves nothing absent: the whole call is made again from the root, and
a listing goes on behind the last name it gave.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from pghaven.errors import (
    Damaged,
    NotPermitted,
    ObjectExists,
    ObjectMissing,
    PghavenError,
    Refused,
    StoreFull,
    StoreUnreachable,
)
from pghaven.light import dataclass
from pghaven.runtime.direct import write_new
from pghaven.runtime.durable import OwnerOf, fsync_directory
from pghaven.store import tree
from pghaven.store.api import Buffers, ObjectInfo, check_name, check_prefix
from pghaven.units import since_epoch

FILE_MODE = 0o640

_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OBJECT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a FIFO must not block
_TEMPORARY = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_PERMITTED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_ABSENT = (FileNotFoundError, NotADirectoryError)  # below a root that is there; see PosixStore._root
_CHECK_MOUNT = "Check that its file system is mounted."
_MAX_ATTEMPTS = 100  # each lost to a process that removes the empty directory at that very moment

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class _Stale(Exception):
    """A directory or file was removed under our descriptor; it does not leave this module."""


def _again_when_stale(
    method: Callable[Concatenate[PosixStore, Arguments], Result],
) -> Callable[Concatenate[PosixStore, Arguments], Result]:
    @wraps(method)
    def repeated(self: PosixStore, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        for _ in range(_MAX_ATTEMPTS):
            with suppress(_Stale):
                return method(self, *args, **kwargs)
        raise self._always_stale()

    return repeated


@dataclass(frozen=True, slots=True, kw_only=True)
class PosixStore:
    """The objects below one directory, on a local or network file system that has link(2) or renameat2(2).

    Remembers which directory it opened (device and inode). When another one appears at that path, as when a disk is
    unmounted and its empty mount point remains, every call raises StoreUnreachable: that is no proof of absence.
    Symbolic links below the root are never followed (Refused). As root, what it makes gets the root directory's owner.
    """

    url: str
    root: str
    device: int
    inode: int

    @classmethod
    def open(cls, url: str, root: str) -> PosixStore:
        """The store in an existing directory. Raises StoreUnreachable if there is none, NotPermitted."""
        try:
            status = os.stat(root)
        except OSError as error:
            raise _translated(error, f"could not open {url}") from error
        if not stat.S_ISDIR(status.st_mode):
            raise StoreUnreachable(f'could not open {url}: "{root}" is not a directory')
        return cls(url=url, root=root, device=status.st_dev, inode=status.st_ino)

    @_again_when_stale
    def create(self, name: str, content: Buffers) -> None:
        *above, base = check_name(name).split("/")
        with self._reported("create", name):
            directory, temporary, descriptor, owner = self._open_temporary(above, base)
            try:
                try:
                    _fill(descriptor, content, owner)
                    tree.link_if_absent(directory, temporary, base)
                except BaseException:
                    with suppress(OSError):  # the failure that led here is the one to report
                        os.unlink(temporary, dir_fd=directory)
                    raise
                with suppress(FileNotFoundError):  # where there are no hard links it was renamed
                    os.unlink(temporary, dir_fd=directory)
                fsync_directory(directory)
            finally:
                os.close(directory)

    @_again_when_stale
    def read(self, name: str) -> bytes:
        with self._object(name) as (descriptor, size):
            content = _read_fully(descriptor, 0, size)
        if len(content) != size:
            raise Damaged(f'"{name}" in {self.url} ends at byte {len(content)} of {size}')
        return content

    @_again_when_stale
    def read_range(self, name: str, offset: int, length: int) -> bytes:
        with self._object(name) as (descriptor, _):
            content = _read_fully(descriptor, offset, length)
        if len(content) != length:
            raise Damaged(f'"{name}" in {self.url} ends before byte {offset + length}')
        return content

    @_again_when_stale
    def find(self, name: str) -> ObjectInfo | None:
        *above, base = check_name(name).split("/")
        with self._reported("find", name):
            try:
                with self._directory(above) as directory:
                    status = os.stat(base, dir_fd=directory, follow_symlinks=False)
            except _ABSENT:
                return None
            tree.refuse_link(status, base)
        return _info(name, status) if stat.S_ISREG(status.st_mode) else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._list(check_prefix(prefix))

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        last = ""
        attempts = 0
        while attempts < _MAX_ATTEMPTS:
            attempts += 1
            try:
                for info in self._list_once(prefix):
                    if info.name > last:
                        last, attempts = info.name, 0
                        yield info
                return
            except _Stale:
                continue
        raise self._always_stale()

    def _list_once(self, prefix: str) -> Iterator[ObjectInfo]:
        above = prefix.split("/")[:-1]
        with self._reported("list", prefix), suppress(*_ABSENT), self._directory(above) as directory:
            for name, status in tree.walk(directory, prefix):
                yield _info(name, status)

    def _always_stale(self) -> StoreUnreachable:
        return StoreUnreachable(f"could not use {self.url}: what is opened there turns stale each time")

    @_again_when_stale
    def list_children(self, prefix: str) -> tuple[str, ...]:
        above = check_prefix(prefix).split("/")[:-1]
        with self._reported("list", prefix), suppress(*_ABSENT), self._directory(above) as directory:
            return tuple(tree.children(directory))
        return ()

    @_again_when_stale
    def confirm(self, name: str) -> None:
        above = check_name(name).split("/")[:-1]
        with self._object(name, "confirm") as (descriptor, _), self._root() as (root, owner):
            os.fsync(descriptor)
            directory = tree.open_settled(root, above, make=False, owner=owner)
            try:
                fsync_directory(directory)
            finally:
                os.close(directory)

    @_again_when_stale
    def delete(self, name: str) -> None:
        *above, base = check_name(name).split("/")
        with self._reported("delete", name), self._root() as (root, _):
            try:
                with self._directory(above) as directory:
                    os.unlink(base, dir_fd=directory)
            except (*_ABSENT, IsADirectoryError):
                return
            tree.remove_empty(root, above)

    @_again_when_stale
    def free_bytes(self) -> int | None:
        with self._reported("examine", ""), self._root() as (root, _):
            status = os.fstatvfs(root)
            return status.f_bavail * status.f_frsize

    @_again_when_stale
    def remove_leftovers(self, before: datetime) -> int:
        """Remove the temporary files that writers who died have left; returns the bytes set free.

        ``before`` must leave the slowest living writer time; one that loses its file fails and has created nothing.
        """
        with self._reported("clean up", ""), self._root() as (root, _):
            return tree.remove_leftovers(root, before.timestamp())

    @contextmanager
    def _root(self) -> Iterator[tuple[int, OwnerOf]]:
        """The root directory, proven to be the one that was opened. Without it nothing is proven absent."""
        try:
            descriptor = os.open(self.root, _ROOT)
        except PermissionError as error:
            raise _translated(error, f"could not use {self.url}") from error
        except OSError as error:
            raise StoreUnreachable(f"could not use {self.url}: {error.strerror}", hint=_CHECK_MOUNT) from error
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != (self.device, self.inode):
                raise StoreUnreachable(
                    f'could not use {self.url}: another directory is at "{self.root}" now',
                    hint=_CHECK_MOUNT,
                )
            yield descriptor, OwnerOf(uid=status.st_uid, gid=status.st_gid)
        finally:
            os.close(descriptor)

    @contextmanager
    def _directory(self, parts: Sequence[str]) -> Iterator[int]:
        with self._root() as (root, _):
            directory = tree.open_below(root, parts)
        try:
            yield directory
        finally:
            os.close(directory)

    @contextmanager
    def _object(self, name: str, action: str = "read") -> Iterator[tuple[int, int]]:
        """An existing object as (descriptor, size). Raises ObjectMissing."""
        *above, base = check_name(name).split("/")
        with self._reported(action, name):
            try:
                with self._directory(above) as directory:
                    descriptor = os.open(base, _OBJECT, dir_fd=directory)
            except _ABSENT as error:
                raise ObjectMissing(f'"{name}" does not exist in {self.url}') from error
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ObjectMissing(f'"{name}" in {self.url} is not a regular file')
                yield descriptor, status.st_size
            finally:
                os.close(descriptor)

    def _open_temporary(self, above: Sequence[str], base: str) -> tuple[int, str, int, OwnerOf]:
        """The directory, made if need be, and a new temporary file in it: (directory, its name, descriptor, owner).

        If ``base`` is taken already, this says so before anything is written, also on a full disk.
        """
        for _ in range(_MAX_ATTEMPTS):
            with self._root() as (root, owner), suppress(FileNotFoundError):
                directory = tree.open_settled(root, above, make=True, owner=owner)
                temporary = tree.TEMPORARY_PREFIX + os.urandom(8).hex()
                try:
                    tree.refuse_existing(directory, base)
                    return directory, temporary, os.open(temporary, _TEMPORARY, 0o600, dir_fd=directory), owner
                except BaseException:
                    os.close(directory)
                    raise
        raise StoreUnreachable(f'could not keep the directory "{"/".join(above)}" in {self.url}: it goes on vanishing')

    @contextmanager
    def _reported(self, action: str, name: str) -> Iterator[None]:
        """The only place where the system's errors become ours."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise _Stale from error
            what = f'"{name}" in {self.url}' if name else self.url
            raise _translated(error, f"could not {action} {what}") from error


def _fill(descriptor: int, content: Buffers, owner: OwnerOf) -> None:
    """Write all, make it durable, close. A failed fsync or close is final: what was written is thrown away."""
    try:
        write_new(descriptor, content)
        owner.give(descriptor)
        tree.set_mode(descriptor, FILE_MODE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_fully(descriptor: int, offset: int, length: int) -> bytes:
    """``length`` bytes from ``offset``, or fewer if the file ends before."""
    first = os.pread(descriptor, length, offset)
    if len(first) == length:
        return first
    chunks = [first]
    done = len(first)
    while done < length and (chunk := os.pread(descriptor, length - done, offset + done)):
        chunks.append(chunk)
        done += len(chunk)
    return b"".join(chunks)


def _info(name: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name=name, size_bytes=status.st_size, modified=since_epoch(status.st_mtime))


def _translated(error: OSError, text: str) -> PghavenError:
    message = f"{text}: {error.strerror}"
    if error.errno in _NO_SPACE:
        return StoreFull(
            f"{text}: no space left ({error.strerror})", hint="Free space on its file system, or raise the quota."
        )
    if error.errno == errno.EROFS:
        return NotPermitted(message, hint="Its file system is mounted read-only.")
    if error.errno in _NOT_PERMITTED:
        return NotPermitted(message, hint="Run this as the user who owns the directory, or give it to that user.")
    if error.errno == errno.ELOOP:
        return Refused(f"{text}: a symbolic link is in the way, and none is followed")
    if error.errno == errno.EEXIST:
        return ObjectExists(f"{text}: it exists already")
    if error.errno == errno.EISDIR:
        return Refused(f"{text}: it is a prefix of other objects")
    if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):
        return Refused(f"{text}: {error.strerror}")
    return StoreUnreachable(message)
