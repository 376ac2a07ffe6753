"""Which results of verifications are kept, and which are so old that newer ones say all that they say.

The one idea: what anybody still asks is when a backup, as it lies there now, was last found whole, and when damaged. So
the newest of each stays for ever, as does all of the last months; a result that cannot be read, or is of another kind,
is nobody's to judge.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from pghaven.errors import Damaged, ObjectMissing
from pghaven.repository.evidence import Evidence, Scope, list_results, parse_stamp, read_result
from pghaven.repository.repository import Repository

KEPT_FOR: Final = timedelta(days=90)


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
