"""Where a restore from a kept snapshot gets its files: copied out of it, or as a writable clone of it.

The one idea: both leave a data directory without ``pg_control`` and without anything that a base backup leaves out;
what makes a server of it is the same for all restores. On a file system that shares blocks a copy costs no room.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass

from pghaven.backup.frozen import Places, reading_snapshots, relocate
from pghaven.backup.listing import Listing, ListingRules, list_data_directory
from pghaven.errors import NotFound, PghavenError, Refused
from pghaven.events import Listener, Progress, Step
from pghaven.instant.points import Point
from pghaven.postgres.datadir import (
    EXCLUDED_DIRECTORY_CONTENTS,
    RESTORE_PLAN_FILE,
    WAL_SUBDIRECTORIES,
    is_excluded_file,
)
from pghaven.repository.kept import KeptSnapshot
from pghaven.restore.fetch import FetchResult
from pghaven.restore.places import refuse_running
from pghaven.restore.request import RestorePlan
from pghaven.restore.targetfiles import Directories, writing_error
from pghaven.snapshot.driver import Volume
from pghaven.snapshot.find import get_driver

_FICLONE = 0x40049409  # linux/fs.h
_COPY_BYTES = 64 << 20
_FILE_MODE_MASK, _DIRECTORY_MODE_MASK = 0o640, 0o750


@dataclass(frozen=True, slots=True)
class SnapshotCopy:
    """Copies every file out of the snapshot; files share their blocks with it where the file system can."""

    kept: KeptSnapshot

    def fill(self, plan: RestorePlan, owner: tuple[int, int] | None, tell: Listener) -> FetchResult:
        kept = self.kept
        places = Places(home=kept.home, elsewhere=kept.elsewhere)
        roots = tuple((root.prefix, root.path) for root in plan.roots)
        tell(Step(text=f"copying {kept.facts.file_count} files out of snapshot {kept.label}"))
        with (
            reading_snapshots(places, kept.volumes, kept.name) as frozen,
            closing(Directories(roots)) as target,
        ):
            listing = list_data_directory(kept.home, make_rules(kept), frozen)
            for relative, mode in zip(listing.directories, listing.directory_mode, strict=True):
                target.make(relative, mode & _DIRECTORY_MODE_MASK | 0o700, owner or (-1, -1))
            written = 0
            for number, size in enumerate(listing.size):
                try:
                    _copy(listing, number, target, owner)
                except OSError as error:
                    raise writing_error(error, listing.relative_path(number)) from error
                written += size
                tell(Progress(phase="copying", done_bytes=written, total_bytes=kept.facts.total_bytes))
        return FetchResult(written_bytes=written)


@dataclass(frozen=True, slots=True)
class SnapshotClone:
    """Makes a server of clones that are in place already: takes out what a base backup would have left out."""

    kept: KeptSnapshot
    parts: tuple[tuple[str, str], ...]  # a volume's root, its clone

    def fill(self, plan: RestorePlan, owner: tuple[int, int] | None, tell: Listener) -> FetchResult:
        tell(Step(text="taking out what belongs to the original server alone"))
        home = plan.request.target_dir
        try:
            for name in os.listdir(home):
                if is_excluded_file(name) and name != RESTORE_PLAN_FILE:
                    _remove(f"{home}/{name}")
            for name in EXCLUDED_DIRECTORY_CONTENTS:
                _empty(f"{home}/{name}", owner)
            for below in WAL_SUBDIRECTORIES:
                os.mkdir(f"{home}/{below}", 0o700)
                _give(f"{home}/{below}", owner)
            moved = {relative: relocate(place, self.parts) for relative, place in self.kept.elsewhere.items()}
            for relative, place in moved.items():
                _lead(locate(home, relative, moved), place, is_left=os.path.dirname(relative) == "pg_tblspc")
        except OSError as error:
            raise writing_error(error, str(error.filename or home)) from error
        return FetchResult()


def locate(home: str, relative: str, moved: Mapping[str, str]) -> str:
    """Where a link of a clone lies: below the nearest directory above it that itself lies elsewhere."""
    above = [one for one in moved if relative.startswith(one + "/")]
    if not above:
        return f"{home}/{relative}"
    nearest = max(above, key=len)
    return moved[nearest] + relative[len(nearest) :]


def make_clones(kept: KeptSnapshot, target: str) -> tuple[tuple[str, str], ...]:
    """Clone every volume: the data directory's at ``target``, others beside it. (a volume's root, its clone's place).

    None can be started until it was made a server of: pg_control is gone. Raises ObjectExists, Refused, NotFound; then
    nothing is left.
    """
    parts = _plan_parts(kept, target)
    made: list[tuple[Volume, str]] = []
    try:
        for volume, (_, place) in zip(kept.volumes, parts, strict=True):
            get_driver(volume.kind).clone(volume, kept.name, place)
            made.append((volume, place))
        os.unlink(f"{relocate(kept.home, parts)}/global/pg_control")
    except BaseException:
        for volume, place in reversed(made):
            with suppress(PghavenError):
                get_driver(volume.kind).remove_clone(volume, place)
        raise
    return parts


def remove_clones(kept: KeptSnapshot, target: str) -> int:
    """Remove what ``make_clones`` made; how many. Raises Refused for one that is in use."""
    count = 0
    for volume, (_, place) in zip(kept.volumes, _plan_parts(kept, target), strict=True):
        with suppress(NotFound):
            get_driver(volume.kind).remove_clone(volume, place)
            count += 1
    return count


def remove_clone_at(point: Point, place: str) -> int:
    """Remove a clone that ``make_clones`` made of this snapshot. Raises NotFound, Refused while a server runs on it."""
    target = os.path.abspath(place)
    if point.kept is None:
        raise Refused(f'snapshot "{point.label}" is not recorded, so what was cloned of it is not known')
    refuse_running(relocate(point.kept.home, _plan_parts(point.kept, target)))
    count = remove_clones(point.kept, target)
    if not count:
        raise NotFound(f'there is no clone of snapshot "{point.label}" at "{target}"')
    return count


def _plan_parts(kept: KeptSnapshot, target: str) -> tuple[tuple[str, str], ...]:
    """(a volume's root, where its clone goes): the data directory's to ``target``, others beside it."""
    main = kept.volumes[-1]
    return tuple(
        (volume.root, target if volume is main else f"{target}.volume{number + 1}")
        for number, volume in enumerate(kept.volumes)
    )


def make_rules(kept: KeptSnapshot) -> ListingRules:
    facts = kept.facts
    inside = (place for place in kept.elsewhere.values() if place.startswith(kept.home + "/"))
    return ListingRules(
        tablespace_oids=frozenset(one.oid for one in facts.tablespaces),
        segment_blocks=facts.segment_blocks,
        tablespace_version=f"PG_{facts.major}_{facts.catalog_version}",
        tablespaces_inside=frozenset(os.path.relpath(place, kept.home) for place in inside),
    )


def _copy(listing: Listing, number: int, target: Directories, owner: tuple[int, int] | None) -> None:
    directory = listing.directories[listing.directory[number]]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    mode = listing.mode[number] & _FILE_MODE_MASK | 0o600
    source = os.open(listing.path(number), os.O_RDONLY | os.O_CLOEXEC)
    try:
        made = os.open(listing.names[number], flags, mode, dir_fd=target.open(directory))
        try:
            _share_or_copy(source, made, listing.size[number])
            if owner is not None:
                os.fchown(made, *owner)
            os.utime(made, ns=(listing.mtime_ns[number], listing.mtime_ns[number]))
        finally:
            os.close(made)
    finally:
        os.close(source)


def _share_or_copy(source: int, made: int, size: int) -> None:
    try:
        fcntl.ioctl(made, _FICLONE, source)
    except OSError:  # another file system, or one that cannot
        at = 0
        while at < size:
            copied = os.sendfile(made, source, at, min(_COPY_BYTES, size - at))
            if not copied:
                raise Refused("a file in a snapshot became shorter while it was copied") from None
            at += copied


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _empty(path: str, owner: tuple[int, int] | None) -> None:
    """An empty directory; a link to one elsewhere (pg_wal) becomes a directory of the clone's own."""
    if os.path.lexists(path):
        _remove(path)
    os.mkdir(path, 0o700)
    _give(path, owner)


def _lead(path: str, place: str, *, is_left: bool) -> None:
    """Have a link of the clone's lead to the clone's own files; the restore itself makes those of tablespaces."""
    if os.path.islink(path):
        os.unlink(path)
    elif os.path.isdir(path):
        os.rmdir(path)  # a mount point, empty here
    if not is_left:
        os.symlink(place, path)


def _give(path: str, owner: tuple[int, int] | None) -> None:
    if owner is not None:
        os.chown(path, *owner)
