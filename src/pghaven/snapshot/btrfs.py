"""Btrfs: a snapshot is a subvolume beside the one it was taken of.

The one idea: snapshots lie in ``.pghaven-snapshots/NAME`` next to their subvolume NAME; where the
subvolume is mounted by itself, so that there is no "next to", they lie in it, and the next snapshot leaves them out by
itself, since Btrfs does not go into nested subvolumes. A clone is one more subvolume, and lasts like any directory;
what it was made of Btrfs keeps with it, and nothing but a clone of ours is ever deleted as one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pghaven.errors import NotFound, ObjectExists, Refused
from pghaven.postgres.datadir import SNAPSHOT_DIRECTORY
from pghaven.snapshot.driver import FoundSnapshot, Volume
from pghaven.snapshot.mounts import find_mount
from pghaven.snapshot.programs import explain, run

_ROOT_INODE = 256  # BTRFS_FIRST_FREE_OBJECTID: what every subvolume's root directory has
# BTRFS_IOC_GET_SUBVOL_INFO of linux/btrfs.h, which anybody may ask; "btrfs subvolume show" takes root.
_GET_SUBVOL_INFO = 0x81F8943C
_INFO_BYTES = 504
_UUID, _PARENT_UUID = slice(296, 312), slice(312, 328)


def is_subvolume(path: str) -> bool:
    """Whether a directory on Btrfs is a subvolume's root."""
    return os.stat(path).st_ino == _ROOT_INODE


def find_subvolume(path: str) -> str:
    """The root of the subvolume that a directory on Btrfs lies in."""
    while not is_subvolume(path):
        path = os.path.dirname(path)
    return path


class BtrfsDriver:
    def create(self, volume: Volume, name: str) -> None:
        holder = _find_holder(volume)
        _make_holder(holder, volume)
        place = f"{holder}/{name}"
        if os.path.lexists(place):  # Btrfs would put the snapshot inside of it
            raise ObjectExists(f'there is a snapshot "{name}" of {volume} already', hint="Choose another name.")
        run(f"take a snapshot of {volume}", "btrfs", "subvolume", "snapshot", "-r", volume.root, place)

    def list(self, volume: Volume) -> tuple[FoundSnapshot, ...]:
        holder = _find_holder(volume)
        try:
            names = sorted(os.listdir(holder))
        except FileNotFoundError:
            return ()
        except PermissionError as error:
            said = f'"{holder}": {error.strerror}'
            raise explain(f"list the snapshots of {volume}", ("ls", holder), said) from error
        return tuple(FoundSnapshot(name=name, used_bytes=None) for name in names)

    @contextmanager
    def reading(self, volume: Volume, name: str) -> Iterator[str]:
        yield self._find(volume, name)

    def clone(self, volume: Volume, name: str, place: str) -> None:
        source = self._find(volume, name)
        above = os.path.dirname(place)
        if os.path.lexists(place):
            raise ObjectExists(f'"{place}" is there already', hint="A clone needs a directory that is not there yet.")
        if find_mount(above).device != find_mount(volume.root).device:
            raise Refused(
                f'a clone of {volume} cannot be at "{place}", which is on another file system',
                hint=f'Choose a directory on the file system of "{volume.root}".',
            )
        run(f'clone snapshot "{name}" to "{place}"', "btrfs", "subvolume", "snapshot", source, place)

    def remove(self, volume: Volume, name: str) -> None:
        _delete(f'remove snapshot "{name}" of {volume}', self._find(volume, name))

    def remove_clone(self, volume: Volume, place: str) -> None:
        if not os.path.isdir(place):
            raise NotFound(f'there is no clone at "{place}"')
        if not self._is_clone(volume, os.path.realpath(place)):
            raise Refused(
                f'"{place}" is not a clone of a snapshot of {volume} that is there: nothing was removed',
                hint=f'See what it is with "btrfs subvolume show {place}"; what is to go all the same, remove with '
                f'"btrfs subvolume delete {place}".',
            )
        _delete(f'remove the clone at "{place}"', place)

    def _is_clone(self, volume: Volume, place: str) -> bool:
        """Whether a directory is a subvolume that was made of one of the volume's snapshots."""
        if place == volume.root or find_mount(place).type != "btrfs" or not is_subvolume(place):
            return False
        holder = _find_holder(volume)
        snapshots = [f"{holder}/{one.name}" for one in self.list(volume)]
        try:
            parent = _read_info(place)[_PARENT_UUID]
            return any(is_subvolume(one) and _read_info(one)[_UUID] == parent for one in snapshots)
        except OSError as error:
            said = f'"{error.filename or place}": {error.strerror}'
            raise explain(f'find out whose clone is at "{place}"', ("ls", place), said) from error

    def _find(self, volume: Volume, name: str) -> str:
        place = f"{_find_holder(volume)}/{name}"
        if not os.path.isdir(place):
            raise NotFound(f'snapshot "{name}" of {volume} is not there any more', hint="Somebody else has removed it.")
        return place


def _find_holder(volume: Volume) -> str:
    is_mount_point = find_mount(volume.root).point == volume.root
    beside = volume.root if is_mount_point else os.path.dirname(volume.root)
    return f"{beside}/{SNAPSHOT_DIRECTORY}/{os.path.basename(volume.root)}"


def _read_info(path: str) -> bytes:
    """What the kernel knows of the subvolume that a path lies in."""
    info = bytearray(_INFO_BYTES)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _GET_SUBVOL_INFO, info)
    finally:
        os.close(fd)
    return bytes(info)


def _make_holder(holder: str, volume: Volume) -> None:
    """The directory for snapshots, the volume's owner's: whoever may take snapshots of it may put them there."""
    try:
        owner = os.stat(volume.root)
        for place in (os.path.dirname(holder), holder):
            with suppress(FileExistsError):
                os.mkdir(place, 0o700)
                if os.geteuid() == 0:
                    os.chown(place, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise explain(f"take a snapshot of {volume}", ("mkdir", holder), f'"{holder}": {error.strerror}') from error


def _delete(what: str, place: str) -> None:
    run(what, "btrfs", "subvolume", "delete", place)
