"""What happened to a cluster's WAL that somebody must know of: two servers under one name, WAL that nobody has.

The one idea: an incident's name follows from what happened, so it is written once however often it is seen, and stays
for whoever asks later. Of a server that goes on being refused it is written once a day, so that one which hangs at a
single file for weeks is not taken for one that was stopped. Nothing decides by it: it says what was seen, and
``status`` what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pghaven.errors import Damaged, ObjectExists, ObjectMissing
from pghaven.light import dataclass, field
from pghaven.postgres.segment import SegmentName
from pghaven.repository import layout
from pghaven.repository.repository import Repository
from pghaven.units import parse_time_utc, render_time_utc

# The newest by name; a split brain that was not stopped has one for each segment and day.
_LISTED_MAX = 1000
_HASH_DIGITS = 16


class IncidentKind(StrEnum):
    TWO_WRITERS = "two-writers"
    """A server was refused a name that holds another one's WAL."""
    LOST_WAL = "lost-wal"
    """WAL that is missing was looked for wherever it could be, and is nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """``subject`` is the file, or the first of several up to ``until``. ``archived`` and ``refused`` are what is known
    of both writers (host, data_directory, system_identifier, pushed_at, hash); ``asked`` is where lost WAL was looked
    for, by name, with what was found there."""

    kind: IncidentKind
    subject: str
    seen_at: datetime
    until: str | None = None
    archived: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)


def record_incident(repository: Repository, cluster: str, system_identifier: int, incident: Incident) -> bool:
    """Keep an incident; False when it was known. Raises StoreUnreachable, NotPermitted."""
    name = layout.incident_name(cluster, system_identifier, _render_name(incident))
    body = {
        "kind": incident.kind.value,
        "subject": incident.subject,
        "until": incident.until,
        "seen_at": render_time_utc(incident.seen_at),
        "archived": dict(incident.archived),
        "refused": dict(incident.refused),
        "asked": dict(incident.asked),
    }
    if repository.store.find(name) is not None:
        return False
    try:
        repository.create_document(name, body)
    except ObjectExists:
        return False
    return True


def _render_name(incident: Incident) -> str:
    if incident.kind is IncidentKind.TWO_WRITERS:
        refused, day = incident.refused.get("hash", "")[:_HASH_DIGITS], incident.seen_at.astimezone(UTC)
        return f"{incident.kind}-{incident.subject}-{refused}-{day:%Y%m%d}"
    return f"{incident.kind}-{incident.subject}-{incident.until or incident.subject}"


def list_incidents(repository: Repository, cluster: str, system_identifier: int) -> tuple[Incident, ...]:
    """Those that can be read, in the order in which they were last seen, each once. Raises StoreUnreachable,
    NotPermitted."""
    prefix = layout.incidents_prefix(cluster, system_identifier)
    found: dict[object, Incident] = {}
    for child in sorted(repository.store.list_children(prefix))[-_LISTED_MAX:]:
        try:
            one = read_incident(repository, prefix + child)
        except (ObjectMissing, Damaged, KeyError, TypeError, ValueError):
            continue  # nothing is decided by it
        what = (one.kind, one.subject, one.until, one.refused.get("hash"))
        if what not in found or found[what].seen_at < one.seen_at:
            found[what] = one
    return tuple(sorted(found.values(), key=lambda one: one.seen_at))


def read_incident(repository: Repository, name: str) -> Incident:
    """One incident. Raises ObjectMissing, Damaged, and KeyError, TypeError or ValueError for what is none."""
    return _parse(repository.read_document(name))


def _parse(body: Mapping[str, Any]) -> Incident:
    return Incident(
        kind=IncidentKind(body["kind"]),
        subject=str(body["subject"]),
        until=body["until"],
        seen_at=parse_time_utc(body["seen_at"]),
        archived=dict(body["archived"]),
        refused=dict(body["refused"]),
        asked=dict(body["asked"]),
    )


def covers(incident: Incident, segment: SegmentName) -> bool:
    """Whether lost WAL includes this segment."""
    return incident.kind is IncidentKind.LOST_WAL and incident.subject <= str(segment) <= (
        incident.until or incident.subject
    )
