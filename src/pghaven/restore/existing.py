"""What lies in the target already: what is compared with the backup, what goes, and what is somebody else's.

The one idea: whatever has no name of the backup's is judged by its name alone. Only what PostgreSQL itself names so,
in that very place, is removed; everything else is told and left alone, and where it is in the way it stops the plan.
Links are looked at and never followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from pghaven.errors import NotPermitted, Refused
from pghaven.events import Notice
from pghaven.postgres.datadir import CONFIG_COPY_DIRECTORY, RESTORE_PLAN_FILE, SNAPSHOT_DIRECTORY, WAL_DIRECTORY
from pghaven.postgres.ownfiles import TABLESPACES, is_own_directory, is_own_file, is_tablespace_link, is_wal_file
from pghaven.repository.manifest import Manifest
from pghaven.repository.walstore import WalArchive
from pghaven.restore.oldwal import find_unarchived
from pghaven.restore.request import Existing, RestoreRequest
from pghaven.runtime.names import Paths, list_names
from pghaven.runtime.spill import in_parts

# Neither removed nor worth a word: pg_control goes before all others, the plan file is written anew.
_PASSED_OVER = frozenset({"global/pg_control", RESTORE_PLAN_FILE, "pghaven.recovery.log", "lost+found"})
_SNAPSHOTS = os.fsencode(SNAPSHOT_DIRECTORY)
_NAMED = 5
_FILES_AT_ONCE = 4096
_NO_FILE = (None, 0)
GENERATED_FILES = (
    RESTORE_PLAN_FILE,
    "backup_label",
    "recovery.signal",
    "standby.signal",
    "postgresql.auto.conf",
    "postgresql.conf",
    "pg_hba.conf",
    "pg_ident.conf",
)


@dataclass(slots=True)
class Found:
    """As in ``request.Existing``. ``wal`` are the WAL files in ``pg_wal``. ``free_bytes`` is, for each root's prefix,
    what need not be found on its disk, because it is taken by files that stay or that go."""

    file_count: int = 0
    local_bytes: int = 0
    free_bytes: dict[str, int] = field(default_factory=dict)
    removed: Paths = field(default_factory=Paths)
    replaced: Paths = field(default_factory=Paths)
    in_the_way: Paths = field(default_factory=Paths)
    foreign: Paths = field(default_factory=Paths)
    wal: list[str] = field(default_factory=list)

    def seal(self) -> None:
        for paths in (self.removed, self.replaced, self.in_the_way, self.foreign):
            paths.seal()

    def iter_strange(self) -> Iterator[str]:
        """What neither the backup nor a restore of it would have made."""
        removed = (path for path in self.removed if not is_generated(path))
        return chain(self.foreign, self.in_the_way, self.replaced, removed, self.wal)


def find_existing(places: Mapping[str, str], links: Mapping[str, str], manifest: Manifest) -> Found:
    """Look through the places that may be written to: ``places`` maps prefixes to directories, ``links`` the prefixes
    of all tablespaces to where they are to lead. Raises NotPermitted."""
    scan = _Scan(links, manifest)
    for prefix, path in places.items():
        scan.root = prefix
        scan.found.free_bytes[prefix] = 0
        scan.walk(prefix, os.fsencode(path))
    scan.found.seal()
    return scan.found


@dataclass(frozen=True, slots=True)
class _Entry:
    """What lies under a name; links are not followed."""

    path: bytes
    status: os.stat_result

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.status.st_mode)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)


def _find_entry(directory: bytes, name: bytes) -> _Entry | None:
    path = os.path.join(directory, name)
    try:
        return _Entry(path, os.lstat(path))
    except FileNotFoundError:
        return None
    except PermissionError:
        raise NotPermitted(f'could not look at "{os.fsdecode(path)}": permission denied') from None


class _Scan:
    def __init__(self, links: Mapping[str, str], manifest: Manifest) -> None:
        self.found = Found()
        self.root = ""
        self._links = links
        self._files = manifest.files
        self._version = f"PG_{manifest.facts.major}_{manifest.facts.catalog_version}"
        self._number = {os.fsdecode(path): number for number, path in enumerate(manifest.files.directories)}

    def _iter_wanted(self, relative: str) -> Iterator[tuple[bytes, int]]:
        """The files that the backup has in a directory, by their names, with their sizes."""
        number = self._number.get(relative)
        if number is None:
            return
        first, last = np.searchsorted(self._files.directory, [number, number + 1]).tolist()
        for part in in_parts(last - first, _FILES_AT_ONCE):
            here = slice(first + part.start, first + part.stop)
            yield from zip(self._files.names[here], self._files.size[here].tolist(), strict=True)

    def walk(self, relative: str, path: bytes) -> None:
        prefix = f"{relative}/" if relative else ""
        try:
            names = list_names(os.fsdecode(path))
        except (FileNotFoundError, NotADirectoryError):
            return  # somebody is at it; whatever it becomes, nothing is written through it
        except PermissionError:
            raise NotPermitted(f'could not look into "{os.fsdecode(path)}": permission denied') from None
        # Both in order of their bytes, so neither is ever in memory as a whole.
        wanted = self._iter_wanted(relative)
        next_name, next_size = next(wanted, _NO_FILE)
        for own_name in names:
            while next_name is not None and next_name < own_name:
                next_name, next_size = next(wanted, _NO_FILE)
            name = prefix + os.fsdecode(own_name)
            is_passed_over = name in _PASSED_OVER or own_name == _SNAPSHOTS
            entry = None if is_passed_over else _find_entry(path, own_name)
            if entry is None:
                continue
            if relative == TABLESPACES and name in self._links:
                self._take_tablespace(name, entry)
            elif own_name == next_name:
                self._take_file(name, entry, next_size)
            elif name in self._number:
                self._take_directory(name, entry)
            else:
                self._take_other(name, entry)

    def _take_tablespace(self, name: str, entry: _Entry) -> None:
        if not entry.is_link:
            self.found.in_the_way.append(name)
        elif os.fsdecode(os.readlink(entry.path)) != self._links[name]:
            self.found.replaced.append(name)

    def _take_file(self, name: str, entry: _Entry, size: int) -> None:
        found, status = self.found, entry.status
        if entry.is_directory:
            found.in_the_way.append(name)
            return
        if not entry.is_file or status.st_nlink != 1:
            found.replaced.append(name)  # also one that has another name: writing to it would change that as well
            return
        found.file_count += 1
        found.local_bytes += min(status.st_size, size)
        found.free_bytes[self.root] += status.st_blocks * 512

    def _take_directory(self, name: str, entry: _Entry) -> None:
        if entry.is_directory:
            self.walk(name, entry.path)
        elif entry.is_file:
            self.found.in_the_way.append(name)
        else:
            self.found.replaced.append(name)

    def _take_other(self, name: str, entry: _Entry) -> None:
        """What has no name of the backup's."""
        found, status = self.found, entry.status
        if entry.is_link:
            # One that PostgreSQL would write through must not stay, wherever it leads.
            known = is_tablespace_link(name) or self._is_own(name) or is_own_directory(name, self._version)
            (found.removed if known else found.foreign).append(name)
        elif entry.is_directory and is_own_directory(name, self._version):
            self.walk(name, entry.path)
            found.removed.append(name)
        elif not entry.is_file or not self._is_own(name):
            found.foreign.append(name)
        elif is_wal_file(name):
            found.wal.append(name)
        else:
            found.removed.append(name)
            found.free_bytes[self.root] += status.st_blocks * 512 if status.st_nlink == 1 else 0

    def _is_own(self, name: str) -> bool:
        return is_own_file(name, self._version) or is_leftover(name.rpartition("/")[2])


def plan_existing(
    found: Found | None, request: RestoreRequest, archive: WalArchive, *, is_unfinished: bool
) -> tuple[Existing | None, list[Notice]]:
    """What becomes of what was found, and what somebody should think of before. Reads the WAL files there.

    Raises Refused when something is in the way that is not PostgreSQL's, unless that was asked to be removed.
    """
    if found is None:
        return None, []
    if found.in_the_way and not request.remove_foreign:
        raise Refused(
            f"{len(found.in_the_way)} files or directories in the target are in the way and not PostgreSQL's: "
            + _enumerate(found.in_the_way),
            hint="Move them away, or have them removed with --remove-foreign.",
        )
    names = [path.rpartition("/")[2] for path in found.wal]
    saved = find_unarchived(archive, f"{request.target_dir}/{WAL_DIRECTORY}", names)
    kept = {f"{WAL_DIRECTORY}/{name}" for name in saved}
    existing = Existing(
        is_unfinished=is_unfinished,
        file_count=found.file_count,
        local_bytes=found.local_bytes,
        removed=Paths(chain((path for path in found.wal if path not in kept), found.removed)),
        replaced=found.replaced,
        in_the_way=found.in_the_way,
        foreign=found.foreign,
        saved_wal=saved,
        saved_wal_directory=f"{request.target_dir}.{WAL_DIRECTORY}-{archive.clock.now():%Y%m%dT%H%M%SZ}",
    )
    return existing, _describe(existing, request)


def _describe(existing: Existing, request: RestoreRequest) -> list[Notice]:
    notices = []
    if existing.foreign:
        text = f"not PostgreSQL's and left alone in the target: {_enumerate(existing.foreign)}"
        notices.append(Notice(level="info", code="foreign", text=text))
    if existing.saved_wal:
        text = f"not in the archive, and so moved to {existing.saved_wal_directory}: {_enumerate(existing.saved_wal)}"
        first = f"{request.target_dir}/{WAL_DIRECTORY}/{existing.saved_wal[0]}"
        hint = f"If it is to be replayed, archive it first, each file with: pghaven wal push {first}"
        notices.append(Notice(level="info", code="saved_wal", text=text, hint=hint))
    return notices


def _enumerate(names: Sequence[str]) -> str:
    """The first few by name, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(f'"{name}"' for name in names[:_NAMED]) + more


def is_generated(path: str) -> bool:
    """Whether a restore makes this itself, or left it behind when it was killed."""
    directory, _, name = path.rpartition("/")
    ours = path in (*GENERATED_FILES, CONFIG_COPY_DIRECTORY) or directory == CONFIG_COPY_DIRECTORY
    return ours or is_leftover(name)


def is_leftover(name: str) -> bool:
    """Whether this is the temporary name of a file that we write and rename; a kill leaves one behind."""
    return name.startswith(tuple(f".{one}." for one in (*GENERATED_FILES, "pg_control"))) and name.endswith(".tmp")
