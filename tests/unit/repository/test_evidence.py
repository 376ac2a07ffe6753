"""What a result of a verification says of a backup, and what it does not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pghaven.clock import ManualClock
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository.evidence import (
    NEVER_VERIFIED,
    ArchiveEnd,
    BackupProof,
    Evidence,
    Scope,
    Verdict,
    find_last_damage,
    judge_backup,
    load_evidence,
    render_ends,
    render_proofs,
    store_evidence,
)
from pghaven.repository.keytext import Access
from pghaven.repository.repository import Repository
from pghaven.store.memory import MemoryStore
from pghaven.units import render_time_utc
from tests.support.keys import SealedSite, make_sealed
from tests.support.synthetic import CLUSTER, START, make_repository

LABEL = "20260301T130000Z-0001"
END = ArchiveEnd(system_identifier=7, timeline=Timeline(2), end_lsn=Lsn(0x3000000))


def result(
    day: int, *, scope: Scope = Scope.FULL, whole: bool = True, manifest: str | None = "aa", only: str | None = None
) -> Evidence:
    return Evidence(
        name=f"e{day}",
        scope=scope,
        only=only,
        began_at=datetime(2026, 3, day, tzinfo=UTC),
        backups=(BackupProof(label=LABEL, manifest_hash=manifest, is_whole=whole),),
        archive_ends=(),
        damage_count=0 if whole else 1,
    )


def judge(*results: Evidence, manifest: str | None = "aa") -> tuple[str, int | None]:
    """The verdict and its day, from results given the newest first."""
    found = judge_backup(results, LABEL, manifest)
    return found.verdict.value, found.at.day if found.at else None


def test_without_a_result_a_backup_was_never_verified() -> None:
    assert judge_backup([], LABEL, "aa") == NEVER_VERIFIED
    assert judge_backup([result(3)], "another", "aa") == NEVER_VERIFIED


def test_the_newest_full_result_counts() -> None:
    assert judge(result(4), result(3)) == ("whole", 4)


def test_a_quick_result_proves_nothing_and_hides_nothing() -> None:
    quick = result(5, scope=Scope.QUICK)
    assert judge(quick) == ("never", None)
    assert judge(quick, result(4)) == ("whole", 4)
    assert judge(quick, result(4, whole=False)) == ("damaged", 4)


def test_damage_found_quickly_is_believed() -> None:
    assert judge(result(5, scope=Scope.QUICK, whole=False), result(4)) == ("damaged", 5)


def test_only_a_full_result_takes_damage_back() -> None:
    assert judge(result(6), result(5, whole=False)) == ("whole", 6)


def test_a_result_about_another_manifest_does_not_count() -> None:
    """A compaction has moved the backup to other packs, or nobody knows now which manifest it has."""
    assert judge(result(5), manifest="bb") == ("never", None)
    assert judge(result(5), manifest=None) == ("never", None)


def test_a_backup_whose_decision_was_damaged_is_damaged_whatever_its_manifest() -> None:
    assert judge(result(5, whole=False, manifest=None), result(4)) == ("damaged", 5)


def test_damage_is_the_last_one_until_everything_was_read() -> None:
    bad = result(3, whole=False)
    assert find_last_damage([result(4, scope=Scope.QUICK), bad]) == bad
    assert find_last_damage([result(4, only=LABEL), bad]) == bad
    assert find_last_damage([result(4), bad]) is None
    assert find_last_damage([]) is None


# -- kept ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def repository(clock: ManualClock) -> Repository:
    return make_repository(MemoryStore(), clock=clock)


def keep(repository: Repository, found: Evidence) -> str:
    body = {
        "scope": str(found.scope),
        "only": found.only,
        "began_at": render_time_utc(found.began_at),
        "backups": render_proofs(found.backups),
        "archive_ends": render_ends((END,)),
        "damage_count": found.damage_count,
        "anything": "else",
    }
    return store_evidence(repository, CLUSTER, body)


def test_what_is_kept_comes_back_the_newest_first(repository: Repository, clock: ManualClock) -> None:
    keep(repository, result(3, whole=False))
    clock.advance(60)
    keep(repository, result(4, scope=Scope.QUICK, only=LABEL))
    log = load_evidence(repository, CLUSTER)
    assert [one.began_at.day for one in log.results] == [4, 3]
    newest, older = log.results
    assert (newest.scope, newest.only, newest.archive_ends) == (Scope.QUICK, LABEL, (END,))
    assert older.backups == result(3, whole=False).backups
    assert log.unreadable == ()


def test_nothing_older_than_a_result_that_cannot_be_read_counts(repository: Repository, clock: ManualClock) -> None:
    keep(repository, result(3))
    clock.advance(60)
    rotten = keep(repository, result(4, whole=False))
    clock.advance(60)
    keep(repository, result(5, scope=Scope.QUICK))
    repository.store.delete(rotten)
    repository.store.create(rotten, [b"rotten"])
    log = load_evidence(repository, CLUSTER)
    assert [one.began_at.day for one in log.results] == [5]
    assert [name for name, _ in log.unreadable] == [rotten]
    assert judge_backup(log.results, LABEL, "aa").verdict is Verdict.NEVER


def test_a_result_from_a_clock_that_was_ahead_hides_no_later_one(repository: Repository, clock: ManualClock) -> None:
    repository.create_document(f"clusters/{CLUSTER}/evidence/drill", {"kind": "drill"})
    clock.advance(3600)
    keep(repository, result(3))
    clock.advance(-3600)
    keep(repository, result(4, whole=False))
    keep(repository, result(5, scope=Scope.QUICK))
    log = load_evidence(repository, CLUSTER)
    assert [one.began_at.day for one in log.results] == [5, 4], "nobody looks further back than to a full one"
    assert judge_backup(log.results, LABEL, "aa").verdict is Verdict.DAMAGED


def test_evidence_of_another_kind_is_passed_over(repository: Repository) -> None:
    repository.create_document(f"clusters/{CLUSTER}/evidence/drill", {"kind": "drill"})
    log = load_evidence(repository, CLUSTER)
    assert (log.results, log.unreadable) == ((), ())


def test_a_result_that_is_none_is_named(repository: Repository) -> None:
    name = store_evidence(repository, CLUSTER, {"scope": "full"})
    ((found, reason),) = load_evidence(repository, CLUSTER).unreadable
    assert found == name
    assert "no result of a verification" in reason


def test_results_of_one_second_do_not_collide(repository: Repository) -> None:
    names = {keep(repository, result(3)) for _ in range(3)}
    assert len(names) == 3


# -- who signs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def site() -> SealedSite:
    return make_sealed(MemoryStore())


@pytest.fixture
def writer(site: SealedSite) -> Repository:
    """A host that is to write, and not to say what is whole."""
    return site.open(site.add("host", Access.WRITER))


def load(repository: Repository) -> tuple[Evidence, ...]:
    return load_evidence(repository, CLUSTER).results


def test_what_a_reader_has_read_whole_counts_for_every_host(site: SealedSite, writer: Repository) -> None:
    keep(site.open(), result(3))
    for repository in (site.open(), writer):
        (found,) = load(repository)
        assert (found.scope, found.doubt) == (Scope.FULL, None)
        assert judge_backup([found], LABEL, "aa").verdict is Verdict.WHOLE


def test_a_host_that_only_writes_can_neither_prove_nor_take_back(site: SealedSite, writer: Repository) -> None:
    keep(site.open(), result(3, whole=False))
    name = keep(writer, result(4))
    newest, before = load(site.open())
    assert newest.name == name
    assert newest.doubt is not None
    assert "not signed" in newest.doubt
    assert judge_backup([newest], LABEL, "aa") == NEVER_VERIFIED
    assert judge_backup([newest, before], LABEL, "aa").verdict is Verdict.DAMAGED
    assert find_last_damage([newest, before]) == before


def test_damage_is_believed_of_anybody(site: SealedSite, writer: Repository) -> None:
    keep(writer, result(3, whole=False))
    assert judge_backup(load(site.open()), LABEL, "aa").verdict is Verdict.DAMAGED
    keep(writer, result(4, scope=Scope.QUICK))
    assert load(site.open())[0].doubt is None, "a quick one claims nothing"


def test_damage_that_was_taken_out_of_a_signed_result_proves_nothing(site: SealedSite, writer: Repository) -> None:
    name = keep(site.open(), result(3, whole=False))
    body = writer.read_document(name)
    site.store.delete(name)
    writer.create_document(name, {**body, "damage_count": 0, "backups": render_proofs(result(3).backups)})
    (found,) = load(site.open())
    assert found.doubt is not None
    assert "signature is wrong" in found.doubt
    assert judge_backup([found], LABEL, "aa") == NEVER_VERIFIED


def test_in_the_open_nobody_signs_and_results_count(repository: Repository) -> None:
    name = keep(repository, result(3))
    assert "signature" not in repository.read_document(name)
    assert judge_backup(load(repository), LABEL, "aa").verdict is Verdict.WHOLE
