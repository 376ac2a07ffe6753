"""How much WAL stays of a lineage of which there is no backup.

The one idea: WAL without a backup restores nothing, so it stays only for what may still come of it: for a backup that
is kept elsewhere, as long as the policy looks back; for a first backup that begins at this moment, perhaps on a standby
that is behind, as much of the end as a server may lag; and for kept snapshots, which need no backup. Whoever announces
a backup meanwhile is told by the horizon or keeps what it needs, as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.repository.kept import list_kept
from pghaven.repository.partials import list_partial_timelines, list_pieces
from pghaven.repository.walcollect import WalNeed
from pghaven.repository.walstore import WalArchive
from pghaven.retention.policy import RetentionPolicy, render_window
from pghaven.retention.walplan import WalPlan
from pghaven.units import render_size

# What a server may write between two checkpoints by default (max_wal_size): a standby that nobody writes to anymore
# begins its backup no further back, whenever that is.
TAIL_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneWal:
    """What there is. ``segments`` are where each begins and when it came in; None where only pieces of it are held.

    ``is_current``: no later life of the cluster is registered. ``snapshots_from`` is where the WAL begins that kept
    snapshots need.
    """

    system_identifier: int
    segments: tuple[tuple[SegmentName, datetime | None], ...]
    is_current: bool
    snapshots_from: Lsn | None = None


def gather_lone_wal(archive: WalArchive, *, is_current: bool) -> LoneWal:
    """List it, with what a kept snapshot needs. Raises Damaged, StoreUnreachable, NotPermitted."""
    identifier = archive.system_identifier
    kept = [one.facts for one in list_kept(archive.repository, archive.cluster)]
    needed = [facts.start_lsn for facts in kept if facts.system_identifier == identifier]
    return LoneWal(
        system_identifier=identifier,
        segments=tuple(_iter_segments(archive)),
        is_current=is_current,
        snapshots_from=min(needed, default=None),
    )


def _iter_segments(archive: WalArchive) -> Iterator[tuple[SegmentName, datetime | None]]:
    for timeline in archive.list_timelines():
        for stored in archive.list_segments(timeline):
            yield stored.name, stored.modified
    for timeline in list_partial_timelines(archive):
        for piece, _ in list_pieces(archive, timeline):
            yield piece.segment, None


def plan_lone_wal(lone: LoneWal, policy: RetentionPolicy, *, now: datetime) -> WalPlan:
    """What of it stays, and why. Pure."""
    patience = max(policy.window or timedelta(0), policy.grace)
    name = "window" if patience == policy.window else "grace"
    reasons = [f"what came in within the {render_window(patience)} {name}"]
    horizon = _find_recent(lone, now - patience)
    if lone.is_current:
        reasons.append(f"the last {render_size(TAIL_BYTES)}, in which a first backup may begin")
        horizon = min(horizon, _find_tail(lone))
    if lone.snapshots_from is not None:
        reasons.append("what kept snapshots need")
        horizon = min(horizon, lone.snapshots_from)
    why = "there is no backup of this lineage" + ("" if lone.is_current else ", and a later one has taken its place")
    nothing_goes = all(segment.end_lsn > horizon for segment, _ in lone.segments)
    return WalPlan(
        system_identifier=lone.system_identifier,
        need=None
        if nothing_goes
        else WalNeed(system_identifier=lone.system_identifier, horizon=horizon, is_alone=True),
        reason=f"{why}; {' and '.join(reasons)} stays",
    )


def _find_recent(lone: LoneWal, since: datetime) -> Lsn:
    """Where the first segment begins that came in since then; the end of all where none did."""
    recent = [segment.start_lsn for segment, came_in in lone.segments if came_in is not None and came_in > since]
    return min(recent) if recent else max((segment.end_lsn for segment, _ in lone.segments), default=Lsn(0))


def _find_tail(lone: LoneWal) -> Lsn:
    """So far before the end of the timeline in use, which is the last: others may reach further."""
    newest = max((segment.timeline for segment, _ in lone.segments), default=None)
    ends = [segment.end_lsn for segment, _ in lone.segments if segment.timeline == newest]
    return Lsn(max(max(ends, default=0) - TAIL_BYTES, 0))
