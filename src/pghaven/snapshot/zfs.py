"""ZFS: snapshots of a dataset, read and cloned through clones of it.

The one idea: a snapshot is read through a read-only clone that is mounted for the time, because that works wherever
ZFS does, in the kernel or in user space, whether ``.zfs`` can be seen or not; such clones carry the reader's process
number, so that those of a reader that died are found and removed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import Busy, NotFound, ObjectExists, PghavenError, Refused
from pghaven.runtime.whoami import read_own_identity
from pghaven.snapshot.driver import FoundSnapshot, Volume
from pghaven.snapshot.programs import run

_READER = re.compile(r".*/pghaven-read-([0-9]+)-[0-9]+")
_CLONE = "pghaven-clone-"
_BUSY_SECONDS = 15.0
_POLL_SECONDS = 0.1


class ZfsDriver:
    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock

    def create(self, volume: Volume, name: str) -> None:
        run(f"take a snapshot of {volume}", "zfs", "snapshot", f"{volume.source}@{name}")

    def list(self, volume: Volume) -> tuple[FoundSnapshot, ...]:
        # Old programs know no "list -p" and no "get -t", so everything below is asked for and sorted out here.
        text = run(
            f"list the snapshots of {volume}",
            *("zfs", "get", "-rHp", "-o", "name,value", "used", volume.source),
        )
        found = []
        for line in text.splitlines():
            name, _, used = line.partition("\t")
            dataset, _, snapshot = name.partition("@")
            if snapshot and dataset == volume.source:
                found.append(FoundSnapshot(name=snapshot, used_bytes=int(used)))
        return tuple(sorted(found, key=lambda one: one.name))

    @contextmanager
    def reading(self, volume: Volume, name: str) -> Iterator[str]:
        self._sweep(volume)
        place = tempfile.mkdtemp(prefix="pghaven-snapshot-", dir="/run" if os.access("/run", os.W_OK) else None)
        me = read_own_identity()
        clone = f"{volume.source}/pghaven-read-{me.pid}-{os.urandom(4).hex().translate(_DIGITS)}"
        try:
            self._clone(f'read snapshot "{name}"', volume, name, clone, ("readonly=on", f"mountpoint={place}"))
            try:
                yield place
            finally:
                self._destroy(f'stop reading snapshot "{name}"', clone)
        finally:
            with suppress(OSError):
                os.rmdir(place)

    def clone(self, volume: Volume, name: str, place: str) -> None:
        if os.path.lexists(place):
            raise ObjectExists(f'"{place}" is there already', hint="A clone needs a directory that is not there yet.")
        self._clone(f'clone snapshot "{name}"', volume, name, _name_clone(volume, place), (f"mountpoint={place}",))

    def _clone(self, what: str, volume: Volume, name: str, clone: str, properties: tuple[str, ...]) -> None:
        options = [part for one in properties for part in ("-o", one)]
        try:
            run(what, "zfs", "clone", *options, f"{volume.source}@{name}", clone)
        except ObjectExists:
            raise  # another place's clone, whose name comes out the same
        except PghavenError:
            # It may have been made and not mounted: a user whom ZFS allows to clone may not be allowed to mount.
            with suppress(PghavenError):
                self._destroy(what, clone)
            raise

    def remove(self, volume: Volume, name: str) -> None:
        self._sweep(volume)
        what = f'remove snapshot "{name}" of {volume}'
        run(what, "zfs", "destroy", f"{volume.source}@{name}")

    def remove_clone(self, volume: Volume, place: str) -> None:
        clone = _name_clone(volume, place)
        # Two places may come out as one name.
        if clone not in _list_datasets(volume) or _read_mount_point(clone) != os.path.normpath(place):
            raise NotFound(f'there is no clone of {volume} at "{place}"')
        self._destroy(f'remove the clone at "{place}"', clone)
        with suppress(OSError):
            os.rmdir(place)

    def _sweep(self, volume: Volume) -> None:
        """Remove clones of readers that are no more."""
        for dataset in _list_datasets(volume):
            match = _READER.fullmatch(dataset)
            if match is not None and not os.path.exists(f"/proc/{match[1]}"):
                with suppress(PghavenError):
                    self._destroy("tidy up after a reader that died", dataset)

    def _destroy(self, what: str, dataset: str) -> None:
        """Remove a clone. ZFS in user space calls one busy until some seconds after its last reader."""
        if "@" in dataset or "/pghaven-" not in dataset:
            raise Refused(f'"{dataset}" is not a clone of ours', hint="Nothing was removed.")
        deadline = self._clock.monotonic() + _BUSY_SECONDS
        while True:
            try:
                run(what, "zfs", "destroy", dataset)
            except Busy:
                if self._clock.monotonic() > deadline:
                    raise
                self._clock.sleep(_POLL_SECONDS)
            else:
                return


# Hexadecimal digits as decimal ones: the names have to be unlike, not random.
_DIGITS = str.maketrans("abcdef", "012345")


def _name_clone(volume: Volume, place: str) -> str:
    """Datasets' names know fewer characters than paths; the whole path is in the mount point."""
    return f"{volume.source}/{_CLONE}{re.sub(r'[^A-Za-z0-9_.-]', '_', place.strip('/'))}"


def _read_mount_point(dataset: str) -> str:
    return run(f"find out where {dataset} is", "zfs", "get", "-H", "-o", "value", "mountpoint", dataset).rstrip("\n")


def _list_datasets(volume: Volume) -> tuple[str, ...]:
    text = run(f"list the clones of {volume}", "zfs", "list", "-rH", "-t", "filesystem", "-o", "name", volume.source)
    return tuple(text.split())
