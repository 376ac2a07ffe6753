"""Whatever a collector meets, and wherever it ends: what is a backup can be restored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import NoneType

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Cancelled, Locked, ObjectMissing, PghavenError, Refused, StoreUnreachable
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collect import BackupCollector, CollectRules
from pghaven.repository.descriptor import Descriptor
from pghaven.repository.entry import BackupEntry, BackupState, summarize
from pghaven.repository.pack import PackRef, PackWriter, iter_pack_frames, load_pack_index
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.repository import Repository
from pghaven.store.api import Store
from pghaven.store.memory import MemoryStore
from pghaven.store.recording import RecordingStore
from tests.support.descent import Descent
from tests.support.interleave import Actor, Outcome, Scene, some_orders, two_switches
from tests.support.reading import assert_whole
from tests.support.synthetic import (
    CLUSTER,
    START,
    BackupOrder,
    SourceTree,
    make_intent,
    make_pages,
    make_repository,
    make_source,
    take_backup,
)
from tests.support.unreliable import UnreliableStore, When

GRACE = timedelta(days=7)
ORDERS = tuple(BackupOrder(number=number, workers=1) for number in range(6))
PARENT, CHILD, OTHER = (order.label for order in ORDERS[1:4])
DESCENT = Descent(order=ORDERS[2], parent=PARENT, changed={"base/5/16384": make_pages(3, 77)})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceTree:
    return make_source(tmp_path_factory.mktemp("source"), tablespaces=False)


@dataclass(frozen=True)
class Site:
    """A repository that is copied for each history, and opened without being read again."""

    objects: dict[str, bytes]
    descriptor: Descriptor
    sources: dict[str, SourceTree]

    def fill(self) -> MemoryStore:
        store = MemoryStore()
        for name, content in self.objects.items():
            store.create(name, [content])
        return store

    def catalog(self, store: Store) -> BackupCatalog:
        clock = ManualClock(START + timedelta(days=1))
        return BackupCatalog(Repository(store, self.descriptor, clock=clock), CLUSTER)

    def collect(self, store: Store, *, dead: bool = False) -> None:
        """Whoever had the turn before is gone, unless another collector is to be taken for alive."""
        collector(self.catalog(store), dead=dead, is_alone=True).run()

    def collect_among_others(self, store: Store) -> None:
        collector(self.catalog(store), dead=False, is_alone=False).run()

    def assert_whole(self, store: Store) -> list[str]:
        return assert_whole(self.catalog(store), self.sources)


def collector(catalog: BackupCatalog, *, dead: bool, is_alone: bool) -> BackupCollector:
    def is_dead(entry: BackupEntry, now: datetime) -> bool:
        return dead

    return BackupCollector(catalog, CollectRules(grace=GRACE, is_dead=is_dead, has_ended=lambda holder, now: is_alone))


def names_in(store: Store) -> set[str]:
    """What there is but the records of collectors' turns."""
    return {info.name for info in store.list("") if "/collections/" not in info.name}


@pytest.fixture(scope="module")
def site(source: SourceTree) -> Site:
    """A retired backup whose time is over, and one of another time that stays."""
    store = MemoryStore()
    repository = make_repository(store)
    take_backup(repository, source, ORDERS[0])
    take_backup(repository, source, ORDERS[1])
    Removal(BackupCatalog(repository, CLUSTER)).retire(PARENT, RetireOrder(reason="old", not_before=START))
    objects = {info.name: store.read(info.name) for info in store.list("")}
    sources = {ORDERS[0].label: source, PARENT: source, CHILD: DESCENT.expected(source), OTHER: source}
    return Site(objects, repository.descriptor, sources)


def played(site: Site, *actors: Actor, by_chance: int = 0) -> Iterator[tuple[Store, list[Outcome]]]:
    """Two actors in every order that matters, unless a number of orders is to be chosen by chance."""

    def make_scene() -> Scene:
        return site.fill(), actors

    return some_orders(make_scene, by_chance) if by_chance else two_switches(make_scene)


def check(site: Site, store: Store) -> list[str]:
    """All backups are whole, and still are when another collector has come by; gives their labels."""
    labels = site.assert_whole(store)
    site.collect(store, dead=True)
    assert site.assert_whole(store) == labels
    return labels


# -- a backup that begins while its parent goes -------------------------------------------------------------------


def take(site: Site, descent: Descent) -> Actor:
    return lambda store: descent.take(site.catalog(store))


def test_a_backup_and_the_removal_of_its_parent_in_every_order(site: Site) -> None:
    endings = set()
    for store, (backup, collecting) in played(site, take(site, DESCENT), site.collect):
        assert collecting.error is None
        assert backup.error is None or isinstance(backup.error, Cancelled)
        labels = check(site, store)
        assert (CHILD in labels) is (backup.error is None)
        assert not list(store.list(f"clusters/{CLUSTER}/backups/{PARENT}/"))
        endings.add(backup.error is None)
    assert endings == {True, False}


def test_with_two_collectors_and_two_backups_too(site: Site) -> None:
    other = replace(DESCENT, order=ORDERS[3], changed={})
    for store, (one, two, *collecting) in played(
        site, take(site, DESCENT), take(site, other), site.collect, site.collect, by_chance=200
    ):
        assert all(outcome.error is None or isinstance(outcome.error, Cancelled) for outcome in collecting)
        labels = check(site, store)
        assert [CHILD in labels, OTHER in labels] == [one.error is None, two.error is None]


def test_a_backup_that_does_not_look_what_became_of_its_parent_would_be_lost(site: Site) -> None:
    """The planted mistake: without it nobody knows whether the tests above can find any."""
    careless = replace(DESCENT, is_careless=True)
    lost = 0
    for store, (backup, _) in played(site, take(site, careless), site.collect):
        if backup.error is None:
            try:
                site.assert_whole(store)
            except ObjectMissing:
                lost += 1
    assert lost > 0


def test_a_collector_that_lists_packs_after_it_read_states_would_lose_a_backup(site: Site) -> None:
    class Hasty(BackupCollector):
        """Reads who is at work, and only then what is stored; and asks nobody for what it did not see."""

        def _list_packs(self) -> dict[str, dict[bytes, int]]:
            self.entries = super()._read_entries()
            return super()._list_packs()

        def _read_entries(self) -> dict[str, BackupEntry]:
            return self.entries if hasattr(self, "entries") else super()._read_entries()

        def _refuse_hidden(self, packs: Iterable[str], entries: Mapping[str, BackupEntry]) -> None:
            pass

    def collect(store: Store) -> None:
        Hasty(site.catalog(store), CollectRules(grace=GRACE, is_dead=lambda entry, now: False)).run()

    lost = 0
    for store, (backup, _) in played(site, take(site, replace(DESCENT, parent=ORDERS[0].label)), collect):
        assert backup.error is None
        try:
            site.assert_whole(store)
        except ObjectMissing:
            lost += 1
    assert lost > 0


# -- a backup that goes on from one that was interrupted ----------------------------------------------------------


@dataclass(frozen=True)
class Interrupted:
    """A site where a backup was interrupted long ago; ``pack`` is what it had stored."""

    site: Site
    pack: PackRef

    def go_on(self, store: Store) -> bool:
        """As a continuing backup does: name it, look what became of it, use what can be proven. True when it did."""
        catalog = self.site.catalog(store)
        order = ORDERS[3]
        catalog.announce(order.label, replace(make_intent(order), sources=(CHILD,)))
        if catalog.read_entry(CHILD).state is not BackupState.ABANDONED:
            catalog.abandon(order.label, "nothing to go on from")
            return False
        place = catalog.pack_place
        index = load_pack_index(place, self.pack)
        parent = catalog.load_manifest(catalog.read_entry(ORDERS[0].label))
        assert list(iter_pack_frames(place, self.pack, index, [0]))
        facts = replace(parent.facts, label=order.label)
        manifest = replace(parent, facts=facts, packs=(*parent.packs, self.pack))
        catalog.commit(order.label, manifest, summarize(facts, "", ""))
        return True


@pytest.fixture(scope="module")
def interrupted(site: Site) -> Interrupted:
    store = site.fill()
    catalog = site.catalog(store)
    catalog.announce(CHILD, replace(make_intent(ORDERS[2]), started_at=START - GRACE))
    writer = PackWriter(catalog.pack_place, CHILD, level=3, in_background=False)
    writer.append(make_pages(2, 5))
    (pack,) = writer.close()
    catalog.abandon(CHILD, "interrupted")
    return Interrupted(replace(site, objects={info.name: store.read(info.name) for info in store.list("")}), pack)


def test_going_on_from_an_interrupted_backup_and_its_removal_in_every_order(interrupted: Interrupted) -> None:
    site = interrupted.site
    endings = set()
    for store, (backup, collecting) in played(site, interrupted.go_on, site.collect):
        assert [backup.error, collecting.error] == [None, None]
        assert (OTHER in check(site, store)) is backup.value
        endings.add(backup.value)
    assert endings == {True, False}


def test_two_collectors_give_up_condemn_and_remove_together(interrupted: Interrupted) -> None:
    site = interrupted.site
    store = site.fill()
    catalog = site.catalog(store)
    catalog.announce(ORDERS[4].label, replace(make_intent(ORDERS[4]), started_at=START - GRACE))
    crowded = replace(site, objects={info.name: store.read(info.name) for info in store.list("")})

    def collect(store: Store) -> None:
        site.collect(store, dead=True)

    for store, outcomes in played(crowded, collect, collect, by_chance=200):
        assert all(outcome.error is None or isinstance(outcome.error, Cancelled) for outcome in outcomes)
        assert any(outcome.error is None for outcome in outcomes)
        assert check(site, store) == [ORDERS[0].label]
        left = {info.name.split("/")[3] for info in store.list(f"clusters/{CLUSTER}/backups/")}
        assert left == {ORDERS[0].label}
        assert {info.name.split("/")[3] for info in store.list(f"clusters/{CLUSTER}/packs/")} == left


# -- second thoughts ----------------------------------------------------------------------------------------------


SECOND_THOUGHTS: dict[str, Callable[[Removal], None]] = {
    "undo": lambda removal: removal.undo(PARENT),
    "hold": lambda removal: removal.hold(PARENT, "the audit"),
}


@pytest.mark.parametrize("thought", SECOND_THOUGHTS)
def test_what_was_brought_back_is_whole_in_every_order(site: Site, thought: str) -> None:
    def bring_back(store: Store) -> None:
        SECOND_THOUGHTS[thought](Removal(site.catalog(store)))

    endings = set()
    for store, (person, collecting) in played(site, bring_back, site.collect):
        assert collecting.error is None
        assert person.error is None or isinstance(person.error, PghavenError)
        assert (PARENT in check(site, store)) is (person.error is None)
        endings.add(person.error is None)
    assert endings == {True, False}


def test_who_took_a_living_writer_for_dead_has_not_harmed_anything(site: Site) -> None:
    for store, (backup, collecting) in played(site, take(site, DESCENT), lambda store: site.collect(store, dead=True)):
        assert collecting.error is None
        assert backup.error is None or isinstance(backup.error, (Cancelled, ObjectMissing, Refused)), backup.error
        assert (CHILD in check(site, store)) is (backup.error is None)


# -- turns --------------------------------------------------------------------------------------------------------


def test_of_two_collectors_one_waits_for_its_turn_in_every_order(site: Site) -> None:
    endings = set()
    for store, outcomes in played(site, site.collect_among_others, site.collect_among_others):
        # One that stands still for a whole turn of another just when it has decided cannot know that it was in time.
        assert all(outcome.error is None or isinstance(outcome.error, Locked | Cancelled) for outcome in outcomes)
        assert outcomes[0].error is None or outcomes[1].error is None
        assert not list(store.list(f"clusters/{CLUSTER}/backups/{PARENT}/"))
        endings.add(tuple(type(outcome.error) for outcome in outcomes))
    assert {(NoneType, NoneType), (NoneType, Locked), (Locked, NoneType)} <= endings


def test_who_stood_still_and_was_given_up_removes_nothing(site: Site) -> None:
    """The first stands still wherever it is; the second takes it for dead and has its own turn from end to end."""
    taken_over = 0
    for store, (first, second) in played(site, site.collect, site.collect, by_chance=120):
        assert second.error is None or isinstance(second.error, Cancelled)
        deleted = [call for call in first.calls if call.startswith("delete ") and "/collections/" not in call]
        if isinstance(first.error, Cancelled):
            taken_over += 1
            assert deleted == []
        assert check(site, store) == [ORDERS[0].label]
    assert taken_over > 0


# -- crashes ------------------------------------------------------------------------------------------------------


def record(site: Site, source: SourceTree) -> RecordingStore:
    """A life of backups on top of each other, some given up, retired and collected, recorded from nothing on."""
    store = RecordingStore(MemoryStore())
    for name, content in site.objects.items():
        store.create(name, [content])
    catalog = site.catalog(store)
    site.collect(store)
    child = replace(DESCENT, parent=ORDERS[0].label)
    child.take(catalog)
    catalog.announce(ORDERS[4].label, make_intent(ORDERS[4]))
    writer = PackWriter(catalog.pack_place, ORDERS[4].label, level=3, in_background=False)
    writer.append(b"never finished")
    writer.close()
    site.collect(store, dead=True)
    Removal(catalog).retire(ORDERS[0].label, RetireOrder(reason="old", not_before=START))
    site.collect(store)
    Descent(order=ORDERS[3], parent=CHILD, changed={"base/5/16384": source.files["base/5/16384"]}).take(catalog)
    Removal(catalog).retire(CHILD, RetireOrder(reason="old", not_before=START))
    site.collect(store)
    return store


def test_every_prefix_of_what_collectors_and_writers_do_is_valid(site: Site, source: SourceTree) -> None:
    recorded = record(site, source)
    first = len(site.objects)
    seen = []
    for length in range(first, len(recorded.mutations) + 1):
        store = recorded.replay(length)
        seen.append(check(site, store))
        site.collect(store, dead=True)
    assert seen[-1] == [OTHER]
    assert sum(one.operation == "delete" for one in recorded.mutations) > 15
    assert {info.name.split("/")[3] for info in recorded.list(f"clusters/{CLUSTER}/backups/")} == {
        OTHER,
        ORDERS[4].label,
    }


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_collector_that_fails_at_any_call_can_run_again(site: Site, when: When) -> None:
    whole = site.fill()
    site.collect(whole)
    wanted = names_in(whole)
    for number in range(1, 1000):
        inner = site.fill()
        unreliable = UnreliableStore(inner, number, when)
        try:
            site.collect(unreliable)
        except StoreUnreachable:
            site.assert_whole(inner)
            site.collect(inner)
        assert names_in(inner) == wanted
        assert site.assert_whole(inner) == [ORDERS[0].label]
        if unreliable.failed is None:
            assert number > 20
            return
    pytest.fail("it never came through")
