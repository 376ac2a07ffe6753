"""Which incidents and states of audits of a lineage's WAL are kept, and which nobody asks for any more.

The one idea: two writers are told of for a week, lost WAL explains a gap for as long as that gap is anybody's business,
and of audits the newest is the state of all. What is older than that goes, but nothing of the last months: people look
back further than programs.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from pghaven.errors import Damaged, ObjectMissing
from pghaven.postgres.segment import SegmentName
from pghaven.repository import layout
from pghaven.repository.audits import LOOKED_BACK
from pghaven.repository.evidence import parse_stamp
from pghaven.repository.horizon import Horizon, read_horizon
from pghaven.repository.incidents import Incident, IncidentKind, read_incident
from pghaven.repository.oldevidence import KEPT_FOR
from pghaven.repository.repository import Lineage, Repository


def find_old_incidents(repository: Repository, cluster: str, lineage: Lineage) -> tuple[str, ...]:
    """The names of what may go. What cannot be read is nobody's to judge. Raises StoreUnreachable, NotPermitted."""
    end = repository.clock.now() - KEPT_FOR
    return (*_find_audits(repository, cluster, lineage, end), *_find_incidents(repository, cluster, lineage, end))


def _find_audits(repository: Repository, cluster: str, lineage: Lineage, end: datetime) -> list[str]:
    prefix = layout.audits_prefix(cluster, lineage.system_identifier)
    names = sorted(repository.store.list_children(prefix), reverse=True)[LOOKED_BACK:]
    return [prefix + name for name in names if (moment := parse_stamp(name)) is not None and moment <= end]


def _find_incidents(repository: Repository, cluster: str, lineage: Lineage, end: datetime) -> list[str]:
    prefix = layout.incidents_prefix(cluster, lineage.system_identifier)
    children = repository.store.list_children(prefix)
    if not children:
        return []
    horizon = read_horizon(repository, cluster, lineage.system_identifier)
    found = []
    for child in children:
        with suppress(ObjectMissing, Damaged, KeyError, TypeError, ValueError):
            incident = read_incident(repository, prefix + child)
            if incident.seen_at <= end and _is_over(incident, horizon, lineage.wal_segment_size):
                found.append(prefix + child)
    return found


def _is_over(incident: Incident, horizon: Horizon, segment_size: int) -> bool:
    if incident.kind is not IncidentKind.LOST_WAL:
        return True
    last = SegmentName.parse(incident.until or incident.subject, segment_size)
    return horizon.is_past(last.timeline, last.start_lsn)
