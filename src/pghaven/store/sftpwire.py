"""The SFTP protocol, version 3, in bytes: the authority on what requests and replies look like.

The one idea: a request is bytes to which a number is given when it is sent, a reply is its kind and its bytes; this
module turns one into values and the other way round and does no input or output.

Sources: draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL for its extensions. Of the replies only what a store
needs is read.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from pghaven.runtime.durable import Buffer

VERSION = 3
FSYNC = "fsync@openssh.com"
HARDLINK = "hardlink@openssh.com"
STATVFS = "statvfs@openssh.com"
LIMITS = "limits@openssh.com"

READ_ONLY = 0x01
CREATE_NEW = 0x02 | 0x08 | 0x20  # write, create, exclusively

_INIT, _VERSION = 1, 2
_OPEN, _CLOSE, _READ, _WRITE, _LSTAT, _SETSTAT, _FSETSTAT = 3, 4, 5, 6, 7, 9, 10
_OPENDIR, _READDIR, _REMOVE, _MKDIR, _RMDIR, _STAT, _EXTENDED = 11, 12, 13, 14, 15, 17, 200
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS, _EXTENDED_REPLY = 101, 102, 103, 104, 105, 201

_HAS_SIZE, _HAS_OWNER, _HAS_MODE, _HAS_TIMES, _HAS_EXTENDED = 0x1, 0x2, 0x4, 0x8, 0x80000000


class Status(IntEnum):
    """The codes of version 3, with what OpenSSH's server says them for (errno_to_portable in sftp-server.c)."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2  # ENOENT, ENOTDIR, EBADF, ELOOP
    PERMISSION_DENIED = 3  # EPERM, EACCES, EFAULT
    FAILURE = 4  # every other errno: EEXIST, ENOSPC, EIO, EROFS, ENOTEMPTY …
    BAD_MESSAGE = 5  # ENAMETOOLONG, EINVAL
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OP_UNSUPPORTED = 8


class Failed(Exception):
    """The server answered that it did not do what it was asked. ``words`` are the server's own."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code
        self.words = words


class NotSftp(Exception):
    """What came is no SFTP."""


@dataclass(frozen=True, slots=True)
class Request:
    """A kind and what stands behind the request's number; a WRITE's data stay the caller's buffers."""

    kind: int
    fields: bytes
    data: Sequence[Buffer] = ()
    data_bytes: int = 0

    def render(self, number: int) -> bytes:
        head = struct.pack(">IBI", 5 + len(self.fields) + self.data_bytes, self.kind, number)
        return b"".join([head, self.fields, *self.data])


@dataclass(frozen=True, slots=True)
class Reply:
    kind: int
    body: bytes | memoryview

    @property
    def is_handle(self) -> bool:
        return self.kind == _HANDLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What is known of a file; what the server did not say is None. ``modified`` is in seconds since 1970."""

    size_bytes: int | None = None
    mode: int | None = None
    modified: int | None = None

    @property
    def is_file(self) -> bool:
        return self.mode is not None and stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        return self.mode is not None and stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return self.mode is not None and stat.S_ISLNK(self.mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """The file system holding a path: its identity, and what room it has for the user."""

    identity: int
    free_bytes: int
    free_files: int | None
    is_read_only: bool


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def render_hello() -> bytes:
    return struct.pack(">IBI", 5, _INIT, VERSION)


def open_file(path: bytes, flags: int, mode: int | None = None) -> Request:
    attributes = struct.pack(">I", 0) if mode is None else struct.pack(">II", _HAS_MODE, mode)
    return Request(_OPEN, _string(path) + struct.pack(">I", flags) + attributes)


def close(handle: bytes) -> Request:
    return Request(_CLOSE, _string(handle))


def read(handle: bytes, offset: int, length: int) -> Request:
    return Request(_READ, _string(handle) + struct.pack(">QI", offset, length))


def write(handle: bytes, offset: int, data: Sequence[Buffer], data_bytes: int) -> Request:
    return Request(_WRITE, _string(handle) + struct.pack(">QI", offset, data_bytes), data, data_bytes)


def look(path: bytes) -> Request:
    """Attributes of what is there, a symbolic link itself and not what it points to."""
    return Request(_LSTAT, _string(path))


def examine(path: bytes) -> Request:
    """Attributes of what a path leads to."""
    return Request(_STAT, _string(path))


def set_mode(path: bytes, mode: int) -> Request:
    return Request(_SETSTAT, _string(path) + struct.pack(">II", _HAS_MODE, mode))


def set_open_mode(handle: bytes, mode: int) -> Request:
    return Request(_FSETSTAT, _string(handle) + struct.pack(">II", _HAS_MODE, mode))


def open_directory(path: bytes) -> Request:
    return Request(_OPENDIR, _string(path))


def read_directory(handle: bytes) -> Request:
    return Request(_READDIR, _string(handle))


def remove(path: bytes) -> Request:
    return Request(_REMOVE, _string(path))


def make_directory(path: bytes, mode: int) -> Request:
    return Request(_MKDIR, _string(path) + struct.pack(">II", _HAS_MODE, mode))


def remove_directory(path: bytes) -> Request:
    return Request(_RMDIR, _string(path))


def fsync(handle: bytes) -> Request:
    return Request(_EXTENDED, _string(FSYNC.encode()) + _string(handle))


def hard_link(existing: bytes, new: bytes) -> Request:
    return Request(_EXTENDED, _string(HARDLINK.encode()) + _string(existing) + _string(new))


def examine_file_system(path: bytes) -> Request:
    return Request(_EXTENDED, _string(STATVFS.encode()) + _string(path))


def ask_limits() -> Request:
    return Request(_EXTENDED, _string(LIMITS.encode()))


class _Reader:
    """Takes fields from a reply one after another."""

    def __init__(self, body: bytes | memoryview) -> None:
        self._body = body
        self._at = 0

    def number(self) -> int:
        return self._numbers(">I", 4)[0]

    def longs(self, count: int) -> tuple[int, ...]:
        return self._numbers(f">{count}Q", 8 * count)

    def string(self) -> bytes:
        return bytes(self.view())

    def view(self) -> bytes | memoryview:
        """A string as a part of the reply: no copy where that is a view itself."""
        length = self.number()
        value = self._body[self._at : self._at + length]
        if len(value) != length:
            raise NotSftp("a reply that ends too early")
        self._at += length
        return value

    def attributes(self) -> Attributes:
        flags = self.number()
        size = self.longs(1)[0] if flags & _HAS_SIZE else None
        if flags & _HAS_OWNER:
            self._numbers(">II", 8)
        mode = self.number() if flags & _HAS_MODE else None
        modified = self._numbers(">II", 8)[1] if flags & _HAS_TIMES else None
        if flags & _HAS_EXTENDED:
            for _ in range(self.number()):
                self.string(), self.string()
        return Attributes(size_bytes=size, mode=mode, modified=modified)

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._body)

    def _numbers(self, form: str, length: int) -> tuple[int, ...]:
        if self._at + length > len(self._body):
            raise NotSftp("a reply that ends too early")
        values: tuple[int, ...] = struct.unpack_from(form, self._body, self._at)
        self._at += length
        return values


def parse_hello(kind: int, rest: bytes) -> frozenset[str]:
    """The extensions a server offers. Raises NotSftp."""
    reader = _Reader(rest)
    if kind != _VERSION or reader.number() != VERSION:
        raise NotSftp("the answer to the greeting is none of SFTP version 3")
    names = []
    while not reader.at_end:
        names.append(reader.string().decode(errors="replace"))
        reader.string()
    return frozenset(names)


def check(reply: Reply) -> None:
    """Raises Failed unless the reply says that it was done."""
    _body(reply, _STATUS)


def parse_handle(reply: Reply) -> bytes:
    return _Reader(_body(reply, _HANDLE)).string()


def parse_data(reply: Reply) -> bytes | memoryview:
    """The data of a READ; empty at the end of the file."""
    try:
        return _Reader(_body(reply, _DATA)).view()
    except Failed as failure:
        if failure.code == Status.EOF:
            return b""
        raise


def parse_attributes(reply: Reply) -> Attributes:
    return _Reader(_body(reply, _ATTRS)).attributes()


def find_attributes(reply: Reply) -> Attributes | None:
    """As ``parse_attributes``, or None: the server says that there is nothing."""
    try:
        return parse_attributes(reply)
    except Failed as failure:
        if failure.code == Status.NO_SUCH_FILE:
            return None
        raise


def parse_entries(reply: Reply) -> list[tuple[bytes, Attributes]] | None:
    """Names and attributes of a READDIR; None at the end of the directory."""
    try:
        reader = _Reader(_body(reply, _NAME))
    except Failed as failure:
        if failure.code == Status.EOF:
            return None
        raise
    entries = []
    for _ in range(reader.number()):
        name = reader.string()
        reader.string()  # a line as "ls -l" prints it
        entries.append((name, reader.attributes()))
    return entries


def parse_file_system(reply: Reply) -> FileSystem:
    values = _Reader(_body(reply, _EXTENDED_REPLY)).longs(11)
    _, fragment, _, _, available, files, _, files_available, identity, flags, _ = values
    return FileSystem(
        identity=identity,
        free_bytes=available * fragment,
        free_files=files_available if files else None,  # some file systems make room for files as they need it
        is_read_only=bool(flags & 1),
    )


def parse_limits(reply: Reply) -> tuple[int, int]:
    """The longest READ and WRITE in bytes; 0 where the server does not say."""
    _, longest_read, longest_write, _ = _Reader(_body(reply, _EXTENDED_REPLY)).longs(4)
    return longest_read, longest_write


def _body(reply: Reply, kind: int) -> bytes | memoryview:
    """The body of a reply of the kind that was hoped for. Raises Failed with what the server says instead."""
    if reply.kind == _STATUS:
        reader = _Reader(reply.body)
        code = reader.number()
        if code != Status.OK:
            words = "" if reader.at_end else reader.string().decode(errors="replace")
            raise Failed(code, words or f"status {code}")
    if reply.kind != kind:
        raise NotSftp(f"a reply of kind {reply.kind} in place of {kind}")
    return reply.body
