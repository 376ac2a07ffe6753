"""The agent's socket in one cluster's ``pg_wal``, and the lock that says that no other agent serves it.

The one idea: the socket lies where PostgreSQL's commands run, so nothing has to be configured for them to find it, and
who may enter that directory (its owner and root) is who may ask. When the directory is replaced, as by a restore, the
door in it is gone, and a new one is opened.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress
from typing import Self

from pghaven.errors import Locked
from pghaven.postgres.datadir import PUSH_STATE_DIRECTORY, WAL_DIRECTORY
from pghaven.runtime.durable import OwnerOf
from pghaven.wal.asking import SOCKET_NAME

_LOCK_NAME = "agent.lock"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_BACKLOG = 16
_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class Door:
    """An open one. Made with ``open``; nothing of it blocks."""

    def __init__(self, data_directory: str, lock: int, listener: socket.socket, status: os.stat_result) -> None:
        self._path = os.path.join(data_directory, WAL_DIRECTORY, PUSH_STATE_DIRECTORY, SOCKET_NAME)
        self._lock = lock
        self._listener = listener
        self._inode = (status.st_dev, status.st_ino)

    @classmethod
    def open(cls, data_directory: str) -> Self:
        """Raises Locked while another agent has it, OSError where there is no ``pg_wal``."""
        wal_directory = os.path.join(data_directory, WAL_DIRECTORY)
        owner = OwnerOf.path(wal_directory)
        with suppress(FileExistsError):
            place = os.path.join(wal_directory, PUSH_STATE_DIRECTORY)
            os.mkdir(place, 0o700)
            owner.give(place)
        directory = os.open(os.path.join(wal_directory, PUSH_STATE_DIRECTORY), _DIRECTORY)
        try:
            lock = os.open(_LOCK_NAME, _LOCK, 0o600, dir_fd=directory)
            try:
                owner.give(lock)
                _take(lock, data_directory)
                listener, status = _listen(directory, owner)
            except BaseException:
                os.close(lock)
                raise
        finally:
            os.close(directory)
        return cls(data_directory, lock, listener, status)

    def fileno(self) -> int:
        return self._listener.fileno()

    def is_there(self) -> bool:
        """Whether those who look for it still find this one."""
        try:
            status = os.lstat(self._path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._inode

    def accept(self) -> socket.socket | None:
        """The next one who asks; None when there is nobody, or it is nobody who may."""
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return None
        with suppress(OSError):
            told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            _, uid, _ = _CREDENTIALS.unpack(told)
            if uid in (0, os.geteuid()):
                connection.setblocking(False)
                return connection
        connection.close()
        return None

    def leave(self) -> None:
        """Let go of it in a child process: what a child holds open would keep the door from ever being shut."""
        self._listener.close()
        os.close(self._lock)

    def close(self) -> None:
        if self.is_there():
            with suppress(OSError):
                os.unlink(self._path)
        self.leave()


def find_other(data_directory: str) -> bool:
    """Whether an agent serves this data directory now."""
    path = os.path.join(data_directory, WAL_DIRECTORY, PUSH_STATE_DIRECTORY, _LOCK_NAME)
    try:
        lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _take(lock: int, data_directory: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked(
            f'another agent serves "{data_directory}"',
            hint="One agent serves all clusters of a host: stop the other one, or name other clusters.",
        ) from None


def _listen(directory: int, owner: OwnerOf) -> tuple[socket.socket, os.stat_result]:
    with suppress(FileNotFoundError):
        os.unlink(SOCKET_NAME, dir_fd=directory)  # left by an agent that was killed: we hold the lock
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Not by its own path: that may be longer than a socket's address can be.
        path = f"/proc/self/fd/{directory}/{SOCKET_NAME}"
        earlier = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(earlier)
        owner.give(path)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return listener, os.stat(SOCKET_NAME, dir_fd=directory, follow_symlinks=False)
    except BaseException:
        listener.close()
        raise
