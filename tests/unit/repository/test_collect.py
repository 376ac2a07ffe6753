"""What a collector removes and what it keeps. Races are in tests/fault/test_collect_orders.py."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Damaged, NotFound, NotPermitted, Refused
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collect import BackupCollector, CollectResult, CollectRules
from pghaven.repository.entry import BackupState, Purpose
from pghaven.repository.pack import PackWriter
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from pghaven.repository.unreadable import give_up
from pghaven.store.memory import MemoryStore
from pghaven.store.open import open_store
from pghaven.store.recording import RecordingStore
from tests.support.descent import Descent
from tests.support.reading import assert_whole
from tests.support.synthetic import (
    CLUSTER,
    SEALED,
    START,
    SYSTEM_IDENTIFIER,
    BackupOrder,
    SourceTree,
    commit,
    make_intent,
    make_pages,
    make_repository,
    make_source,
    reopen,
    store_files,
    take_backup,
)

RINGS = [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")]
FIRST, SECOND, THIRD = (BackupOrder(number=number) for number in (1, 2, 3))
CHILD = Descent(order=SECOND, parent=FIRST.label, changed={"base/5/16384": make_pages(3, 77)})
GRACE = timedelta(days=7)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceTree:
    return make_source(tmp_path_factory.mktemp("source"), tablespaces=False)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START + timedelta(hours=12))


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def catalog(store: MemoryStore, clock: ManualClock) -> BackupCatalog:
    return BackupCatalog(make_repository(store, clock=clock), CLUSTER)


def collector(catalog: BackupCatalog, *, dead: bool = True) -> BackupCollector:
    return BackupCollector(catalog, CollectRules(grace=GRACE, is_dead=lambda entry, now: dead))


def collect(catalog: BackupCatalog, *, dead: bool = True) -> CollectResult:
    """Preview and run, which must agree; a second run finds nothing more to do."""
    before = collector(catalog, dead=dead).preview()
    result = collector(catalog, dead=dead).run()
    assert replace(result, is_done=False) == before
    again = collector(catalog, dead=dead).run()
    assert (again.packs, again.manifests, again.labels, again.condemned) == ((), (), (), ())
    return result


def retire(catalog: BackupCatalog, label: str, *, keep: timedelta = timedelta(0)) -> None:
    not_before = catalog.repository.clock.now() + keep
    Removal(catalog).retire(label, RetireOrder(reason="older than 7d", not_before=not_before))


def names(catalog: BackupCatalog, *words: str) -> set[str]:
    """Objects whose names hold all these words; collectors' turns are not among them."""
    found = (info.name for info in catalog.repository.store.list("") if "/collections/" not in info.name)
    return {name for name in found if all(word in name for word in words)}


def reasons(result: CollectResult) -> dict[str, str]:
    return {one.label: one.reason for one in result.kept}


def parts(catalog: BackupCatalog, label: str) -> set[str]:
    prefix = f"clusters/{CLUSTER}/backups/{label}/"
    return {info.name.removeprefix(prefix) for info in catalog.repository.store.list(prefix)}


# -- what goes ----------------------------------------------------------------------------------------------------


def test_what_committed_backups_hold_stays(catalog: BackupCatalog, source: SourceTree) -> None:
    take_backup(catalog.repository, source, FIRST)
    CHILD.take(catalog)
    before = names(catalog)
    result = collect(catalog)
    assert names(catalog) == before
    assert (result.packs, result.labels, result.freed_bytes) == ((), (), 0)
    assert reasons(result) == dict.fromkeys((FIRST.label, SECOND.label), "it is a backup")


@pytest.mark.parametrize("ring", RINGS)
def test_a_retired_backup_goes_when_its_time_is_over(
    store: MemoryStore, clock: ManualClock, source: SourceTree, ring: Keyring
) -> None:
    catalog = BackupCatalog(make_repository(store, keyring=ring, clock=clock), CLUSTER)
    take_backup(catalog.repository, source, FIRST)
    take_backup(catalog.repository, source, SECOND)
    retire(catalog, FIRST.label, keep=timedelta(days=7))
    result = collect(catalog)
    assert "can be brought back until" in reasons(result)[FIRST.label]
    assert result.packs == ()

    clock.advance(timedelta(days=7).total_seconds())
    stored = {info.name: info.size_bytes for info in store.list(layout.packs_prefix(CLUSTER, FIRST.label))}
    result = collect(catalog)
    assert [(one.label, one.reason) for one in result.condemned] == [(FIRST.label, "older than 7d")]
    assert {layout.pack_name(CLUSTER, pack.label, pack.id) for pack in result.packs} == set(stored)
    assert result.freed_bytes == sum(stored.values()) > 0
    assert names(catalog, FIRST.label) == set()
    assert assert_whole(catalog, {SECOND.label: source}) == [SECOND.label]


def test_packs_that_another_backup_refers_to_outlive_their_writer(catalog: BackupCatalog, source: SourceTree) -> None:
    first = take_backup(catalog.repository, source, FIRST)
    child = CHILD.take(catalog)
    retire(catalog, FIRST.label)
    result = collect(catalog)
    shared = {pack.id for pack in child.packs} & {pack.id for pack in first.packs}
    assert {pack.id for pack in result.packs} == {pack.id for pack in first.packs} - shared
    assert len(shared) > 0
    assert parts(catalog, FIRST.label) == set()
    assert assert_whole(catalog, {SECOND.label: CHILD.expected(source)}) == [SECOND.label]
    assert reasons(collect(catalog))[FIRST.label] == f"packs of it are part of {SECOND.label}"

    third = take_backup(catalog.repository, source, THIRD)
    retire(catalog, SECOND.label)
    collect(catalog)
    assert names(catalog, "/packs/") == {catalog.pack_place.name(pack.label, pack.id) for pack in third.packs}


def test_a_held_backup_outlives_its_retirement(catalog: BackupCatalog, source: SourceTree) -> None:
    take_backup(catalog.repository, source, FIRST)
    Removal(catalog).hold(FIRST.label, "the audit")
    # Somebody died between retiring it and looking for holds.
    body = {"reason": "old", "not_before": "2026-03-01T00:00:00.000000Z", "written_at": "2026-03-01T00:00:00.000000Z"}
    catalog.repository.create_document(f"clusters/{CLUSTER}/backups/{FIRST.label}/retire/00000001", body)
    result = collect(catalog)
    assert reasons(result) == {FIRST.label: "it is held: the audit"}
    assert result.packs == ()

    Removal(catalog).release(FIRST.label)
    collect(catalog)
    assert names(catalog, FIRST.label) == set()


def test_what_a_pack_was_stored_for_and_no_manifest_names_goes(catalog: BackupCatalog, source: SourceTree) -> None:
    take_backup(catalog.repository, source, FIRST)
    writer = PackWriter(catalog.pack_place, FIRST.label, level=3, in_background=False)
    writer.append(b"a worker that died had stored this")
    (pack,) = writer.close()
    result = collect(catalog)
    assert [one.id for one in result.packs] == [pack.id]
    assert assert_whole(catalog, {FIRST.label: source}) == [FIRST.label]


# -- who is at work, and who was ----------------------------------------------------------------------------------


def test_everything_of_a_living_writer_stays(catalog: BackupCatalog, source: SourceTree) -> None:
    take_backup(catalog.repository, source, FIRST)
    catalog.announce(SECOND.label, replace(make_intent(SECOND), parent=FIRST.label, sources=(FIRST.label,)))
    parent = catalog.read_entry(FIRST.label)
    retire(catalog, FIRST.label)
    manifest = CHILD.render(catalog, parent)
    result = collect(catalog, dead=False)
    assert [one.label for one in result.condemned] == [FIRST.label]
    assert result.packs == ()
    assert set(reasons(result)) == {FIRST.label, SECOND.label}
    assert SECOND.label in reasons(result)[FIRST.label]
    assert "manifest" in parts(catalog, FIRST.label)

    catalog.commit(SECOND.label, manifest, {})
    collect(catalog)
    assert parts(catalog, FIRST.label) == set()
    assert assert_whole(catalog, {SECOND.label: CHILD.expected(source)}) == [SECOND.label]


def store_unfinished(catalog: BackupCatalog, order: BackupOrder) -> bytes:
    catalog.announce(order.label, make_intent(order))
    writer = PackWriter(catalog.pack_place, order.label, level=3, in_background=False)
    writer.append(order.label.encode() * 100)
    return writer.close()[0].id


def test_a_dead_writer_is_given_up_and_kept_for_who_goes_on(
    catalog: BackupCatalog, source: SourceTree, clock: ManualClock
) -> None:
    store_unfinished(catalog, FIRST)
    result = collect(catalog)
    assert [one.label for one in result.abandoned] == [FIRST.label]
    assert "is gone" in result.abandoned[0].reason
    assert "may go on" in reasons(result)[FIRST.label]
    assert catalog.read_entry(FIRST.label).state is BackupState.ABANDONED
    assert len(names(catalog, "/packs/")) == 1

    clock.advance(GRACE.total_seconds())
    collect(catalog)
    assert names(catalog, FIRST.label) == set()


def test_what_was_given_up_goes_when_a_later_backup_is_there(catalog: BackupCatalog, source: SourceTree) -> None:
    pack = store_unfinished(catalog, SECOND)
    catalog.abandon(SECOND.label, "interrupted")
    take_backup(catalog.repository, source, FIRST)
    assert collect(catalog).packs == ()
    take_backup(catalog.repository, source, THIRD)
    result = collect(catalog)
    assert [one.id for one in result.packs] == [pack]
    assert THIRD.label in result.condemned[0].reason
    assert names(catalog, SECOND.label) == set()


def test_a_later_backup_of_another_lineage_says_nothing_of_what_was_given_up(
    catalog: BackupCatalog, source: SourceTree
) -> None:
    intent = replace(make_intent(FIRST), system_identifier=SYSTEM_IDENTIFIER + 1)
    catalog.announce(FIRST.label, intent)
    catalog.abandon(FIRST.label, "interrupted")
    take_backup(catalog.repository, source, SECOND)
    assert collect(catalog).condemned == ()


def test_a_source_that_was_given_up_stays_while_somebody_goes_on_from_it(
    catalog: BackupCatalog, clock: ManualClock
) -> None:
    pack = store_unfinished(catalog, FIRST)
    catalog.abandon(FIRST.label, "interrupted")
    catalog.announce(SECOND.label, replace(make_intent(SECOND), sources=(FIRST.label,)))
    clock.advance(GRACE.total_seconds())
    result = collect(catalog, dead=False)
    assert [one.label for one in result.condemned] == [FIRST.label]
    assert catalog.pack_place.name(FIRST.label, pack) in names(catalog)
    assert catalog.read_entry(FIRST.label).state is BackupState.CONDEMNED
    catalog.abandon(SECOND.label, "interrupted too")
    collect(catalog)
    assert names(catalog, FIRST.label) == set()


def test_what_a_late_writer_leaves_behind_goes(catalog: BackupCatalog) -> None:
    store_unfinished(catalog, FIRST)
    catalog.abandon(FIRST.label, "silent")
    Removal(catalog).condemn(FIRST.label, "given up")
    collect(catalog)
    assert names(catalog, FIRST.label) == set()
    writer = PackWriter(catalog.pack_place, FIRST.label, level=3, in_background=False)
    writer.append(b"late")
    writer.close()
    catalog.sign_of_life(FIRST.label, 9)
    result = collect(catalog)
    assert [one.label for one in result.labels] == [FIRST.label]
    assert len(result.packs) == 1
    assert names(catalog, FIRST.label) == set()


def test_an_abandoned_compaction_goes_at_once(catalog: BackupCatalog) -> None:
    catalog.announce(FIRST.label, replace(make_intent(FIRST), purpose=Purpose.COMPACTION))
    result = collect(catalog)
    assert [one.label for one in result.condemned] == [one.label for one in result.labels] == [FIRST.label]
    assert names(catalog, FIRST.label) == set()


# -- what is not known --------------------------------------------------------------------------------------------


@pytest.fixture
def crowded(catalog: BackupCatalog, source: SourceTree) -> BackupCatalog:
    """A backup, one on top of it, and one that is due to go."""
    take_backup(catalog.repository, source, FIRST)
    CHILD.take(catalog)
    take_backup(catalog.repository, source, THIRD)
    retire(catalog, THIRD.label)
    return catalog


def assert_nothing_goes(catalog: BackupCatalog, message: str) -> None:
    for act in (collector(catalog).preview, collector(catalog).run):
        before = names(catalog)
        with pytest.raises(Damaged, match=message) as caught:
            act()
        assert caught.value.message.startswith("nothing was removed: ")
        assert caught.value.hint is not None
        assert before <= names(catalog)


def spoil(catalog: BackupCatalog, label: str, part: str) -> str:
    """Flip a bit of an object; its name."""
    store = catalog.repository.store
    name = f"clusters/{CLUSTER}/backups/{label}/{part}"
    content = bytearray(store.read(name))
    content[-50] ^= 1
    store.delete(name)
    store.create(name, [content])
    return name


def test_if_what_a_backup_needs_cannot_be_read_nothing_goes_until_it_is_given_up(
    crowded: BackupCatalog, source: SourceTree
) -> None:
    name = spoil(crowded, SECOND.label, "manifest")
    assert_nothing_goes(crowded, name)
    assert name in give_up(crowded, SECOND.label)
    collect(crowded)
    assert names(crowded, SECOND.label) == names(crowded, THIRD.label) == set()
    assert assert_whole(crowded, {FIRST.label: source}) == [FIRST.label]


def test_who_has_no_manifest_and_no_decision_that_can_be_read_holds_all_back_until_it_is_given_up(
    crowded: BackupCatalog, source: SourceTree
) -> None:
    spoil(crowded, SECOND.label, "manifest")
    assert_nothing_goes(crowded, spoil(crowded, SECOND.label, "decision"))
    give_up(crowded, SECOND.label)
    collect(crowded)
    assert assert_whole(crowded, {FIRST.label: source}) == [FIRST.label]


@pytest.mark.parametrize("damaged", [["decision"], ["intent"], ["intent", "decision"]])
def test_records_that_cannot_be_read_hold_back_what_their_backup_needs_and_no_more(
    crowded: BackupCatalog, source: SourceTree, damaged: list[str]
) -> None:
    wholes = {}
    for part in damaged:
        name = f"clusters/{CLUSTER}/backups/{SECOND.label}/{part}"
        wholes[name] = crowded.repository.store.read(name)
        spoil(crowded, SECOND.label, part)
    collect(crowded)
    assert names(crowded, THIRD.label) == set()
    retire(crowded, FIRST.label)
    collect(crowded)
    store = crowded.repository.store
    for name, whole in wholes.items():
        store.delete(name)
        store.create(name, [whole])
    assert assert_whole(crowded, {SECOND.label: CHILD.expected(source)}) == [SECOND.label]


def test_what_was_condemned_before_its_intent_became_unreadable_goes(crowded: BackupCatalog) -> None:
    assert Removal(crowded).condemn(THIRD.label, "old")
    spoil(crowded, THIRD.label, "intent")
    collect(crowded)
    assert names(crowded, THIRD.label) == set()


def test_a_writer_whose_intent_cannot_be_read_holds_all_back_only_while_it_may_be_at_work(
    crowded: BackupCatalog, clock: ManualClock, source: SourceTree
) -> None:
    crowded.announce("silent", replace(make_intent(SECOND), sources=(THIRD.label,)))
    name = spoil(crowded, "silent", "intent")
    assert_nothing_goes(crowded, name)
    clock.advance(timedelta(minutes=11).total_seconds())
    result = collect(crowded)
    assert [one.label for one in result.abandoned] == ["silent"]
    assert names(crowded, "silent") == names(crowded, THIRD.label) == set()
    expected = {FIRST.label: source, SECOND.label: CHILD.expected(source)}
    assert assert_whole(crowded, expected) == [FIRST.label, SECOND.label]


def test_only_what_cannot_be_read_and_is_nobody_s_source_is_given_up(crowded: BackupCatalog) -> None:
    with pytest.raises(Refused, match="can be read: it is committed"):
        give_up(crowded, SECOND.label)
    with pytest.raises(NotFound, match='there is no backup "other"'):
        give_up(crowded, "other")
    spoil(crowded, SECOND.label, "manifest")
    crowded.announce("child", replace(make_intent(FIRST), sources=(SECOND.label,)))
    with pytest.raises(Refused, match='"child", which is not finished, goes on from it'):
        give_up(crowded, SECOND.label)
    crowded.abandon("child", "interrupted")
    give_up(crowded, SECOND.label)


def test_if_a_manifest_is_missing_nothing_goes(crowded: BackupCatalog) -> None:
    crowded.repository.store.delete(f"clusters/{CLUSTER}/backups/{FIRST.label}/manifest")
    assert_nothing_goes(crowded, f"{FIRST.label}/manifest")


def test_a_manifest_of_a_backup_that_is_to_go_need_not_be_readable(crowded: BackupCatalog, source: SourceTree) -> None:
    name = f"clusters/{CLUSTER}/backups/{THIRD.label}/manifest"
    crowded.repository.store.delete(name)
    crowded.repository.store.create(name, [b"rotten"])
    collect(crowded)
    assert names(crowded, THIRD.label) == set()
    expected = {FIRST.label: source, SECOND.label: CHILD.expected(source)}
    assert assert_whole(crowded, expected) == [FIRST.label, SECOND.label]


def test_who_cannot_open_the_manifests_removes_nothing(
    store: MemoryStore, clock: ManualClock, source: SourceTree
) -> None:
    catalog = BackupCatalog(make_repository(store, keyring=SEALED, clock=clock), CLUSTER)
    take_backup(catalog.repository, source, FIRST)
    take_backup(catalog.repository, source, SECOND)
    retire(catalog, FIRST.label)
    without_key = BackupCatalog(reopen(store, clock=clock), CLUSTER)
    packs = names(catalog, "/packs/")
    with pytest.raises(NotPermitted):
        collector(without_key).run()
    assert names(catalog, "/packs/") == packs


def test_names_that_are_no_packs_are_left_alone(crowded: BackupCatalog) -> None:
    foreign = [f"clusters/{CLUSTER}/packs/{THIRD.label}/{name}" for name in ("README", "00" * 31, "AA" * 32)]
    for name in foreign:
        crowded.repository.store.create(name, [b"x"])
    collect(crowded)
    assert names(crowded, THIRD.label) == set(foreign)


# -- how ----------------------------------------------------------------------------------------------------------


def test_packs_go_before_labels_and_an_intent_goes_first_a_decision_last(
    store: MemoryStore, clock: ManualClock, source: SourceTree
) -> None:
    recording = RecordingStore(store)
    catalog = BackupCatalog(make_repository(recording, clock=clock), CLUSTER)
    take_backup(catalog.repository, source, FIRST)
    take_backup(catalog.repository, source, SECOND)
    retire(catalog, FIRST.label)
    collector(catalog).run()
    deleted = [one.name for one in recording.mutations if one.operation == "delete"]
    labels = [name.rpartition(f"{FIRST.label}/")[2] for name in deleted if "/backups/" in name]
    assert ["/packs/" in name for name in deleted] == sorted(("/packs/" in name for name in deleted), reverse=True)
    assert labels == ["intent", "manifest", "retire/00000001", "decision", "fate/00000001"]


def test_only_the_pack_table_of_a_manifest_is_read(
    catalog: BackupCatalog, store: MemoryStore, source: SourceTree
) -> None:
    """A manifest grows with the files, and a collector reads all of them: what it does not need stays where it is."""
    catalog.announce(FIRST.label, make_intent(FIRST))
    relations = random.Random(1).randbytes(8 << 20)
    manifest = replace(store_files(catalog, source, FIRST), relations=relations)
    commit(catalog, manifest, FIRST)
    entry = catalog.find_entry(FIRST.label)
    counting = _CountingStore(store)
    reading = BackupCatalog(Repository(counting, catalog.repository.descriptor), CLUSTER)
    assert reading.load_pack_table(entry, next(catalog.iter_manifests(entry))) == manifest.packs
    assert 0 < counting.bytes_read < 2 << 20


class _CountingStore(RecordingStore):
    bytes_read = 0

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return super().read_range(name, offset, length)


def test_what_writers_left_in_a_directory_is_cleaned_up_when_it_is_old(tmp_path: Path, source: SourceTree) -> None:
    (tmp_path / "repository").mkdir()
    clock = ManualClock(START)
    catalog = BackupCatalog(make_repository(open_store(f"file://{tmp_path}/repository"), clock=clock), CLUSTER)
    take_backup(catalog.repository, source, FIRST)
    left = tmp_path / "repository" / "clusters" / CLUSTER / ".tmp-0123456789abcdef"
    left.write_bytes(b"x" * 1000)
    clock.advance(timedelta(days=36500).total_seconds())
    result = collector(catalog).run()
    assert result.leftover_bytes == result.freed_bytes == 1000
    assert not left.exists()
