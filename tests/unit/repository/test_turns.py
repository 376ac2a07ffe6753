"""Turns of collecting, one step after another; what others do meanwhile is in tests/fault/test_collect_orders.py."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Cancelled, Locked
from pghaven.repository import layout
from pghaven.repository.repository import Repository
from pghaven.repository.turns import Turn, take_turn
from pghaven.runtime.whoami import ProcessIdentity, read_own_identity
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import CLUSTER, START, make_repository

AWAY = ProcessIdentity(host="elsewhere", boot_id="b", pid=7, start="1")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def repository(clock: ManualClock) -> Repository:
    return make_repository(MemoryStore(clock), clock=clock)


def take(repository: Repository, who: ProcessIdentity = AWAY) -> Turn:
    return take_turn(repository, CLUSTER, who)


def numbers(repository: Repository) -> list[str]:
    return [child.rstrip("/") for child in repository.store.list_children(layout.collections_prefix(CLUSTER))]


def test_one_turn_follows_another_and_leaves_no_trace_but_its_own(repository: Repository) -> None:
    for number in range(1, 4):
        turn = take(repository)
        assert turn.number == number
        turn.decide()
        assert numbers(repository) == [f"{number:08d}"]


def test_while_somebody_is_at_work_others_are_told_who(repository: Repository) -> None:
    take(repository)
    with pytest.raises(Locked, match="process 7 on host 'elsewhere', since 2026"):
        take(repository)


def test_a_process_of_this_host_that_lives_keeps_its_turn_for_as_long_as_it_takes(
    repository: Repository, clock: ManualClock
) -> None:
    take(repository, read_own_identity())
    clock.advance(timedelta(days=30).total_seconds())
    with pytest.raises(Locked):
        take(repository)


def test_who_is_silent_for_long_loses_the_turn_and_learns_so(repository: Repository, clock: ManualClock) -> None:
    slow = take(repository)
    clock.advance(timedelta(minutes=11).total_seconds())
    assert take(repository).number == 2
    with pytest.raises(Cancelled, match="this one has removed nothing"):
        slow.decide()


def test_a_sign_of_life_keeps_the_turn(repository: Repository, clock: ManualClock) -> None:
    turn = take(repository)
    for _ in range(5):
        clock.advance(timedelta(minutes=9).total_seconds())
        turn.sign_of_life()
        with pytest.raises(Locked):
            take(repository)
    turn.decide()
    assert take(repository).number == 2


def test_a_turn_that_was_given_up_is_free_at_once(repository: Repository) -> None:
    turn = take(repository)
    turn.give_up("interrupted")
    assert take(repository).number == 2
    with pytest.raises(Cancelled):
        turn.decide()


def test_who_decides_when_every_trace_of_the_turn_has_been_removed_learns_that_it_is_over(
    repository: Repository,
) -> None:
    slow = take(repository)
    slow.give_up("it seems dead")
    second = take(repository)
    assert numbers(repository) == ["00000001", "00000002"]
    second.decide()
    assert numbers(repository) == ["00000002"]
    with pytest.raises(Cancelled):
        slow.decide()
    take(repository).decide()
    assert numbers(repository) == ["00000003"]


def test_a_number_that_was_used_and_removed_meanwhile_is_no_turn(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody stands still between looking which number is next and taking it."""
    create = repository.create_document

    def stand_still(name: str, body: dict[str, object]) -> None:
        monkeypatch.undo()
        for _ in range(2):
            take(repository).decide()
        create(name, body)

    monkeypatch.setattr(repository, "create_document", stand_still)
    turn = take(repository)
    assert turn.number == 3
    assert numbers(repository) == ["00000002", "00000003"]
    turn.decide()
    assert numbers(repository) == ["00000003"]


@pytest.mark.parametrize("content", [b"", b"{}\n"])
def test_a_turn_whose_intent_cannot_be_read_is_over_when_it_is_silent_for_long(
    repository: Repository, clock: ManualClock, content: bytes
) -> None:
    repository.store.create(layout.collection_object_name(CLUSTER, 1, "intent"), [content])
    with pytest.raises(Locked):
        take(repository)
    clock.advance(timedelta(minutes=11).total_seconds())
    assert take(repository).number == 2


def test_a_turn_can_be_ended_by_hand_by_deleting_its_intent(repository: Repository) -> None:
    turn = take(repository, read_own_identity())
    repository.store.delete(layout.collection_object_name(CLUSTER, 1, "intent"))
    assert take(repository).number == 1
    with pytest.raises(Cancelled):
        turn.decide()
