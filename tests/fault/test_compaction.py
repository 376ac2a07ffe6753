"""A compaction may stop anywhere, and meet anybody: every backup is what it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Cancelled, NotFound, PghavenError, Refused, StoreUnreachable
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collect import BackupCollector, CollectRules
from pghaven.repository.compact import CompactionResult, CompactionRules, Compactor
from pghaven.repository.descriptor import Descriptor
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from pghaven.store.api import Store
from pghaven.store.memory import MemoryStore
from pghaven.store.recording import RecordingStore
from tests.support.descent import Descent
from tests.support.interleave import Actor, Outcome, Scene, some_orders
from tests.support.reading import assert_whole
from tests.support.synthetic import (
    CLUSTER,
    SEALED,
    START,
    BackupOrder,
    SourceTree,
    dead_process,
    make_pages,
    make_repository,
    make_source,
    take_backup,
)
from tests.support.unreliable import UnreliableStore, When

RINGS = [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")]
GRACE = timedelta(days=7)
FIRST, SECOND, THIRD, FOURTH = (BackupOrder(number=number, workers=1) for number in (1, 2, 3, 4))
LABELS = ("20260303T000000Z-c0d1", "20260303T000000Z-c0d2")
KEPT = "base/5/16384"
CHILD = Descent(order=FOURTH, parent=THIRD.label, changed={KEPT: make_pages(3, 99)})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceTree:
    return make_source(tmp_path_factory.mktemp("source"), tablespaces=False)


@dataclass(frozen=True)
class Site:
    """A repository whose oldest pack is mostly dead: two backups use one file of it. Each history gets a copy."""

    objects: dict[str, bytes]
    descriptor: Descriptor
    ring: Keyring
    sources: dict[str, SourceTree]

    def fill(self) -> MemoryStore:
        store = MemoryStore()
        for name, content in self.objects.items():
            store.create(name, [content])
        return store

    def catalog(self, store: Store, *, later: timedelta = timedelta(0)) -> BackupCatalog:
        clock = ManualClock(START + timedelta(days=1) + later)
        return BackupCatalog(Repository(store, self.descriptor, clock=clock, keyring=self.ring), CLUSTER)

    def compact(self, store: Store, label: str = LABELS[0]) -> CompactionResult:
        """Whoever else compacts is not waited for."""
        rules = CompactionRules(level=1, freed_bytes_min=0, is_dead=lambda entry, now: True)
        compactor = Compactor(self.catalog(store), rules)
        return compactor.run(compactor.plan(), label, dead_process())

    def collect(self, store: Store, *, dead: bool = False, later: timedelta = timedelta(0)) -> None:
        rules = CollectRules(grace=GRACE, is_dead=lambda entry, now: dead, has_ended=lambda holder, now: dead)
        BackupCollector(self.catalog(store, later=later), rules).run()

    def check(self, store: Store) -> list[str]:
        """All is whole, and still is when everything has been collected that can be; then nothing else is left."""
        labels = assert_whole(self.catalog(store), self.sources)
        self.collect(store, dead=True)
        assert assert_whole(self.catalog(store), self.sources) == labels
        self.collect(store, dead=True, later=2 * GRACE)
        catalog = self.catalog(store)
        assert assert_whole(catalog, self.sources) == labels
        needed = {
            catalog.pack_place.name(pack.label, pack.id)
            for entry in catalog.list_committed()
            for pack in catalog.load_manifest(entry).packs
        }
        assert {info.name for info in store.list(f"clusters/{CLUSTER}/packs/")} == needed
        return labels


def make_site(source: SourceTree, ring: Keyring) -> Site:
    store = MemoryStore()
    clock = ManualClock(START + timedelta(days=1))
    catalog = BackupCatalog(make_repository(store, keyring=ring, clock=clock), CLUSTER)
    take_backup(catalog.repository, source, replace(FIRST, one_by_one=False))
    others = {name: content[::-1] for name, content in source.files.items() if content and name != KEPT}
    sources = {FIRST.label: source}
    for order, parent, changed in ((SECOND, FIRST, others), (THIRD, SECOND, {"PG_VERSION": b"18\n"})):
        descent = Descent(order=order, parent=parent.label, changed=changed)
        descent.take(catalog)
        sources[order.label] = descent.expected(sources[parent.label])
    Removal(catalog).retire(FIRST.label, RetireOrder(reason="old", not_before=START))
    BackupCollector(catalog, CollectRules(grace=GRACE)).run()
    sources[FOURTH.label] = CHILD.expected(sources[THIRD.label])
    objects = {info.name: store.read(info.name) for info in store.list("")}
    return Site(objects, catalog.repository.descriptor, ring, sources)


@pytest.fixture(scope="module", params=RINGS)
def site(request: pytest.FixtureRequest, source: SourceTree) -> Site:
    return make_site(source, request.param)


@pytest.fixture(scope="module")
def open_site(source: SourceTree) -> Site:
    return make_site(source, OPEN_KEYRING)


def test_there_is_something_to_compact(site: Site) -> None:
    store = site.fill()
    result = site.compact(store)
    assert result.backups == (SECOND.label, THIRD.label)
    assert {pack.label for pack in result.superseded} == {FIRST.label}
    assert site.check(store) == [SECOND.label, THIRD.label]
    assert not [info.name for info in store.list(f"clusters/{CLUSTER}/packs/{FIRST.label}/")]


# -- crashes ------------------------------------------------------------------------------------------------------


def test_every_prefix_of_what_a_compaction_and_collectors_write_is_valid(site: Site) -> None:
    recorded = RecordingStore(MemoryStore())
    for name, content in site.objects.items():
        recorded.create(name, [content])
    site.compact(recorded)
    compacted = len(recorded.mutations)
    site.collect(recorded)
    site.collect(recorded, later=2 * GRACE)
    assert compacted >= len(site.objects) + 5
    assert len(recorded.mutations) >= compacted + 3
    for length in range(len(site.objects), len(recorded.mutations) + 1):
        store = recorded.replay(length)
        assert assert_whole(site.catalog(store), site.sources) == [SECOND.label, THIRD.label]
        again = recorded.replay(length)
        site.check(store)
        site.compact(again, LABELS[1])
        site.check(again)


def test_its_decision_comes_last_and_its_intent_first(open_site: Site) -> None:
    recorded = RecordingStore(open_site.fill())
    open_site.compact(recorded)
    names = [one.name for one in recorded.mutations]
    kinds = ["packs" if "/packs/" in name else name.rpartition("/")[2] for name in names]
    assert kinds == ["intent", "packs", "manifest", "manifest", "decision"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_compaction_that_fails_at_any_call_has_harmed_nothing(site: Site, when: When) -> None:
    for number in range(1, 1000):
        inner = site.fill()
        unreliable = UnreliableStore(inner, number, when)
        try:
            site.compact(unreliable)
        except StoreUnreachable:
            assert assert_whole(site.catalog(inner), site.sources) == [SECOND.label, THIRD.label]
            site.compact(inner, LABELS[1])
        site.check(inner)
        if unreliable.failed is None:
            assert number > 20
            return
    pytest.fail("it never came through")


# -- at once ------------------------------------------------------------------------------------------------------


def played(site: Site, *actors: Actor, orders: int) -> Iterator[tuple[Store, list[Outcome]]]:
    def make_scene() -> Scene:
        return site.fill(), actors

    for store, outcomes in some_orders(make_scene, orders):
        for outcome in outcomes:
            assert outcome.error is None or isinstance(outcome.error, PghavenError), outcome.error
        yield store, outcomes


def test_two_compactions_at_once_are_both_right(open_site: Site) -> None:
    actors = [lambda store, label=label: open_site.compact(store, label) for label in LABELS]
    for store, outcomes in played(open_site, *actors, orders=100):
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert open_site.check(store) == [SECOND.label, THIRD.label]


@pytest.mark.parametrize("dead", [False, True])
def test_a_compaction_a_collector_and_a_backup_in_any_order(open_site: Site, dead: bool) -> None:
    """With ``dead`` the collector takes everybody who is at work for dead."""

    def collect(store: Store) -> None:
        open_site.collect(store, dead=dead)
        open_site.collect(store, dead=dead, later=2 * GRACE)

    def take(store: Store) -> None:
        CHILD.take(open_site.catalog(store))

    compacted = 0
    for store, (compaction, collecting, backup) in played(open_site, open_site.compact, collect, take, orders=150):
        assert collecting.error is None
        allowed = (Cancelled, NotFound, Refused) if dead else ()
        for outcome in (compaction, backup):
            assert outcome.error is None or isinstance(outcome.error, allowed), outcome.error
        labels = open_site.check(store)
        assert labels[:2] == [SECOND.label, THIRD.label]
        assert (FOURTH.label in labels) is (backup.error is None)
        compacted += compaction.error is None
    assert compacted > 0


def test_a_backup_that_goes_while_its_map_is_rewritten(open_site: Site) -> None:
    def expire(store: Store) -> None:
        Removal(open_site.catalog(store)).retire(SECOND.label, RetireOrder(reason="old", not_before=START))
        open_site.collect(store)
        open_site.collect(store)

    for store, outcomes in played(open_site, open_site.compact, expire, orders=150):
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert open_site.check(store) == [THIRD.label]
        assert not list(store.list(f"clusters/{CLUSTER}/backups/{SECOND.label}/"))


def test_a_retirement_that_is_undone_while_its_map_is_rewritten(open_site: Site) -> None:
    def waver(store: Store) -> None:
        removal = Removal(open_site.catalog(store))
        removal.retire(SECOND.label, RetireOrder(reason="old", not_before=START + GRACE))
        open_site.collect(store)
        removal.undo(SECOND.label)

    for store, outcomes in played(open_site, open_site.compact, waver, orders=80):
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert open_site.check(store) == [SECOND.label, THIRD.label]
