"""Real file systems that take snapshots, on files of this machine: Btrfs on a loop device, ZFS in user space, LVM where
the kernel has device-mapper.

The one idea: each is made for one test and taken down with everything in it; where the machine cannot, the test is
skipped with what it lacks. The program of ZFS in user space is one for the whole machine, so tests with it take turns.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pghaven.snapshot.driver import Volume
from pghaven.snapshot.find import find_volume
from tests.support.waiting import wait_until

_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
_ZFS_TURN = Path("/run/lock/pghaven-zfs-fuse")
_ZFS_SOCKET = Path("/var/run/zfs/zfs_socket")
_MIXED_BYTES_MAX = 256 << 20  # so small a one keeps data and metadata together
KINDS = ("btrfs", "zfs")
ALL_KINDS = (*KINDS, "lvm")


@dataclass(frozen=True, slots=True)
class Ground:
    """A file system at ``root`` that takes snapshots; ``make_volume`` makes one more in it."""

    kind: str
    root: Path
    pool: str

    def make_volume(self, name: str) -> Volume:
        path = self.root / name
        if self.kind == "btrfs":
            run("btrfs", "-q", "subvolume", "create", str(path))
        elif self.kind == "lvm":
            run("lvcreate", "--yes", "--thin", "--virtualsize", "200M", "--name", name, f"{self.pool}/pool")
            run("mkfs.ext4", "-q", f"/dev/{self.pool}/{name}")
            path.mkdir()
            run("mount", f"/dev/{self.pool}/{name}", str(path))
        else:
            run("zfs", "create", f"{self.pool}/{name}")
        return find_volume(str(path))


@contextmanager
def snapshotting(kind: str, place: Path, *, size_bytes: int = 1 << 30) -> Iterator[Ground]:
    """A file system of this kind, empty but for what it makes itself."""
    if os.geteuid() != 0:
        pytest.skip("file systems are made and mounted by root")
    image, root = place / "image", place / "mounted"
    root.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(size_bytes)
    with {"btrfs": _btrfs, "zfs": _zfs, "lvm": _lvm}[kind](image, root) as pool:
        yield Ground(kind, root, pool)


@contextmanager
def _btrfs(image: Path, root: Path) -> Iterator[str]:
    _need("mkfs.btrfs", "btrfs-progs")
    mixed = ("--mixed",) if image.stat().st_size < _MIXED_BYTES_MAX else ()
    run("mkfs.btrfs", "-q", *mixed, str(image))
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(root)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"Btrfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield ""
    finally:
        run("umount", str(root))


@contextmanager
def _lvm(image: Path, root: Path) -> Iterator[str]:
    """A volume group with a thin pool; every volume has a file system of its own."""
    _need("lvcreate", "lvm2")
    _need("thin_check", "thin-provisioning-tools")
    if not Path("/dev/mapper/control").exists():
        pytest.skip("this kernel has no device-mapper (there is no /dev/mapper/control)")
    device = run("losetup", "--find", "--show", str(image)).strip()
    group = f"pghaventest{os.getpid()}"
    try:
        run("vgcreate", "--yes", group, device)
        try:
            pool = ("lvcreate", "--yes", "--type", "thin-pool", "--size", "700M", "--name", "pool", group)
            if not _is_done(*pool):
                pytest.skip("this kernel makes no thin pool (dm-thin-pool)")
            yield group
        finally:
            for path in root.iterdir():
                if path.is_mount():
                    run("umount", str(path))
            run("vgremove", "--yes", "--force", group)
    finally:
        run("losetup", "--detach", device)


@contextmanager
def _zfs(image: Path, root: Path) -> Iterator[str]:
    _need("zfs-fuse", "zfs-fuse")
    with _ZFS_TURN.open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with _zfs_program(image.parent):
            pool = f"test{os.getpid()}"
            run("zpool", "create", "-m", str(root), pool, str(image))
            try:
                yield pool
            finally:
                wait_until(lambda: _is_done("zpool", "destroy", "-f", pool), f"zpool destroy {pool}")


@contextmanager
def _zfs_program(place: Path) -> Iterator[None]:
    with contextlib.suppress(FileNotFoundError):
        _ZFS_SOCKET.unlink()
    command = [shutil.which("zfs-fuse", path=_PATH) or "", "--no-daemon"]
    with (place / "zfs-fuse.log").open("wb") as log:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: program.poll() is not None or _is_done("zpool", "list"), "zfs-fuse answers")
        if program.poll() is not None:
            pytest.skip(f"zfs-fuse does not run here: {(place / 'zfs-fuse.log').read_text().strip()}")
        yield
    finally:
        program.terminate()
        program.wait()


def _is_done(*command: str) -> bool:
    return subprocess.run(command, env={**os.environ, "PATH": _PATH}, capture_output=True, check=False).returncode == 0


def _need(program: str, package: str) -> None:
    if shutil.which(program, path=_PATH) is None:
        pytest.skip(f"there is no {program} here (Debian's package is {package})")


def run(*command: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": _PATH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout
