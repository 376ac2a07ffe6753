"""What a verification tells of a repository that is as it should be, and of one with something in the midst of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pghaven.errors import NotFound
from pghaven.events import Event, Notice, Progress, ignore
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.proof.catalog import list_backups
from pghaven.proof.findings import Finding, Gravity
from pghaven.proof.verify import VerifySettings, run_verify
from pghaven.proof.verify_result import VerifyResult
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupState, Purpose, render_generation
from pghaven.repository.evidence import load_evidence
from pghaven.repository.horizon import raise_horizon
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.runtime.whoami import read_own_identity
from pghaven.store.memory import MemoryStore
from pghaven.store.open import create_root
from pghaven.units import render_time_utc
from tests.support.synthetic import (
    CLUSTER,
    SEGMENT_SIZE,
    START,
    SYSTEM_IDENTIFIER,
    BackupOrder,
    SourceTree,
    make_intent,
    make_repository,
    make_segment,
    make_source,
    open_archive,
    store_files,
    take_backup,
)

FIRST, SECOND = BackupOrder(number=1), BackupOrder(number=2)
PACKS = f"clusters/{CLUSTER}/packs/"
BACKUPS = f"clusters/{CLUSTER}/backups/"
WAL = f"clusters/{CLUSTER}/wal/{SYSTEM_IDENTIFIER}/00000001/00000000/"


@pytest.fixture
def source(tmp_path: Path) -> SourceTree:
    return make_source(tmp_path, tablespaces=False)


@pytest.fixture
def repository(source: SourceTree) -> Repository:
    made = make_repository(MemoryStore())
    take_backup(made, source, FIRST)
    take_backup(made, source, SECOND)
    return made


def verify(repository: Repository, only: str | None = None, processes: int = 0) -> VerifyResult:
    settings = VerifySettings(cluster=CLUSTER, processes=processes, only=only)
    return run_verify(repository, settings, ignore)


def tell(result: VerifyResult, gravity: Gravity = Gravity.INFO) -> list[tuple[str, str]]:
    """Findings of one gravity as (object, text)."""
    return [(one.object, one.text) for one in result.findings if one.gravity is gravity]


def remove_segments(repository: Repository, *numbers: int) -> None:
    for number in numbers:
        repository.store.delete(f"{WAL}0000000100000000{number:08X}")


def add_segments(repository: Repository, *numbers: int) -> None:
    for number in numbers:
        open_archive(repository).put(f"0000000100000000{number:08X}", make_segment(number), {})


# -- what is no damage ----------------------------------------------------------------------------------------------


def test_of_a_whole_repository_nothing_is_told(repository: Repository) -> None:
    result = verify(repository)
    assert result.findings == ()
    assert [(one.label, one.is_whole) for one in result.backups] == [(FIRST.label, True), (SECOND.label, True)]
    assert result.archive_ends[0].end_lsn == 6 * SEGMENT_SIZE
    assert result.counts.manifests == 2
    assert result.counts.wal_files == 3


def test_a_retired_backup_is_verified_too(repository: Repository) -> None:
    order = RetireOrder(reason="policy", not_before=START + timedelta(days=7))
    Removal(BackupCatalog(repository, CLUSTER)).retire(FIRST.label, order)
    assert [one.label for one in verify(repository).backups] == [FIRST.label, SECOND.label]
    manifest = f"{BACKUPS}{FIRST.label}/manifest"
    repository.store.delete(manifest)
    assert [name for name, _ in tell(verify(repository), Gravity.DAMAGE)] == [manifest]


def test_what_is_being_removed_is_told_and_not_verified(repository: Repository) -> None:
    catalog = BackupCatalog(repository, CLUSTER)
    removal = Removal(catalog)
    removal.retire(FIRST.label, RetireOrder(reason="policy", not_before=START))
    assert removal.condemn(FIRST.label, "policy")
    for part in ("", "manifest", "intent"):  # as a collector goes on
        if part:
            repository.store.delete(f"{BACKUPS}{FIRST.label}/{part}")
        result = verify(repository)
        assert not result.is_damaged
        assert not result.has_warnings
        assert any("is being removed" in text for _, text in tell(result))
        assert [one.label for one in result.backups] == [SECOND.label]


def test_packs_that_no_backup_refers_to_are_counted(repository: Repository, source: SourceTree) -> None:
    catalog = BackupCatalog(repository, CLUSTER)
    third = BackupOrder(number=3)
    catalog.announce(third.label, make_intent(third))
    store_files(catalog, source, third)
    told = dict(tell(verify(repository)))
    assert "was never finished: who made it is gone" in told[f"{BACKUPS}{third.label}/intent"]
    assert f"{PACKS}{third.label}/" not in told  # whoever goes on from it needs them
    catalog.abandon(third.label, "its process is gone")
    told = dict(tell(verify(repository)))
    assert told[f"{PACKS}{third.label}/"].startswith(f'"{PACKS}{third.label}/": 2 packs (')
    assert "given up: its process is gone" in told[f"{BACKUPS}{third.label}/intent"]


def test_a_running_backup_is_told(repository: Repository) -> None:
    running = BackupOrder(number=3, identity=read_own_identity())
    BackupCatalog(repository, CLUSTER).announce(running.label, make_intent(running))
    assert tell(verify(repository)) == [
        (f"{BACKUPS}{running.label}/intent", f'"{BACKUPS}{running.label}/intent": backup {running.label} is running')
    ]


def test_quarantine_is_told(repository: Repository) -> None:
    open_archive(repository).put_quarantine("000000010000000000000007", make_segment(7), {})
    ((name, text),) = tell(verify(repository))
    assert name == f"clusters/{CLUSTER}/quarantine/{SYSTEM_IDENTIFIER}/"
    assert "1 WAL file (" in text


def test_a_stray_intent_less_decision_is_no_damage_when_its_packs_are_gone(repository: Repository) -> None:
    """A writer that was paused for days came and committed after all of it was removed."""
    repository.store.delete(f"{BACKUPS}{FIRST.label}/intent")
    assert verify(repository).is_damaged  # everything else is there: the intent was lost
    for info in list(repository.store.list(f"{PACKS}{FIRST.label}/")):
        repository.store.delete(info.name)
    result = verify(repository)
    assert not result.is_damaged
    assert tell(result)[0][1].endswith(f"a decision without an intent: backup {FIRST.label} is being removed")


# -- WAL ------------------------------------------------------------------------------------------------------------


def test_every_gap_is_told_once_with_all_it_costs(repository: Repository) -> None:
    add_segments(repository, *range(6, 20))
    remove_segments(repository, 8, 12, 13, 14)
    assert tell(verify(repository), Gravity.DAMAGE) == [
        (f"{WAL}000000010000000000000008", f'"{WAL}000000010000000000000008": it is missing'),
        (
            f"{WAL}00000001000000000000000C",
            f'"{WAL}00000001000000000000000C": it and all up to 00000001000000000000000E are missing, 3 segments',
        ),
    ]


def test_a_backup_without_its_own_wal_cannot_be_restored(repository: Repository) -> None:
    remove_segments(repository, 5)  # the second one's stop; the archive ends there
    result = verify(repository)
    (finding,) = result.findings
    assert finding.backups == (SECOND.label,)
    assert "cannot be restored" in str(finding.meaning)
    assert {one.label: one.is_whole for one in result.backups} == {FIRST.label: True, SECOND.label: False}


def test_a_segment_of_another_cluster_is_damage(repository: Repository) -> None:
    name = f"{WAL}000000010000000000000004"
    repository.store.delete(name)
    content = bytearray(make_segment(4))
    content[24] ^= 1  # the system identifier in its first page
    open_archive(repository).put("000000010000000000000004", bytes(content), {})
    (finding,) = verify(repository).findings
    assert finding.object == name
    assert "belongs to system identifier" in finding.reason


def test_a_damaged_segment_that_nobody_needs_is_a_warning(repository: Repository) -> None:
    """It lies before the oldest backup."""
    add_segments(repository, 1)
    name = f"{WAL}000000010000000000000001"
    repository.store.delete(name)
    repository.store.create(name, [b"rotten"])
    result = verify(repository)
    assert [name for name, _ in tell(result, Gravity.WARNING)] == [name]
    assert not result.is_damaged


def test_with_one_backup_alone_only_its_wal_is_read(repository: Repository) -> None:
    result = verify(repository, SECOND.label)
    assert result.only == SECOND.label
    assert result.counts.wal_files == 2
    remove_segments(repository, 3)  # the first one's start
    assert not verify(repository, SECOND.label).is_damaged
    assert verify(repository, FIRST.label[:16]).is_damaged


def test_a_lineage_that_is_missing_is_named_with_its_backups(repository: Repository) -> None:
    name = f"clusters/{CLUSTER}/lineages/{SYSTEM_IDENTIFIER}.json"
    repository.store.delete(name)
    (finding,) = verify(repository).findings
    assert (finding.object, finding.backups) == (name, (FIRST.label, SECOND.label))


def test_wal_that_was_removed_on_purpose_is_not_missed(repository: Repository) -> None:
    add_segments(repository, *range(6, 20))
    remove_segments(repository, *range(8, 12))
    assert verify(repository).is_damaged
    raise_horizon(repository, CLUSTER, SYSTEM_IDENTIFIER, {Timeline(1): Lsn(12 * SEGMENT_SIZE)})
    assert verify(repository).findings == ()
    remove_segments(repository, 13)
    assert [name for name, _ in tell(verify(repository), Gravity.DAMAGE)] == [f"{WAL}00000001000000000000000D"]


def test_before_the_horizon_too_a_backup_needs_its_own_wal(repository: Repository) -> None:
    add_segments(repository, *range(6, 20))
    raise_horizon(repository, CLUSTER, SYSTEM_IDENTIFIER, {Timeline(1): Lsn(12 * SEGMENT_SIZE)})
    remove_segments(repository, 4)
    (finding,) = verify(repository).findings
    assert finding.backups == (FIRST.label, SECOND.label)


def test_a_damaged_horizon_is_named(repository: Repository) -> None:
    raise_horizon(repository, CLUSTER, SYSTEM_IDENTIFIER, {Timeline(1): Lsn(SEGMENT_SIZE)})
    (name,) = [info.name for info in repository.store.list(f"clusters/{CLUSTER}/horizons/")]
    repository.store.delete(name)
    repository.store.create(name, [b"rotten"])
    (finding,) = verify(repository).findings
    assert (finding.gravity, finding.object) == (Gravity.DAMAGE, name)


# -- compactions ----------------------------------------------------------------------------------------------------


def compact(repository: Repository, source: SourceTree) -> str:
    """Give the first backup a manifest over packs that a compaction wrote; its label."""
    catalog = BackupCatalog(repository, CLUSTER)
    order = BackupOrder(number=3)
    catalog.announce(order.label, replace(make_intent(order), purpose=Purpose.COMPACTION, sources=(FIRST.label,)))
    stored = store_files(catalog, source, order)
    before = catalog.load_manifest(catalog.find_entry(FIRST.label))
    part = render_generation(1, order.label)
    manifest_hash, _ = catalog.store_manifest(FIRST.label, part, replace(stored, facts=before.facts))
    catalog.decide(
        order.label,
        {
            "decision": "commit",
            "manifest": "",
            "summary": {},
            "written_at": render_time_utc(START),
            "generations": {FIRST.label: manifest_hash},
        },
    )
    return order.label


def verdict(repository: Repository, label: str) -> str:
    by_label = {one.label: one for one in list_backups(BackupCatalog(repository, CLUSTER))}
    return by_label[label].verified.verdict.value


def test_after_a_compaction_the_packs_it_wrote_are_verified(repository: Repository, source: SourceTree) -> None:
    label = compact(repository, source)
    assert not verify(repository).is_damaged
    (pack, *_) = [info.name for info in repository.store.list(f"{PACKS}{label}/")]
    repository.store.delete(pack)
    (finding,) = [one for one in verify(repository).findings if one.gravity is Gravity.DAMAGE]
    assert (finding.object, finding.backups) == (pack, (FIRST.label,))


def test_after_a_compaction_no_older_result_counts(repository: Repository, source: SourceTree) -> None:
    verify(repository)
    assert [verdict(repository, one.label) for one in (FIRST, SECOND)] == ["whole", "whole"]
    compact(repository, source)
    assert [verdict(repository, one.label) for one in (FIRST, SECOND)] == ["never", "whole"]
    verify(repository)
    assert [verdict(repository, one.label) for one in (FIRST, SECOND)] == ["whole", "whole"]


@pytest.mark.parametrize("part", ["intent", "decision"])
def test_what_is_missing_or_rotten_of_a_compaction_is_named(
    repository: Repository, source: SourceTree, part: str
) -> None:
    name = f"{BACKUPS}{compact(repository, source)}/{part}"
    content = repository.store.read(name)
    repository.store.delete(name)
    if part == "intent":
        assert [found for found, _ in tell(verify(repository), Gravity.DAMAGE)] == [name]
    repository.store.create(name, [content[:-2] + b"x\n"])
    found = {one.object for one in verify(repository).findings if one.gravity is not Gravity.INFO}
    assert name in found


# -- evidence ---------------------------------------------------------------------------------------------------------


def test_the_result_is_kept_and_bound_to_the_manifests(repository: Repository) -> None:
    result = verify(repository)
    (kept,) = load_evidence(repository, CLUSTER).results
    catalog = BackupCatalog(repository, CLUSTER)
    hashes = [catalog.find_manifest(entry)[1] for entry in catalog.list_committed()]
    assert kept.name == result.evidence
    assert kept.backups == result.backups
    assert [one.manifest_hash for one in kept.backups] == hashes


def test_what_was_committed_once_is_missed(repository: Repository) -> None:
    verify(repository)
    name = f"{BACKUPS}{SECOND.label}/decision"
    repository.store.delete(name)
    assert BackupCatalog(repository, CLUSTER).read_entry(SECOND.label).state is BackupState.UNDECIDED
    assert [object_ for object_, _ in tell(verify(repository), Gravity.DAMAGE)] == [name]


def test_rotten_evidence_is_named(repository: Repository) -> None:
    evidence = verify(repository).evidence
    assert evidence is not None
    repository.store.delete(evidence)
    repository.store.create(evidence, [b"rotten"])
    result = verify(repository)
    assert [name for name, _ in tell(result, Gravity.WARNING)] == [evidence]


def test_a_repository_that_takes_no_more_is_verified_all_the_same(repository: Repository) -> None:
    heard: list[Event] = []
    newer = replace(repository.descriptor, min_writer=99)
    result = run_verify(
        Repository(repository.store, newer, clock=repository.clock),
        VerifySettings(cluster=CLUSTER, processes=0),
        heard.append,
    )
    assert result.evidence is None
    assert not result.is_damaged
    assert [one.code for one in heard if isinstance(one, Notice)] == ["evidence"]
    assert load_evidence(repository, CLUSTER).results == ()


# -- work -------------------------------------------------------------------------------------------------------------


def test_worker_processes_find_what_one_process_finds(source: SourceTree, tmp_path: Path) -> None:
    repository = make_repository(create_root((tmp_path / "repository").as_uri()))
    take_backup(repository, source, FIRST)
    for info in [*repository.store.list(PACKS), *repository.store.list(WAL)]:
        path = tmp_path / "repository" / info.name
        content = bytearray(path.read_bytes())
        content[20] ^= 1
        path.chmod(0o600)
        path.write_bytes(content)

    def find(processes: int) -> set[Finding]:
        return set(verify(repository, processes=processes).findings)

    alone = find(0)
    assert len([one for one in alone if one.gravity is Gravity.DAMAGE]) == 4
    assert find(2) == alone


def test_progress_comes_to_its_end(repository: Repository) -> None:
    heard: list[Progress] = []
    run_verify(
        repository,
        VerifySettings(cluster=CLUSTER, processes=0),
        lambda event: heard.append(event) if isinstance(event, Progress) else None,
    )
    assert heard[-1].done_bytes == heard[-1].total_bytes > 0


def test_a_cluster_that_is_not_there_is_not_found(repository: Repository) -> None:
    with pytest.raises(NotFound, match='there is no cluster "nobody"'):
        run_verify(repository, VerifySettings(cluster="nobody", processes=0), ignore)
    with pytest.raises(NotFound, match="more than one backup begins with"):
        verify(repository, "2026")


def test_a_registered_cluster_without_a_backup_has_nothing_to_verify() -> None:
    result = verify(make_repository(MemoryStore()))
    assert (result.backups, result.findings) == ((), ())
