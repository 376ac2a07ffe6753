"""Promotions, zombies, restores to the past and upgrades: what the archive takes, whoever pushes when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from pghaven.errors import StoreUnreachable
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.repository import Repository
from pghaven.repository.walstore import PutOutcome, WalArchive
from pghaven.wal import archives, fence, push
from pghaven.wal.archives import OpenArchive
from pghaven.wal.fence import Fork
from tests.simulation.engine import Rates, Violation
from tests.simulation.failover import play_failover
from tests.simulation.planting import Replacements, planting

_SEEDS = 20
_SEEDS_MAX = 100
_REAL_FORK = fence.find_last_fork
_REAL_HISTORIES = fence.load_later_histories
_REAL_QUARANTINE = WalArchive.put_quarantine
_CALM = Rates(stay=0.3)
_FAILURES = Rates(fail=0.15, stay=0.5)


def _first_fork(timeline: Timeline, histories: Sequence[History]) -> Fork | None:
    forks = [fork for one in histories if (fork := _REAL_FORK(timeline, [one])) is not None]
    return min(forks, key=lambda fork: fork.lsn, default=None)


def _any_fork(timeline: Timeline, histories: Sequence[History]) -> Fork | None:
    """Whoever is later has left everybody who is earlier."""
    entries = [(entry.switch_lsn, one.timeline) for one in histories for entry in one.entries]
    return None if not entries else Fork(timeline=timeline, lsn=max(entries)[0], heir=max(entries)[1])


def _cut_off(fork: Fork, segment: SegmentName) -> bool:
    return segment.end_lsn >= fork.lsn


def _remember_first() -> Callable[..., tuple[History, ...]]:
    known: dict[tuple[int, int, int], tuple[History, ...]] = {}

    def load(archive: WalArchive, timeline: Timeline, listener: Any) -> tuple[History, ...]:
        key = (id(archive.clock), archive.system_identifier, int(timeline))
        if key not in known:
            known[key] = _REAL_HISTORIES(archive, timeline, listener)
        return known[key]

    return load


def _quarantine_early(archive: WalArchive, name: str, content: bytes, facts: Mapping[str, Any]) -> PutOutcome:
    try:
        return _REAL_QUARANTINE(archive, name, content, facts)
    except StoreUnreachable:
        return PutOutcome.QUARANTINED


def _open_oldest(repository: Repository, cluster: str, _system_identifier: int | None) -> OpenArchive:
    lineage = repository.list_lineages(cluster)[0]
    archive = WalArchive(repository, cluster, lineage.system_identifier, lineage.wal_segment_size)
    return OpenArchive(archive=archive, lineage=lineage)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A mistake: ``make`` gives what is put in the place of (where, name)."""

    name: str
    seen_in: str
    make: Callable[[], Replacements]
    breaks: tuple[str, ...]
    rates: Rates = _CALM


_FENCED, _PAST = "what was left behind is fenced", "what is somebody's past is archived"

PLANTED = (
    Planted(
        name="no fence",
        seen_in="every peer: a primary that was passed over archives beside the one that took over",
        make=lambda: {(push, "find_last_fork"): lambda *_: None},
        breaks=(_FENCED,),
    ),
    Planted(
        name="the first fork counts",
        seen_in="this project's own draft: after a restore to the past several timelines leave one ancestor",
        make=lambda: {(push, "find_last_fork"): _first_fork},
        breaks=(_PAST,),
    ),
    Planted(
        name="whoever is later left everybody",
        seen_in="tools that take the highest timeline for the only one",
        make=lambda: {(push, "find_last_fork"): _any_fork},
        breaks=(_PAST,),
    ),
    Planted(
        name="the segment of the fork is left behind",
        seen_in="off by one: its first half is the heir's past",
        make=lambda: {(Fork, "has_left_behind"): _cut_off},
        breaks=(_PAST,),
    ),
    Planted(
        name="histories looked at once",
        seen_in="archivers that run for long and know what was so when they began",
        make=lambda: {(push, "load_later_histories"): _remember_first()},
        breaks=(_FENCED,),
    ),
    Planted(
        name="quarantine acknowledged before it is there",
        seen_in="WAL-G: puts that were neither atomic nor durable",
        make=lambda: {(WalArchive, "put_quarantine"): _quarantine_early},
        breaks=("WAL is kept",),
        rates=_FAILURES,
    ),
    Planted(
        name="the archive of the name, whatever the identifier",
        seen_in="WAL-G and Barman: after an upgrade WAL of two lives under one name",
        make=lambda: {(archives, "open_archive"): _open_oldest, (push, "check_segment_head"): lambda *_: None},
        breaks=("lineages are apart", "a sound server is welcome"),
    ),
)


def test_no_history_breaks_a_promise() -> None:
    played = [play_failover(str(seed)) for seed in range(_SEEDS)]
    outcomes = {outcome for one in played for _, outcome in one.oracle.acknowledged}
    assert outcomes == {PutOutcome.STORED, PutOutcome.ALREADY, PutOutcome.QUARANTINED}
    assert sum(one.simulation.calls for one in played) > 50 * _SEEDS


@pytest.mark.parametrize("mistake", [pytest.param(one, id=one.name) for one in PLANTED])
def test_a_planted_mistake_is_found(mistake: Planted) -> None:
    for seed in range(_SEEDS_MAX):
        try:
            with planting(mistake.make()):
                play_failover(str(seed), mistake.rates)
        except Violation as violation:
            assert violation.rule in mistake.breaks, f"seed {seed}: {violation}"
            return
    pytest.fail(f"not found in {_SEEDS_MAX} seeds")
