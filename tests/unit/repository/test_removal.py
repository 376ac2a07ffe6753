"""Retiring, undoing, holding, condemning: one step after another, and all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import NotFound, PghavenError, Refused, StoreUnreachable
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState, Purpose
from pghaven.repository.removal import Removal, RetireOrder, is_due
from pghaven.repository.repository import Repository
from pghaven.store.api import Store
from pghaven.store.memory import MemoryStore
from pghaven.store.recording import RecordingStore
from tests.support.interleave import Actor, Outcome, Scene, some_orders, two_switches
from tests.support.synthetic import CLUSTER, START, BackupOrder, make_intent, make_repository
from tests.support.unreliable import UnreliableStore, When

ORDER = BackupOrder()
LABEL = ORDER.label
PREFIX = f"clusters/{CLUSTER}/backups/{LABEL}/"
NOW = RetireOrder(reason="older than 7d", not_before=START)
LATER = RetireOrder(reason="older than 7d", not_before=START + timedelta(days=7))
Step = Callable[[Removal], object]
# The descriptor of no store: opened once, so that no play of orders reads it again.
DESCRIPTOR = make_repository(MemoryStore()).descriptor


def open_catalog(store: Store, clock: ManualClock | None = None) -> BackupCatalog:
    return BackupCatalog(Repository(store, DESCRIPTOR, clock=clock or ManualClock(START)), CLUSTER)


def add_backup(catalog: BackupCatalog) -> None:
    """Announced and committed: what it holds does not matter here."""
    catalog.announce(LABEL, make_intent(ORDER))
    catalog.decide(LABEL, {"decision": "commit", "manifest": "", "manifest_bytes": 0, "summary": {}})


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore(MemoryStore())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def catalog(store: RecordingStore, clock: ManualClock) -> BackupCatalog:
    catalog = open_catalog(store, clock)
    add_backup(catalog)
    return catalog


@pytest.fixture
def removal(catalog: BackupCatalog) -> Removal:
    return Removal(catalog)


def state(catalog: BackupCatalog) -> tuple[BackupState, bool]:
    """What it is, and whether it is held."""
    entry = catalog.read_entry(LABEL)
    return entry.state, entry.hold is not None


def written(store: RecordingStore) -> list[str]:
    return [one.name.removeprefix(PREFIX) for one in store.mutations if one.name.startswith(PREFIX)][2:]


# -- one after another --------------------------------------------------------------------------------------------


def test_a_retirement_says_why_and_until_when_it_can_be_undone(catalog: BackupCatalog, removal: Removal) -> None:
    removal.retire(LABEL, LATER)
    entry = catalog.read_entry(LABEL)
    assert (entry.state, entry.reason) == (BackupState.RETIRED, "older than 7d")
    assert entry.retirement is not None
    assert (entry.retirement.number, entry.retirement.not_before) == (1, LATER.not_before)


def test_what_is_retired_already_keeps_its_moment(catalog: BackupCatalog, removal: Removal) -> None:
    removal.retire(LABEL, LATER)
    removal.retire(LABEL, NOW)
    retirement = catalog.read_entry(LABEL).retirement
    assert retirement is not None
    assert retirement.not_before == LATER.not_before


def test_undo_brings_it_back_and_it_can_be_retired_again(
    catalog: BackupCatalog, removal: Removal, store: RecordingStore
) -> None:
    for number in (1, 2, 3):
        removal.retire(LABEL, NOW)
        entry = catalog.read_entry(LABEL)
        assert entry.retirement is not None
        assert entry.retirement.number == number
        removal.undo(LABEL)
        assert state(catalog) == (BackupState.COMMITTED, False)
    assert written(store)[-2:] == ["retire/00000003", "fate/00000003"]


def test_undo_needs_something_to_undo(removal: Removal) -> None:
    with pytest.raises(Refused, match="is committed"):
        removal.undo(LABEL)


def test_a_held_backup_cannot_be_retired(catalog: BackupCatalog, removal: Removal) -> None:
    removal.hold(LABEL, "the audit")
    with pytest.raises(Refused, match=r"is held since .*: the audit") as caught:
        removal.retire(LABEL, NOW)
    assert caught.value.hint is not None
    assert f"pghaven release {LABEL}" in caught.value.hint
    assert state(catalog) == (BackupState.COMMITTED, True)


def test_a_hold_brings_a_retired_backup_back(catalog: BackupCatalog, removal: Removal) -> None:
    removal.retire(LABEL, NOW)
    removal.hold(LABEL, "the audit")
    assert state(catalog) == (BackupState.COMMITTED, True)
    assert not removal.condemn(LABEL, "old")


def test_a_second_hold_changes_nothing(catalog: BackupCatalog, removal: Removal, store: RecordingStore) -> None:
    removal.hold(LABEL, "the audit")
    removal.hold(LABEL, "another reason")
    hold = catalog.read_entry(LABEL).hold
    assert hold is not None
    assert (hold.number, hold.reason) == (1, "the audit")
    assert written(store) == ["hold/00000001"]


def test_holds_and_releases_take_turns(catalog: BackupCatalog, removal: Removal, store: RecordingStore) -> None:
    for _ in range(2):
        removal.hold(LABEL, "the audit")
        removal.release(LABEL)
    assert state(catalog) == (BackupState.COMMITTED, False)
    assert written(store) == ["hold/00000001", "release/00000001", "hold/00000002", "release/00000002"]
    with pytest.raises(Refused, match="is not held"):
        removal.release(LABEL)


def test_a_backup_is_condemned_only_when_its_time_is_over(
    catalog: BackupCatalog, removal: Removal, clock: ManualClock
) -> None:
    assert not removal.condemn(LABEL, "it is not even retired")
    removal.retire(LABEL, LATER)
    assert not removal.condemn(LABEL, "too early")
    clock.advance(timedelta(days=7).total_seconds())
    assert removal.condemn(LABEL, "old")
    assert removal.condemn(LABEL, "once more")
    assert state(catalog)[0] is BackupState.CONDEMNED


def test_who_read_an_earlier_retirement_condemns_no_later_one(
    catalog: BackupCatalog, removal: Removal, clock: ManualClock
) -> None:
    """It was due, then undone, then retired anew: the new one has its own time."""
    removal.retire(LABEL, NOW)
    removal.undo(LABEL)
    removal.retire(LABEL, LATER)
    assert not removal.condemn(LABEL, "it was due when I looked")
    assert state(catalog)[0] is BackupState.RETIRED


@pytest.mark.parametrize("purpose", Purpose)
def test_what_was_given_up_can_be_condemned_at_any_time(store: RecordingStore, purpose: Purpose) -> None:
    catalog = open_catalog(store)
    catalog.announce(LABEL, replace(make_intent(ORDER), purpose=purpose))
    assert not Removal(catalog).condemn(LABEL, "it may still decide")
    catalog.abandon(LABEL, "interrupted")
    assert Removal(catalog).condemn(LABEL, "nobody goes on")
    assert state(catalog)[0] is BackupState.CONDEMNED


def test_a_committed_compaction_can_be_condemned_but_not_retired(store: RecordingStore) -> None:
    catalog = open_catalog(store)
    catalog.announce(LABEL, replace(make_intent(ORDER), purpose=Purpose.COMPACTION))
    catalog.decide(LABEL, {"decision": "commit", "manifest": "", "summary": {}, "generations": {}})
    with pytest.raises(NotFound):
        Removal(catalog).retire(LABEL, NOW)
    assert Removal(catalog).condemn(LABEL, "superseded")
    assert state(catalog)[0] is BackupState.CONDEMNED


STEPS: dict[str, Step] = {
    "retire": lambda removal: removal.retire(LABEL, NOW),
    "undo": lambda removal: removal.undo(LABEL),
    "hold": lambda removal: removal.hold(LABEL, "the audit"),
    "release": lambda removal: removal.release(LABEL),
}


@pytest.mark.parametrize("name", STEPS)
def test_for_what_is_being_removed_everything_comes_too_late(removal: Removal, name: str) -> None:
    removal.retire(LABEL, NOW)
    removal.condemn(LABEL, "old")
    with pytest.raises(Refused, match="is being removed already"):
        STEPS[name](removal)


@pytest.mark.parametrize("name", STEPS)
def test_what_is_gone_or_never_was_is_not_found(
    catalog: BackupCatalog, removal: Removal, store: RecordingStore, name: str
) -> None:
    removal.retire(LABEL, NOW)
    removal.condemn(LABEL, "old")
    removal.remove(catalog.read_entry(LABEL))
    assert not list(store.list(""))
    with pytest.raises(NotFound, match=f'no backup "{LABEL}"'):
        STEPS[name](removal)
    assert not list(store.list("")), "nothing may be written below a label that is gone"


@pytest.mark.parametrize("name", STEPS)
def test_what_is_not_decided_is_nobody_s_to_judge(store: RecordingStore, name: str) -> None:
    catalog = open_catalog(store)
    catalog.announce(LABEL, make_intent(ORDER))
    with pytest.raises(Refused, match="is undecided"):
        STEPS[name](Removal(catalog))


# -- lost answers -------------------------------------------------------------------------------------------------


BEFORE: dict[str, Sequence[str]] = {
    "retire": (),
    "undo": ("retire",),
    "hold": ("retire",),
    "release": ("hold",),
    "condemn": ("retire",),
    "remove": ("retire", "condemn"),
}
AFTER = {
    "retire": (BackupState.RETIRED, False),
    "undo": (BackupState.COMMITTED, False),
    "hold": (BackupState.COMMITTED, True),
    "release": (BackupState.COMMITTED, False),
    "condemn": (BackupState.CONDEMNED, False),
    "remove": (BackupState.GONE, False),
}
ALL_STEPS: dict[str, Callable[[BackupCatalog], object]] = {
    **{name: lambda catalog, step=step: step(Removal(catalog)) for name, step in STEPS.items()},
    "condemn": lambda catalog: Removal(catalog).condemn(LABEL, "old"),
    "remove": lambda catalog: Removal(catalog).remove(catalog.read_entry(LABEL)),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ALL_STEPS)
def test_a_step_that_failed_anywhere_can_be_done_again(name: str, when: When) -> None:
    for number in range(1, 100):
        inner = MemoryStore()
        catalog = open_catalog(inner)
        add_backup(catalog)
        for earlier in BEFORE[name]:
            ALL_STEPS[earlier](catalog)
        unreliable = UnreliableStore(inner, number, when)
        try:
            ALL_STEPS[name](open_catalog(unreliable))
        except StoreUnreachable:
            try:
                ALL_STEPS[name](catalog)
            except Refused as error:
                assert "is committed" in error.message or "is not held" in error.message, error  # it was done
        assert state(catalog) == AFTER[name]
        if unreliable.failed is None:
            assert number > 3
            return
    pytest.fail("it never came through")


# -- at once ------------------------------------------------------------------------------------------------------


def played(before: Sequence[str], *actors: Actor) -> Iterator[tuple[BackupEntry, list[Outcome]]]:
    """Two in every order that matters, more in some; each on a backup that has gone through ``before``."""

    def make_scene() -> Scene:
        store = MemoryStore()
        catalog = open_catalog(store)
        add_backup(catalog)
        for name in before:
            ALL_STEPS[name](catalog)
        return store, actors

    orders = two_switches(make_scene) if len(actors) == 2 else some_orders(make_scene, 400)
    count = 0
    for store, outcomes in orders:
        for outcome in outcomes:
            assert outcome.error is None or isinstance(outcome.error, PghavenError), outcome
        yield open_catalog(store).read_entry(LABEL), outcomes
        count += 1
    assert count > 50


def actor(name: str) -> Actor:
    return lambda store: ALL_STEPS[name](open_catalog(store))


def test_undo_and_condemn_have_one_winner_and_both_know_which() -> None:
    seen = set()
    for entry, (undo, condemn) in played(["retire"], actor("undo"), actor("condemn")):
        assert condemn.error is None
        assert (undo.error is None) is (not condemn.value)
        assert entry.state is (BackupState.CONDEMNED if condemn.value else BackupState.COMMITTED)
        seen.add(condemn.value)
    assert seen == {True, False}


def condemn_and_remove(store: Store) -> bool:
    removal = Removal(open_catalog(store))
    is_condemned = removal.condemn(LABEL, "old")
    if is_condemned:
        removal.remove(open_catalog(store).read_entry(LABEL))
    return is_condemned


@pytest.mark.parametrize("name", ["undo", "hold"])
def test_nobody_is_told_to_have_saved_what_is_removed_already(name: str) -> None:
    for entry, (saving, removing) in played(["retire"], actor(name), condemn_and_remove):
        assert removing.error is None
        assert (saving.error is None) is (not removing.value)
        assert entry.state is (BackupState.GONE if removing.value else BackupState.COMMITTED)


@pytest.mark.parametrize("before", [[], ["retire"]])
def test_after_a_hold_that_succeeded_no_condemning_does(before: list[str]) -> None:
    def retire_and_condemn(store: Store) -> bool:
        removal = Removal(open_catalog(store))
        removal.retire(LABEL, NOW)
        return removal.condemn(LABEL, "old")

    seen = set()
    for entry, (hold, other) in played(before, actor("hold"), retire_and_condemn):
        assert other.error is None or isinstance(other.error, Refused)
        if hold.error is None:
            assert (entry.state, other.value) in ((BackupState.COMMITTED, False), (BackupState.COMMITTED, None))
            assert entry.hold is not None
        else:
            assert "is being removed already" in str(hold.error)
            assert (entry.state, other.value) == (BackupState.CONDEMNED, True)
        seen.add(hold.error is None)
    assert seen == {True, False}


def test_a_hold_that_was_acknowledged_outlives_any_number_of_policies() -> None:
    def condemn_twice(store: Store) -> None:
        catalog = open_catalog(store)
        for _ in range(2):
            Removal(catalog).condemn(LABEL, "old")

    for entry, (hold, *_) in played([], actor("hold"), actor("retire"), actor("retire"), condemn_twice):
        if hold.error is None:
            assert entry.hold is not None
            assert entry.state in (BackupState.COMMITTED, BackupState.RETIRED)
            assert not is_due(entry, START + timedelta(days=900))


def test_a_hold_and_a_retirement_leave_a_backup_that_is_held_and_offered() -> None:
    for entry, (hold, retire) in played([], actor("hold"), actor("retire")):
        assert hold.error is None
        assert retire.error is None or "is held" in str(retire.error)
        assert (entry.state, entry.hold is not None) == (BackupState.COMMITTED, True)


@pytest.mark.parametrize("name", ["retire", "hold", "condemn"])
def test_two_who_do_the_same_both_succeed(name: str) -> None:
    for entry, outcomes in played(BEFORE[name], actor(name), actor(name)):
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert (entry.state, entry.hold is not None) == AFTER[name]
        numbers = [part.rpartition("/")[2] for part in entry.parts if "/" in part]
        assert set(numbers) == {"00000001"}


def test_a_release_and_a_hold_leave_one_of_both_states() -> None:
    for entry, (release, hold) in played(["hold"], actor("release"), actor("hold")):
        assert release.error is None
        assert hold.error is None
        assert entry.state is BackupState.COMMITTED


def test_undo_and_retire_never_lose_the_backup() -> None:
    for entry, outcomes in played(["retire"], actor("undo"), actor("retire")):
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert entry.state in (BackupState.COMMITTED, BackupState.RETIRED)


def test_two_collectors_remove_a_label_together() -> None:
    for entry, outcomes in played(["retire", "condemn"], actor("remove"), actor("remove")):
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert (entry.state, dict(entry.parts)) == (BackupState.GONE, {})
