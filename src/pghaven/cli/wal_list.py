"""``pghaven wal list``: what WAL is held, as a table, with the tree of timelines and what is missing.

The one idea: a line is a continuous range, so that a gap is a line break that cannot be missed; why it is there is told
below the table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pghaven.cli.opening import each_repository, find_spool
from pghaven.cli.render import Column, render_block, render_table
from pghaven.config.values import ClusterConfig, Config
from pghaven.errors import PghavenError
from pghaven.events import Listener
from pghaven.postgres.timeline import Timeline
from pghaven.repository.entry import BackupState
from pghaven.repository.evidence import Evidence, load_evidence
from pghaven.repository.incidents import Incident, list_incidents
from pghaven.repository.outline import open_outlined
from pghaven.repository.repository import Lineage, Repository
from pghaven.repository.walstore import WalArchive
from pghaven.units import render_size, render_time
from pghaven.wal.archives import open_archive
from pghaven.wal.behind import BehindNotes
from pghaven.wal.gapcause import ExplainedGap, Traces, explain_gap
from pghaven.wal.ledger import HeldPartial, HeldTimeline, Holdings, take_stock
from pghaven.wal.passedover import read_passed_over

_COLUMNS = (
    "timeline",
    "first segment",
    "last segment",
    Column(title="segments", align="right"),
    Column(title="stored", align="right"),
    "WAL from",
    "up to",
    "first commit",
    "last commit",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedArchive:
    """The archive of one lineage in one repository."""

    repository: str
    cluster: str
    system_identifier: int
    major: int
    wal_segment_size: int
    holdings: Holdings
    gaps: tuple[ExplainedGap, ...]
    incidents: tuple[Incident, ...]


def list_wal(config: Config, cluster: ClusterConfig, listener: Listener) -> tuple[ListedArchive, ...]:
    """Every lineage of the cluster in each of its repositories; of several, one that fails is warned of and left out.

    Raises what opening a repository raises when no repository is left.
    """
    opened: dict[str, Repository] = {}

    def read(name: str, repository: Repository) -> list[tuple[Lineage, Holdings]]:
        opened[name] = repository
        return [
            (lineage, take_stock(open_archive(repository, cluster.name, lineage.system_identifier).archive))
            for lineage in repository.list_lineages(cluster.name)
        ]

    found = each_repository(config, cluster, None, listener, read)
    return tuple(
        _explain(cluster, name, opened, lineage, holdings) for name, archives in found for lineage, holdings in archives
    )


def _explain(
    cluster: ClusterConfig, name: str, opened: dict[str, Repository], lineage: Lineage, holdings: Holdings
) -> ListedArchive:
    repository = opened[name]
    incidents = list_incidents(repository, cluster.name, lineage.system_identifier)
    gaps: tuple[ExplainedGap, ...] = ()
    if holdings.gaps:
        traces = find_traces(cluster, name, opened, lineage, incidents)
        gaps = tuple(explain_gap(gap, traces) for gap in holdings.gaps)
    return ListedArchive(
        repository=name,
        cluster=cluster.name,
        system_identifier=lineage.system_identifier,
        major=lineage.major,
        wal_segment_size=lineage.wal_segment_size,
        holdings=holdings,
        gaps=gaps,
        incidents=incidents,
    )


def find_traces(
    cluster: ClusterConfig,
    name: str,
    opened: dict[str, Repository],
    lineage: Lineage,
    incidents: Sequence[Incident],
) -> Traces:
    """What may tell why WAL is missing from the repository of this name."""
    repository = opened[name]
    wal_directory = os.path.join(cluster.data_directory, "pg_wal")
    is_here = os.path.isdir(wal_directory)
    entries = [
        one
        for one in open_outlined(repository, cluster.name).list_entries()
        if one.state is BackupState.COMMITTED and int(one.summary["system_identifier"]) == lineage.system_identifier
    ]
    return Traces(
        incidents=incidents,
        others={
            other: WalArchive(there, cluster.name, lineage.system_identifier, lineage.wal_segment_size)
            for other, there in opened.items()
            if other != name
        },
        behind=BehindNotes(wal_directory).read(name) if is_here else None,
        wal_directory=wal_directory if is_here else None,
        results=_load_results(repository, cluster.name),
        entries=entries,
        passed_over=read_passed_over(find_spool(cluster)),
    )


def _load_results(repository: Repository, cluster: str) -> tuple[Evidence, ...]:
    try:
        return load_evidence(repository, cluster).results
    except PghavenError:
        return ()


# -- for programs ----------------------------------------------------------------------------------------------------


def describe_wal(listing: tuple[ListedArchive, ...]) -> dict[str, object]:
    """Names and positions are text; so is a system identifier, which JSON's numbers cannot hold."""
    return {
        "archives": [
            {
                "repository": archive.repository,
                "cluster": archive.cluster,
                "system_identifier": str(archive.system_identifier),
                "major": archive.major,
                "wal_segment_size": archive.wal_segment_size,
                "timelines": [describe_timeline(timeline) for timeline in archive.holdings.timelines],
                "gaps": [_describe_gap(one) for one in archive.gaps],
                "incidents": archive.incidents,
                "quarantine": archive.holdings.quarantine,
            }
            for archive in listing
        ]
    }


def _describe_gap(explained: ExplainedGap) -> dict[str, object]:
    gap = explained.gap
    return {
        "timeline": gap.first.timeline,
        "first_segment": str(gap.first),
        "last_segment": str(gap.last),
        "segments": gap.count,
        "from_lsn": str(gap.first.start_lsn),
        "to_lsn": str(gap.last.end_lsn),
        "cause": explained.cause,
        "reason": explained.text,
        "can_be_filled": explained.can_be_filled,
    }


def describe_timeline(timeline: HeldTimeline) -> dict[str, object]:
    """What is held of one timeline, for programs."""
    history = timeline.history
    return {
        "timeline": timeline.timeline,
        "history_held": history is not None,
        "ancestors": [
            {"timeline": entry.timeline, "left_at_lsn": str(entry.switch_lsn)}
            for entry in (history.entries if history is not None else ())
        ],
        "ranges": [
            {
                "first_segment": str(held.segments.first),
                "last_segment": str(held.segments.last),
                "segments": held.segments.count,
                "stored_bytes": held.stored_bytes,
                "from_lsn": str(held.segments.first.start_lsn),
                "to_lsn": str(held.segments.last.end_lsn),
                "first_commit": held.first_commit,
                "last_commit": held.last_commit,
                "written": held.written,
                "last_stored": held.last_stored,
            }
            for held in timeline.ranges
        ],
        "partial": None if timeline.partial is None else _describe_partial(timeline.partial),
    }


def _describe_partial(partial: HeldPartial) -> dict[str, object]:
    return {
        "segment": str(partial.segment),
        "from_lsn": str(partial.segment.start_lsn),
        "to_lsn": str(partial.end_lsn),
        "first_commit": partial.first_commit,
        "last_commit": partial.last_commit,
        "sent": partial.sent,
    }


# -- for people ------------------------------------------------------------------------------------------------------


def render_wal(listing: tuple[ListedArchive, ...]) -> str:
    """One block and one table for each archive."""
    if not listing:
        return "no WAL: the cluster is in none of its repositories yet\n"
    return "\n".join(_render_archive(archive) for archive in listing)


def _render_archive(archive: ListedArchive) -> str:
    holdings = archive.holdings
    block = render_block(
        [
            ("repository", archive.repository),
            ("cluster", archive.cluster),
            ("system identifier", archive.system_identifier),
            ("PostgreSQL", archive.major),
            ("segment size", render_size(archive.wal_segment_size)),
            ("files in quarantine", len(holdings.quarantine) or None),
            *_title("timelines", list(draw_tree(holdings.timelines)) if len(holdings.timelines) > 1 else []),
        ]
    )
    rows = [row for timeline in holdings.timelines for row in _list_rows(timeline)]
    table = render_table(_COLUMNS, rows) if rows else "no WAL yet\n"
    return block + table + render_block(_title("missing", [_tell_gap(one) for one in archive.gaps]))


def _title(title: str, lines: Sequence[str]) -> list[tuple[str, object]]:
    return [(title if not at else "", line) for at, line in enumerate(lines)]


def _tell_gap(explained: ExplainedGap) -> str:
    gap = explained.gap
    spans = f"{gap.first}" if gap.count == 1 else f"{gap.first} to {gap.last} ({gap.count} segments)"
    hint = " (pghaven wal refill)" if explained.can_be_filled else ""
    return f"{spans}: {explained.text}{hint}"


def draw_tree(timelines: Sequence[HeldTimeline]) -> Iterator[str]:
    """A line for each timeline, below the one that it left, with where it did."""
    children: dict[Timeline | None, list[HeldTimeline]] = {}
    known = {one.timeline for one in timelines}
    for one in timelines:
        entries = one.history.entries if one.history is not None else ()
        parent = next((entry.timeline for entry in reversed(entries) if entry.timeline in known), None)
        children.setdefault(parent, []).append(one)
    yield from _draw_below(None, children, "", {one.timeline: one for one in timelines})


def _draw_below(
    parent: Timeline | None,
    children: dict[Timeline | None, list[HeldTimeline]],
    indent: str,
    known: dict[Timeline, HeldTimeline],
) -> Iterator[str]:
    below = children.get(parent, [])
    for at, one in enumerate(below):
        is_last = at == len(below) - 1
        branch = "" if parent is None else "`- " if is_last else "|- "
        yield f"{indent}{branch}{_tell_timeline(one)}"
        deeper = indent if parent is None else indent + ("   " if is_last else "|  ")
        yield from _draw_below(one.timeline, children, deeper, known)


def _tell_timeline(one: HeldTimeline) -> str:
    count = sum(held.segments.count for held in one.ranges)
    text = str(one.timeline)
    if one.history is None:
        text += ", its history is not held"
    elif one.history.entries:
        last = one.history.entries[-1]
        text += f" since {last.switch_lsn} of {last.timeline}"
    text += f", {count} segment{'' if count == 1 else 's'}"
    return text + (f", up to {one.ranges[-1].segments.last.end_lsn}" if one.ranges else "")


def _row_of_partial(timeline: Timeline, partial: HeldPartial) -> tuple[object, ...]:
    times = [None if time is None else render_time(time) for time in (partial.first_commit, partial.last_commit)]
    start = partial.segment.start_lsn
    return (timeline, partial.segment, "(unfinished)", None, None, start, partial.end_lsn, *times)


def _list_rows(timeline: HeldTimeline) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for held in timeline.ranges:
        first, last = held.segments.first, held.segments.last
        if rows:
            rows.append(("", "(gap)", *[""] * (len(_COLUMNS) - 2)))
        rows.append(
            (
                timeline.timeline,
                first,
                last,
                held.segments.count,
                render_size(held.stored_bytes),
                first.start_lsn,
                last.end_lsn,
                None if held.first_commit is None else render_time(held.first_commit),
                None if held.last_commit is None else render_time(held.last_commit),
            )
        )
    if timeline.partial is not None:
        rows.append(_row_of_partial(timeline.timeline, timeline.partial))
    return rows or [(timeline.timeline, None, None, 0, *[None] * (len(_COLUMNS) - 4))]
