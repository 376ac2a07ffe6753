"""Finding the mount that a path lies on."""

from __future__ import annotations

from pathlib import Path

from pghaven.snapshot.mounts import find_mount

_TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
43 22 0:39 /@pg /srv rw,relatime - btrfs /dev/sdb rw,subvolid=256,subvol=/@pg
44 43 0:45 / /srv/my\\040data rw,relatime - zfs tank/my rw
45 44 0:46 / /srv/my\\040data rw,relatime master:7 - xfs /dev/mapper/vg-pg rw
"""


def test_the_longest_mount_point_over_a_path_is_it() -> None:
    assert find_mount("/etc/nothing", _TABLE).source == "/dev/sda1"
    assert find_mount("/srv/pg/base", _TABLE).type == "btrfs"
    assert find_mount("/srvx", _TABLE).point == "/"


def test_of_two_on_one_point_the_later_one_covers_the_other() -> None:
    found = find_mount("/srv/my data/base", _TABLE)
    assert (found.type, found.point, found.device) == ("xfs", "/srv/my data", "0:46")


def test_this_system_says_where_a_directory_lies(tmp_path: Path) -> None:
    found = find_mount(str(tmp_path))
    assert str(tmp_path).startswith(found.point)
