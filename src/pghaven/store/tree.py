"""Directories of a posix store, entered one by one: the authority on walking, making, listing and removing them.

The one idea: every step starts from an open descriptor and follows no symbolic link, so nothing below the root can
lead out of it, and what was checked is what is used. A directory we make carries the sticky bit until its own name is
durable. A process that finds it without the bit may rely on it; one that finds the bit flushes the name itself.

Raises plain OSError (ELOOP for a symbolic link); ``posix`` turns it into ours.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from pghaven.runtime.durable import OwnerOf, fsync_directory
from pghaven.store.api import is_name_part

DIRECTORY_MODE = 0o750
TEMPORARY_PREFIX = ".tmp-"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
_RENAME_NOREPLACE = 1


def open_below(root: int, parts: Sequence[str]) -> int:
    """A descriptor of the directory ``parts`` below an open root. Raises FileNotFoundError, NotADirectoryError."""
    current = os.dup(root)
    for part in parts:
        try:
            deeper = enter(current, part)
        finally:
            os.close(current)
        current = deeper
    return current


def open_settled(root: int, parts: Sequence[str], *, make: bool, owner: OwnerOf) -> int:
    """As ``open_below``, but the names of all directories on the way are durable; with ``make`` they are made.

    Raises FileNotFoundError also when another process removed, just now, a directory that was empty.
    """
    current = os.dup(root)
    for part in parts:
        try:
            deeper = _enter_or_make(current, part) if make else enter(current, part)
            try:
                _settle(current, deeper, owner)
            except BaseException:
                os.close(deeper)
                raise
        finally:
            os.close(current)
        current = deeper
    return current


def enter(parent: int, part: str) -> int:
    """A descriptor of a directory directly below an open one. Raises ELOOP if it is a symbolic link."""
    try:
        return os.open(part, _DIRECTORY, dir_fd=parent)
    except NotADirectoryError:
        refuse_link(os.stat(part, dir_fd=parent, follow_symlinks=False), part)
        raise


def refuse_link(status: os.stat_result, part: str) -> None:
    """Raise ELOOP if this is the status of a symbolic link."""
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), part)


def refuse_existing(directory: int, name: str) -> None:
    """Raise FileExistsError if there is anything of this name, IsADirectoryError if it is a directory."""
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        number = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EEXIST
        raise OSError(number, os.strerror(number), name)


def _enter_or_make(parent: int, part: str) -> int:
    try:
        return enter(parent, part)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(part, DIRECTORY_MODE | stat.S_ISVTX, dir_fd=parent)
        return enter(parent, part)


def _settle(parent: int, directory: int, owner: OwnerOf) -> None:
    if os.fstat(directory).st_mode & stat.S_ISVTX:
        owner.give(directory)
        fsync_directory(parent)
        set_mode(directory, DIRECTORY_MODE)


def set_mode(descriptor: int, mode: int) -> None:
    """fchmod, passed over where the file belongs to somebody else or the file system knows no modes (both EPERM)."""
    with suppress(PermissionError):
        os.fchmod(descriptor, mode)


def link_if_absent(directory: int, temporary: str, name: str) -> None:
    """Give a file its final name, or raise as ``refuse_existing`` if it is taken. The temporary name may remain.

    On NFS the answer to a link that was made may be lost and its repetition say "exists"; whether it is our own file
    that exists is told by its inode (open(2), O_EXCL). Without hard links, renameat2(RENAME_NOREPLACE) does the same.
    """
    try:
        os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        if not _is_same_file(directory, temporary, name):
            refuse_existing(directory, name)
            raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_if_absent(directory, temporary, name)


def _is_same_file(directory: int, one: str, other: str) -> bool:
    try:
        ours = os.stat(one, dir_fd=directory, follow_symlinks=False)
        there = os.stat(other, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _rename_if_absent(directory: int, temporary: str, name: str) -> None:
    import ctypes  # here, because file systems without hard links are rare and this costs 3 ms

    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(directory, temporary.encode(), directory, name.encode(), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def children(directory: int) -> list[str]:
    """Regular files as "x" and directories as "x/", in the order in which the full names below them sort.

    Entries that cannot be part of an object's name (temporary files, ``lost+found``) and symbolic links are no
    objects and are left out; so are entries that vanish meanwhile.
    """
    with os.scandir(directory) as entries:
        return sorted(
            entry.name if entry.is_file(follow_symlinks=False) else entry.name + "/"
            for entry in entries
            if is_name_part(entry.name)
            and (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False))
        )


def walk(directory: int, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every regular file below an open directory, at any depth and sorted by name, with its status."""
    for child in children(directory):
        if not child.endswith("/"):
            with suppress(FileNotFoundError):
                status = os.stat(child, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield prefix + child, status
            continue
        try:
            deeper = enter(directory, child[:-1])
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            yield from walk(deeper, prefix + child)
        finally:
            os.close(deeper)


def remove_empty(root: int, parts: Sequence[str]) -> None:
    """Remove the directory ``parts`` and those above it as long as they are empty."""
    for count in range(len(parts), 0, -1):
        try:
            parent = open_below(root, parts[: count - 1])
            try:
                os.rmdir(parts[count - 1], dir_fd=parent)
            finally:
                os.close(parent)
        except OSError:
            return  # in use, gone already, or not ours to remove: an empty directory harms nobody


@contextmanager
def _unless_removed() -> Iterator[None]:
    """Pass over a directory that is removed meanwhile; on NFS it is stale then."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            raise


def remove_leftovers(directory: int, before_seconds: float) -> int:
    """Remove temporary files below an open directory last written before a moment (since 1970); bytes set free."""
    freed = 0
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(TEMPORARY_PREFIX)]
    for name in names:
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_mtime < before_seconds:
                os.unlink(name, dir_fd=directory)
                freed += status.st_size if status.st_nlink == 1 else 0
    for child in children(directory):
        if child.endswith("/"):
            with _unless_removed():
                deeper = enter(directory, child[:-1])
                try:
                    freed += remove_leftovers(deeper, before_seconds)
                finally:
                    os.close(deeper)
    return freed
