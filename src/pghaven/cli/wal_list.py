"""``pghaven wal list``: what WAL is held, as a table.

The one idea: a line is a continuous range, so that a gap is a line break that cannot be missed.
"""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.cli.opening import each_repository
from pghaven.cli.render import Column, render_block, render_table
from pghaven.config.values import ClusterConfig, Config
from pghaven.events import Listener
from pghaven.repository.repository import Repository
from pghaven.units import render_size, render_time
from pghaven.wal.archives import open_archive
from pghaven.wal.ledger import HeldTimeline, Holdings, take_stock

_COLUMNS = (
    "timeline",
    "first segment",
    "last segment",
    Column(title="segments", align="right"),
    Column(title="stored", align="right"),
    "WAL from",
    "up to",
    "last archived",
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


def list_wal(config: Config, cluster: ClusterConfig, listener: Listener) -> tuple[ListedArchive, ...]:
    """Every lineage of the cluster in each of its repositories; of several, one that fails is warned of and left out.

    Raises what opening a repository raises when no repository is left.
    """

    def read(name: str, repository: Repository) -> list[ListedArchive]:
        return [
            ListedArchive(
                repository=name,
                cluster=cluster.name,
                system_identifier=lineage.system_identifier,
                major=lineage.major,
                wal_segment_size=lineage.wal_segment_size,
                holdings=take_stock(open_archive(repository, cluster.name, lineage.system_identifier).archive),
            )
            for lineage in repository.list_lineages(cluster.name)
        ]

    found = each_repository(config, cluster, None, listener, read)
    return tuple(archive for _, archives in found for archive in archives)


def render_wal(listing: tuple[ListedArchive, ...]) -> str:
    """For people; one block and one table for each archive."""
    if not listing:
        return "no WAL: the cluster is in none of its repositories yet\n"
    return "\n".join(_render_archive(archive) for archive in listing)


def describe_wal(listing: tuple[ListedArchive, ...]) -> dict[str, object]:
    """For programs. Names and positions are text; so is a system identifier, which JSON's numbers cannot hold."""
    return {
        "archives": [
            {
                "repository": archive.repository,
                "cluster": archive.cluster,
                "system_identifier": str(archive.system_identifier),
                "major": archive.major,
                "wal_segment_size": archive.wal_segment_size,
                "timelines": [_describe_timeline(timeline) for timeline in archive.holdings.timelines],
                "quarantine": archive.holdings.quarantine,
            }
            for archive in listing
        ]
    }


def _describe_timeline(timeline: HeldTimeline) -> dict[str, object]:
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
                "last_stored": held.last_stored,
            }
            for held in timeline.ranges
        ],
    }


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
        ]
    )
    rows = [row for timeline in holdings.timelines for row in _list_rows(timeline)]
    return block + (render_table(_COLUMNS, rows) if rows else "no WAL yet\n")


def _list_rows(timeline: HeldTimeline) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for held in timeline.ranges:
        first, last = held.segments.first, held.segments.last
        if rows:
            rows.append(("", "(gap)", "", "", "", "", "", ""))
        rows.append(
            (
                timeline.timeline,
                first,
                last,
                held.segments.count,
                render_size(held.stored_bytes),
                first.start_lsn,
                last.end_lsn,
                render_time(held.last_stored),
            )
        )
    return rows or [(timeline.timeline, None, None, 0, None, None, None, None)]
