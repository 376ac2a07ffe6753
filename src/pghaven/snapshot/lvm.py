"""LVM: thin snapshots of a logical volume, activated and mounted to be read.

The one idea: only thin volumes are taken, whose snapshots cost nothing to make and share one pool; an ordinary LVM
snapshot is a fixed room that loses the snapshot when it is full. The kernel freezes the mounted file system for the
moment of the snapshot, so it is clean as after a sync. lvcreate(8), lvmthin(7), lvs(8).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pghaven.errors import NotFound, ObjectExists, PghavenError, Refused
from pghaven.snapshot.driver import FoundSnapshot, Volume
from pghaven.snapshot.mounts import find_mount
from pghaven.snapshot.programs import run

_COLUMNS = "vg_name,lv_name,lv_attr,origin,pool_lv,data_percent,lv_size,lv_path"
_CLONE = "pghaven-clone-"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoThinVolume:
    """Why a device's volume takes no snapshots; goes on after "and"."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalVolume:
    """One row of ``lvs``. ``data_percent`` is how much of a thin volume's size is in the pool, None when not active."""

    group: str
    name: str
    is_thin: bool
    origin: str
    size_bytes: int
    data_percent: float | None

    @property
    def path(self) -> str:
        return f"/dev/{self.group}/{self.name}"


def parse_volumes(text: str) -> tuple[LogicalVolume, ...]:
    """What ``lvs --reportformat json --units b --nosuffix`` says. Raises ValueError, KeyError for anything else."""
    rows: list[dict[str, Any]] = [row for report in json.loads(text)["report"] for row in report["lv"]]
    return tuple(
        LogicalVolume(
            group=row["vg_name"],
            name=row["lv_name"],
            is_thin=row["lv_attr"].startswith("V"),
            origin=row["origin"],
            size_bytes=int(float(row["lv_size"])),
            data_percent=float(row["data_percent"]) if row["data_percent"] else None,
        )
        for row in rows
    )


def find_thin_volume(device: str) -> str | NoThinVolume:
    """``group/volume`` of a block device that is an LVM thin volume, else why it is none."""
    real = os.path.realpath(device)
    if not os.path.basename(real).startswith("dm-"):
        return NoThinVolume(reason="that is no LVM volume")
    try:
        rows = parse_volumes(_list(f"find out what {device} is", device))
    except (NotFound, Refused) as error:
        return NoThinVolume(reason=f"LVM does not know it ({error.message})")
    if not rows or not rows[0].is_thin:
        return NoThinVolume(reason="that is no thin volume (lvmthin(7) says how to make one)")
    return f"{rows[0].group}/{rows[0].name}"


class LvmDriver:
    def create(self, volume: Volume, name: str) -> None:
        group, _, origin = volume.source.partition("/")
        if any(one.name == name for one in self._list_all(volume)):
            raise ObjectExists(f'there is a volume "{name}" in group "{group}" already', hint="Choose another name.")
        run(f"take a snapshot of {volume}", *render_create(group, origin, name))

    def list(self, volume: Volume) -> tuple[FoundSnapshot, ...]:
        _, _, origin = volume.source.partition("/")
        return tuple(
            FoundSnapshot(
                name=one.name,
                used_bytes=None if one.data_percent is None else int(one.size_bytes * one.data_percent / 100),
            )
            for one in sorted(self._list_all(volume), key=lambda one: one.name)
            if one.is_thin and one.origin == origin
        )

    @contextmanager
    def reading(self, volume: Volume, name: str) -> Iterator[str]:
        found = self._find(volume, name)
        place = tempfile.mkdtemp(prefix="pghaven-snapshot-", dir="/run" if os.access("/run", os.W_OK) else None)
        try:
            _mount(f'read snapshot "{name}"', found, volume, place, is_read_only=True)
            try:
                yield place
            finally:
                run(f'stop reading snapshot "{name}"', "umount", place)
        finally:
            with suppress(OSError):
                os.rmdir(place)

    def clone(self, volume: Volume, name: str, place: str) -> None:
        if os.path.lexists(place):
            raise ObjectExists(f'"{place}" is there already', hint="A clone needs a directory that is not there yet.")
        found = self._find(volume, name)
        clone = _name_clone(place)
        what = f'clone snapshot "{name}" to "{place}"'
        run(what, *render_create(found.group, found.name, clone))
        try:
            os.mkdir(place, 0o700)
            made = LogicalVolume(
                group=found.group, name=clone, is_thin=True, origin=name, size_bytes=0, data_percent=None
            )
            _mount(what, made, volume, place, is_read_only=False)
        except (PghavenError, OSError):
            with suppress(OSError):
                os.rmdir(place)
            with suppress(PghavenError):
                run(what, *render_remove(found.group, clone))
            raise

    def remove(self, volume: Volume, name: str) -> None:
        found = self._find(volume, name)
        run(f'remove snapshot "{name}" of {volume}', *render_remove(found.group, found.name))

    def remove_clone(self, volume: Volume, place: str) -> None:
        clone = _name_clone(place)
        found = next((one for one in self._list_all(volume) if one.name == clone), None)
        if found is None:
            raise NotFound(f'there is no clone of {volume} at "{place}"')
        if find_mount(place).point == os.path.realpath(place):
            run(f'remove the clone at "{place}"', "umount", place)
        run(f'remove the clone at "{place}"', *render_remove(found.group, clone))
        with suppress(OSError):
            os.rmdir(place)

    def _list_all(self, volume: Volume) -> tuple[LogicalVolume, ...]:
        group = volume.source.partition("/")[0]
        return parse_volumes(_list(f"list the snapshots of {volume}", group))

    def _find(self, volume: Volume, name: str) -> LogicalVolume:
        found = next((one for one in self._list_all(volume) if one.name == name), None)
        if found is None:
            raise NotFound(f'snapshot "{name}" of {volume} is not there any more', hint="Somebody else has removed it.")
        return found


def render_create(group: str, origin: str, name: str) -> tuple[str, ...]:
    """The command that makes a thin snapshot: of the same pool, active at once and after a restart."""
    return ("lvcreate", "--snapshot", "--setactivationskip", "n", "--name", name, f"{group}/{origin}")


def render_remove(group: str, name: str) -> tuple[str, ...]:
    if not name.startswith("pghaven-"):
        raise Refused(f'"{group}/{name}" is not a snapshot of ours', hint="Nothing was removed.")
    return ("lvremove", "--yes", f"{group}/{name}")


def render_mount(found: LogicalVolume, kind: str, place: str, *, is_read_only: bool) -> tuple[str, ...]:
    """XFS does not mount two file systems with one UUID unless it is told that this is meant."""
    options = ",".join([*(["ro"] if is_read_only else []), *(["nouuid"] if kind == "xfs" else [])])
    return ("mount", "-t", kind, *(["-o", options] if options else []), found.path, place)


def _mount(what: str, found: LogicalVolume, volume: Volume, place: str, *, is_read_only: bool) -> None:
    kind = find_mount(volume.root).type
    run(what, *render_mount(found, kind, place, is_read_only=is_read_only))


def _name_clone(place: str) -> str:
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in place.strip("/"))
    return f"{_CLONE}{plain}"[:120]


def _list(what: str, of: str) -> str:
    return run(what, "lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", _COLUMNS, of)
