"""Several actors on one store, in every order in which their calls could reach it.

The one idea: an actor stands still before each of its store calls until it is told to go on, so an order is a list of
choices; running the same choices again gives the same history, and changing one after another gives all of them.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pghaven.runtime.durable import Buffer
from pghaven.store.api import Buffers, ObjectInfo, Store
from tests.support.waiting import PATIENCE_SECONDS

Actor = Callable[[Store], Any]


@dataclass
class Outcome:
    """What an actor returned or raised, and the calls it made."""

    value: Any = None
    error: BaseException | None = None
    calls: list[str] = field(default_factory=list)


class _Player:
    """One actor in a thread of its own, let through one call at a time."""

    def __init__(self, actor: Actor, store: Store) -> None:
        self.outcome = Outcome()
        self.is_done = False
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(actor, _SteppedStore(store, self)), daemon=True)

    def start(self) -> None:
        """Run up to the first call."""
        self._thread.start()
        self._await()

    def step(self) -> None:
        """Do one call, and run up to the next."""
        self._go.release()
        self._await()

    def before_call(self, name: str) -> None:
        self.outcome.calls.append(name)
        self._stopped.release()
        assert self._go.acquire(timeout=PATIENCE_SECONDS)

    def _await(self) -> None:
        assert self._stopped.acquire(timeout=PATIENCE_SECONDS), "an actor hangs"

    def _run(self, actor: Actor, store: _SteppedStore) -> None:
        try:
            self.outcome.value = actor(store)
        except BaseException as error:
            self.outcome.error = error
        self.is_done = True
        self._stopped.release()


class _SteppedStore:
    def __init__(self, inner: Store, player: _Player) -> None:
        self._inner = inner
        self._player = player

    @property
    def url(self) -> str:
        return self._inner.url

    def create(self, name: str, content: Buffers) -> None:
        self._player.before_call(f"create {name}")
        self._inner.create(name, content)

    def read(self, name: str) -> bytes:
        self._player.before_call(f"read {name}")
        return self._inner.read(name)

    def read_range(self, name: str, offset: int, length: int) -> Buffer:
        self._player.before_call(f"read {name}")
        return self._inner.read_range(name, offset, length)

    def find(self, name: str) -> ObjectInfo | None:
        self._player.before_call(f"find {name}")
        return self._inner.find(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._player.before_call(f"list {prefix}")
        return iter(tuple(self._inner.list(prefix)))

    def list_children(self, prefix: str) -> tuple[str, ...]:
        self._player.before_call(f"list {prefix}")
        return self._inner.list_children(prefix)

    def confirm(self, name: str) -> None:
        self._player.before_call(f"confirm {name}")
        self._inner.confirm(name)

    def delete(self, name: str) -> None:
        self._player.before_call(f"delete {name}")
        self._inner.delete(name)

    def free_bytes(self) -> int | None:
        return self._inner.free_bytes()


def play(store: Store, actors: Sequence[Actor], choose: Callable[[list[int]], int]) -> list[Outcome]:
    """Run the actors to their ends; ``choose`` says which of those that are not done goes on."""
    players = [_Player(actor, store) for actor in actors]
    for player in players:
        player.start()
    while waiting := [number for number, player in enumerate(players) if not player.is_done]:
        players[choose(waiting)].step()
    return [player.outcome for player in players]


Scene = tuple[Store, Sequence[Actor]]


def every_order(make_scene: Callable[[], Scene]) -> Iterator[tuple[Store, list[Outcome]]]:
    """Play all orders there are, each on a scene of its own."""
    orders: list[list[int]] = [[]]
    while orders:
        given = orders.pop()
        made: list[int] = []

        def choose(waiting: list[int], given: list[int] = given, made: list[int] = made) -> int:
            number = given[len(made)] if len(made) < len(given) else waiting[0]
            if len(made) >= len(given):
                orders.extend([*made, other] for other in waiting[1:])
            made.append(number)
            return number

        store, actors = make_scene()
        yield store, play(store, actors, choose)


def some_orders(make_scene: Callable[[], Scene], count: int, seed: int = 0) -> Iterator[tuple[Store, list[Outcome]]]:
    """Play ``count`` orders chosen by chance, the same ones for the same seed."""
    for number in range(count):
        generator = random.Random(f"{seed}/{number}")
        store, actors = make_scene()
        yield store, play(store, actors, generator.choice)


def two_switches(make_scene: Callable[[], Scene]) -> Iterator[tuple[Store, list[Outcome]]]:
    """Play every order of two actors in which each stops once for a while: one, the other, the one, the other.

    Most races need no more. The number of orders is twice the product of their calls.
    """
    for first in (0, 1):
        for calls in itertools.count():
            for others in itertools.count():
                player = _Planned(plan=[first] * calls + [1 - first] * others, then=first)
                store, actors = make_scene()
                yield store, play(store, actors, player.choose)
                if not player.was_kept:
                    break
            if player.played[:calls] != [first] * calls:
                break


@dataclass
class _Planned:
    """Chooses by a plan, then ``then`` as long as it can."""

    plan: list[int]
    then: int
    played: list[int] = field(default_factory=list)

    def choose(self, waiting: list[int]) -> int:
        at = len(self.played)
        wanted = self.plan[at] if at < len(self.plan) else self.then
        self.played.append(wanted if wanted in waiting else waiting[0])
        return self.played[-1]

    @property
    def was_kept(self) -> bool:
        return self.played[: len(self.plan)] == self.plan
