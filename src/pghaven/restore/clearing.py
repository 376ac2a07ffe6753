"""Making way in a directory that is restored over: what must be gone before the first page is written.

    pg_control → WAL that is nowhere else is moved away → what the backup does not have

The one idea: without ``pg_control`` no server starts, so it goes first, for good, and only then anything else; a
crash at any point leaves a directory that cannot be started and that says by its plan file whose it is."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import closing, suppress
from itertools import chain

from pghaven.errors import Refused
from pghaven.events import Listener, Step
from pghaven.postgres.datadir import WAL_DIRECTORY
from pghaven.restore.places import has_control, read_control, refuse_running
from pghaven.restore.request import Existing, RestorePlan
from pghaven.restore.targetfiles import Directories
from pghaven.runtime.durable import OwnerOf, fsync_directory, make_directories_durably, write_durably


def disarm(target: str, owner: OwnerOf | None) -> None:
    """Remove ``pg_control``, durably. Raises Refused, with it in its place again, if a server was being started."""
    refuse_running(target)
    if not has_control(target):
        return
    content = read_control(target)
    with closing(Directories((("", target),))) as places:
        directory = places.open("global")
        os.unlink("pg_control", dir_fd=directory)
        fsync_directory(directory)
        try:
            # A server makes its lock file before it reads pg_control: whoever has read it can be seen now.
            refuse_running(target)
        except Refused:
            write_durably(f"/proc/self/fd/{directory}/pg_control", content, 0o600, owner)
            raise


def make_way(plan: RestorePlan, existing: Existing, owner: OwnerOf | None, listener: Listener) -> None:
    """Move away and remove what the plan says. Nothing that a link leads to is touched. Raises OSError."""
    roots = tuple((root.prefix, root.path) for root in plan.roots)
    with closing(Directories(roots)) as places:
        if existing.saved_wal:
            listener(Step(text=f"moving WAL that is not in the archive to {existing.saved_wal_directory}"))
            _save_wal(places, existing, owner)
        for path in chain(existing.removed, existing.replaced):
            _remove(places, path)
        for path in existing.in_the_way:
            _remove_tree(places, path)


def _save_wal(places: Directories, existing: Existing, owner: OwnerOf | None) -> None:
    goal = existing.saved_wal_directory
    make_directories_durably(goal, 0o700, owner)
    source = places.open(WAL_DIRECTORY)
    descriptor = os.open(goal, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in existing.saved_wal:
            try:
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=descriptor)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy_durably(source, descriptor, name, owner)
        fsync_directory(descriptor)
        fsync_directory(source)
    finally:
        os.close(descriptor)


def _copy_durably(source: int, goal: int, name: str, owner: OwnerOf | None) -> None:
    """To another file system: the old one goes when the new one is on disk."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    with open(descriptor, "rb") as file:
        write_durably(f"/proc/self/fd/{goal}/{name}", file.read(), 0o600, owner)
    os.unlink(name, dir_fd=source)


def _remove(places: Directories, path: str) -> None:
    """A file or link, or a directory if nothing is left in it: what is foreign keeps it."""
    directory, _, name = path.rpartition("/")
    try:
        above = places.open(directory)
    except FileNotFoundError:
        return
    try:
        os.unlink(name, dir_fd=above)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=above)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _remove_tree(places: Directories, path: str) -> None:
    directory, _, name = path.rpartition("/")
    above = places.open(directory)
    with suppress(FileNotFoundError):
        try:
            os.unlink(name, dir_fd=above)
        except IsADirectoryError:
            shutil.rmtree(name, dir_fd=above)  # follows no links
