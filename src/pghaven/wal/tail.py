"""The end of the archive in the midst of a segment: the partial that a recovery may end with.

The one idea: a partial is served only where it is known to be the end. With a plan that is where the plan itself ends
in it; without one, where every repository has proven that neither the segment nor a later one of its timeline is held.
A standby never gets it: it waits for the segment, or has it from its primary, and would archive what it was given.
"""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.events import Listener
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.waldata import check_segment
from pghaven.repository.partials import read_partial
from pghaven.wal.archives import OpenArchive
from pghaven.wal.fence import find_current_fork, load_later_histories
from pghaven.wal.plan import FollowedPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """Part of a segment up to ``end_lsn``, and zeros."""

    end_lsn: Lsn
    content: bytes


def find_planned_tail(opened: OpenArchive, segment: SegmentName, plan: FollowedPlan) -> bytes | None:
    """The partial of a segment in which a plan ends, or which comes behind its end and may have the rest of the last
    record, if it reaches so far; for when the segment itself is not held.

    Raises Damaged, StoreUnreachable.
    """
    if segment.end_lsn < plan.expected_end_lsn:
        return None
    tail = _read(opened, segment)
    return tail.content if tail is not None and tail.end_lsn >= plan.expected_end_lsn else None


def find_tail(opened: OpenArchive, segment: SegmentName, listener: Listener) -> Tail | None:
    """The partial of a segment that is not held, nor a later one of its timeline; up to where the newest timeline
    left it. Raises Damaged, StoreUnreachable."""
    tail = _read(opened, segment)
    if tail is None:
        return None
    fork = find_current_fork(segment.timeline, load_later_histories(opened.archive, segment.timeline, listener))
    if fork is None or fork.lsn >= tail.end_lsn:
        return tail
    if fork.has_left_behind(segment):
        return None
    kept = fork.lsn - segment.start_lsn
    return Tail(end_lsn=fork.lsn, content=tail.content[:kept] + bytes(len(tail.content) - kept))


def _read(opened: OpenArchive, segment: SegmentName) -> Tail | None:
    found = read_partial(opened.archive, segment)
    if found is None:
        return None
    partial, content = found
    check_segment(content, segment, opened.lineage.system_identifier, opened.version)
    return Tail(end_lsn=partial.end_lsn, content=content)
