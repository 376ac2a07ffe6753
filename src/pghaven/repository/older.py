"""Whether a repository is in an older state than this host has seen, and what of it is remembered.

The one idea: each number is compared with the one that was seen, and a cluster is remembered only when nothing
contradicts, so that an older state is told again and again until a person accepts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from pghaven.errors import Damaged, Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState
from pghaven.repository.horizon import Horizon, find_horizon, read_horizon
from pghaven.repository.keyset import KeySet
from pghaven.repository.memory import NOTHING, OLDER_HINT, HostMemory, Seen, SeenCluster, hash_key_set
from pghaven.repository.repository import Repository
from pghaven.repository.turns import find_last_turn


def find_older(memory: HostMemory, repository: Repository, cluster: str) -> tuple[str, ...]:
    """What there is of a cluster that is older than what this host has seen, as clauses; empty if nothing is.

    Raises Damaged, StoreUnreachable.
    """
    seen = memory.load(repository.id).clusters.get(cluster)
    return () if seen is None else tuple(_iter_older(seen, repository, cluster))


def describe_older(repository: Repository, older: tuple[str, ...]) -> str:
    return f"{repository.store.url} is in an older state than this host has seen: {'; '.join(older)}"


def refuse_older(memory: HostMemory, repository: Repository, cluster: str, what: str) -> None:
    """Raises Refused where the repository is in an older state; ``what`` is not done then."""
    if older := find_older(memory, repository, cluster):
        raise Refused(f"{what}: {describe_older(repository, older)}", hint=OLDER_HINT)


def _iter_older(seen: SeenCluster, repository: Repository, cluster: str) -> Iterator[str]:
    turn, _ = find_last_turn(repository, cluster)
    if turn < seen.turn:
        yield f"its collections count to {turn}, and had come to {seen.turn}"
    if seen.backup is not None and turn <= seen.backup_turn:
        name = layout.backup_object_name(cluster, seen.backup, "decision")
        if repository.store.find(name) is None:
            yield f'backup "{seen.backup}" is not there, and nothing was collected since it was'
    for identifier, positions in seen.horizons.items():
        horizon = find_horizon(repository, cluster, int(identifier))
        if horizon is None:
            continue  # damage is no older state
        for timeline, position in positions.items():
            if horizon.positions.get(Timeline(int(timeline)), Lsn(0)) < Lsn.parse(position):
                yield f"it does not know that WAL of timeline {timeline} before {position} has been removed"


def remember(memory: HostMemory, repository: Repository, cluster: str) -> str | None:
    """Remember a cluster as it is now, where nothing contradicts what was seen before; why that could not be kept, None
    when it was. Raises Damaged, StoreUnreachable.
    """
    turn, is_over = find_last_turn(repository, cluster)
    now = SeenCluster(turn=turn, horizons=_read_horizons(repository, cluster))
    if is_over:
        # Read after the turn: what is complete now was not judged by it.
        now = replace(now, backup=_find_newest(repository, cluster), backup_turn=turn)

    def add(seen: Seen) -> Seen:
        before = seen.clusters.get(cluster)
        return replace(seen, clusters={**seen.clusters, cluster: now if before is None else _join(before, now)})

    return memory.keep(repository.id, add)


def _join(one: SeenCluster, other: SeenCluster) -> SeenCluster:
    """What two processes saw, whichever of them was first: numbers only go up. Of backups of one turn the one that
    was seen last counts, unless its label is the earlier one: nothing was removed in between."""
    horizons = {identifier: dict(positions) for identifier, positions in one.horizons.items()}
    for identifier, positions in other.horizons.items():
        known = horizons.setdefault(identifier, {})
        for timeline, position in positions.items():
            known[timeline] = str(max(Lsn.parse(position), Lsn.parse(known.get(timeline, "0/0"))))
    first, last = ((seen.backup_turn, seen.backup is not None, _second(seen.backup)) for seen in (one, other))
    newer = one if first > last else other
    return SeenCluster(
        turn=max(one.turn, other.turn), backup=newer.backup, backup_turn=newer.backup_turn, horizons=horizons
    )


def _second(label: str | None) -> str:
    return (label or "").partition("-")[0]


def _find_newest(repository: Repository, cluster: str) -> str | None:
    """A backup that is complete, the last by its label, which has the second that it began in, and of those of one
    second by its end; a few requests, however many there are."""
    catalog = BackupCatalog(repository, cluster)
    newest: BackupEntry | None = None
    for child in sorted(repository.store.list_children(layout.backups_prefix(cluster)), reverse=True):
        if newest is not None and child.partition("-")[0] != newest.label.partition("-")[0]:
            break
        entry = catalog.read_entry(child.removesuffix("/"))
        is_backup = entry.state is BackupState.COMMITTED and entry.has_files
        if is_backup and (newest is None or _find_end(entry) > _find_end(newest)):
            newest = entry
    return None if newest is None else newest.label


def _find_end(entry: BackupEntry) -> Lsn:
    return Lsn.parse(entry.summary.get("stop_lsn", "0/0"))


def accept(memory: HostMemory, repository: Repository, key_set: KeySet | None) -> str | None:
    """Forget what was seen of a repository, and remember it as it is now. As ``remember``."""
    seen = NOTHING
    if key_set is not None:
        seen = Seen(key_set=key_set.number, key_set_hash=hash_key_set(key_set))
    if reason := memory.keep(repository.id, lambda _: seen):
        return reason
    for cluster in repository.list_clusters():
        remember(memory, repository, cluster)
    return None


def _read_horizons(repository: Repository, cluster: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for lineage in repository.list_lineages(cluster):
        horizon = Horizon()
        with suppress(Damaged):
            horizon = read_horizon(repository, cluster, lineage.system_identifier)
        if horizon.positions:
            positions = {str(int(timeline)): str(lsn) for timeline, lsn in horizon.positions.items()}
            found[str(lineage.system_identifier)] = positions
    return found
