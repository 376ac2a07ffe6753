"""Copying to another repository may stop anywhere and meet anybody: what is there is whole, and is gone on with."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from pghaven.backup.rivals import make_way
from pghaven.clock import ManualClock
from pghaven.errors import PghavenError, Refused, StoreUnreachable
from pghaven.events import Event, Progress, Step, ignore
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.audits import Audit, keep_audit, load_audit
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collect import BackupCollector, CollectRules
from pghaven.repository.compact import CompactionRules, Compactor
from pghaven.repository.descriptor import Descriptor
from pghaven.repository.drills import load_drills, store_drill
from pghaven.repository.entry import BackupState, Purpose
from pghaven.repository.evidence import load_evidence, store_evidence
from pghaven.repository.horizon import raise_horizon
from pghaven.repository.incidents import Incident, IncidentKind, list_incidents, record_incident
from pghaven.repository.liveness import SIGN_OF_LIFE_SECONDS
from pghaven.repository.markers import Marker, find_markers, store_marker
from pghaven.repository.partials import Piece, put_piece, read_partial
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING, DataKey, Keyring
from pghaven.runtime.pace import Pace
from pghaven.store.api import Store
from pghaven.store.memory import MemoryStore
from pghaven.store.metered import MeteredStore
from pghaven.store.open import create_root
from pghaven.store.recording import RecordingStore
from pghaven.transfer.beside import BesideOutcome
from pghaven.transfer.request import BackupFate, CopyRequest, CopyResult
from pghaven.transfer.session import run_copy
from pghaven.units import render_time_utc
from tests.support.beside import StoreBelow
from tests.support.descent import Descent
from tests.support.interleave import Actor, Outcome, Scene, play, some_orders
from tests.support.reading import read_files
from tests.support.synthetic import (
    CLUSTER,
    SEALED,
    SEGMENT_SIZE,
    START,
    SYSTEM_IDENTIFIER,
    BackupOrder,
    SourceTree,
    archive_wal,
    commit,
    dead_process,
    make_intent,
    make_pages,
    make_repository,
    make_segment,
    make_source,
    open_archive,
    store_files,
    take_backup,
)
from tests.support.unreliable import UnreliableStore, When

OTHER = Keyring(keys={bytes(16): DataKey.from_root(bytes(range(50, 82)))}, current_key_id=bytes(16))
RINGS = [
    pytest.param((OPEN_KEYRING, OPEN_KEYRING), id="open"),
    pytest.param((OPEN_KEYRING, SEALED), id="open-to-sealed"),
    pytest.param((SEALED, OPEN_KEYRING), id="sealed-to-open"),
    pytest.param((SEALED, OTHER), id="other-keys"),
]
GRACE = timedelta(days=7)
FIRST, SECOND, THIRD, FOURTH = (BackupOrder(number=number, workers=2) for number in (1, 2, 3, 4))
HISTORY = b"1\t0/4000000\tno recovery target specified\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceTree:
    return make_source(tmp_path_factory.mktemp("source"), tablespaces=False)


@dataclass(frozen=True)
class Pair:
    """A repository with three backups and their WAL, and an empty one. Each history gets copies of both."""

    objects: dict[str, bytes]
    descriptors: tuple[Descriptor, Descriptor]
    empty: dict[str, bytes]
    rings: tuple[Keyring, Keyring]
    sources: dict[str, SourceTree]

    def fill(self, *, target: bool = False, store: Store | None = None) -> Store:
        made = store or MemoryStore()
        for name, content in (self.empty if target else self.objects).items():
            made.create(name, [content])
        return made

    def open(self, store: Store, *, target: bool = False, later: timedelta = timedelta(0)) -> Repository:
        clock = ManualClock(START + timedelta(days=1) + later)
        return Repository(store, self.descriptors[target], clock=clock, keyring=self.rings[target])

    def catalog(self, store: Store, *, target: bool = False, later: timedelta = timedelta(0)) -> BackupCatalog:
        return BackupCatalog(self.open(store, target=target, later=later), CLUSTER)

    def copy(self, source: Store, target: Store, *labels: str) -> CopyResult:
        request = CopyRequest(cluster=CLUSTER, labels=labels, processes=0, who=dead_process())
        return run_copy(self.open(source), self.open(target, target=True), request, ignore)

    def collect(self, store: Store, *, target: bool = False, dead: bool = False, later: timedelta = GRACE) -> None:
        rules = CollectRules(grace=GRACE, is_dead=lambda entry, now: dead)
        BackupCollector(self.catalog(store, target=target, later=later), rules).run()

    def check(self, store: Store) -> list[str]:
        """Every backup in a target is what its original was, with its WAL, also when all has been collected that can
        be; then no pack is left that nobody needs. Gives the originals' labels."""
        labels = self.assert_whole(store)
        self.collect(store, target=True, dead=True, later=2 * GRACE)
        self.collect(store, target=True, dead=True, later=4 * GRACE)
        assert self.assert_whole(store) == labels
        catalog = self.catalog(store, target=True)
        needed = {
            catalog.pack_place.name(pack.label, pack.id)
            for entry in catalog.list_committed()
            for pack in catalog.load_manifest(entry).packs
        }
        assert {info.name for info in store.list(f"clusters/{CLUSTER}/packs/")} == needed
        return labels

    def assert_whole(self, store: Store) -> list[str]:
        catalog = self.catalog(store, target=True)
        archive = open_archive(catalog.repository)
        labels = []
        for entry in catalog.list_committed():
            manifest = catalog.load_manifest(entry)
            assert read_files(catalog, manifest) == self.sources[entry.original].files
            assert entry.summary["stored_bytes"] == manifest.facts.stored_bytes
            first, last = manifest.facts.start_lsn // SEGMENT_SIZE, (manifest.facts.stop_lsn - 1) // SEGMENT_SIZE
            for number in range(first, last + 1):
                assert archive.get(str(segment(number))) == make_segment(number)
            labels.append(entry.original)
        return labels


def segment(number: int) -> SegmentName:
    return SegmentName(timeline=Timeline(1), number=number, segment_size=SEGMENT_SIZE)


def make_pair(source: SourceTree, rings: tuple[Keyring, Keyring]) -> Pair:
    store, empty = MemoryStore(), MemoryStore()
    clock = ManualClock(START + timedelta(days=1))
    catalog = BackupCatalog(make_repository(store, keyring=rings[0], clock=clock), CLUSTER)
    sources = {FIRST.label: source}
    take_backup(catalog.repository, source, FIRST)
    for order, parent, changed in (
        (SECOND, FIRST, {"base/5/16384": make_pages(3, 99)}),
        (THIRD, SECOND, {"PG_VERSION": b"18\n"}),
    ):
        descent = Descent(order=order, parent=parent.label, changed=changed)
        archive_wal(catalog.repository, order)
        descent.take(catalog)
        sources[order.label] = descent.expected(sources[parent.label])
    archive_wal(catalog.repository, FOURTH)
    archive = open_archive(catalog.repository)
    archive.put("00000002.history", HISTORY, {"host": "db1"})
    archive.put(f"{segment(2)}", make_segment(2), {"host": "db1"})  # before all backups
    make_repository(empty, keyring=rings[1], clock=clock)
    target = BackupCatalog(make_repository(empty, keyring=rings[1], clock=clock), CLUSTER)
    return Pair(
        objects={info.name: store.read(info.name) for info in store.list("")},
        descriptors=(catalog.repository.descriptor, target.repository.descriptor),
        empty={"pghaven.json": empty.read("pghaven.json")},
        rings=rings,
        sources=sources,
    )


@pytest.fixture(scope="module", params=RINGS)
def pair(request: pytest.FixtureRequest, source: SourceTree) -> Pair:
    return make_pair(source, request.param)


@pytest.fixture(scope="module")
def open_pair(source: SourceTree) -> Pair:
    return make_pair(source, (OPEN_KEYRING, OPEN_KEYRING))


class CountingStore(StoreBelow):
    """Remembers what was read whole, or in ranges longer than an index."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner, "")
        self.read_names: list[str] = []
        self.ranges: list[str] = []

    def read(self, name: str) -> bytes:
        self.read_names.append(name)
        return super().read(name)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        self.ranges.append(name)
        return super().read_range(name, offset, length)

    def count(self, part: str) -> int:
        return sum(part in name for name in self.read_names)


ALL = [FIRST.label, SECOND.label, THIRD.label]


# -- what a copy is -----------------------------------------------------------------------------------------------


def test_a_copy_holds_all_that_the_backups_hold(pair: Pair) -> None:
    source, target = pair.fill(), pair.fill(target=True)
    result = pair.copy(source, target)
    assert result.is_complete and result.is_done
    assert [one.fate for one in result.backups] == [BackupFate.COPIED] * 3
    assert pair.check(target) == ALL
    ours, theirs = (open_archive(pair.open(store, target=store is target)) for store in (source, target))
    names = [str(one.name) for one in theirs.list_segments(Timeline(1))]
    assert names == [str(one.name) for one in ours.list_segments(Timeline(1))][1:]  # all but what precedes the backups
    for name in (*names, "00000002.history"):
        assert theirs.get(name) == ours.get(name)
        assert dict(theirs.read_facts(name)) == dict(ours.read_facts(name))


def test_a_hold_goes_with_its_backup_and_stays_released_where_it_was(open_pair: Pair) -> None:
    source, target = open_pair.fill(), open_pair.fill(target=True)
    Removal(open_pair.catalog(source)).hold(FIRST.label, "for the auditors")
    copies = {one.label: one.copy or "" for one in open_pair.copy(source, target).backups}
    there = open_pair.catalog(target, target=True)
    hold = there.read_entry(copies[FIRST.label]).hold
    assert hold is not None
    assert hold.reason == "for the auditors"
    assert there.read_entry(copies[SECOND.label]).hold is None
    Removal(open_pair.catalog(source)).hold(SECOND.label, "later")
    Removal(there).release(copies[FIRST.label])
    open_pair.copy(source, target)
    assert there.read_entry(copies[FIRST.label]).hold is None
    hold = there.read_entry(copies[SECOND.label]).hold
    assert hold is not None
    assert hold.reason == "later"


def test_a_dump_goes_along_and_needs_no_wal(pair: Pair, source: SourceTree) -> None:
    mine, target = pair.fill(), pair.fill(target=True)
    order = BackupOrder(number=9, workers=1)
    catalog = pair.catalog(mine)
    catalog.announce(order.label, replace(make_intent(order), purpose=Purpose.DUMP))
    commit(catalog, store_files(catalog, source, order), order)
    result = pair.copy(mine, target)
    assert result.is_complete
    there = pair.catalog(target, target=True)
    (copied,) = there.list_committed(Purpose.DUMP)
    assert (copied.original, copied.purpose) == (order.label, Purpose.DUMP)
    assert read_files(there, there.load_manifest(copied)) == source.files
    assert [one.original for one in there.list_committed()] == ALL
    assert {one.fate for one in pair.copy(mine, target).backups} == {BackupFate.PRESENT}
    assert {one.fate for one in pair.copy(mine, target, order.label).backups} == {BackupFate.PRESENT}


def test_what_lies_beside_goes_along_once(pair: Pair) -> None:
    mine, target = pair.fill(), pair.fill(target=True)
    ours = open_archive(pair.open(mine))
    ours.put_quarantine(str(segment(7)), make_segment(7), {"host": "db9"})
    incident = Incident(
        kind=IncidentKind.TWO_WRITERS, subject=str(segment(7)), seen_at=START, archived={"host": "db1"}, refused={}
    )
    record_incident(pair.open(mine), CLUSTER, SYSTEM_IDENTIFIER, incident)
    marker = Marker(name="", written_at=START, timeline=Timeline(1), lsn=Lsn(1), tables=(), passed_over=())
    store_marker(pair.open(mine), CLUSTER, SYSTEM_IDENTIFIER, marker)
    pieces = [Piece(segment=segment(9), receiver="0123abcd", begin=one, end=one + 500) for one in (0, 500)]
    passed = Piece(segment=segment(4), receiver="0123abcd", begin=0, end=10)
    for piece in (*pieces, passed):
        put_piece(ours, piece, make_segment(int(piece.segment.number))[piece.begin : piece.end], {"host": "db1"})
    assert pair.copy(mine, target, FIRST.label).beside == BesideOutcome()
    assert pair.copy(mine, target).beside == BesideOutcome(quarantined=1, pieces=2, incidents=1, markers=1)
    assert pair.copy(mine, target).beside == BesideOutcome()
    theirs = open_archive(pair.open(target, target=True))
    (entry,) = theirs.list_quarantine()
    assert theirs.get_quarantined(entry) == make_segment(7)
    assert theirs.read_quarantined_facts(entry)["host"] == "db9"
    there = pair.open(target, target=True)
    assert list_incidents(there, CLUSTER, SYSTEM_IDENTIFIER) == (incident,)
    assert [one.lsn for one in find_markers(there, CLUSTER, SYSTEM_IDENTIFIER)] == [1]
    found = read_partial(theirs, segment(9))
    assert found is not None
    assert (found[0].pieces, found[1][:1000]) == (tuple(pieces), make_segment(9)[:1000])


def test_what_was_found_goes_along_as_what_was_told_elsewhere(pair: Pair) -> None:
    """Nobody judges the target's copies by it, nor is anything of it lost in a copy of the copy."""
    mine, target = pair.fill(), pair.fill(target=True)
    ours = pair.open(mine)
    body = {"scope": "full", "only": None, "began_at": render_time_utc(START), "backups": [], "archive_ends": []}
    names = [store_evidence(ours, CLUSTER, {**body, "damage_count": 7})]
    names.append(store_drill(ours, CLUSTER, {"passed": False}))
    audit = Audit(began_at=START, written_at=START, next_segment=None, segments=3, read_bytes=1, flaws=(("a", "b"),))
    names.append(keep_audit(ours, CLUSTER, SYSTEM_IDENTIFIER, audit))
    assert pair.copy(mine, target).beside == BesideOutcome(results=3)
    assert pair.copy(mine, target).beside == BesideOutcome()
    there = pair.open(target, target=True)
    assert load_evidence(there, CLUSTER).results == ()
    assert load_drills(there, CLUSTER) == ()
    assert load_audit(there, CLUSTER, SYSTEM_IDENTIFIER) is None
    kept = {info.name: there.read_document(info.name) for info in target.list(layout.evidence_prefix(CLUSTER))}
    assert {one["name"]: one["said"] for one in kept.values()} == {one: ours.read_document(one) for one in names}
    assert {one["repository"] for one in kept.values()} == {ours.id}

    other = pair.fill(target=True)
    request = CopyRequest(cluster=CLUSTER, processes=0, who=dead_process())
    third = Repository(
        other, replace(pair.descriptors[1], repository_id="ab" * 16), clock=there.clock, keyring=OPEN_KEYRING
    )
    assert run_copy(there, third, request, ignore).beside == BesideOutcome(results=3)
    assert {name: third.read_document(name) for name in kept} == kept


def test_a_damaged_file_in_quarantine_is_told(open_pair: Pair) -> None:
    mine, target = open_pair.fill(), open_pair.fill(target=True)
    open_archive(open_pair.open(mine)).put_quarantine(str(segment(7)), make_segment(7), {})
    (name,) = (info.name for info in mine.list(f"clusters/{CLUSTER}/quarantine/"))
    data = bytearray(mine.read(name))
    data[40] ^= 1
    mine.delete(name)
    mine.create(name, [bytes(data)])
    result = open_pair.copy(mine, target)
    assert [failed for failed, _ in result.beside.failed] == [name]
    assert not result.is_complete
    assert [one.fate for one in result.backups] == [BackupFate.COPIED] * 3


def test_packs_are_stored_once_for_all_backups_and_under_other_names(pair: Pair) -> None:
    source, target = pair.fill(), pair.fill(target=True)
    result = pair.copy(source, target)
    packs = [
        {info.name.rpartition("/")[2] for info in store.list(f"clusters/{CLUSTER}/packs/")}
        for store in (source, target)
    ]
    assert len(packs[0]) == len(packs[1]) == sum(one.copied_packs for one in result.backups)
    assert not packs[0] & packs[1]


def test_each_backup_can_be_copied_alone_in_any_order(pair: Pair) -> None:
    source, target = pair.fill(), pair.fill(target=True)
    stored = [pair.copy(source, target, label).backups[0].copied_packs for label in reversed(ALL)]
    assert pair.check(target) == ALL
    assert sum(stored) == len(list(source.list(f"clusters/{CLUSTER}/packs/")))


def test_what_is_there_is_not_read_again(pair: Pair) -> None:
    source, target = pair.fill(), pair.fill(target=True)
    pair.copy(source, target)
    before = {info.name for info in target.list("")}
    counting = CountingStore(source)
    result = pair.copy(counting, target)
    assert [one.fate for one in result.backups] == [BackupFate.PRESENT] * 3
    assert (result.wal.copied, counting.count("/packs/"), counting.count("/wal/")) == (0, 0, 0)
    assert {info.name for info in target.list("")} == before
    Descent(order=FOURTH, parent=THIRD.label, changed={"PG_VERSION": b"19\n"}).take(pair.catalog(source))
    sources = {**pair.sources}
    sources[FOURTH.label] = replace(sources[THIRD.label], files={**sources[THIRD.label].files, "PG_VERSION": b"19\n"})
    counting = CountingStore(source)
    result = pair.copy(counting, target)
    assert result.backups[-1].copied_packs == counting.count("/packs/") == 1
    assert not [name for name in counting.ranges if "/packs/" in name]  # what the older copies are of is known
    assert replace(pair, sources=sources).check(target) == [*ALL, FOURTH.label]


def test_a_copy_of_a_copy_has_the_same_original(open_pair: Pair) -> None:
    source, target = open_pair.fill(), open_pair.fill(target=True)
    open_pair.copy(source, target)
    third = MemoryStore()
    make_repository(third)
    request = CopyRequest(cluster=CLUSTER, processes=0)
    opened = make_repository(third)
    run_copy(open_pair.open(target, target=True), opened, request, ignore)
    entries = BackupCatalog(opened, CLUSTER).list_committed()
    assert [entry.original for entry in entries] == ALL
    back = run_copy(opened, open_pair.open(source), request, ignore)
    assert [one.fate for one in back.backups] == [BackupFate.PRESENT] * 3


def test_a_dry_run_writes_nothing_and_says_what_a_run_does(pair: Pair) -> None:
    source, target = pair.fill(), pair.fill(target=True)
    request = CopyRequest(cluster=CLUSTER, processes=0)
    told = run_copy(pair.open(source), pair.open(target, target=True), request, ignore, dry_run=True)
    assert {info.name for info in target.list("")} == {"pghaven.json"}
    done = pair.copy(source, target)
    assert [one.copied_packs for one in told.backups] == [one.copied_packs for one in done.backups]
    assert (told.wal.copied, told.is_done, done.is_done) == (done.wal.copied, False, True)


# -- where it ends ------------------------------------------------------------------------------------------------


def test_every_prefix_of_what_it_writes_is_valid_and_is_gone_on_with(pair: Pair) -> None:
    source, recorded = pair.fill(), RecordingStore(pair.fill(target=True))
    pair.copy(source, recorded)
    all_packs = sum("/packs/" in one.name for one in recorded.mutations)
    for length in range(len(recorded.mutations) + 1):
        store = recorded.replay(length) if length else MemoryStore()
        pair.fill(target=True, store=store)
        labels = pair.assert_whole(store)
        assert labels == ALL[: len(labels)]
        written = {one.name for one in recorded.mutations[:length] if "/packs/" in one.name}
        again = RecordingStore(store)
        assert pair.copy(source, again).is_complete
        more = {one.name for one in again.mutations if "/packs/" in one.name}
        assert len(written) + len(more) == all_packs  # what the first try has stored is not stored again
        assert pair.check(store) == ALL


def test_the_order_of_writes_is_that_of_a_backup(open_pair: Pair) -> None:
    source, recorded = open_pair.fill(), RecordingStore(open_pair.fill(target=True))
    open_pair.copy(source, recorded, FIRST.label)
    kinds: list[str] = []
    for one in recorded.mutations:
        parts = one.name.split("/")
        kind = parts[2] if parts[2] != "backups" else parts[4]
        kinds += [] if kinds[-1:] == [kind] else [kind]
    assert kinds == ["lineages", "wal", "intent", "wal", "packs", "manifest", "decision", "wal"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_store_that_fails_at_any_call_does_no_harm(open_pair: Pair, when: When, side: str) -> None:
    for number in range(1, 1000):
        stores = [open_pair.fill(), open_pair.fill(target=True)]
        inner = list(stores)
        unreliable = UnreliableStore(stores[side == "target"], number, when)
        stores[side == "target"] = unreliable
        try:
            assert open_pair.copy(stores[0], stores[1], *ALL[:2]).is_complete
        except StoreUnreachable:
            labels = open_pair.assert_whole(inner[1])
            assert labels == ALL[: len(labels)]
            assert open_pair.copy(inner[0], inner[1], *ALL[:2]).is_complete
        assert open_pair.assert_whole(inner[1]) == ALL[:2]
        if unreliable.failed is None:
            assert number > 20
            return
    pytest.fail("it never came through")


# -- what cannot be copied ----------------------------------------------------------------------------------------


def find_object(store: Store, part: str) -> str:
    return next(info.name for info in store.list("") if part in info.name)


def flip(store: Store, name: str) -> None:
    data = bytearray(store.read(name))
    data[len(data) // 3] ^= 1
    store.delete(name)
    store.create(name, [bytes(data)])


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_pack_that_is_damaged_or_missing_keeps_the_other_backups_from_nothing(pair: Pair, damage: str) -> None:
    source, target = pair.fill(), pair.fill(target=True)
    name = find_object(source, f"/packs/{SECOND.label}/")
    flip(source, name) if damage == "flip" else source.delete(name)
    result = pair.copy(source, target, FIRST.label, SECOND.label)
    assert not result.is_complete
    assert [one.fate for one in result.backups] == [BackupFate.COPIED, BackupFate.FAILED]
    assert name in str(result.backups[1].reason)
    assert pair.check(target) == [FIRST.label]


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_wal_that_is_damaged_or_missing_is_told(pair: Pair, damage: str) -> None:
    source, target = pair.fill(), pair.fill(target=True)
    own, later = (find_object(source, str(segment(number))) for number in (3, 7))
    for name in (own, later):
        flip(source, name) if damage == "flip" else source.delete(name)
    result = pair.copy(source, target)
    assert [one.fate for one in result.backups] == [BackupFate.FAILED, BackupFate.COPIED, BackupFate.COPIED]
    assert [name for name, _ in result.wal.failed] == ([str(segment(7))] if damage == "flip" else [])
    assert pair.check(target) == ALL[1:]


def test_wal_that_is_another_one_there_is_never_taken_for_the_same(pair: Pair) -> None:
    source, target = pair.fill(), pair.fill(target=True)
    opened = pair.open(target, target=True)
    opened.register_lineage(CLUSTER, pair.open(source).list_lineages(CLUSTER)[0], new_lineage=False)
    open_archive(opened).put(str(segment(3)), make_segment(99), {"host": "db2"})
    result = pair.copy(source, target)
    assert [one.fate for one in result.backups] == [BackupFate.FAILED, BackupFate.COPIED, BackupFate.COPIED]
    assert "different contents" in str(result.backups[0].reason)


def test_a_backup_from_before_what_the_target_keeps_is_left_out(open_pair: Pair) -> None:
    source, target = open_pair.fill(), open_pair.fill(target=True)
    opened = open_pair.open(target, target=True)
    raise_horizon(opened, CLUSTER, SYSTEM_IDENTIFIER, {Timeline(1): Lsn(SECOND.start_lsn)})
    result = open_pair.copy(source, target)
    assert [one.fate for one in result.backups] == [BackupFate.TOO_OLD, BackupFate.COPIED, BackupFate.COPIED]
    assert result.is_complete
    assert open_pair.check(target) == ALL[1:]
    held = [one.name.number for one in open_archive(opened).list_segments(Timeline(1))]
    assert min(held) == SECOND.start_lsn // SEGMENT_SIZE


def test_what_the_target_has_expired_does_not_come_back(open_pair: Pair) -> None:
    source, target = open_pair.fill(), open_pair.fill(target=True)
    open_pair.copy(source, target)
    catalog = open_pair.catalog(target, target=True)
    oldest = catalog.list_committed()[0]
    Removal(catalog).retire(oldest.label, RetireOrder(reason="old", not_before=START + GRACE))
    result = open_pair.copy(source, target)
    assert [one.fate for one in result.backups] == [BackupFate.EXPIRED, BackupFate.PRESENT, BackupFate.PRESENT]


def test_another_cluster_of_that_name_and_the_repository_itself_are_refused(open_pair: Pair) -> None:
    source, target = open_pair.fill(), open_pair.fill(target=True)
    lineage = open_pair.open(source).list_lineages(CLUSTER)[0]
    other = replace(lineage, system_identifier=lineage.system_identifier + 1)
    open_pair.open(target, target=True).register_lineage(CLUSTER, other, new_lineage=False)
    with pytest.raises(Refused, match="another cluster"):
        open_pair.copy(source, target)
    request = CopyRequest(cluster=CLUSTER, processes=0)
    with pytest.raises(Refused, match="one repository"):
        run_copy(open_pair.open(source), open_pair.open(open_pair.fill()), request, ignore)


# -- at once ------------------------------------------------------------------------------------------------------


def test_a_copy_is_nobodys_rival_and_is_waited_for_by_another(open_pair: Pair) -> None:
    target = open_pair.fill(target=True)
    catalog = open_pair.catalog(target, target=True)
    alive = replace(make_intent(FIRST), copy_of=FIRST.label, who=replace(make_intent(FIRST).who, host="another host"))
    catalog.announce(f"{FIRST.label}-0000", alive)
    make_way(catalog, None, ignore)
    assert catalog.read_entry(f"{FIRST.label}-0000").state is BackupState.UNDECIDED


def test_a_copy_whose_objects_take_long_tells_and_gives_signs_of_life(source: SourceTree, tmp_path: Path) -> None:
    """Who listens can lift the limit that it waits under; and on another host it is not taken for dead."""
    stores = [MeteredStore(create_root((tmp_path / name).as_uri())) for name in ("from", "to")]
    clock = ManualClock(START + timedelta(days=1))
    here, there = (make_repository(store, clock=clock) for store in stores)
    order = BackupOrder(number=1, workers=4)
    take_backup(here, source, order)
    pace = stores[0].pace = Pace()
    done: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, Step) and event.text.startswith("copying backup"):
            pace.set_rate(100)
        if isinstance(event, Progress) and event.total_bytes is not None and event.done_bytes < event.total_bytes:
            if event.done_bytes in done:  # nothing has come, and it is told all the same
                clock.advance(SIGN_OF_LIFE_SECONDS)
                pace.set_rate(0)
            done.append(event.done_bytes)

    request = CopyRequest(cluster=CLUSTER, labels=(order.label,), processes=2, who=dead_process())
    result = run_copy(here, there, request, listen)
    assert [one.fate for one in result.backups] == [BackupFate.COPIED]
    assert pace.rate == 0
    assert stores[1].requests.delete >= 1, "a sign of life, which goes when it has decided"


Stores = tuple[Store, Store]


def both(store: Store) -> Stores:
    return StoreBelow(store, "a/"), StoreBelow(store, "b/")


def played(pair: Pair, *actors: Actor, orders: int) -> Iterator[tuple[Stores, list[Outcome]]]:
    def make_scene() -> Scene:
        store = MemoryStore()
        source, target = both(store)
        pair.fill(store=source)
        pair.fill(store=target, target=True)
        return store, actors

    for store, outcomes in some_orders(make_scene, orders):
        for outcome in outcomes:
            assert outcome.error is None or isinstance(outcome.error, PghavenError), outcome.error
        yield both(store), outcomes


def test_the_source_may_expire_and_compact_what_is_copied(open_pair: Pair) -> None:
    def copy(store: Store) -> CopyResult:
        return open_pair.copy(*both(store))

    def expire(store: Store) -> None:
        source = both(store)[0]
        catalog = open_pair.catalog(source, later=GRACE)
        Removal(catalog).retire(FIRST.label, RetireOrder(reason="old", not_before=START))
        open_pair.collect(source)
        rules = CompactionRules(level=1, freed_bytes_min=0, live_share_max=0.99)
        compactor = Compactor(catalog, rules)
        compactor.run(compactor.plan(), "20260303T000000Z-c0d1", dead_process())
        open_pair.collect(source, later=3 * GRACE)

    fates = set()
    for (_, target), (copying, expiring) in played(open_pair, copy, expire, orders=25):
        assert copying.error is None and expiring.error is None
        result = copying.value
        copied = [one.label for one in result.backups if one.fate is BackupFate.COPIED]
        assert open_pair.check(target) == copied
        assert set(copied) >= {SECOND.label, THIRD.label}
        fates |= {one.fate for one in result.backups}
    assert fates <= {BackupFate.COPIED, BackupFate.GONE}
    assert BackupFate.COPIED in fates


def test_a_collector_of_the_target_leaves_what_is_being_copied(open_pair: Pair) -> None:
    def copy(store: Store) -> CopyResult:
        return open_pair.copy(*both(store))

    def collect(store: Store) -> None:
        for _ in range(2):
            open_pair.collect(both(store)[1], target=True, later=2 * GRACE)

    for (_, target), (copying, collecting) in played(open_pair, copy, collect, orders=25):
        assert copying.error is None and collecting.error is None
        assert copying.value.is_complete
        assert open_pair.check(target) == ALL


def test_what_a_copy_builds_on_may_be_expired_there(open_pair: Pair) -> None:
    def make_scene() -> Scene:
        store = MemoryStore()
        source, target = both(store)
        open_pair.fill(store=source)
        open_pair.fill(store=target, target=True)
        open_pair.copy(source, target, FIRST.label)
        return store, (copy, expire)

    def copy(store: Store) -> CopyResult:
        return open_pair.copy(*both(store), SECOND.label)

    def expire(store: Store) -> None:
        target = both(store)[1]
        catalog = open_pair.catalog(target, target=True, later=GRACE)
        oldest = catalog.list_committed()[0]
        Removal(catalog).retire(oldest.label, RetireOrder(reason="old", not_before=START))
        for _ in range(2):
            open_pair.collect(target, target=True)

    built_on = set()
    for number in range(48):
        generator = random.Random(number)
        share = (1 + number % 8) / 8  # of the calls that are the copying's, for as long as both are at work

        def choose(waiting: list[int], share: float = share, generator: random.Random = generator) -> int:
            return waiting[0] if generator.random() < share else waiting[-1]

        store, actors = make_scene()
        copying, expiring = play(store, actors, choose)
        assert copying.error is None and expiring.error is None
        assert copying.value.is_complete
        built_on.add(copying.value.backups[0].present_packs > 0)
        assert open_pair.check(both(store)[1]) == [SECOND.label]
    assert built_on == {True, False}


def test_two_copyings_at_once_are_both_right(open_pair: Pair) -> None:
    def copy(store: Store) -> CopyResult:
        return open_pair.copy(*both(store))

    for (_, target), (one, other) in played(open_pair, copy, copy, orders=12):
        for outcome in (one, other):  # each takes the other for dead, and may be given up by it
            assert outcome.error is None or outcome.error.__class__.__name__ == "Cancelled", outcome.error
        assert set(open_pair.check(target)) <= set(ALL)
