"""What every kind of file system that takes snapshots must be able to do.

The one idea: a snapshot is named by the volume and one name that we choose, so whoever finds it later knows whose it
is without a list of its own; ``tests/contract/test_snapshots.py`` holds every driver to the same promises.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """What is snapshotted as a whole. ``source`` is its name among its own programs (a dataset, a subvolume's
    directory, ``group/volume``); its files lie below the directory ``root``."""

    kind: str
    source: str
    root: str

    def __str__(self) -> str:
        return f'{KINDS[self.kind]} "{self.source}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSnapshot:
    """A snapshot that is there. ``used_bytes`` is what only it holds, None where the file system does not say."""

    name: str
    used_bytes: int | None


KINDS = {"zfs": "ZFS dataset", "btrfs": "Btrfs subvolume", "lvm": "LVM thin volume"}


class Driver(Protocol):
    """Names are letters, digits, ``_``, ``.`` and ``-``. All raise NotPermitted naming the right that is missing,
    and StoreFull when the file system or its pool has no room."""

    def create(self, volume: Volume, name: str) -> None:
        """Take it: atomic, and in milliseconds. Raises ObjectExists for a name that is taken."""

    def list(self, volume: Volume) -> tuple[FoundSnapshot, ...]:
        """All snapshots of the volume that are there, by name; those of others too."""

    def reading(self, volume: Volume, name: str) -> AbstractContextManager[str]:
        """The directory where its files can be read while the block runs. Raises NotFound."""

    def clone(self, volume: Volume, name: str, place: str) -> None:
        """A writable copy at the directory ``place``, which must not be there; it outlives the program, not always
        the host. Raises NotFound, Refused for a place where it cannot be."""

    def remove(self, volume: Volume, name: str) -> None:
        """Raises NotFound, Refused while clones need it."""

    def remove_clone(self, volume: Volume, place: str) -> None:
        """Remove what ``clone`` made. Raises NotFound, Refused while it is in use."""
