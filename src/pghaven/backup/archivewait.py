"""The WAL a backup cannot do without: waited for, and proven, before the backup is committed.

The one idea: a backup is worth nothing without every byte of WAL from its start to its stop, so each of these segments
is read back from the archive and checked; that the server called them archived is not enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pghaven.errors import CheckFailed, ObjectMissing, Refused
from pghaven.events import Listener, Step
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.horizon import read_horizon
from pghaven.repository.walstore import WalArchive
from pghaven.units import render_duration

# Often at first, since most segments are there in a tenth of a second; then seldom, since a store may charge each look.
_POLL_SECONDS_MIN, _POLL_SECONDS_MAX, _POLL_GROWTH = 0.01, 1.0, 1.25
_LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveWait:
    """What to wait for and how long. ``explain`` says what the server knows when time runs out."""

    timeline: Timeline
    start_lsn: Lsn
    stop_lsn: Lsn
    timeout_seconds: float
    on_wait: Callable[[], None]
    explain: Callable[[], str | None]


def wait_for_wal(archive: WalArchive, wait: ArchiveWait, listener: Listener) -> tuple[SegmentName, SegmentName]:
    """Returns the first and the last segment when all are in the archive and whole. Raises CheckFailed, Damaged."""
    clock = archive.clock
    first = SegmentName.containing(wait.timeline, wait.start_lsn, archive.segment_size)
    last = SegmentName.before(wait.timeline, wait.stop_lsn, archive.segment_size)
    deadline = clock.monotonic() + wait.timeout_seconds
    told: SegmentName | None = None
    segment = first
    pause = _POLL_SECONDS_MIN
    while segment.number <= last.number:
        try:
            archive.require_whole(segment)
        except ObjectMissing:
            left = deadline - clock.monotonic()
            if left <= 0:
                raise CheckFailed(
                    f"WAL segment {segment} did not reach the archive within {render_duration(wait.timeout_seconds)}",
                    detail=wait.explain(),
                    hint="The backup was not made: without this WAL it could not be restored. See what archive_command "
                    "says in the server's log; `pghaven check` tests the whole way.",
                ) from None
            if told != segment:
                listener(Step(text=f"waiting for WAL segment {segment} to be archived"))
                told = segment
            wait.on_wait()
            clock.sleep(min(pause, left))
            pause = min(pause * _POLL_GROWTH, _POLL_SECONDS_MAX)
            continue
        pause = _POLL_SECONDS_MIN
        segment = segment.next()
    return first, last


class LineageWatch:
    """Asks, while a backup waits for its WAL and once more before it is committed, whether its line was left meanwhile.

    Another server may have been promoted since the backup began. What this one has written then goes into quarantine,
    so the wait would be in vain; and a backup that ends behind the fork could never be brought up to date.
    """

    def __init__(self, archive: WalArchive, timeline: Timeline, stop_lsn: Lsn) -> None:
        self._archive = archive
        self._timeline = timeline
        self._stop_lsn = stop_lsn
        self._next = 0.0

    def look(self) -> None:
        """At most every few seconds. Raises Refused."""
        now = self._archive.clock.monotonic()
        if now >= self._next:
            self._next = now + _LOOK_SECONDS
            self.confirm()

    def confirm(self) -> None:
        """Raises Refused."""
        refuse_abandoned_timeline(self._archive, self._timeline, self._stop_lsn)


def refuse_removed_wal(archive: WalArchive, timeline: Timeline, start_lsn: Lsn) -> None:
    """Raises Refused when a collector may be removing the WAL that a backup from here on needs.

    Asked after the backup has announced itself (``repository.horizon``). Only a standby far behind starts there.
    """
    horizon = read_horizon(archive.repository, archive.cluster, archive.system_identifier)
    if horizon.is_past(timeline, start_lsn):
        raise Refused(
            f"a backup would start at {start_lsn} of timeline {timeline}, and WAL before {horizon.positions[timeline]} "
            "is no longer kept",
            detail="The server is a standby that is further behind than the retention of WAL reaches.",
            hint="Run CHECKPOINT on its primary and then on this standby, and take the backup again.",
        )


def refuse_abandoned_timeline(archive: WalArchive, timeline: Timeline, lsn: Lsn) -> None:
    """Raises Refused when the archive knows a later timeline that left this one before ``lsn``.

    Such a server was passed over by a promotion elsewhere (a zombie primary); what it writes leads nowhere, and a
    backup of it could never be brought up to date.
    """
    for later in archive.list_timelines():
        if later <= timeline:
            continue
        try:
            fork = archive.read_history(later).fork_of(timeline)
        except ObjectMissing:
            continue  # its history has not been archived yet
        if fork is not None and fork < lsn:
            raise Refused(
                f"this server is at {lsn} of timeline {timeline}, which timeline {later} left at {fork}",
                detail="Another server was promoted since; what this one writes is not part of the cluster's history.",
                hint="Take the backup from the server that is primary now, and rebuild this one from it.",
            )
