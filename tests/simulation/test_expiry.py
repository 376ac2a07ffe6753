"""The simulation finds mistakes that are planted into ``pghaven expire`` itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.repository import walcollect
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState
from pghaven.repository.horizon import Horizon
from pghaven.repository.walcollect import WalCollector, WalNeed
from pghaven.retention import expire, lonewal, policy
from pghaven.retention.facts import DatedBackup, KnownBackup, KnownLineage, date_backups
from pghaven.retention.gather import gather_lineages
from pghaven.retention.policy import RetentionPlan
from pghaven.retention.walplan import WalPlan, plan_wal
from tests.simulation.engine import Rates, Violation
from tests.simulation.planting import Replacements, planting
from tests.simulation.scenes import Scene, play

_SEEDS_MAX = 400
_SEEDS_WITHOUT = 6


def _by_name(lineages: Sequence[KnownLineage]) -> tuple[DatedBackup, ...]:
    return tuple(sorted(date_backups(lineages), key=lambda one: one.backup.label))


def _from_the_newest(plan: RetentionPlan, system_identifier: int, **more: Any) -> WalPlan:
    made = plan_wal(plan, system_identifier, **more)
    starts = [one.backup.start_lsn for one in plan.verdicts if one.backup.state is BackupState.COMMITTED]
    if made.need is None or not starts:
        return made
    return replace(made, need=WalNeed(system_identifier=system_identifier, horizon=max(starts)))


def _running_ones_count(catalog: BackupCatalog) -> tuple[KnownLineage, ...]:
    return tuple(
        replace(one, backups=tuple(_as_if_complete(backup) for backup in one.backups))
        for one in gather_lineages(catalog)
    )


def _as_if_complete(backup: KnownBackup) -> KnownBackup:
    if backup.state is not BackupState.UNDECIDED:
        return backup
    stopped = replace(backup, stop_lsn=Lsn(backup.start_lsn + 80), stopped_at=backup.started_at)
    return replace(stopped, state=BackupState.COMMITTED)


def _tell_no_horizon(*_: object) -> Horizon:
    return Horizon()


class _LooksOnce(WalCollector):
    """Who has announced a backup is asked before the horizon is told, and not after."""

    _seen: list[BackupEntry] | None = None

    def _read_entries(self, need: WalNeed) -> list[BackupEntry]:
        if self._seen is None:
            self._seen = super()._read_entries(need)
        return self._seen


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A mistake in what ``expire`` is made of, and a scene in which it breaks one of these promises.

    ``first_seed`` saves time: it was found soon from there when it was planted.
    """

    name: str
    seen_in: str
    instead: Replacements
    scene: Scene
    breaks: tuple[str, ...]
    first_seed: int = 0


def _scene(*more: str, rates: Rates, keep: int = 1, rounds: int | None = 3) -> Scene:
    cast = frozenset({"retain-db1", "retain-ops", "backup-db1", "load", *more})
    return Scene(cast=cast, rates=rates, rounds=rounds, keep=keep)


# A collector that keeps nothing of WAL without a backup but what its protocol keeps.
_NO_TAIL: Replacements = {(lonewal, "TAIL_BYTES"): 0}


_CALM = Rates(stay=0.3)
_PAUSES = Rates(pause=0.05, stay=0.8)
# Somebody expires every backup by hand, and a standby that is behind begins the next one.
_LONE = Scene(
    cast=frozenset({"retain-db1", "retain-ops", "load", "expire-newest", "backup-standby"}),
    rates=_PAUSES,
    rounds=8,
    lone_wal_goes=True,
)
_STAY = "the policy's backups stay"

PLANTED = (
    Planted(
        name="expiry by name",
        seen_in="WAL-G: after an upgrade the newest backups were deleted",
        instead={(policy, "date_backups"): _by_name},
        scene=_scene("backup-db2", rates=_CALM),
        breaks=(_STAY, "the newest backup stays"),
    ),
    Planted(
        name="WAL from the newest backup on",
        seen_in="hand-written clean-up scripts around pg_archivecleanup",
        instead={(expire, "plan_wal"): _from_the_newest},
        scene=_scene("backup-db2", rates=_CALM, keep=2),
        breaks=("the policy's WAL stays",),
    ),
    Planted(
        name="a backup that is still running counts",
        seen_in="tools that count directories",
        instead={(expire, "gather_lineages"): _running_ones_count},
        scene=_scene("backup-db2", rates=_CALM),
        breaks=(_STAY, "the newest backup stays", "the policy's WAL stays"),
    ),
    Planted(
        name="nobody is told what WAL goes",
        seen_in="pgBackRest before 2.15: expire removed WAL that a running backup needed",
        instead={(walcollect, "raise_horizon"): _tell_no_horizon},
        scene=_scene("backup-standby", rates=_PAUSES, rounds=12),
        breaks=("backups keep their WAL",),
        first_seed=76,
    ),
    Planted(
        name="nobody is told what WAL goes while there is no backup",
        seen_in="clean-up scripts that see an archive without backups",
        instead={**_NO_TAIL, (walcollect, "raise_horizon"): _tell_no_horizon},
        scene=replace(_LONE, rounds=3),
        breaks=("backups keep their WAL",),
        first_seed=43,
    ),
    Planted(
        name="a first backup is looked for once",
        seen_in="check, then remove",
        instead={**_NO_TAIL, (expire, "WalCollector"): _LooksOnce},
        scene=_LONE,
        breaks=("backups keep their WAL", "the policy's WAL stays"),
        first_seed=3,
    ),
)
_EACH = pytest.mark.parametrize("mistake", [pytest.param(one, id=one.name) for one in PLANTED])


@_EACH
def test_a_planted_mistake_is_found(mistake: Planted) -> None:
    for seed in range(mistake.first_seed, mistake.first_seed + _SEEDS_MAX):
        try:
            with planting(mistake.instead):
                play(str(seed), scene=mistake.scene)
        except Violation as violation:
            assert violation.rule in mistake.breaks, f"seed {seed}: {violation}"
            return
    pytest.fail(f"not found in {_SEEDS_MAX} seeds")


@_EACH
def test_nothing_is_found_where_nothing_is_planted(mistake: Planted) -> None:
    for seed in range(_SEEDS_WITHOUT):
        with planting(_NO_TAIL if mistake.scene.lone_wal_goes else {}):
            play(str(seed), scene=mistake.scene)


def test_wal_without_a_backup_goes_and_the_first_backup_keeps_its_own() -> None:
    """Both come to pass: WAL goes in a history, and a backup that began beside that is committed."""
    removed = committed = 0
    for seed in range(3 * _SEEDS_WITHOUT):
        with planting(_NO_TAIL):
            world = play(str(seed), scene=_LONE)
        removed += world.oracle.removed_lone_wal
        committed += world.oracle.committed_count
    assert removed > _SEEDS_WITHOUT
    assert committed > _SEEDS_WITHOUT
