"""How far an audit of a lineage's WAL has come, and what it has found: kept in the repository, never replaced.

The one idea: reading a large archive takes longer than anybody wants to wait at a stretch, so each part of an audit
writes down where the next one goes on, and the newest of these documents is the state of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pghaven.errors import Damaged, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.repository import Repository
from pghaven.units import parse_time_utc, render_time_utc

_KIND = "wal-audit"
LOOKED_BACK = 20
"""So many of the newest states are looked at, in case some cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The state of one audit. ``next_segment`` is where it goes on, None when all has been read. ``flaws`` are files
    with what is wrong, ``gaps`` the first and last segments of what is missing."""

    began_at: datetime
    written_at: datetime
    next_segment: str | None
    segments: int
    read_bytes: int
    flaws: tuple[tuple[str, str], ...]
    gaps: tuple[tuple[str, str], ...] = ()

    @property
    def is_complete(self) -> bool:
        return self.next_segment is None


def keep_audit(repository: Repository, cluster: str, system_identifier: int, audit: Audit) -> str:
    """Write the state; its name. Raises StoreUnreachable, NotPermitted."""
    name = layout.audit_name(cluster, system_identifier, layout.make_label(audit.written_at))
    body = {
        "kind": _KIND,
        "began_at": render_time_utc(audit.began_at),
        "written_at": render_time_utc(audit.written_at),
        "next_segment": audit.next_segment,
        "segments": audit.segments,
        "read_bytes": str(audit.read_bytes),
        "flaws": [list(one) for one in audit.flaws],
        "gaps": [list(one) for one in audit.gaps],
    }
    repository.create_document(name, body)
    return name


def load_audit(repository: Repository, cluster: str, system_identifier: int) -> Audit | None:
    """The newest state that can be read; None when there is none. Raises StoreUnreachable, NotPermitted."""
    prefix = layout.audits_prefix(cluster, system_identifier)
    found: list[Audit] = []
    for child in sorted(repository.store.list_children(prefix), reverse=True)[:LOOKED_BACK]:
        try:
            body = repository.read_document(prefix + child)
            if body.get("kind") == _KIND:
                found.append(_parse(body))
        except (ObjectMissing, Damaged, KeyError, TypeError, ValueError):
            continue
    # Two of one second are told apart by how far they came.
    return max(found, key=lambda one: (one.began_at, one.segments, one.is_complete), default=None)


def _parse(body: Mapping[str, Any]) -> Audit:
    return Audit(
        began_at=parse_time_utc(body["began_at"]),
        written_at=parse_time_utc(body["written_at"]),
        next_segment=body["next_segment"],
        segments=int(body["segments"]),
        read_bytes=int(body["read_bytes"]),
        flaws=tuple((str(name), str(reason)) for name, reason in body["flaws"]),
        gaps=tuple((str(first), str(last)) for first, last in body["gaps"]),
    )
