"""Markers: what the tables held at known positions in the WAL, told by the source itself.

The one idea: a restored copy is compared with something that never went the way of the backup. The counts were taken
at the source in one snapshot, and a message in the WAL says where that snapshot belongs; recovery can stop just there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pghaven.errors import Damaged, ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.repository import Repository
from pghaven.units import parse_time_utc, render_time_utc

# With one an hour these are weeks.
_LOOKED_BACK = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """What one table held: ``checksum`` is a sum of hashes in decimal, see the format's page."""

    database: str
    schema: str
    table: str
    rows: int
    checksum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """``lsn`` is the end of the message in the WAL: with all before it replayed, and nothing more, a copy holds just
    what ``tables`` say. ``passed_over`` are tables that were not read, with the reason."""

    name: str
    written_at: datetime
    timeline: Timeline
    lsn: Lsn
    tables: tuple[TableFacts, ...]
    passed_over: tuple[tuple[str, str], ...]


def store_marker(repository: Repository, cluster: str, system_identifier: int, marker: Marker) -> str:
    """Keep a marker; gives its name, ``marker``'s own is not used. Raises StoreUnreachable, NotPermitted, Refused."""
    name = layout.marker_name(cluster, system_identifier, layout.make_label(marker.written_at))
    repository.create_document(
        name,
        {
            "written_at": render_time_utc(marker.written_at),
            "timeline": int(marker.timeline),
            "lsn": str(marker.lsn),
            "tables": [[one.database, one.schema, one.table, one.rows, one.checksum] for one in marker.tables],
            "passed_over": [list(one) for one in marker.passed_over],
        },
    )
    return name


def list_marker_names(repository: Repository, cluster: str, system_identifier: int) -> tuple[str, ...]:
    """The newest first. Raises StoreUnreachable, NotPermitted."""
    prefix = layout.markers_prefix(cluster, system_identifier)
    children = sorted(repository.store.list_children(prefix), reverse=True)
    return tuple(prefix + child for child in children[:_LOOKED_BACK])


def read_marker(repository: Repository, name: str) -> Marker:
    """Raises Damaged, ObjectMissing, StoreUnreachable."""
    body = repository.read_document(name)
    try:
        return _parse(name, body)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f'"{name}" is damaged: it is no marker ({error!r})') from error


def find_markers(repository: Repository, cluster: str, system_identifier: int) -> tuple[Marker, ...]:
    """Those that can be read, the newest first. Raises StoreUnreachable, NotPermitted."""
    found = []
    for name in list_marker_names(repository, cluster, system_identifier):
        try:
            found.append(read_marker(repository, name))
        except (Damaged, ObjectMissing):
            continue
    return tuple(found)


def _parse(name: str, body: Mapping[str, Any]) -> Marker:
    return Marker(
        name=name,
        written_at=parse_time_utc(body["written_at"]),
        timeline=Timeline(body["timeline"]),
        lsn=Lsn.parse(body["lsn"]),
        tables=tuple(
            TableFacts(database=database, schema=schema, table=table, rows=int(rows), checksum=str(checksum))
            for database, schema, table, rows, checksum in body["tables"]
        ),
        passed_over=tuple((str(table), str(reason)) for table, reason in body["passed_over"]),
    )
