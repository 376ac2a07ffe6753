"""A directory behind an SFTP server as a store: the authority on which requests make an object durable and unique.

The one idea: the same as in ``posix``, in the requests that SFTP has for it. The final name comes into being by
``hardlink@openssh.com``, link(2) at the far side, which fails if the name is taken.

    OPEN exclusively → WRITE … → fsync@openssh.com → CLOSE → hardlink@openssh.com → REMOVE the temporary
        → OPEN of the directory → fsync@openssh.com → only now "done"

Why not RENAME, which in version 3 must not overwrite either: only OpenSSH does it by link(2), and where that cannot be
done it looks first and renames then (process_rename in sftp-server.c), so two writers could both win. A server
without these two extensions is refused. What no SFTP promises is opening a *directory* to flush it: OpenSSH's server
can; with one that cannot, the name of a new object is as durable as the far file system makes it by itself, and
nothing can be done from here.

Version 3 tells no inode numbers. What protects from an empty mount point is the file system's identity (statvfs); that
another directory of the same file system was put in the root's place is not seen. Symbolic links below the root are
refused, as far as looking before doing can refuse them: who else may write there is the far side's affair.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TypeVar

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
from pghaven.store import sftptree as far
from pghaven.store import sftpwire as wire
from pghaven.store.api import Buffers, ObjectInfo, check_name, check_prefix
from pghaven.store.posix import FILE_MODE
from pghaven.store.sftpaddress import SftpAddress
from pghaven.store.sftplink import Link, Links, Lost, cut
from pghaven.store.sftptree import RootMissing, Sight, path_of
from pghaven.store.sftpwire import Attributes, Failed, NotSftp, Status
from pghaven.store.tree import DIRECTORY_MODE, TEMPORARY_PREFIX
from pghaven.units import since_epoch

_NEEDED = (wire.HARDLINK, wire.FSYNC)
_MAX_ATTEMPTS = 100  # each lost to a process that removes the empty directory at that very moment
_CHECK_MOUNT = "Check that its file system is mounted at the far side."
_OWNER_HINT = "The directory must belong to the user who logs in there."

Result = TypeVar("Result")


class SftpStore:
    """The objects below one directory of a server. Threads may share it; a pickled one makes its own connections."""

    def __init__(self, address: SftpAddress) -> None:
        self._address = address
        self._root = address.root
        self._links = Links(address.ssh)

    @classmethod
    def open(cls, address: SftpAddress) -> SftpStore:
        """The store in an existing directory. Raises StoreUnreachable if there is none, NotPermitted, Refused."""
        store = cls(address)
        sight = store._call("open", "", store._check_server)
        if sight.file_system is None:
            return store
        store._address = replace(address, file_system=sight.file_system.identity)
        return store

    @classmethod
    def create_root(cls, address: SftpAddress) -> SftpStore:
        """Make the directory and what is missing above it, durably, and open it."""
        making = cls(address)
        making._call("make", "", making._make_root)
        making.close()
        return cls.open(address)

    @property
    def url(self) -> str:
        return self._address.url

    def close(self) -> None:
        """End the connections that nobody uses. The store remains usable; without this they end with the process."""
        self._links.close()

    def __reduce__(self) -> tuple[object, ...]:
        return SftpStore, (self._address,)

    def create(self, name: str, content: Buffers) -> None:
        parts = check_name(name).split("/")
        self._call("create", name, lambda link: self._create(link, name, parts, content))

    def read(self, name: str) -> bytes:
        return self._call("read", name, lambda link: self._read(link, name, 0, None))

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        return self._call("read", name, lambda link: self._read(link, name, offset, length))

    def find(self, name: str) -> ObjectInfo | None:
        parts = check_name(name).split("/")
        target = self._call("find", name, lambda link: self._see(link, parts)[0].target)
        return _info(name, target) if target is not None and target.is_file else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        return (_info(name, attributes) for name, attributes in far.walk(self._scan_all, prefix))

    def list_children(self, prefix: str) -> tuple[str, ...]:
        (entries,) = self._scan_all([check_prefix(prefix)])
        return tuple(entry.name for entry in far.objects_and_prefixes(entries))

    def confirm(self, name: str) -> None:
        parts = check_name(name).split("/")
        self._call("confirm", name, lambda link: self._confirm(link, name, parts))

    def delete(self, name: str) -> None:
        parts = check_name(name).split("/")
        self._call("delete", name, lambda link: self._delete(link, parts))

    def free_bytes(self) -> int | None:
        sight = self._call("examine", "", lambda link: self._see(link, ())[0])
        return None if sight.file_system is None else sight.file_system.free_bytes

    def remove_leftovers(self, before: datetime) -> int:
        """Remove the temporary files that writers who died have left; returns the bytes set free.

        Their times are the far side's clock. ``before`` must leave the slowest living writer time; one that loses its
        file fails and has created nothing.
        """
        freed = 0
        for path, attributes in far.walk_leftovers(self._scan_all, ""):
            if attributes.modified is not None and attributes.modified < before.timestamp():
                removed = self._call("clean up", "", partial(self._remove, name=path))
                freed += (attributes.size_bytes or 0) if removed else 0
        return freed

    def _call(self, action: str, name: str, act: Callable[[Link], Result]) -> Result:
        """Do something over a link; once more over a new one if the first is lost. The only place where failures of
        the far side become ours."""
        try:
            with self._reported(action, name), self._links.lend() as link:
                return act(link)
        except Lost as lost:
            if not lost.is_worth_another_try:
                raise lost.error from None
        try:
            with self._reported(action, name), self._links.lend() as link:
                return act(link)
        except Lost as lost:
            raise lost.error from None

    @contextmanager
    def _reported(self, action: str, name: str) -> Iterator[None]:
        what = f'"{name}" in {self.url}' if name else self.url
        try:
            yield
        except RootMissing as error:
            raise StoreUnreachable(
                f'could not use {self.url}: there is no directory "{os.fsdecode(self._root)}"', hint=_CHECK_MOUNT
            ) from error
        except Failed as failure:
            raise _translated(failure, f"could not {action} {what}") from failure
        except NotSftp as error:
            raise StoreUnreachable(f"could not {action} {what}: the server answered with {error}") from error

    def _see(
        self, link: Link, parts: Sequence[str], also: Sequence[wire.Request] = ()
    ) -> tuple[Sight, Sequence[wire.Reply]]:
        """As ``far.see``, and the root is the one that was opened, and no symbolic link is in the way."""
        sight, replies = far.see(link, self._root, parts, also)
        known = self._address.file_system
        if known is not None and sight.file_system is not None and sight.file_system.identity != known:
            link.close()  # what was opened with ``also`` goes with it
            raise StoreUnreachable(
                f"could not use {self.url}: another file system is mounted there now", hint=_CHECK_MOUNT
            )
        if sight.link_at is not None:
            link.close()
            name = "/".join(parts[: sight.link_at + 1])
            raise Refused(f'could not use "{name}" in {self.url}: it is a symbolic link, and none is followed')
        return sight, replies

    def _check_server(self, link: Link) -> Sight:
        missing = [name for name in _NEEDED if name not in link.extensions]
        if missing:
            raise Refused(
                f"could not use {self.url}: its server does not offer {' and '.join(missing)}",
                detail="Without them an object can be neither made durable nor created by exactly one of several.",
                hint="OpenSSH's server offers both.",
            )
        return self._see(link, ())[0]

    def _make_root(self, link: Link) -> None:
        parts = os.fsdecode(self._root).strip("/").split("/")
        base = b"/" if self._root.startswith(b"/") else b"."
        paths = [os.path.join(base, os.fsencode("/".join(parts[:count]))) for count in range(len(parts) + 1)]
        there = [wire.find_attributes(reply) for reply in link.ask(wire.examine(path) for path in paths)]
        for above, path, found in zip(paths, paths[1:], there[1:], strict=False):
            if found is None:
                made, now = link.ask([wire.make_directory(path, DIRECTORY_MODE), wire.examine(path)])
                if wire.find_attributes(now) is None:
                    wire.check(made)
                far.flush_directory(link, above)

    def _create(self, link: Link, name: str, parts: Sequence[str], content: Buffers) -> None:
        for _ in range(_MAX_ATTEMPTS):
            sight = self._see(link, parts)[0]
            self._refuse_taken(name, parts, sight)
            try:
                far.make_settled(link, self._root, parts[:-1], sight.above)
                temporary = path_of(self._root, [*parts[:-1], TEMPORARY_PREFIX + os.urandom(8).hex()])
                handle, directory = self._open_temporary(link, temporary, parts[:-1])
            except Failed as failure:
                if failure.code == Status.NO_SUCH_FILE:
                    continue
                raise self._explained(link, failure, name) from failure
            try:
                _fill(link, handle, content)
            except Failed as failure:
                error = self._explained(link, failure, name)
                link.ask([wire.remove(temporary), *_closing(directory)])
                raise error from failure
            self._publish(link, temporary, parts, directory)
            return
        raise StoreUnreachable(f'could not keep the directory of "{name}" in {self.url}: it goes on vanishing')

    def _refuse_taken(self, name: str, parts: Sequence[str], sight: Sight) -> None:
        text = f'could not create "{name}" in {self.url}'
        for number, attributes in enumerate(sight.above):
            if attributes is not None and not attributes.is_directory:
                raise Refused(f'{text}: "{"/".join(parts[: number + 1])}" is an object')
        if sight.target is not None:
            if sight.target.is_directory:
                raise Refused(f"{text}: it is a prefix of other objects")
            raise ObjectExists(f"{text}: it exists already")

    def _open_temporary(self, link: Link, temporary: bytes, above: Sequence[str]) -> tuple[bytes, bytes | None]:
        """Handles of a new temporary file and, where that can be had, of its directory."""
        directory = wire.open_file(path_of(self._root, above), wire.READ_ONLY)
        wanted = [directory] if link.opens_directories else []
        opened, *also = link.ask([wire.open_file(temporary, wire.CREATE_NEW, 0o600), *wanted])
        try:
            handle = wire.parse_handle(opened)
        except Failed:
            link.ask(request for reply in also if reply.is_handle for request in _closing(wire.parse_handle(reply)))
            raise
        try:
            return handle, wire.parse_handle(also[0]) if also else None
        except Failed:
            link.ask([wire.close(handle), wire.remove(temporary)])
            raise

    def _publish(self, link: Link, temporary: bytes, parts: Sequence[str], directory: bytes | None) -> None:
        """Give a durable file its name, and make that durable; the temporary name is gone whatever comes of it."""
        flush = [wire.fsync(directory), wire.close(directory)] if directory is not None else []
        requests = [wire.hard_link(temporary, path_of(self._root, parts)), wire.remove(temporary), *flush]
        linked, removed, *flushed = link.ask(requests)
        try:
            wire.check(linked)
        except Failed as failure:
            name = "/".join(parts)
            self._refuse_taken(name, parts, self._see(link, parts)[0])
            raise self._explained(link, failure, name, _NO_LINKS_HINT) from failure
        wire.check(removed)
        if flushed:
            wire.check(flushed[0])

    def _explained(self, link: Link, failure: Failed, name: str, hint: str | None = None) -> PghavenError:
        """SFTP says "Failure" for most reasons; which one it was is asked of the file system."""
        text = f'could not create "{name}" in {self.url}'
        sight = self._see(link, ())[0]
        if failure.code == Status.FAILURE and sight.file_system is not None:
            if sight.file_system.is_read_only:
                return NotPermitted(text, hint="Its file system is mounted read-only at the far side.")
            free_files = sight.file_system.free_files
            if sight.file_system.free_bytes < link.write_length or (free_files is not None and free_files <= 1):
                return StoreFull(
                    f"{text}: no space left at the far side", hint="Free space on its file system, or raise the quota."
                )
        return _translated(failure, text, hint)

    def _read(self, link: Link, name: str, offset: int, length: int | None) -> bytes:
        parts = check_name(name).split("/")
        path = path_of(self._root, parts)
        sight, (opened,) = self._see(link, parts, [wire.open_file(path, wire.READ_ONLY)])
        handle = self._existing(link, name, sight, opened)
        wanted = (sight.target.size_bytes or 0) - offset if length is None and sight.target else (length or 0)
        ends = range(offset, offset + wanted, link.read_length)
        reads = [wire.read(handle, at, min(link.read_length, offset + wanted - at)) for at in ends]
        *chunks, _ = link.ask([*reads, wire.close(handle)])
        content = b"".join(map(wire.parse_data, chunks))
        if len(content) != wanted:
            raise Damaged(f'"{name}" in {self.url} ends before byte {offset + wanted}')
        return content

    def _existing(self, link: Link, name: str, sight: Sight, opened: wire.Reply) -> bytes:
        """The handle of an object that was opened. Raises ObjectMissing."""
        if sight.target is not None and sight.target.is_file:
            try:
                return wire.parse_handle(opened)
            except Failed as failure:
                if failure.code != Status.NO_SUCH_FILE:
                    raise
        elif opened.is_handle:  # a directory
            wire.check(link.do(wire.close(wire.parse_handle(opened))))
        raise ObjectMissing(f'"{name}" does not exist in {self.url}')

    def _confirm(self, link: Link, name: str, parts: Sequence[str]) -> None:
        sight, (opened,) = self._see(link, parts, [wire.open_file(path_of(self._root, parts), wire.READ_ONLY)])
        handle = self._existing(link, name, sight, opened)
        flushed, _ = link.ask([wire.fsync(handle), wire.close(handle)])
        wire.check(flushed)
        far.make_settled(link, self._root, parts[:-1], sight.above)
        far.flush_directory(link, path_of(self._root, parts[:-1]))

    def _delete(self, link: Link, parts: Sequence[str]) -> None:
        sight = self._see(link, parts)[0]
        if sight.target is not None and not sight.target.is_directory:
            self._remove(link, "/".join(parts))
        far.remove_empty(link, self._root, parts[:-1])

    def _remove(self, link: Link, name: str) -> bool:
        """Whether it was there to be removed."""
        try:
            wire.check(link.do(wire.remove(path_of(self._root, name.split("/")))))
        except Failed as failure:
            if failure.code != Status.NO_SUCH_FILE:
                raise
            return False
        return True

    def _scan_all(self, prefixes: Sequence[str]) -> far.Scanned:
        """The entries below several prefixes, all children of one."""
        parts = [prefix.split("/")[:-1] for prefix in prefixes]
        opens = [wire.open_directory(path_of(self._root, each)) for each in parts]

        def scan(link: Link) -> far.Scanned:
            _, opened = self._see(link, parts[0], opens)
            return far.scan(link, opened)

        return self._call("list", prefixes[0], scan)


_NO_LINKS_HINT = "The file system at the far side must have hard links."


def _fill(link: Link, handle: bytes, content: Buffers) -> None:
    """Write all, make it durable, close. A failed flush or close is final: what was written is thrown away."""

    def requests() -> Iterator[wire.Request]:
        offset = 0
        for piece, size in cut(content, link.write_length):
            yield wire.write(handle, offset, piece, size)
            offset += size
        yield wire.fsync(handle)
        yield wire.set_open_mode(handle, FILE_MODE)  # a file system without modes refuses; it is no less durable
        yield wire.close(handle)

    *written, flushed, _, closed = link.stream(requests())
    for reply in (*written, flushed, closed):
        wire.check(reply)


def _closing(handle: bytes | None) -> Sequence[wire.Request]:
    return [] if handle is None else [wire.close(handle)]


def _info(name: str, attributes: Attributes) -> ObjectInfo:
    size, modified = attributes.size_bytes, attributes.modified
    if size is None or modified is None:
        raise StoreUnreachable(f'the server tells neither size nor time of "{name}"')
    return ObjectInfo(name=name, size_bytes=size, modified=since_epoch(modified))


def _translated(failure: Failed, text: str, hint: str | None = None) -> PghavenError:
    if failure.code == Status.PERMISSION_DENIED:
        return NotPermitted(f"{text}: {failure.words}", hint=hint or _OWNER_HINT)
    return StoreUnreachable(f"{text}: the server says: {failure.words}", hint=hint)
