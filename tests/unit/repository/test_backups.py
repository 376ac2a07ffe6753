"""The catalog: what a backup's objects say of it. Races are in tests/fault/test_decision.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pghaven.errors import Cancelled, Damaged, NotFound, ObjectExists, ObjectMissing, Refused
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupState
from pghaven.repository.manifest import Manifest
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from pghaven.store.memory import MemoryStore
from pghaven.store.recording import RecordingStore
from tests.support.synthetic import (
    CLUSTER,
    SEALED,
    START,
    BackupOrder,
    SourceTree,
    archive_wal,
    commit,
    make_intent,
    make_repository,
    make_source,
    store_files,
    take_backup,
)

RINGS = [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")]
ORDER = BackupOrder()
LABEL = ORDER.label
PREFIX = f"clusters/{CLUSTER}/backups/{LABEL}/"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceTree:
    return make_source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def repository() -> Repository:
    return make_repository(MemoryStore())


@pytest.fixture
def catalog(repository: Repository) -> BackupCatalog:
    return BackupCatalog(repository, CLUSTER)


def states(catalog: BackupCatalog) -> list[tuple[str, BackupState]]:
    return [(entry.label, entry.state) for entry in catalog.list_entries()]


def retire(catalog: BackupCatalog, label: str) -> None:
    Removal(catalog).retire(label, RetireOrder(reason="older than 7d", not_before=START))


# -- states -------------------------------------------------------------------------------------------------------


def test_without_objects_there_are_no_backups(catalog: BackupCatalog) -> None:
    assert catalog.list_entries() == ()


def test_an_intent_alone_is_an_undecided_backup_and_says_whose(catalog: BackupCatalog) -> None:
    catalog.announce(LABEL, make_intent(ORDER))
    (entry,) = catalog.list_entries()
    assert (entry.label, entry.state, entry.intent) == (LABEL, BackupState.UNDECIDED, make_intent(ORDER))
    assert catalog.list_committed() == ()


def test_a_manifest_without_a_decision_is_no_backup(catalog: BackupCatalog, source: SourceTree) -> None:
    take_backup(catalog.repository, source, ORDER)
    catalog.repository.store.delete(PREFIX + "decision")
    assert states(catalog) == [(LABEL, BackupState.UNDECIDED)]
    with pytest.raises(NotFound):
        catalog.find_entry(LABEL)


def test_commit_makes_a_backup_and_carries_its_summary(catalog: BackupCatalog, source: SourceTree) -> None:
    manifest = take_backup(catalog.repository, source, ORDER)
    (entry,) = catalog.list_committed()
    assert entry.state is BackupState.COMMITTED
    assert entry.summary["stop_lsn"] == str(manifest.facts.stop_lsn)
    assert entry.summary["total_bytes"] == manifest.facts.total_bytes == sum(map(len, source.files.values()))


def test_abandon_says_why(catalog: BackupCatalog) -> None:
    catalog.announce(LABEL, make_intent(ORDER))
    assert catalog.abandon(LABEL, "its process is gone")
    (entry,) = catalog.list_entries()
    assert (entry.state, entry.reason) == (BackupState.ABANDONED, "its process is gone")


def test_a_retired_backup_is_no_longer_listed_as_one(catalog: BackupCatalog, source: SourceTree) -> None:
    take_backup(catalog.repository, source, ORDER)
    retire(catalog, LABEL)
    assert states(catalog) == [(LABEL, BackupState.RETIRED)]
    assert catalog.list_committed() == ()


def test_what_is_not_committed_cannot_be_retired(catalog: BackupCatalog) -> None:
    catalog.announce(LABEL, make_intent(ORDER))
    with pytest.raises(Refused, match="undecided"):
        retire(catalog, LABEL)
    assert states(catalog) == [(LABEL, BackupState.UNDECIDED)]


def test_signs_of_life_are_seen_by_their_time(repository: Repository, catalog: BackupCatalog) -> None:
    catalog.announce(LABEL, make_intent(ORDER))
    catalog.sign_of_life(LABEL, 1)
    catalog.sign_of_life(LABEL, 1)  # after a lost answer
    infos = list(repository.store.list(PREFIX))
    assert [info.name for info in infos] == [PREFIX + "alive/00000001", PREFIX + "intent"]
    (entry,) = catalog.list_entries()
    assert entry.last_sign == max(info.modified for info in infos)


def test_backups_are_listed_in_the_order_they_were_begun(catalog: BackupCatalog) -> None:
    orders = [BackupOrder(number=number) for number in (5, 2, 9, 1)]
    for order in orders:
        catalog.announce(order.label, make_intent(order))
    listed = [entry.label for entry in catalog.list_entries()]
    assert listed == [BackupOrder(number=number).label for number in (1, 2, 5, 9)]


def test_another_cluster_s_backups_are_not_listed(repository: Repository, source: SourceTree) -> None:
    take_backup(repository, source, ORDER)
    assert BackupCatalog(repository, "sho").list_entries() == ()
    assert BackupCatalog(repository, "shop2").list_entries() == ()


def test_a_label_is_taken_once(catalog: BackupCatalog) -> None:
    catalog.announce(LABEL, make_intent(ORDER))
    catalog.announce(LABEL, make_intent(ORDER))  # the same writer, after a lost answer
    other = replace(make_intent(ORDER), started_at=START + timedelta(microseconds=1))
    with pytest.raises(ObjectExists):
        catalog.announce(LABEL, other)


# -- finding ------------------------------------------------------------------------------------------------------


def test_a_backup_is_found_by_its_label_or_its_beginning(catalog: BackupCatalog, source: SourceTree) -> None:
    for number in (1, 2, 12):
        take_backup(catalog.repository, source, BackupOrder(number=number))
    assert catalog.find_entry(LABEL).label == LABEL
    assert catalog.find_entry("20260302").label == BackupOrder(number=12).label
    with pytest.raises(NotFound, match="more than one backup begins with"):
        catalog.find_entry("20260301T1")
    with pytest.raises(NotFound, match="no backup") as caught:
        catalog.find_entry("2027")
    assert caught.value.hint is not None
    assert LABEL in caught.value.hint


@pytest.mark.parametrize("part", ["intent", "decision"])
def test_a_backup_is_found_by_its_label_whatever_became_of_the_others(
    repository: Repository, source: SourceTree, part: str
) -> None:
    catalog = BackupCatalog(repository, CLUSTER)
    for number in (1, 2, 12):
        take_backup(repository, source, BackupOrder(number=number))
    name = f"clusters/{CLUSTER}/backups/{BackupOrder(number=2).label}/{part}"
    repository.store.delete(name)
    repository.store.create(name, [b"rotten"])
    assert catalog.find_entry(LABEL).label == LABEL
    assert catalog.find_entry("20260302").label == BackupOrder(number=12).label
    (damaged,) = [entry for entry in catalog.list_entries() if entry.state is BackupState.DAMAGED]
    assert name in str(damaged.reason)
    with pytest.raises(Damaged, match=name):
        catalog.find_entry(BackupOrder(number=2).label)


def test_only_committed_backups_are_found(catalog: BackupCatalog, source: SourceTree) -> None:
    take_backup(catalog.repository, source, ORDER)
    retire(catalog, LABEL)
    catalog.announce(BackupOrder(number=2).label, make_intent(BackupOrder(number=2)))
    for number in (1, 2):
        with pytest.raises(NotFound):
            catalog.find_entry(BackupOrder(number=number).label)


# -- deciding -----------------------------------------------------------------------------------------------------


@pytest.fixture
def manifest(catalog: BackupCatalog, source: SourceTree) -> Manifest:
    catalog.announce(LABEL, make_intent(ORDER))
    return store_files(catalog, source, ORDER)


def test_a_commit_after_an_abandon_is_refused_with_the_reason(catalog: BackupCatalog, manifest: Manifest) -> None:
    catalog.abandon(LABEL, "it gave no sign for 10 min")
    with pytest.raises(Cancelled, match=r"given up by another process .*it gave no sign for 10 min"):
        commit(catalog, manifest, ORDER)
    assert states(catalog) == [(LABEL, BackupState.ABANDONED)]


def test_an_abandon_after_a_commit_is_told_so(catalog: BackupCatalog, manifest: Manifest) -> None:
    commit(catalog, manifest, ORDER)
    assert not catalog.abandon(LABEL, "late")
    assert states(catalog) == [(LABEL, BackupState.COMMITTED)]


def test_an_abandon_after_an_abandon_is_success(catalog: BackupCatalog) -> None:
    catalog.announce(LABEL, make_intent(ORDER))
    assert catalog.abandon(LABEL, "one")
    assert catalog.abandon(LABEL, "two")
    (entry,) = catalog.list_entries()
    assert entry.reason == "one"


@pytest.mark.parametrize("ring", RINGS)
def test_the_same_commit_again_is_success(source: SourceTree, ring: Keyring) -> None:
    """After a lost answer. What is sealed anew has other bytes and another hash, and is the same backup."""
    store = RecordingStore(MemoryStore())
    catalog = BackupCatalog(make_repository(store, keyring=ring), CLUSTER)
    catalog.announce(LABEL, make_intent(ORDER))
    manifest = store_files(catalog, source, ORDER)
    commit(catalog, manifest, ORDER)
    before = store.mutations
    commit(catalog, manifest, ORDER)
    assert store.mutations == before
    assert catalog.load_manifest(catalog.find_entry(LABEL)).facts == manifest.facts


class Confirming(MemoryStore):
    """Remembers which objects were asked to be durable."""

    def __init__(self) -> None:
        super().__init__()
        self.confirmed: list[str] = []

    def confirm(self, name: str) -> None:
        super().confirm(name)
        self.confirmed.append(name)


@pytest.mark.parametrize("ring", RINGS)
def test_what_was_there_already_is_durable_before_it_is_relied_on(source: SourceTree, ring: Keyring) -> None:
    """Whoever wrote it may have died before it was; success says that it is on disk."""
    store = Confirming()
    catalog = BackupCatalog(make_repository(store, keyring=ring), CLUSTER)
    for _ in range(2):
        catalog.announce(LABEL, make_intent(ORDER))
        manifest = store_files(catalog, source, ORDER)
    commit(catalog, manifest, ORDER)
    commit(catalog, manifest, ORDER)
    archive_wal(catalog.repository, ORDER)
    archive_wal(catalog.repository, ORDER)
    packs = {catalog.pack_place.name(pack.label, pack.id) for pack in manifest.packs}
    again = {info.name for info in store.list(f"clusters/{CLUSTER}/") if "/lineages/" not in info.name}
    if ring is SEALED:  # sealed twice they are other packs
        again = {name for name in again if "/packs/" not in name}
    else:
        assert packs <= again
    assert set(store.confirmed) == again


@pytest.mark.parametrize("ring", RINGS)
def test_another_manifest_under_the_same_label_is_refused(source: SourceTree, ring: Keyring) -> None:
    catalog = BackupCatalog(make_repository(MemoryStore(), keyring=ring), CLUSTER)
    catalog.announce(LABEL, make_intent(ORDER))
    manifest = store_files(catalog, source, ORDER)
    commit(catalog, manifest, ORDER)
    with pytest.raises(ObjectExists):
        commit(catalog, replace(manifest, facts=replace(manifest.facts, host="elsewhere")), ORDER)
    with pytest.raises(ObjectExists):
        commit(catalog, replace(manifest, relations=b""), ORDER)


def test_a_manifest_that_was_left_without_a_decision_can_still_be_decided(
    catalog: BackupCatalog, manifest: Manifest
) -> None:
    commit(catalog, manifest, ORDER)
    catalog.repository.store.delete(PREFIX + "decision")
    commit(catalog, manifest, ORDER)
    assert states(catalog) == [(LABEL, BackupState.COMMITTED)]


def test_a_commit_that_comes_after_everything_was_removed_is_no_backup(
    catalog: BackupCatalog, manifest: Manifest
) -> None:
    """A writer that stood still for days: it was abandoned and collected, and with it what would have told so."""
    catalog.abandon(LABEL, "it gave no sign")
    removal = Removal(catalog)
    assert removal.condemn(LABEL, "it was given up")
    removal.remove(catalog.read_entry(LABEL))
    with pytest.raises(Cancelled, match="its intent was removed"):
        commit(catalog, manifest, ORDER)
    assert catalog.read_entry(LABEL).state is BackupState.GONE
    assert catalog.list_entries() == ()


# -- what cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"decision": "COMMIT", "manifest": "ab", "summary": {}},
        {"decision": "postponed", "reason": "x"},
        {"decision": "commit", "summary": {}},
        {"decision": "commit", "manifest": "ab"},
        {"decision": "commit", "manifest": 5, "summary": {}},
        {"decision": "commit", "manifest": "ab", "summary": []},
        {"decision": None},
    ],
    ids=str,
)
def test_what_is_no_decision_is_damage_and_never_taken_for_either(catalog: BackupCatalog, body: dict[str, Any]) -> None:
    catalog.announce(LABEL, make_intent(ORDER))
    catalog.repository.create_document(PREFIX + "decision", body)
    assert_damaged(catalog, PREFIX + "decision")
    with pytest.raises(Damaged, match=PREFIX + "decision"):
        catalog.abandon(LABEL, "x")


def assert_damaged(catalog: BackupCatalog, name: str) -> None:
    """It is told with its reason, and it is no backup."""
    (entry,) = catalog.list_entries()
    assert entry.state is BackupState.DAMAGED
    assert name in str(entry.reason)
    assert catalog.list_committed() == ()


@pytest.mark.parametrize("change", [{"started_at": "today"}, {"system_identifier": "x"}, {"host": ...}])
def test_what_is_no_intent_is_damage_and_named(repository: Repository, change: dict[str, Any]) -> None:
    catalog = BackupCatalog(repository, CLUSTER)
    catalog.announce(LABEL, make_intent(ORDER))
    body = {**repository.read_document(PREFIX + "intent"), **change}
    body = {name: value for name, value in body.items() if value is not ...}
    repository.store.delete(PREFIX + "intent")
    repository.create_document(PREFIX + "intent", body)
    assert_damaged(catalog, PREFIX + "intent")


def test_fields_of_the_future_are_passed_over(repository: Repository, catalog: BackupCatalog) -> None:
    catalog.announce(LABEL, make_intent(ORDER))
    body = repository.read_document(PREFIX + "intent") | {"colour": "red"}
    repository.store.delete(PREFIX + "intent")
    repository.create_document(PREFIX + "intent", body)
    (entry,) = catalog.list_entries()
    assert entry.intent == make_intent(ORDER)


def test_objects_of_the_future_are_passed_over(catalog: BackupCatalog, source: SourceTree) -> None:
    take_backup(catalog.repository, source, ORDER)
    catalog.repository.create_document(PREFIX + "hold", {"until": "for ever"})
    catalog.repository.create_document(PREFIX + "evidence/1", {"drill": "fine"})
    assert states(catalog) == [(LABEL, BackupState.COMMITTED)]


# -- manifests ----------------------------------------------------------------------------------------------------


def test_a_manifest_the_decision_does_not_name_is_damage(catalog: BackupCatalog, manifest: Manifest) -> None:
    commit(catalog, manifest, ORDER)
    entry = catalog.find_entry(LABEL)
    with pytest.raises(Damaged, match=r"manifest\" is damaged: it is not the manifest that the decision names"):
        catalog.load_manifest(replace(entry, manifest_hash="00" * 32))


def test_a_manifest_of_another_backup_is_damage_even_where_it_is_named(
    catalog: BackupCatalog, manifest: Manifest
) -> None:
    other = replace(manifest, facts=replace(manifest.facts, label=BackupOrder(number=2).label))
    commit(catalog, other, ORDER)
    with pytest.raises(Damaged, match="another backup's manifest"):
        catalog.load_manifest(catalog.find_entry(LABEL))


def test_a_missing_manifest_is_missing(catalog: BackupCatalog, manifest: Manifest) -> None:
    commit(catalog, manifest, ORDER)
    catalog.repository.store.delete(PREFIX + "manifest")
    with pytest.raises(ObjectMissing, match=PREFIX + "manifest"):
        catalog.load_manifest(catalog.find_entry(LABEL))


def test_the_source_may_change_between_two_backups(tmp_path: Path, repository: Repository) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        source = make_source(tmp_path / str(number), salt=number)
        take_backup(repository, source, BackupOrder(number=number))
    catalog = BackupCatalog(repository, CLUSTER)
    first, second = (catalog.load_manifest(entry) for entry in catalog.list_committed())
    assert first.facts.file_count == second.facts.file_count
    assert {pack.id for pack in first.packs}.isdisjoint(pack.id for pack in second.packs)
