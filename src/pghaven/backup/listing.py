"""What a data directory holds that belongs into a backup, as columns.

The one idea: the rules of what to leave out are PostgreSQL's own (``postgres.datadir``); this module only walks. It
runs after the backup has started, so what appears later is in the WAL, and what vanishes while it walks may vanish.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

from pghaven.backup.frozen import Frozen
from pghaven.errors import NotPermitted, StoreUnreachable
from pghaven.postgres.datadir import (
    WAL_SUBDIRECTORIES,
    find_unlogged,
    is_contents_excluded,
    is_excluded_file,
    is_relation_directory,
    is_unlogged_content,
)
from pghaven.postgres.relfile import Fork, RelFile, is_temporary, parse_relfile
from pghaven.runtime.columns import Column
from pghaven.runtime.names import Names, list_names
from pghaven.runtime.spill import PART_ROWS

_LINK_DEPTH_MAX = 16
_TABLESPACES = "pg_tblspc"


@dataclass(slots=True)
class Listing:
    """Directories and files in the order of a manifest. Paths are relative to the data directory, as ``str`` with
    surrogate escapes; ``size`` and times are what ``stat`` said, before anything was read. ``changed_ns`` is the later
    of ``mtime_ns`` and the inode's own change time, which nobody can set.

    ``first_block`` is the number of a relation file's first block within its relation, or -1 for files without page
    checksums. ``is_main`` is 1 for the main fork of a relation. Read from a snapshot, ``origin`` is the
    data directory that links are followed from, and ``elsewhere`` holds what a link or a mount there leads to.
    """

    data_directory: str
    directories: list[str] = field(default_factory=list)
    directory_mode: Column = field(default_factory=lambda: Column("H"))
    names: Names = field(default_factory=Names)
    directory: Column = field(default_factory=lambda: Column("I"))
    size: Column = field(default_factory=lambda: Column("Q"))
    mode: Column = field(default_factory=lambda: Column("H"))
    mtime_ns: Column = field(default_factory=lambda: Column("q"))
    changed_ns: Column = field(default_factory=lambda: Column("q"))
    owner: Column = field(default_factory=lambda: Column("H"))
    first_block: Column = field(default_factory=lambda: Column("q"))
    is_main: Column = field(default_factory=lambda: Column("B"))
    owners: list[tuple[int, int]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    elsewhere: dict[str, str] = field(default_factory=dict)
    origin: str = ""

    def relative_path(self, number: int) -> str:
        directory = self.directories[self.directory[number]]
        name = os.fsdecode(self.names[number])
        return f"{directory}/{name}" if directory else name

    def path(self, number: int) -> str:
        return self.place(self.relative_path(number))

    def place(self, relative: str) -> str:
        """Where a path is read."""
        over = [one for one in self.elsewhere if relative == one or relative.startswith(one + "/")]
        if over:
            nearest = max(over, key=len)
            return self.elsewhere[nearest] + relative[len(nearest) :]
        return f"{self.data_directory}/{relative}" if relative else self.data_directory

    @property
    def total_bytes(self) -> int:
        return int(self.size.to_array().sum())

    def settle(self) -> None:
        """Move what there is much of out of memory."""
        for column in self._columns():
            column.settle()

    def seal(self) -> None:
        """Have all of it ready to be read; nothing is appended afterwards."""
        for column in self._columns():
            column.seal()

    def _columns(self) -> tuple[Column | Names, ...]:
        files = (self.directory, self.size, self.mode, self.mtime_ns, self.changed_ns, self.owner, self.first_block)
        return (self.names, *files, self.is_main)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingRules:
    """What the walk must know of the server: its tablespaces' OIDs, and how many blocks a relation's file has.

    In a tablespace's place only ``tablespace_version`` (``PG_<major>_<catalog version>``) is this server's; None takes
    all. ``tablespaces_inside`` are relative paths of tablespaces that lie in the data directory: they are stored once.
    """

    tablespace_oids: frozenset[int]
    segment_blocks: int
    tablespace_version: str | None = None
    tablespaces_inside: frozenset[str] = frozenset()


def list_data_directory(data_directory: str, rules: ListingRules, frozen: Frozen | None = None) -> Listing:
    """Walk the data directory and its tablespaces; where they are ``frozen``, as the snapshots hold them.

    Raises NotPermitted naming the first directory or file that cannot be read.
    """
    listing = Listing(data_directory=data_directory)
    if frozen is not None:
        listing.data_directory, listing.origin = frozen.data_directory, frozen.origin
        listing.elsewhere.update(frozen.elsewhere)
    walker = _Walker(listing, rules)
    walker.walk("", ())
    walker.listing.seal()
    return walker.listing


class _Walker:
    def __init__(self, listing: Listing, rules: ListingRules) -> None:
        self.listing = listing
        self._rules = rules
        self._owner_numbers: dict[tuple[int, int], int] = {}

    def walk(self, relative: str, trail: tuple[tuple[int, int], ...]) -> None:
        """List one directory and what is below it. ``trail`` holds the device and inode of those above."""
        listing = self.listing
        path = listing.place(relative)
        try:
            found = os.stat(path)
            names = list_names(path)
        except (FileNotFoundError, NotADirectoryError):
            return  # a database or tablespace that was dropped while we walked
        except PermissionError as error:
            raise _not_permitted(path) from error
        identity = (found.st_dev, found.st_ino)
        if identity in trail or len(trail) > _LINK_DEPTH_MAX + relative.count("/"):
            listing.skipped.append(f'"{relative}" leads back to a directory above it')
            return
        number = len(listing.directories)
        listing.directories.append(relative)
        listing.directory_mode.append(stat.S_IMODE(found.st_mode))
        if is_contents_excluded(relative):
            self._keep_wal_subdirectories(relative, names)
            return
        subdirectories = self._take_files(relative, number, names)
        for name in subdirectories:
            self.walk(f"{relative}/{name}" if relative else name, (*trail, identity))

    def _keep_wal_subdirectories(self, relative: str, names: Sequence[bytes]) -> None:
        """pg_wal keeps its archive_status and summaries, empty; other directories of this kind keep nothing."""
        place = self.listing.place(relative)
        for name in map(os.fsdecode, names):
            below, path = f"{relative}/{name}", f"{place}/{name}"
            if below in WAL_SUBDIRECTORIES and os.path.isdir(path):
                self.listing.directories.append(below)
                self.listing.directory_mode.append(stat.S_IMODE(os.stat(path).st_mode))

    def _take_files(self, relative: str, directory: int, names: Sequence[bytes]) -> list[str]:
        subdirectories: list[str] = []
        relations = is_relation_directory(relative)
        unlogged = find_unlogged(map(os.fsdecode, names)) if relations else frozenset()
        prefix, place = f"{relative}/" if relative else "", self.listing.place(relative)
        version = self._rules.tablespace_version if _is_tablespace_place(relative) else None
        for name in map(os.fsdecode, names):
            if (version is not None and name != version) or prefix + name in self._rules.tablespaces_inside:
                continue
            path = prefix + name
            found = self._look_at(relative, name, f"{place}/{name}")
            if found is None:
                continue
            if is_excluded_file(path):
                continue
            if stat.S_ISDIR(found.st_mode):
                if relative == _TABLESPACES and not self._is_tablespace(name):
                    self.listing.skipped.append(f'"{path}" is not a tablespace the server knows')
                else:
                    subdirectories.append(name)
                continue
            if not stat.S_ISREG(found.st_mode) or path == "global/pg_control":
                continue  # sockets and the like; pg_control is read last of all, by the session itself
            relfile = parse_relfile(name) if relations else None
            if relations and is_temporary(name):
                continue
            if relfile is not None and is_unlogged_content(relfile, unlogged):
                continue
            self._take(directory, name, found, relfile)
        return subdirectories

    def _look_at(self, relative: str, name: str, path: str) -> os.stat_result | None:
        """What an entry is, links followed where they are; None when it is gone or not to be taken."""
        try:
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                return self._follow(relative, name, path)
            below = f"{relative}/{name}" if relative else name
            return os.stat(self.listing.elsewhere[below]) if below in self.listing.elsewhere else found
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise _not_permitted(path) from error

    def _take(self, directory: int, name: str, found: os.stat_result, relfile: RelFile | None) -> None:
        listing = self.listing
        listing.directory.append(directory)
        listing.names.append(os.fsencode(name))
        listing.size.append(found.st_size)
        listing.mode.append(stat.S_IMODE(found.st_mode))
        listing.mtime_ns.append(found.st_mtime_ns)
        listing.changed_ns.append(max(found.st_mtime_ns, found.st_ctime_ns))
        listing.first_block.append(relfile.first_block(self._rules.segment_blocks) if relfile else -1)
        listing.is_main.append(relfile is not None and relfile.fork is Fork.MAIN)
        owner = (found.st_uid, found.st_gid)
        number = self._owner_numbers.get(owner)
        if number is None:
            number = self._owner_numbers[owner] = len(listing.owners)
            listing.owners.append(owner)
        listing.owner.append(number)
        if not len(listing.owner) % PART_ROWS:
            listing.settle()

    def _is_tablespace(self, name: str) -> bool:
        return name.isdecimal() and int(name) in self._rules.tablespace_oids

    def _follow(self, relative: str, name: str, full_path: str) -> os.stat_result | None:
        """What a symbolic link leads to, or None when it is not followed.

        Links of tablespaces and of pg_wal are PostgreSQL's own. Others were laid by an administrator (a certificate, a
        log directory): what they lead to is stored as if it lay here, and the link is remembered.
        """
        listing = self.listing
        path = f"{relative}/{name}" if relative else name
        if relative == _TABLESPACES:
            if not self._is_tablespace(name):
                listing.skipped.append(f'"{path}" is not a tablespace the server knows')
                return None
            return os.stat(listing.elsewhere.get(path, full_path))
        if listing.origin:  # a link may lead from where it lies, and the snapshot lies elsewhere
            listing.elsewhere.setdefault(path, os.path.realpath(f"{listing.origin}/{path}"))
        try:
            found = os.stat(listing.elsewhere.get(path, full_path))
        except FileNotFoundError:
            listing.skipped.append(f'"{path}" is a symbolic link to nothing')
            return None
        except OSError as error:
            listing.skipped.append(f'"{path}" is a symbolic link that leads nowhere: {error.strerror}')
            return None
        listing.links.append((path, os.readlink(full_path)))
        return found


def _is_tablespace_place(relative: str) -> bool:
    return relative.startswith(f"{_TABLESPACES}/") and relative.count("/") == 1


def _not_permitted(path: str) -> NotPermitted:
    return NotPermitted(
        f'could not read "{path}": permission denied',
        hint="Run pghaven as the user that owns the data directory, or as root.",
    )


def name_owner(uid: int, gid: int) -> tuple[str, str]:
    """The names of a user and a group on this host, or their numbers as text when they have none."""
    import grp
    import pwd

    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    try:
        group = grp.getgrgid(gid).gr_name
    except KeyError:
        group = str(gid)
    return user, group


def read_whole(path: str, size_max: int) -> bytes:
    """A small file in one piece. Raises StoreUnreachable, NotPermitted naming it."""
    try:
        with open(path, "rb") as file:
            return file.read(size_max)
    except PermissionError as error:
        raise _not_permitted(path) from error
    except OSError as error:
        raise StoreUnreachable(f'could not read "{path}": {error.strerror}') from error
