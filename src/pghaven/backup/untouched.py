"""Which files need not be opened, because nobody can have written to them since the parent read them.

The one idea: a file's time stamps prove something only together with what the parent saw. The parent looked at a file's
size and modification time before it read the file; if both are still the same, and that time was already past when the
parent began, then whatever the file holds now it held then. A write moves the stamp, whichever way the clock was set.

What breaks that proof, and is therefore ruled out: a stamp so fresh that another write fits into the same tick of the
file system's clock; a clock that was put back, so that an old stamp could come again; and a machine that went down,
since data may have reached the disk whose stamp did not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pghaven.repository.entry import BackupEntry
from pghaven.units import parse_time_utc, render_time, since_epoch

MARGIN_SECONDS: Final = 60
"""How long before the parent's start a file must have come to rest.

Stamps are as coarse as 2 s (FAT) or 1 s (ext3, NFS 2), and those of a network file system are its server's, whose clock
may be off by more. A minute is far above both, and costs no more than opening what was written in that minute.
"""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStamps:
    """Sizes in bytes and modification times in nanoseconds of Unix time, a file each, in any order."""

    size: NDArray[Any]
    mtime_ns: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNow:
    """This host after its files were listed. ``boot_id`` is as in an intent, ``newest_ns`` the latest time of any file
    (``Listing.changed_ns``).
    """

    boot_id: str
    now: datetime
    newest_ns: int


def find_distrust(parent: BackupEntry, host: HostNow) -> str | None:
    """Why time stamps here prove nothing about this parent, so that every file must be opened; None if they do."""
    intent = parent.intent
    if intent is None:
        return "it is not known on which host the parent was taken"
    if intent.copy_of is not None:
        return "the parent was copied from another repository, and its host is not the one that copied it"
    if boot_of(intent.who.boot_id) != boot_of(host.boot_id):
        return "the parent was taken on another host, or before this one was last started"
    try:
        parent_end = max(intent.started_at, parse_time_utc(parent.summary["stopped_at"]))
    except (KeyError, TypeError, ValueError):
        return "it is not known when the parent was taken"
    if host.now < parent_end:
        return f"the clock was put back: it is {render_time(host.now)}, the parent ended at {render_time(parent_end)}"
    if host.newest_ns > to_ns(host.now) + MARGIN_SECONDS * 10**9:
        return f"a file was changed at {render_time(since_epoch(host.newest_ns / 1e9))}, which is yet to come"
    return None


def find_untouched(
    files: FileStamps, changed_ns: NDArray[np.int64], then: FileStamps, *, parent_started: datetime
) -> NDArray[np.bool_]:
    """For each file whether it holds what the parent holds of it.

    ``files`` are as listed now with the later of both times as ``changed_ns``, ``then`` the same files in the parent's
    manifest, in the same order. ``parent_started`` is the moment in the parent's intent. Means nothing when
    ``find_distrust`` has something to say.
    """
    untouched: NDArray[np.bool_] = np.equal(files.size, then.size)
    untouched &= files.mtime_ns == then.mtime_ns
    untouched &= changed_ns < to_ns(parent_started) - MARGIN_SECONDS * 10**9
    return untouched


def to_ns(moment: datetime) -> int:
    """Nanoseconds of Unix time, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def boot_of(boot_id: str) -> str:
    """The boot without the process-number space, which changes with every container on one host."""
    return boot_id.partition("/")[0]
