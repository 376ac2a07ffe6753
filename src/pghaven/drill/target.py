"""To which point a drill restores.

The one idea: a moment that somebody picks is always one that works, so by default it is drawn at random from all that
the repository promises.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
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


def choose_target(policy: Policy, windows: Sequence[Window], chance: random.Random) -> DrillTarget:
    """The point that a policy means; a random one lies in the windows.

    Where no moment is known to draw from, that is the latest.
    """
    if policy is Policy.BACKUP:
        return DrillTarget(policy=policy, recovery=RecoveryTarget(kind=TargetKind.IMMEDIATE))
    if policy is Policy.RANDOM:
        moment = _draw(windows, chance)
        if moment is not None:
            return DrillTarget(policy=policy, recovery=RecoveryTarget(kind=TargetKind.TIME, time=moment))
    return DrillTarget(policy=policy, recovery=RecoveryTarget(kind=TargetKind.LATEST))


def list_windows(
    repository: Repository, cluster: str, label: str | None, begin: datetime | None = None
) -> tuple[Window, ...]:
    """What can be restored of the cluster's newest life, as it is promised: with a ``label`` from that backup alone,
    with a ``begin`` from then on. Raises NotFound without a backup, StoreUnreachable."""
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
    found = find_reach(archive, ours, read_horizon(repository, cluster, identifier).positions).windows
    if begin is None:
        return found
    return tuple(replace(one, begin=max(one.begin, begin)) for one in found if one.end is None or one.end > begin)


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
