"""Directories of an SFTP store: the authority on looking, making, listing and removing them over a link.

The one idea: what one needs to know is asked at once, because a store may be far away; each function here takes one or
two journeys there and back, however deep a name is. On the far side everything is as ``tree`` lays it out on a local
disk (temporary names, the sticky bit of a directory whose name is not yet durable), so that one repository may be used
through both.

Raises ``wire.Failed`` (the server says no) and ``Lost``; ``sftp`` turns them into ours.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pghaven.store import sftpwire as wire
from pghaven.store.api import is_name_part
from pghaven.store.sftplink import Link
from pghaven.store.sftpwire import Attributes, Failed, FileSystem, Reply, Status
from pghaven.store.tree import DIRECTORY_MODE, TEMPORARY_PREFIX

_AHEAD = 16  # directories that are listed at once
_MOST_READS = 16  # replies of a directory asked for at once; OpenSSH puts 100 entries into one


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What stands on the way to a name: the root's file system (None where the server cannot tell), the directories
    above the name from the root's child on, and what has the name. None: there is nothing."""

    file_system: FileSystem | None
    above: tuple[Attributes | None, ...]
    target: Attributes | None

    @property
    def link_at(self) -> int | None:
        """Which part of the name is a symbolic link."""
        found = (number for number, it in enumerate((*self.above, self.target)) if it is not None and it.is_link)
        return next(found, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    name: str  # as in Store.list_children: "x", or "x/" for a directory
    attributes: Attributes


Scanned = list[list[Entry]]
"""The entries of several directories."""


class RootMissing(Exception):
    """The store's root is not there, so that nothing below it is proven absent."""


def path_of(root: bytes, parts: Sequence[str]) -> bytes:
    return b"/".join([root.rstrip(b"/") if parts else root, *(part.encode() for part in parts)])


def see(link: Link, root: bytes, parts: Sequence[str], also: Sequence[wire.Request] = ()) -> tuple[Sight, list[Reply]]:
    """Everything on the way to a name, and the replies to further requests of the same journey. Raises RootMissing."""
    has_statvfs = wire.STATVFS in link.extensions
    about_root = [wire.examine_file_system(root)] if has_statvfs else [wire.examine(root)]
    about_parts = [wire.look(path_of(root, parts[: count + 1])) for count in range(len(parts))]
    first, *replies = link.ask([*about_root, *about_parts, *also])
    try:
        file_system = wire.parse_file_system(first) if has_statvfs else None
        if not has_statvfs and not wire.parse_attributes(first).is_directory:
            raise RootMissing
    except Failed as failure:
        if failure.code == Status.NO_SUCH_FILE:
            raise RootMissing from failure
        raise
    found = [wire.find_attributes(reply) for reply in replies[: len(parts)]]
    sight = Sight(file_system=file_system, above=tuple(found[:-1]), target=found[-1] if found else None)
    return sight, replies[len(parts) :]


def make_settled(link: Link, root: bytes, parts: Sequence[str], above: Sequence[Attributes | None]) -> None:
    """Make the directories ``parts`` below the root, as far as missing, and make durable all names that are not yet.

    ``above`` says what each is now. Raises Failed with NO_SUCH_FILE also when one was removed meanwhile.
    """
    for number, attributes in enumerate(above):
        path = path_of(root, parts[: number + 1])
        if attributes is None:
            _make(link, path)
        elif not attributes.mode or not attributes.mode & stat.S_ISVTX:
            continue
        flush_directory(link, path_of(root, parts[:number]))
        with suppress(Failed):  # somebody else's directory: whoever comes next flushes its name again
            wire.check(link.do(wire.set_mode(path, DIRECTORY_MODE)))


def _make(link: Link, path: bytes) -> None:
    """Make a directory that nobody may rely on yet; one that somebody else has made meanwhile will do."""
    made, there = link.ask([wire.make_directory(path, DIRECTORY_MODE | stat.S_ISVTX), wire.look(path)])
    found = wire.find_attributes(there)
    if found is None or not found.is_directory:
        wire.check(made)


def flush_directory(link: Link, path: bytes) -> None:
    """Make a directory's entries durable, where the server can open a directory as a file (OpenSSH's can)."""
    handle = open_directory_file(link, path)
    if handle is not None:
        flushed, _ = link.ask([wire.fsync(handle), wire.close(handle)])
        wire.check(flushed)


def open_directory_file(link: Link, path: bytes) -> bytes | None:
    """A handle that can be flushed; None where the server has no such thing. Raises Failed."""
    if not link.opens_directories:
        return None
    return wire.parse_handle(link.do(wire.open_file(path, wire.READ_ONLY)))


def scan(link: Link, opened: Sequence[Reply]) -> Scanned:
    """The entries of several directories, each in the order in which the full names below them sort.

    ``opened`` are the replies to ``open_directory``. Symbolic links are left out; a directory that is absent is empty.
    """
    handles: dict[int, bytes] = {}
    for number, reply in enumerate(opened):
        try:
            handles[number] = wire.parse_handle(reply)
        except Failed as failure:
            if failure.code != Status.NO_SUCH_FILE:
                raise
    found: list[dict[str, Attributes]] = [{} for _ in opened]
    still = list(handles)
    count = 2
    while still:
        asked = [number for number in still for _ in range(count)]
        replies = link.ask(wire.read_directory(handles[number]) for number in asked)
        ended = {number for number, reply in zip(asked, replies, strict=True) if _take(found[number], reply)}
        still = [number for number in still if number not in ended]
        count = min(2 * count, _MOST_READS)
    close(link, handles.values())
    return [_sorted_entries(entries) for entries in found]


def close(link: Link, handles: Iterable[bytes]) -> None:
    link.ask(wire.close(handle) for handle in handles)


def _take(found: dict[str, Attributes], reply: Reply) -> bool:
    """Add the entries of a reply; whether it was the end of the directory."""
    entries = wire.parse_entries(reply)
    if entries is None:
        return True
    for name, attributes in entries:
        if attributes.mode is None or attributes.size_bytes is None:
            raise wire.NotSftp("a listing without kinds and sizes")
        found[name.decode("ascii", errors="replace")] = attributes
    return False


def _sorted_entries(found: dict[str, Attributes]) -> list[Entry]:
    named = [(name if it.is_file else name + "/", it) for name, it in found.items() if it.is_file or it.is_directory]
    return [Entry(name=name, attributes=it) for name, it in sorted(named, key=lambda pair: pair[0])]


def objects_and_prefixes(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if is_name_part(entry.name.removesuffix("/"))]


Scan = Callable[[Sequence[str]], Scanned]
"""Prefixes ("a/", or "" for the root) to the entries of each."""


def walk(scan_all: Scan, prefix: str) -> Iterator[tuple[str, Attributes]]:
    """Every file below a prefix, at any depth and sorted by name; no link is held between two of them."""
    (entries,) = scan_all([prefix])
    yield from _walk(scan_all, prefix, entries)


def _walk(scan_all: Scan, prefix: str, entries: Sequence[Entry]) -> Iterator[tuple[str, Attributes]]:
    wanted = objects_and_prefixes(entries)
    directories = [entry.name for entry in wanted if entry.name.endswith("/")]
    scanned: dict[str, list[Entry]] = {}
    for entry in wanted:
        if not entry.name.endswith("/"):
            yield prefix + entry.name, entry.attributes
            continue
        if entry.name not in scanned:
            batch, directories = directories[:_AHEAD], directories[_AHEAD:]
            scanned = dict(zip(batch, scan_all([prefix + name for name in batch]), strict=True))
        yield from _walk(scan_all, prefix + entry.name, scanned.pop(entry.name))


def walk_leftovers(scan_all: Scan, prefix: str) -> Iterator[tuple[str, Attributes]]:
    """Every temporary file below a prefix, as its path below the root."""
    (entries,) = scan_all([prefix])
    for entry in entries:
        if entry.name.startswith(TEMPORARY_PREFIX) and entry.attributes.is_file:
            yield prefix + entry.name, entry.attributes
    for entry in objects_and_prefixes(entries):
        if entry.name.endswith("/"):
            yield from walk_leftovers(scan_all, prefix + entry.name)


def remove_empty(link: Link, root: bytes, parts: Sequence[str]) -> None:
    """Remove the directory ``parts`` and those above it as long as they are empty: the server refuses all others."""
    link.ask(wire.remove_directory(path_of(root, parts[:count])) for count in range(len(parts), 0, -1))
