"""Why WAL is missing, as far as anything that was kept can tell.

The one idea: each cause leaves a trace somewhere else (a server's ``archive_status``, the notes of failed pushes,
another repository, a verification that still found it, the incidents), so the traces are looked for in the order of
what one can do about it, and without any the answer is that it is not known.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from pghaven.errors import PghavenError
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.gaps import WalGap
from pghaven.repository.incidents import Incident, covers
from pghaven.repository.walstore import WalArchive
from pghaven.units import parse_time_utc, render_time
from pghaven.wal.behind import Behind
from pghaven.wal.passedover import PassedOver

if TYPE_CHECKING:
    from pghaven.repository.entry import BackupEntry
    from pghaven.repository.evidence import Evidence


class Cause(StrEnum):
    LOST = "lost"
    """Nobody has it any more."""
    ELSEWHERE = "elsewhere"
    """Another repository of the cluster holds it."""
    FAILED = "failed"
    """A push of it failed here."""
    WAITING = "waiting"
    """The server has not archived it yet."""
    UNSTORED = "unstored"
    """The server takes it for archived, and still has it."""
    REMOVED = "removed"
    """It was here, and is no more."""
    UNRECEIVED = "unreceived"
    """A receiver's slot was gone, and the server had removed it by then."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedGap:
    """``can_be_filled`` says that ``wal refill`` will find at least its first segment."""

    gap: WalGap
    cause: Cause
    text: str
    can_be_filled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Where traces are looked for. ``others`` are the archives in the cluster's other repositories by their names,
    ``wal_directory`` is the server's ``pg_wal`` if it is on this host, ``entries`` are the committed backups of this
    archive's lineage, ``passed_over`` is what the receiver on this host has noted."""

    incidents: Sequence[Incident] = ()
    others: Mapping[str, WalArchive] = field(default_factory=dict)
    behind: Behind | None = None
    wal_directory: str | None = None
    results: Sequence[Evidence] = ()
    entries: Sequence[BackupEntry] = ()
    passed_over: Sequence[PassedOver] = ()


def explain_gap(gap: WalGap, traces: Traces) -> ExplainedGap:
    """The cause of a gap. Asks other repositories for its first segment; one that fails is passed over."""
    first = gap.first
    lost = next((one for one in traces.incidents if covers(one, first)), None)
    if lost is not None:
        asked = ", ".join(lost.asked) or "nowhere"
        return ExplainedGap(
            gap=gap, cause=Cause.LOST, text=f"lost: looked for on {render_time(lost.seen_at)} in {asked}, in vain"
        )
    for name, other in traces.others.items():
        try:
            if other.exists(str(first)):
                text = f'not held in this repository; "{name}" has it'
                return ExplainedGap(gap=gap, cause=Cause.ELSEWHERE, text=text, can_be_filled=True)
        except PghavenError:
            continue
    behind = traces.behind
    in_pg_wal = _look_into_pg_wal(first, traces.wal_directory)
    if behind is not None and str(first) in behind.names:
        text = f"its push failed, first at {render_time(behind.since)}: {behind.reason}"
        return ExplainedGap(gap=gap, cause=Cause.FAILED, text=text, can_be_filled=in_pg_wal is not None)
    if in_pg_wal is not None:
        text = (
            "never archived: it waits in pg_wal"
            if in_pg_wal is Cause.WAITING
            else ("the server takes it for archived, but it is not here; pg_wal still has it")
        )
        return ExplainedGap(gap=gap, cause=in_pg_wal, text=text, can_be_filled=True)
    since = _find_when_it_was_there(gap, traces)
    if since is not None:
        return ExplainedGap(gap=gap, cause=Cause.REMOVED, text=f"removed by something else: it was here {since}")
    noted = next((one for one in traces.passed_over if one.covers(first)), None)
    if noted is not None:
        text = f"not received: at {render_time(noted.noticed_at)} the server had removed it"
        text += "" if noted.reason is None else f", for {noted.reason}"
        return ExplainedGap(gap=gap, cause=Cause.UNRECEIVED, text=text)
    return ExplainedGap(gap=gap, cause=Cause.UNKNOWN, text="not known: never archived, or removed by something else")


def _look_into_pg_wal(segment: SegmentName, wal_directory: str | None) -> Cause | None:
    if wal_directory is None or not os.path.exists(os.path.join(wal_directory, str(segment))):
        return None
    ready = os.path.exists(os.path.join(wal_directory, "archive_status", f"{segment}.ready"))
    return Cause.WAITING if ready else Cause.UNSTORED


def _find_when_it_was_there(gap: WalGap, traces: Traces) -> str | None:
    """When somebody last proved that it was there: a verification without damage, or a backup that needs it."""
    found: list[tuple[datetime, str]] = []
    for result in traces.results:
        if not result.damage_count and any(
            end.timeline == gap.first.timeline and end.end_lsn >= gap.last.end_lsn for end in result.archive_ends
        ):
            found.append((result.began_at, f"when it was verified at {render_time(result.began_at)}"))
    for entry in traces.entries:
        start, stop = Lsn.parse(entry.summary["start_lsn"]), Lsn.parse(entry.summary["stop_lsn"])
        timeline = Timeline(int(entry.summary["timeline"]))
        if timeline == gap.first.timeline and start < gap.last.end_lsn and stop > gap.first.start_lsn:
            stopped = parse_time_utc(entry.summary["stopped_at"])
            found.append((stopped, f"when backup {entry.label} was completed at {render_time(stopped)}"))
    return max(found)[1] if found else None
