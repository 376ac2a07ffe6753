"""Which results of verifications and drills, and which markers, are kept, and which are so old that nobody asks.

The one idea: what anybody still asks is when a backup, as it lies there now, was last found whole, and when damaged;
when it was last drilled, and what failed. So the newest of each stays for ever, as does all of the last months; a
result that cannot be read, or is of another kind, is nobody's to judge. A marker is of use as long as recovery can come
by it.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from pghaven.errors import Damaged, ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.repository import layout
from pghaven.repository.drills import read_drill
from pghaven.repository.evidence import DRILL_SUFFIX, Evidence, Scope, list_results, parse_stamp, read_result
from pghaven.repository.horizon import read_horizon
from pghaven.repository.markers import read_marker
from pghaven.repository.repository import Repository

KEPT_FOR: Final = timedelta(days=90)
MARKER_KEPT_FOR: Final = timedelta(days=1)


def find_old_evidence(repository: Repository, cluster: str, labels: Collection[str]) -> tuple[str, ...]:
    """The names of results that may go, newest first; ``labels`` are the backups that stay.

    Reads all results once there is one that is old enough. Raises StoreUnreachable, NotPermitted.
    """
    end = repository.clock.now() - KEPT_FOR
    names = list_results(repository, cluster)
    if all(_moment_of(name) > end for name in names):
        return ()
    said: set[object] = set()
    old = []
    for name in names:
        with suppress(Damaged, ObjectMissing):
            result = read_result(repository, name)
            if result is None:
                continue
            says = _list_said(result, labels)
            if says <= said and _moment_of(name) <= end:
                old.append(name)
            said |= says
    return tuple(old)


def find_old_drills(repository: Repository, cluster: str, labels: Collection[str]) -> tuple[str, ...]:
    """The names of drills' results that may go, newest first; ``labels`` are the backups that stay.

    Reads all of them once there is one that is old enough. Raises StoreUnreachable, NotPermitted.
    """
    end = repository.clock.now() - KEPT_FOR
    prefix = layout.evidence_prefix(cluster)
    children = [child for child in repository.store.list_children(prefix) if child.endswith(DRILL_SUFFIX)]
    names = [prefix + child for child in sorted(children, reverse=True)]
    if all(_moment_of(name) > end for name in names):
        return ()
    said: set[object] = set()
    old = []
    for name in names:
        with suppress(Damaged, ObjectMissing):
            drill = read_drill(repository, name)
            says: set[object] = {"passed" if drill.passed else "failed", (drill.source, drill.passed)}
            if drill.backup in labels:
                says.add((drill.backup, drill.manifest_hash, drill.passed))
            if says <= said and _moment_of(name) <= end:
                old.append(name)
            said |= says
    return tuple(old)


def find_old_markers(repository: Repository, cluster: str, system_identifier: int) -> tuple[str, ...]:
    """The names of markers whose WAL has been removed, newest first: no recovery comes by them any more.

    Reads those that are older than some day. Raises StoreUnreachable, NotPermitted.
    """
    gone = read_horizon(repository, cluster, system_identifier).positions
    if not gone:
        return ()
    end = repository.clock.now() - MARKER_KEPT_FOR
    prefix = layout.markers_prefix(cluster, system_identifier)
    old = []
    for child in sorted(repository.store.list_children(prefix), reverse=True):
        if _moment_of(child) > end:
            continue
        with suppress(Damaged, ObjectMissing):
            marker = read_marker(repository, prefix + child)
            if marker.lsn <= gone.get(marker.timeline, Lsn(0)):
                old.append(prefix + child)
    return tuple(old)


def _list_said(result: Evidence, labels: Collection[str]) -> set[object]:
    """What a result says, in such words that a newer one which says the same makes it needless."""
    says: set[object] = {
        (one.label, one.manifest_hash, one.is_whole, result.scope) for one in result.backups if one.label in labels
    }
    if result.only is None and result.scope is Scope.FULL:
        says.add("full")
    if result.damage_count:
        says.add("damage")
    return says


def _moment_of(name: str) -> datetime:
    """When a result was kept; the end of all time for a name that does not say it."""
    return parse_stamp(name) or datetime.max.replace(tzinfo=UTC)
