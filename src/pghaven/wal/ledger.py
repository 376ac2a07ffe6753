"""What an archive holds, as it is shown: ranges of segments by timeline, forks, quarantine.

The one idea: only names and sizes are read, so that this is quick for any archive; what the bytes are is the business
of ``verify``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pghaven.errors import ObjectMissing
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.ledger import SegmentRange, find_ranges
from pghaven.repository.walstore import StoredSegment, WalArchive


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRange:
    """A continuous range; ``stored_bytes`` as they lie in the store, ``last_stored`` by the store's clock."""

    segments: SegmentRange
    stored_bytes: int
    last_stored: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTimeline:
    """Everything held of one timeline. ``history`` is None when its file is not in the archive.

    Between two ranges there is a gap.
    """

    timeline: Timeline
    history: History | None
    ranges: tuple[HeldRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """``quarantine`` has the names of the files that history has left behind."""

    timelines: tuple[HeldTimeline, ...]
    quarantine: tuple[str, ...]


def take_stock(archive: WalArchive) -> Holdings:
    """List the whole archive. Raises Damaged for a history file that cannot be read."""
    timelines = []
    for timeline in archive.list_timelines():
        try:
            history = archive.read_history(timeline)
        except ObjectMissing:
            history = None
        ranges = _measure(list(archive.list_segments(timeline)))
        timelines.append(HeldTimeline(timeline=timeline, history=history, ranges=ranges))
    return Holdings(timelines=tuple(timelines), quarantine=archive.list_quarantine())


def _measure(stored: Iterable[StoredSegment]) -> tuple[HeldRange, ...]:
    by_number = {segment.name.number: segment for segment in stored}
    ranges = []
    for found in find_ranges(segment.name for segment in by_number.values()):
        members = [by_number[name.number] for name in found]
        ranges.append(
            HeldRange(
                segments=found,
                stored_bytes=sum(member.size_bytes for member in members),
                last_stored=max(member.modified for member in members),
            )
        )
    return tuple(ranges)
