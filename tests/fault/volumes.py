"""Small file systems to fill up, and to cut the power of.

The one idea: FS_IOC_SHUTDOWN makes an ext4 forget, at once, all that was not flushed, as a power cut does. An fsync of
some other file just before makes it sharp: names are then on disk, and content that was never flushed is not.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

_FS_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_FIFREEZE = 0xC0045877
_FITHAW = 0xC0045878

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")


def _mount(*arguments: str) -> None:
    ended = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if ended.returncode != 0:
        pytest.skip(f"cannot mount here: {ended.stderr.strip()}")


@contextmanager
def memory_volume(place: Path, options: str) -> Iterator[Path]:
    """A tmpfs with, for example, ``size=1m`` or ``nr_inodes=10``."""
    place.mkdir()
    _mount("-t", "tmpfs", "-o", options, "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


class PowerCut:
    """An ext4 on a file, mounted at ``path``, that can lose its power."""

    def __init__(self, image: Path, path: Path) -> None:
        self.path = path
        self._image = image

    def mount(self) -> None:
        _mount("-o", "loop", str(self._image), str(self.path))

    def unmount(self) -> None:
        """A process that was killed while the volume was frozen ends a moment after it thaws."""
        command = ["umount", str(self.path)]
        wait_until(lambda: subprocess.run(command, capture_output=True).returncode == 0, f"umount {self.path}")

    def cut(self) -> None:
        """Lose the power after an unrelated fsync, and come back."""
        other = os.open(self.path / "unrelated", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(other, b"x")
            os.fsync(other)
        finally:
            os.close(other)
        mount = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(mount, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(mount)
        self.unmount()
        self.mount()


@contextmanager
def power_cut_volume(place: Path) -> Iterator[PowerCut]:
    """A volume of 24 MiB, with nothing on it but ``lost+found``."""
    image, path = place / "image", place / "mounted"
    path.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", str(image)], check=True)
    volume = PowerCut(image, path)
    volume.mount()
    try:
        yield volume
    finally:
        volume.unmount()


@contextmanager
def frozen(path: Path) -> Iterator[None]:
    """The file system at ``path``, on which every write now waits in the kernel, where not even SIGKILL ends it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(descriptor, _FITHAW, 0)
    finally:
        os.close(descriptor)


class Losing:
    """An ext4 at ``path`` on a disk that takes the first megabytes and then none, until it is mended."""

    def __init__(self, below: Path, path: Path) -> None:
        self.path = path
        self._below = below

    def mend(self) -> None:
        _mount("-o", "remount,size=200m", str(self._below))


@contextmanager
def losing_volume(place: Path) -> Iterator[Losing]:
    """A volume that says it has 100 MiB, on a disk that takes 16; without a journal, which would end with the disk."""
    with memory_volume(place, "size=16m") as below:
        image, path = below / "image", below / "mounted"
        path.mkdir()
        with image.open("wb") as file:
            file.truncate(100 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
        volume = PowerCut(image, path)
        volume.mount()
        try:
            yield Losing(below, path)
        finally:
            volume.unmount()
