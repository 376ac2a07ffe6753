"""Which volume a directory lies on, and who takes snapshots of it.

The one idea: a directory on a file system without snapshots is refused before anything is begun, with what it is on and
what would do.
"""

from __future__ import annotations

import os

from pghaven.errors import Refused
from pghaven.snapshot.btrfs import BtrfsDriver, find_subvolume
from pghaven.snapshot.driver import Driver, Volume
from pghaven.snapshot.lvm import LvmDriver, find_thin_volume
from pghaven.snapshot.mounts import find_mount
from pghaven.snapshot.zfs import ZfsDriver

_DRIVERS: dict[str, Driver] = {"btrfs": BtrfsDriver(), "zfs": ZfsDriver(), "lvm": LvmDriver()}


def get_driver(kind: str) -> Driver:
    """Raises Refused for a kind that this version does not know."""
    try:
        return _DRIVERS[kind]
    except KeyError:
        raise Refused(f'snapshots of kind "{kind}" are not known to this version', hint="Use a newer one.") from None


def find_volume(path: str) -> Volume:
    """The volume that a directory lies on. Raises Refused for one that takes no snapshots, saying why."""
    real = os.path.realpath(path)
    mount = find_mount(real)
    if mount.type == "btrfs":
        root = find_subvolume(real)
        return Volume(kind="btrfs", source=root, root=root)
    if mount.type in ("zfs", "fuse.zfs"):
        return Volume(kind="zfs", source=mount.source, root=mount.point)
    if mount.source.startswith("/dev/"):
        found = find_thin_volume(mount.source)
        if isinstance(found, str):
            return Volume(kind="lvm", source=found, root=mount.point)
        reason = found.reason
    else:
        reason = f"{mount.type} takes no snapshots"
    raise Refused(
        f'no snapshot can be taken of "{path}": it lies on {mount.source} ({mount.type}), and {reason}',
        hint="Snapshots need ZFS, Btrfs or an LVM thin volume. Without --method snapshot the files are read in place.",
    )
