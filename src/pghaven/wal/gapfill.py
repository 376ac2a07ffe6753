"""Gaps of an archive, filled from the servers that still have the WAL, or kept as lost.

The one idea: what enters a gap must be what was written there. A server of another line may have other WAL under the
same name, so a stretch is taken only if its records follow from the last one that is held before it, and lead to the
first one that is held behind it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pghaven.errors import Conflict, Damaged, ObjectMissing, PghavenError, Refused
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.postgres.waldata import check_segment
from pghaven.postgres.walspan import find_span
from pghaven.repository.gaps import WalGap, find_gaps
from pghaven.repository.horizon import read_horizon
from pghaven.repository.incidents import Incident, IncidentKind, record_incident
from pghaven.repository.ledger import Held, find_ranges
from pghaven.repository.walfacts import render_span
from pghaven.repository.walstore import WalArchive
from pghaven.units import render_time_utc
from pghaven.wal.conflict import put_or_tell
from pghaven.wal.fence import find_last_fork
from pghaven.wal.nodes import Node, NodeFile, QuarantineNode

_NOTHING = "does not have it"


@dataclass(slots=True, kw_only=True)
class GapFilling:
    """What became of the gaps of one archive. ``lost`` was looked for everywhere; ``open`` could not be, with why."""

    filled: dict[str, str] = field(default_factory=dict)
    """Segments by where they came from."""
    lost: list[WalGap] = field(default_factory=list)
    open: list[tuple[WalGap, Mapping[str, str]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """The archive and what is known to be in it; ``held`` grows."""

    archive: WalArchive
    held: Held
    histories: Mapping[Timeline, History]


def fill_gaps(archive: WalArchive, nodes: Sequence[Node], tell: Callable[[str], None]) -> GapFilling:
    """Ask the nodes for what is missing; ``tell`` hears of each gap. Raises StoreUnreachable, NotPermitted.

    Running it again goes on with what is missing then; what is known to be lost is looked for again.
    """
    held = archive.list_numbers()
    known = _Known(archive=archive, held=held, histories=dict(_read_histories(archive, held)))
    horizon = read_horizon(archive.repository, archive.cluster, archive.system_identifier).positions
    result = GapFilling()
    for gap in find_gaps(held, known.histories, horizon, archive.segment_size):
        tell(f"looking for {gap.first}" + ("" if gap.count == 1 else f" and {gap.count - 1} segments after it"))
        _fill(known, nodes, gap, result)
    return result


def _read_histories(archive: WalArchive, held: Held) -> Iterator[tuple[Timeline, History]]:
    for timeline in held:
        try:
            yield timeline, archive.read_history(timeline)
        except (ObjectMissing, Damaged):
            continue


def _fill(known: _Known, nodes: Sequence[Node], gap: WalGap, result: GapFilling) -> None:
    archive = known.archive
    asked: dict[str, str] = {}
    unsure = all(isinstance(node, QuarantineNode) for node in nodes)
    fork = find_last_fork(gap.first.timeline, known.histories.values())
    wanted = [segment for segment in gap if fork is None or not fork.has_left_behind(segment)]
    for node in nodes:
        try:
            asked[node.name] = _fill_from(known, node, wanted, result)
        except PghavenError as error:
            asked[node.name] = error.message
            unsure = True
        wanted = [segment for segment in wanted if segment.number not in known.held[segment.timeline]]
        if not wanted:
            return
    for missing in find_ranges(wanted):
        rest = WalGap(first=missing.first, last=missing.last)
        if unsure:
            result.open.append((rest, asked))
            continue
        result.lost.append(rest)
        incident = Incident(
            kind=IncidentKind.LOST_WAL,
            subject=str(rest.first),
            until=str(rest.last),
            seen_at=archive.clock.now(),
            asked=asked,
        )
        record_incident(archive.repository, archive.cluster, archive.system_identifier, incident)


def _fill_from(known: _Known, node: Node, wanted: Sequence[SegmentName], result: GapFilling) -> str:
    """Take what this node has of the wanted segments, stretch by stretch, and tell what it had."""
    archive, had = known.archive, _NOTHING
    stretch: dict[SegmentName, NodeFile] = {}
    for segment in [*wanted, None]:
        found = None if segment is None else _read(archive, node, segment)
        if segment is not None and found is not None:
            stretch[segment] = found
        # A gigabyte is as much as is held in memory.
        if stretch and (found is None or len(stretch) * archive.segment_size >= 1 << 30 or segment == wanted[-1]):
            if not _belongs(known, list(stretch.items())):
                had = "has other WAL under these names"
            else:
                for name, file in stretch.items():
                    put_or_tell(archive, str(name), file.content, _facts(archive, node, name, file))
                    known.held[name.timeline].add(name.number)
                    result.filled[str(name)] = node.name
            stretch = {}
    return had


def _read(archive: WalArchive, node: Node, segment: SegmentName) -> NodeFile | None:
    file = node.read(str(segment))
    if file is None:
        return None
    try:
        check_segment(file.content, segment, archive.system_identifier)
    except (Damaged, Conflict, Refused):
        return None  # a recycled file
    return file


def _belongs(known: _Known, stretch: Sequence[tuple[SegmentName, NodeFile]]) -> bool:
    """Whether the records lead from what is held before the stretch, through it, to what is held behind it."""
    from pghaven.postgres.walpage import EndReason
    from pghaven.postgres.walrecord import find_last_record

    archive, held = known.archive, known.held
    first, last = stretch[0][0], stretch[-1][0]
    pieces = [(name, file.content) for name, file in stretch]
    before = SegmentName(timeline=first.timeline, number=first.number - 1, segment_size=archive.segment_size)
    if before.number in held.get(before.timeline, ()):
        pieces.insert(0, (before, archive.get(str(before))))
    behind = _find_behind(last, held, known.histories)
    if behind is not None:
        pieces.append((behind, archive.get(str(behind))))
    found = find_last_record(pieces)
    if found.end.reason is EndReason.DAMAGED or found.start_lsn is None:
        return False
    # The end of what is held may lie anywhere in the last piece; without any it must be in the stretch's last segment.
    return found.end.lsn >= (last.end_lsn if behind is not None else last.start_lsn)


def _find_behind(last: SegmentName, held: Held, histories: Mapping[Timeline, History]) -> SegmentName | None:
    """The segment that goes on: of the same timeline, else of one that took over there."""
    for timeline in sorted(held):
        if last.number + 1 in held[timeline] and timeline >= last.timeline:
            history = histories.get(timeline)
            if timeline == last.timeline or (history is not None and history.includes(last.timeline)):
                return SegmentName(timeline=timeline, number=last.number + 1, segment_size=last.segment_size)
    return None


def _facts(archive: WalArchive, node: Node, segment: SegmentName, file: NodeFile) -> dict[str, object]:
    return {
        "host": os.uname().nodename,
        "refilled_from": node.name,
        "pushed_at": render_time_utc(archive.clock.now()),
        "source_mtime": render_time_utc(file.written_at),
        "system_identifier": str(archive.system_identifier),
        **render_span(find_span(file.content, segment)),
    }
