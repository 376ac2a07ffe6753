"""Which results of verifications go: none that says anything a newer one does not say."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pghaven.clock import ManualClock
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.drills import store_drill
from pghaven.repository.evidence import BackupProof, Scope, load_evidence, render_proofs, store_evidence
from pghaven.repository.horizon import raise_horizon
from pghaven.repository.markers import Marker, store_marker
from pghaven.repository.oldevidence import KEPT_FOR, find_old_drills, find_old_evidence, find_old_markers
from pghaven.repository.repository import Repository
from pghaven.store.memory import MemoryStore
from pghaven.units import render_time_utc
from tests.support.synthetic import CLUSTER, START, SYSTEM_IDENTIFIER, make_repository

ONE, TWO = "20260301T130000Z-0001", "20260301T140000Z-0002"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def repository(clock: ManualClock) -> Repository:
    return make_repository(MemoryStore(clock), clock=clock)


def keep(repository: Repository, *proofs: tuple[str, bool], scope: Scope = Scope.FULL, only: str | None = None) -> str:
    """A result of this moment; an hour later it is over."""
    now = repository.clock.now()
    found = [BackupProof(label=label, manifest_hash="aa", is_whole=whole) for label, whole in proofs]
    name = store_evidence(
        repository,
        CLUSTER,
        {
            "scope": scope,
            "only": only,
            "began_at": render_time_utc(now),
            "backups": render_proofs(found),
            "archive_ends": [],
            "damage_count": sum(not whole for _, whole in proofs),
        },
    )
    clock = repository.clock
    assert isinstance(clock, ManualClock)
    clock.advance(3600)
    return name


def later(clock: ManualClock) -> None:
    clock.advance((KEPT_FOR + timedelta(days=1)).total_seconds())


def test_the_newest_good_and_the_newest_bad_result_of_each_backup_stay(
    repository: Repository, clock: ManualClock
) -> None:
    first = keep(repository, (ONE, True), (TWO, True))
    bad = keep(repository, (ONE, False), (TWO, True))
    old_bad = keep(repository, (ONE, False), only=ONE)
    last = keep(repository, (ONE, True), (TWO, True))
    assert find_old_evidence(repository, CLUSTER, {ONE, TWO}) == ()
    later(clock)
    assert find_old_evidence(repository, CLUSTER, {ONE, TWO}) == (bad, first)
    assert {old_bad, last}.isdisjoint({bad, first})


def test_all_of_the_last_months_stays_and_counts(repository: Repository, clock: ManualClock) -> None:
    old = keep(repository, (ONE, True))
    later(clock)
    for _ in range(3):
        keep(repository, (ONE, True))
    assert find_old_evidence(repository, CLUSTER, {ONE}) == (old,)


def test_what_is_said_of_another_manifest_or_less_thoroughly_makes_nothing_needless(
    repository: Repository, clock: ManualClock
) -> None:
    keep(repository, (ONE, True))
    keep(repository, (ONE, True), scope=Scope.QUICK)
    keep(repository, (TWO, True), only=TWO)
    later(clock)
    assert find_old_evidence(repository, CLUSTER, {ONE, TWO}) == ()


def test_a_backup_that_is_gone_keeps_no_result(repository: Repository, clock: ManualClock) -> None:
    gone = keep(repository, (ONE, True))
    keep(repository, (TWO, True))
    later(clock)
    assert find_old_evidence(repository, CLUSTER, {TWO}) == (gone,)


def test_what_cannot_be_read_or_is_of_another_kind_stays(repository: Repository, clock: ManualClock) -> None:
    other = layout.evidence_name(CLUSTER, "20200101T000000Z-beef")
    repository.create_document(other, {"kind": "another"})
    repository.store.create(layout.evidence_name(CLUSTER, "20200102T000000Z-dead"), [b"no document"])
    old = keep(repository, (ONE, True))
    keep(repository, (ONE, True))
    later(clock)
    before = load_evidence(repository, CLUSTER)
    assert find_old_evidence(repository, CLUSTER, {ONE}) == (old,)
    repository.store.delete(old)
    assert load_evidence(repository, CLUSTER) == before


def drill(repository: Repository, label: str | None, *, passed: bool = True, source: str = "backup") -> str:
    """The result of a drill of this moment; an hour later it is over."""
    body = {
        "began_at": render_time_utc(repository.clock.now()),
        "passed": passed,
        "source": source,
        "backup": label,
        "manifest": "aa",
        "system_identifier": None,
        "target": {"text": "t"},
        "reached": None,
        "checks": [],
        "seconds": {},
        "written_bytes": "0",
        "fetched_bytes": "0",
        "replayed_bytes": "0",
    }
    name = store_drill(repository, CLUSTER, body)
    clock = repository.clock
    assert isinstance(clock, ManualClock)
    clock.advance(3600)
    return name


def test_the_newest_drill_of_each_backup_and_the_newest_failure_stay(
    repository: Repository, clock: ManualClock
) -> None:
    first, gone = drill(repository, ONE), drill(repository, "20260301T120000Z-0000")
    failed, again = drill(repository, ONE, passed=False), drill(repository, ONE, passed=False)
    snapshot, last, other = drill(repository, "s", source="snapshot"), drill(repository, ONE), drill(repository, TWO)
    assert find_old_drills(repository, CLUSTER, {ONE, TWO}) == ()
    later(clock)
    assert find_old_drills(repository, CLUSTER, {ONE, TWO}) == (failed, gone, first)
    assert {again, snapshot, last, other}.isdisjoint({failed, gone, first})
    assert find_old_evidence(repository, CLUSTER, {ONE, TWO}) == (), "drills are not judged as verifications"


def test_a_marker_goes_with_its_wal(repository: Repository, clock: ManualClock) -> None:
    def mark(lsn: int, timeline: int = 1) -> str:
        marker = Marker(
            name="",
            written_at=repository.clock.now(),
            timeline=Timeline(timeline),
            lsn=Lsn(lsn),
            tables=(),
            passed_over=(),
        )
        clock.advance(3600)
        return store_marker(repository, CLUSTER, SYSTEM_IDENTIFIER, marker)

    before, at, behind, elsewhere = mark(0x1000), mark(0x2000), mark(0x2001), mark(0x1000, timeline=2)
    later(clock)
    assert find_old_markers(repository, CLUSTER, SYSTEM_IDENTIFIER) == (), "no WAL was removed"
    raise_horizon(repository, CLUSTER, SYSTEM_IDENTIFIER, {Timeline(1): Lsn(0x2000)})
    assert find_old_markers(repository, CLUSTER, SYSTEM_IDENTIFIER) == (at, before)
    assert {behind, elsewhere}.isdisjoint({at, before})
