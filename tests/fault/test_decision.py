"""One decision for each backup, whatever the order of calls, lost answers, pauses and clocks (INV-1, INV-5)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from pghaven.backup.rivals import make_way
from pghaven.clock import ManualClock
from pghaven.errors import Cancelled, Locked, PghavenError, StoreUnreachable
from pghaven.events import Event, Notice, ignore
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.descriptor import Descriptor
from pghaven.repository.entry import BackupState
from pghaven.repository.manifest import Manifest
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from pghaven.runtime.whoami import ProcessIdentity, read_own_identity
from pghaven.store.api import Store
from pghaven.store.memory import MemoryStore
from tests.support.interleave import Actor, Outcome, every_order, some_orders
from tests.support.places import make_directory
from tests.support.synthetic import (
    CLUSTER,
    SEALED,
    START,
    BackupOrder,
    SourceTree,
    assert_restored,
    commit,
    list_committed,
    make_intent,
    make_repository,
    make_source,
    remove_target,
    restore,
    store_files,
    take_backup,
)
from tests.support.unreliable import UnreliableStore, When

RINGS = [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")]
ELSEWHERE = ProcessIdentity(host="db9", boot_id="another boot", pid=7, start="1")
ORDER = BackupOrder()
REASON = "it looked dead"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    path = make_directory()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def source(place: Path) -> SourceTree:
    (place / "source").mkdir()
    return make_source(place / "source")


@dataclass(frozen=True)
class Stored:
    """Everything of a backup that has been announced, except manifest and decision."""

    objects: dict[str, bytes]
    manifest: Manifest
    descriptor: Descriptor
    ring: Keyring

    def fill(self, *without: str) -> MemoryStore:
        """A store with these objects, but those whose names hold one of the words."""
        store = MemoryStore()
        for name, content in self.objects.items():
            if not any(word in name for word in without):
                store.create(name, [content])
        return store

    def catalog(self, store: Store) -> BackupCatalog:
        """Opened before: the descriptor is not read again."""
        return BackupCatalog(Repository(store, self.descriptor, clock=ManualClock(START), keyring=self.ring), CLUSTER)

    def commit(self, store: Store) -> None:
        commit(self.catalog(store), self.manifest, ORDER)

    def state(self, store: Store) -> BackupState:
        return state_in(self.catalog(store))


@pytest.fixture(scope="module", params=RINGS)
def stored(request: pytest.FixtureRequest, source: SourceTree) -> Stored:
    store = MemoryStore()
    repository = make_repository(store, keyring=request.param)
    catalog = BackupCatalog(repository, CLUSTER)
    catalog.announce(ORDER.label, make_intent(ORDER))
    manifest = store_files(catalog, source, ORDER)
    objects = {info.name: store.read(info.name) for info in store.list("")}
    return Stored(objects, manifest, repository.descriptor, request.param)


def state_in(catalog: BackupCatalog) -> BackupState:
    return next(entry.state for entry in catalog.list_entries() if entry.label == ORDER.label)


# -- every order --------------------------------------------------------------------------------------------------


def assert_one_won(stored: Stored, store: Store, writer: Outcome, collectors: list[Outcome]) -> bool:
    """Either the backup is there, whole, and everybody knows, or it is not and its writer was told. True: committed."""
    catalog = stored.catalog(store)
    assert [collector.error for collector in collectors] == [None] * len(collectors)
    if state_in(catalog) is BackupState.COMMITTED:
        assert writer.error is None
        assert [collector.value for collector in collectors] == [False] * len(collectors)
        assert catalog.load_manifest(catalog.find_entry(ORDER.label)).facts.label == ORDER.label
        return True
    assert state_in(catalog) is BackupState.ABANDONED
    assert isinstance(writer.error, Cancelled)
    assert REASON in writer.error.message
    assert [collector.value for collector in collectors] == [True] * len(collectors)
    assert catalog.list_committed() == ()
    return False


@pytest.mark.parametrize("collectors", [1, 2])
def test_exactly_one_of_commit_and_abandon_wins_in_every_order(stored: Stored, collectors: int) -> None:
    def collect(store: Store) -> bool:
        return stored.catalog(store).abandon(ORDER.label, REASON)

    actors: list[Actor] = [stored.commit, *[collect] * collectors]
    committed = [
        assert_one_won(stored, store, writer, others)
        for store, (writer, *others) in every_order(lambda: (stored.fill(), actors))
    ]
    assert len(committed) >= (3, 12)[collectors - 1]
    assert set(committed) == {True, False}


def test_two_writers_of_one_label_cannot_both_commit(stored: Stored) -> None:
    """The same process twice, as a virtual machine that was copied while it ran."""

    def write(host: str) -> Actor:
        other = replace(stored.manifest, facts=replace(stored.manifest.facts, host=host))
        return lambda store: commit(stored.catalog(store), other, ORDER)

    actors = [write("one"), write("two")]
    hosts = set()
    for store, outcomes in every_order(lambda: (stored.fill(), actors)):
        (winner,) = [number for number, outcome in enumerate(outcomes) if outcome.error is None]
        assert isinstance(outcomes[1 - winner].error, PghavenError)
        catalog = stored.catalog(store)
        host = catalog.load_manifest(catalog.find_entry(ORDER.label)).facts.host
        assert host == ("one", "two")[winner]
        hosts.add(host)
    assert hosts == {"one", "two"}


def test_a_collector_that_looks_around_meets_a_writer_at_every_step(stored: Stored) -> None:
    """A whole ``make_way`` against announce and commit of a process that it takes for dead."""

    def write(store: Store) -> None:
        stored.catalog(store).announce(ORDER.label, make_intent(ORDER))
        stored.commit(store)

    def look_around(store: Store) -> None:
        make_way(stored.catalog(store), None, ignore)

    states = set()
    for store, (writer, collector) in every_order(lambda: (stored.fill("/intent"), [write, look_around])):
        assert collector.error is None
        state = stored.state(store)
        states.add(state)
        assert (writer.error is None) == (state is BackupState.COMMITTED)
        assert writer.error is None or isinstance(writer.error, Cancelled)
    assert states == {BackupState.COMMITTED, BackupState.ABANDONED}


def test_of_two_rivals_at_least_one_goes_on_and_what_is_committed_is_whole(stored: Stored) -> None:
    """Both live, and both do what a session does. Which one was first is told by clocks, which may be wrong."""

    def write(order: BackupOrder) -> Actor:
        ours = replace(stored.manifest, facts=replace(stored.manifest.facts, label=order.label))

        def act(store: Store) -> None:
            catalog = stored.catalog(store)
            make_way(catalog, None, ignore)
            catalog.announce(order.label, make_intent(order))
            try:
                make_way(catalog, order.label, ignore)
                commit(catalog, ours, order)
            except BaseException:
                catalog.abandon(order.label, "failed")
                raise

        return act

    me = read_own_identity()
    orders = [BackupOrder(number=1, identity=me), BackupOrder(number=2, identity=me)]
    actors = [write(order) for order in orders]
    both = 0
    for store, outcomes in some_orders(lambda: (stored.fill("/backups/"), actors), count=150):
        catalog = stored.catalog(store)
        went_on = [order.label for order, outcome in zip(orders, outcomes, strict=True) if outcome.error is None]
        assert went_on
        assert [entry.label for entry in catalog.list_committed()] == went_on
        assert all(isinstance(outcome.error, Locked) for outcome in outcomes if outcome.error)
        assert not [entry for entry in catalog.list_entries() if entry.state is BackupState.UNDECIDED]
        for entry in catalog.list_committed():
            catalog.load_manifest(entry)
        both += len(went_on) == 2
    assert both < 150, "nobody ever made way"


# -- lost answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_whose_answer_was_lost_can_be_repeated(stored: Stored, when: When) -> None:
    def attempt(number: int) -> UnreliableStore:
        store = UnreliableStore(stored.fill(), number, when)
        try:
            stored.commit(store)
        except StoreUnreachable:
            stored.commit(store)
        catalog = stored.catalog(store.inner)
        assert catalog.load_manifest(catalog.find_entry(ORDER.label)).facts == stored.manifest.facts
        return store

    assert until_it_gets_through(attempt) > 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_that_gives_up_after_a_lost_answer_leaves_one_decision(stored: Stored, when: When) -> None:
    """It may have been committed, and then giving up says so; it is never both and never neither."""
    states = []

    def attempt(number: int) -> UnreliableStore:
        store = UnreliableStore(stored.fill(), number, when)
        try:
            stored.commit(store)
            committed = True
        except StoreUnreachable:
            committed = not stored.catalog(store).abandon(ORDER.label, "the store is gone")
        state = stored.state(store.inner)
        assert state is (BackupState.COMMITTED if committed else BackupState.ABANDONED)
        states.append(state)
        return store

    until_it_gets_through(attempt)
    assert states[-1] is BackupState.COMMITTED
    assert BackupState.ABANDONED in states


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_abandon_whose_answer_was_lost_can_be_repeated(stored: Stored, when: When) -> None:
    def attempt(number: int) -> UnreliableStore:
        store = UnreliableStore(stored.fill(), number, when)
        try:
            assert stored.catalog(store).abandon(ORDER.label, "one")
        except StoreUnreachable:
            assert stored.catalog(store).abandon(ORDER.label, "two")
        assert stored.state(store.inner) is BackupState.ABANDONED
        return store

    until_it_gets_through(attempt)


def until_it_gets_through(attempt: Callable[[int], UnreliableStore]) -> int:
    for number in range(1, 200):
        if attempt(number).failed is None:
            return number
    pytest.fail("it never got through")


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_backup_that_failed_at_any_call_is_followed_by_one_that_works(
    source: SourceTree, place: Path, ring: Keyring, when: When
) -> None:
    """From an empty store: repository, lineage, intent, packs, WAL, manifest, decision. What is committed restores."""

    def attempt(number: int) -> UnreliableStore:
        store = UnreliableStore(MemoryStore(), number, when)
        try:
            take_backup(make_repository(store, keyring=ring), source, ORDER)
        except StoreUnreachable:
            assert store.failed is not None
        again = replace(ORDER, number=2)
        repository = make_repository(store.inner, keyring=ring)
        take_backup(repository, source, again)
        labels = [entry.label for entry in list_committed(repository)]
        assert again.label in labels
        for label in labels:
            restore(repository, label, place / "target")
            assert_restored(source, place / "target")
            remove_target(place / "target")
        states = {entry.state for entry in BackupCatalog(repository, CLUSTER).list_entries()}
        assert BackupState.UNDECIDED not in states, "the dead writer was given up"
        return store

    assert until_it_gets_through(attempt) > 15


# -- who is dead --------------------------------------------------------------------------------------------------


class Cast:
    """A repository whose store and readers may have different clocks."""

    def __init__(self, source: SourceTree) -> None:
        self.source = source
        self.store_clock = ManualClock(START)
        self.clock = ManualClock(START)
        self.store = MemoryStore(self.store_clock)
        self.repository: Repository = make_repository(self.store, clock=self.clock)
        self.catalog = BackupCatalog(self.repository, CLUSTER)
        self.told: list[str] = []

    def advance(self, **time: float) -> None:
        seconds = timedelta(**time).total_seconds()
        self.store_clock.advance(seconds)
        self.clock.advance(seconds)

    def announce(self, identity: ProcessIdentity | None) -> Manifest:
        order = replace(ORDER, identity=identity)
        self.catalog.announce(order.label, make_intent(order))
        return store_files(self.catalog, self.source, order)

    def make_way(self) -> BackupState:
        make_way(self.catalog, None, self._tell)
        return state_in(self.catalog)

    def _tell(self, event: Event) -> None:
        assert isinstance(event, Notice)
        self.told.append(event.text)


@pytest.fixture
def cast(source: SourceTree) -> Cast:
    return Cast(source)


def test_a_dead_writer_of_this_host_is_given_up_at_once(cast: Cast) -> None:
    cast.announce(None)
    assert cast.make_way() is BackupState.ABANDONED
    (text,) = cast.told
    assert ORDER.label in text
    assert "is gone" in text


def test_a_living_writer_is_waited_for_however_silent_it_is(cast: Cast) -> None:
    cast.announce(read_own_identity())
    cast.advance(days=3)
    with pytest.raises(Locked, match=f"process {read_own_identity().pid} on host"):
        cast.make_way()
    assert state_in(cast.catalog) is BackupState.UNDECIDED


def test_a_writer_elsewhere_is_waited_for_while_it_gives_signs(cast: Cast) -> None:
    cast.announce(ELSEWHERE)
    for number in range(1, 30):
        cast.advance(minutes=9)
        with pytest.raises(Locked, match='on host "db9"'):
            cast.make_way()
        cast.catalog.sign_of_life(ORDER.label, number)
    cast.advance(minutes=11)
    assert cast.make_way() is BackupState.ABANDONED


def test_a_writer_that_was_paused_past_every_limit_is_refused_when_it_commits(cast: Cast) -> None:
    manifest = cast.announce(ELSEWHERE)
    cast.advance(days=1)
    assert cast.make_way() is BackupState.ABANDONED
    cast.catalog.sign_of_life(ORDER.label, 1)  # it wakes up and does not know
    with pytest.raises(Cancelled, match="given up by another process"):
        commit(cast.catalog, manifest, ORDER)
    assert state_in(cast.catalog) is BackupState.ABANDONED
    assert cast.catalog.list_committed() == ()


@pytest.mark.parametrize("hours", [-8760, -1, 1, 8760])
def test_a_wrong_clock_costs_a_backup_and_never_makes_two_decisions(cast: Cast, hours: int) -> None:
    manifest = cast.announce(ELSEWHERE)
    cast.clock.advance(timedelta(hours=hours).total_seconds())
    try:
        state = cast.make_way()
    except Locked:
        commit(cast.catalog, manifest, ORDER)
        assert state_in(cast.catalog) is BackupState.COMMITTED
        return
    assert state is BackupState.ABANDONED
    with pytest.raises(Cancelled):
        commit(cast.catalog, manifest, ORDER)


def test_what_is_decided_is_left_alone(cast: Cast, source: SourceTree) -> None:
    take_backup(cast.repository, source, ORDER)
    cast.advance(days=400)
    assert cast.make_way() is BackupState.COMMITTED
    assert cast.told == []


def test_the_first_of_two_that_live_goes_on(cast: Cast) -> None:
    first = replace(ORDER, identity=read_own_identity())
    second = replace(first, number=2)
    for order in (second, first):
        cast.catalog.announce(order.label, make_intent(order))
    make_way(cast.catalog, first.label, ignore)
    with pytest.raises(Locked):
        make_way(cast.catalog, second.label, ignore)
