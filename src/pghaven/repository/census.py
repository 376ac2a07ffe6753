"""What lies in a repository: objects and bytes by cluster and kind, from one listing.

The one idea: names alone tell what an object is, so that nothing is read, and nothing is missed that somebody pays for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pghaven.repository.pack import count_reads
from pghaven.repository.repository import Repository

# What belongs to no cluster: the descriptor, keys, the rescue kit.
NO_CLUSTER = ""
RECENT_DAYS = 30

_KINDS = {"packs": "packs", "wal": "wal", "quarantine": "quarantine", "evidence": "evidence"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Objects of one kind of one cluster, or of none (``NO_CLUSTER``)."""

    cluster: str
    kind: str
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """``recent_objects`` were written in the last ``recent_days``, by the store's own times: 30, or as many as there is
    anything from. ``written`` has the objects of each backup by (cluster, label), ``reads`` the requests for all that
    verifying reads."""

    counts: tuple[Count, ...]
    recent_objects: int
    recent_days: float
    written: Mapping[tuple[str, str], int] = field(default_factory=dict)
    reads: int = 0

    @property
    def objects(self) -> int:
        return sum(one.objects for one in self.counts)

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.counts)


def kind_of(name: str) -> tuple[str, str]:
    """The cluster and the kind of an object."""
    parts = name.split("/")
    if parts[0] != "clusters" or len(parts) < 3:
        return NO_CLUSTER, "repository"
    cluster, below = parts[1], parts[2]
    if below == "backups":
        return cluster, "manifests" if parts[-1] == "manifest" else "records"
    return cluster, _KINDS.get(below, "records")


def take_census(repository: Repository) -> Census:
    """List everything once. Raises StoreUnreachable, NotPermitted."""
    now = repository.clock.now()
    since = now - timedelta(days=RECENT_DAYS)
    objects: defaultdict[tuple[str, str], int] = defaultdict(int)
    sizes: defaultdict[tuple[str, str], int] = defaultdict(int)
    recent = 0
    oldest: datetime | None = None
    written: defaultdict[tuple[str, str], int] = defaultdict(int)
    reads = 0
    for info in repository.store.list(""):
        key = kind_of(info.name)
        reads += count_reads(info.size_bytes) if key[1] == "packs" else 1
        parts = info.name.split("/")
        if parts[0] == "clusters" and len(parts) > 4 and parts[2] in ("packs", "backups"):
            written[parts[1], parts[3]] += 1
        objects[key] += 1
        sizes[key] += info.size_bytes
        recent += info.modified >= since
        oldest = info.modified if oldest is None else min(oldest, info.modified)
    age_days = (now - oldest).total_seconds() / 86400 if oldest is not None else 0.0
    counts = (Count(cluster=key[0], kind=key[1], objects=objects[key], bytes=sizes[key]) for key in sorted(objects))
    return Census(
        counts=tuple(counts),
        recent_objects=recent,
        recent_days=max(1.0, min(RECENT_DAYS, age_days)),
        written=dict(written),
        reads=reads,
    )
