"""To which point a drill restores.

The one idea: a moment that somebody picks is always one that works, so by default it is drawn at random from all that
the repository promises.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from pghaven.errors import NotFound
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.proof.windows import Window, find_reach
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupState
from pghaven.repository.horizon import read_horizon
from pghaven.repository.repository import Repository
from pghaven.repository.walstore import WalArchive


class Policy(StrEnum):
    """Who chooses the point. GIVEN: whoever runs the drill."""

    RANDOM = "random"
    LATEST = "latest"
    BACKUP = "backup"
    GIVEN = "given"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillTarget:
    policy: Policy
    recovery: RecoveryTarget


def choose_target(
    repository: Repository, cluster: str, policy: Policy, label: str | None, chance: random.Random
) -> DrillTarget:
    """The point that a policy means; ``label`` limits a random one to what is reached from that backup.

    Where no moment is known to draw from, that is the latest. Raises NotFound without a backup, StoreUnreachable.
    """
    if policy is Policy.BACKUP:
        return DrillTarget(policy=policy, recovery=RecoveryTarget(kind=TargetKind.IMMEDIATE))
    if policy is Policy.RANDOM:
        moment = _draw(list_windows(repository, cluster, label), chance)
        if moment is not None:
            return DrillTarget(policy=policy, recovery=RecoveryTarget(kind=TargetKind.TIME, time=moment))
    return DrillTarget(policy=policy, recovery=RecoveryTarget(kind=TargetKind.LATEST))


def list_windows(repository: Repository, cluster: str, label: str | None) -> tuple[Window, ...]:
    """What can be restored of the cluster's newest life, as it is promised. Raises NotFound, StoreUnreachable."""
    catalog = BackupCatalog(repository, cluster)
    entries = [one for one in catalog.list_entries() if one.state is BackupState.COMMITTED]
    if label is not None:
        chosen = catalog.find_entry(label)
        entries = [one for one in entries if one.label == chosen.label]
    if not entries:
        raise NotFound(f'cluster "{cluster}" has no backup', hint=f"Take one: pghaven backup {cluster}")
    identifier = int(entries[-1].summary["system_identifier"])
    ours = [one for one in entries if int(one.summary["system_identifier"]) == identifier]
    lineage = repository.require_lineage(cluster, identifier)
    archive = WalArchive(repository, cluster, identifier, lineage.wal_segment_size)
    return find_reach(archive, ours, read_horizon(repository, cluster, identifier).positions).windows


def _draw(windows: Sequence[Window], chance: random.Random) -> datetime | None:
    """A moment of the newest timeline's windows, each as likely as any other; to the second, and never past an end."""
    newest = max((one.timeline for one in windows), default=None)
    spans = [(one.begin, one.end) for one in windows if one.timeline == newest and one.end is not None]
    lengths = [max(0.0, (end - begin).total_seconds()) for begin, end in spans]
    if not sum(lengths):
        return None
    at = chance.uniform(0, sum(lengths))
    for (begin, end), length in zip(spans, lengths, strict=True):
        if at <= length:
            return min(begin + timedelta(seconds=at), end)
        at -= length
    return None
