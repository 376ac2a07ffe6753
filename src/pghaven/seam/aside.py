"""The WAL of a directory that Patroni is about to remove, moved beside it unless the archive has it.

The one idea: what a member wrote before it was passed over may be nowhere else; a rename costs nothing, and a file that
was moved in vain can be deleted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime

from pghaven.errors import ServerUnsuitable
from pghaven.postgres.datadir import WAL_DIRECTORY
from pghaven.postgres.segment import WalFileKind, classify
from pghaven.repository.walstore import WalArchive
from pghaven.restore.oldwal import find_unarchived
from pghaven.runtime.durable import OwnerOf, fsync_directory, make_directories_durably

_KINDS = frozenset({WalFileKind.SEGMENT, WalFileKind.PARTIAL, WalFileKind.HISTORY})


def has_data(data_directory: str) -> bool:
    """Whether there is anything in it that was not lost already."""
    try:
        return bool(os.listdir(data_directory))
    except OSError:
        return False


def keep_aside(data_directory: str, archives: Sequence[WalArchive], now: datetime) -> tuple[str, tuple[str, ...]]:
    """Move the WAL that one of the archives lacks, or all of it without any archive, out of the way of a removal.

    Gives the directory and the names; nothing is made when there is nothing to move. Raises ServerUnsuitable.
    """
    source = os.path.join(data_directory, WAL_DIRECTORY)
    goal = f"{data_directory}.{WAL_DIRECTORY}-{now:%Y%m%dT%H%M%SZ}"
    try:
        names = sorted(name for name in os.listdir(source) if classify(name) in _KINDS)
    except OSError:
        return goal, ()
    kept = {name for archive in archives for name in find_unarchived(archive, source, names)} if archives else {*names}
    if not kept:
        return goal, ()
    try:
        make_directories_durably(goal, 0o700, OwnerOf.path(data_directory))
        for name in sorted(kept):
            os.rename(os.path.join(source, name), os.path.join(goal, name))
        fsync_directory(goal)
        fsync_directory(source)
    except OSError as error:
        raise ServerUnsuitable(f'could not move WAL from "{source}" to "{goal}": {error.strerror}') from error
    return goal, tuple(sorted(kept))
