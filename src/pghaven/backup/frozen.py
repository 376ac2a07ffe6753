"""The data directory as snapshots of the file systems it lies on hold it.

The one idea: every volume that holds a part of what the server writes is snapshotted, between the backup's start and
its stop, and whatever is read afterwards is read there. Volumes need not be frozen at one moment: between start and
stop any mixture of states is what replay makes whole, as with files that are copied one by one. The one with the data
directory comes last, so that a standby's pg_control is as young as the youngest page. WAL comes from the archive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pghaven.clock import Clock
from pghaven.errors import NotFound, PghavenError, Refused
from pghaven.events import Listener, Notice, Step
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupState
from pghaven.repository.layout import MADE_LABEL
from pghaven.snapshot.driver import Volume
from pghaven.snapshot.find import find_volume, get_driver
from pghaven.units import render_duration

# What only administrators put below the data directory may lie anywhere: it is not the server's data.
_SERVER_DIRECTORIES = ("base", "global")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Where to read the data directory ``origin`` as its snapshots hold it. ``elsewhere`` are directories below it that
    lie on other volumes, by relative path."""

    origin: str
    data_directory: str
    elsewhere: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a data directory lies, links followed: ``home`` itself, and directories of the server's below it that lie
    elsewhere, by relative path."""

    home: str
    elsewhere: Mapping[str, str]


def parse_snapshot_name(cluster: str, name: str) -> str | None:
    """The label in the name of a snapshot of this cluster, None for what others made: "shop" is not "shop-2"."""
    label = name.removeprefix(f"pghaven-{cluster}-")
    return label if label != name and MADE_LABEL.fullmatch(label) else None


def find_places(data_directory: str) -> Places:
    """Tablespaces, and what a link or a mount leads to that somebody made by hand, count as elsewhere."""
    home = os.path.realpath(data_directory)
    found = {
        relative: os.path.realpath(f"{home}/{relative}")
        for relative in _iter_directories(home)
        if os.path.islink(f"{home}/{relative}") or os.path.ismount(f"{home}/{relative}")
    }
    return Places(home=home, elsewhere=found)


def _iter_directories(home: str) -> Iterator[str]:
    """Every directory of the server's that holds data, by relative path: none lies deeper than a tablespace's
    databases."""
    for name in _list_directories(home):
        if name not in _SERVER_DIRECTORIES and (not name.startswith("pg_") or name == "pg_wal"):
            continue
        yield name
        for below in _list_directories(f"{home}/{name}"):
            yield f"{name}/{below}"
            if name != "pg_tblspc":
                continue
            for version in _list_directories(f"{home}/{name}/{below}"):
                yield f"{name}/{below}/{version}"
                databases = _list_directories(f"{home}/{name}/{below}/{version}")
                yield from (f"{name}/{below}/{version}/{database}" for database in databases)


def _list_directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []  # dropped meanwhile


def find_volumes(places: Places) -> tuple[Volume, ...]:
    """All volumes that the server's data lies on, that of the data directory last.

    Raises Refused naming the directory and its file system where one takes no snapshots.
    """
    found: dict[str, Volume] = {}
    for directory in (*places.elsewhere.values(), places.home):
        volume = find_volume(directory)
        found.pop(volume.source, None)
        found[volume.source] = volume
    return tuple(found.values())


def take_snapshots(volumes: Sequence[Volume], name: str, clock: Clock, tell: Listener) -> float:
    """One of each volume, in this order; returns how long it took, in seconds. All or none."""
    began = clock.monotonic()
    made: list[Volume] = []
    try:
        for volume in volumes:
            get_driver(volume.kind).create(volume, name)
            made.append(volume)
    except BaseException:
        remove_snapshots(made, name, tell)
        raise
    seconds = clock.monotonic() - began
    where = ", ".join(str(volume) for volume in volumes)
    tell(Step(text=f"took a snapshot of {where} in {render_duration(seconds)}"))
    return seconds


@contextmanager
def reading_snapshots(places: Places, volumes: Sequence[Volume], name: str) -> Iterator[Frozen]:
    """The data directory as the snapshots hold it, for as long as the block runs. Raises NotFound, Refused."""
    with ExitStack() as stack:
        parts = [
            (volume.root, stack.enter_context(get_driver(volume.kind).reading(volume, name))) for volume in volumes
        ]
        yield Frozen(
            origin=places.home,
            data_directory=relocate(places.home, parts),
            elsewhere={relative: relocate(place, parts) for relative, place in places.elsewhere.items()},
        )


def relocate(path: str, parts: Sequence[tuple[str, str]]) -> str:
    """Where a path is read; ``parts`` are (a volume's root, the directory to read it at). Raises Refused."""
    covering = [part for part in parts if path == part[0] or path.startswith(part[0].rstrip("/") + "/")]
    if not covering:
        raise Refused(
            f'"{path}" is the server\'s, and on no volume that was snapshotted',
            hint="It was made or moved while the backup began; take the backup again.",
        )
    root, place = max(covering, key=lambda part: len(part[0]))
    return place + path[len(root.rstrip("/")) :]


def remove_snapshots(volumes: Sequence[Volume], name: str, tell: Listener) -> bool:
    """Remove those that are there; what cannot be removed is told. Whether none is left."""
    is_gone = True
    for volume in volumes:
        try:
            get_driver(volume.kind).remove(volume, name)
        except NotFound:
            continue
        except PghavenError as error:
            is_gone = False
            text = f'snapshot "{name}" of {volume} is still there: {error.message}'
            tell(Notice(level="warning", code="snapshot_left", text=text, hint=error.hint))
    return is_gone


def sweep_snapshots(catalog: BackupCatalog, volumes: Sequence[Volume], tell: Listener) -> None:
    """Remove snapshots that a backup which was never finished left behind.

    One whose label the repository does not know is somebody else's: of another repository, or kept by hand.
    """
    for volume in volumes:
        for found in get_driver(volume.kind).list(volume):
            label = parse_snapshot_name(catalog.cluster, found.name)
            if label is not None and catalog.read_entry(label).state is BackupState.ABANDONED:
                remove_snapshots((volume,), found.name, tell)
                tell(Step(text=f'removed snapshot "{found.name}" of {volume}, which an interrupted backup left'))
