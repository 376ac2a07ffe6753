"""Many processes on one store in one thread, from a seed.

The one idea: a process is a greenlet that stands still before each call to its store, and the scheduler alone says who
goes on, and what becomes of that call. Every choice comes from one generator and is written down. So a seed is a
history, and a history can be played again with some of its choices left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from pghaven.errors import StoreUnreachable
from pghaven.runtime.durable import Buffer
from pghaven.store.api import Buffers, ObjectInfo
from pghaven.store.memory import MemoryStore

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
STORE_HOST = "store"
_CALL_SECONDS = 0.2
_STEPS_MAX = 60_000
_PAUSES = (MINUTE, 12 * MINUTE, 2 * HOUR, 26 * HOUR, 4 * DAY, 20 * DAY)
_SLOW_RATE = 0.2
_SLOW_PAUSES = (MINUTE, 5 * MINUTE, 15 * MINUTE)
_JUMPS = (MINUTE, 15 * MINUTE, 3 * HOUR, 30 * HOUR, 40 * DAY)
_BEGINNINGS = ("/intent", "/retire/00000001", "/manifest")
Result = TypeVar("Result")


class Verdict(StrEnum):
    """What becomes of a call, or happens before it."""

    GO = "goes"
    FAIL = "fails"
    LOSE = "is done, its answer lost"
    CRASH = "never comes: crash"
    CRASH_AFTER = "is done, then crash"
    PAUSE = "waits"
    JUMP = "waits: its host's clock jumps"
    STORE_JUMP = "waits: the store's clock jumps"


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of the scheduler; ``seconds`` belong to a pause or a jump."""

    actor: str
    verdict: Verdict = Verdict.GO
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Rates:
    """How probable each fault is at each call. ``stay`` is how probable it is that the same actor goes on."""

    fail: float = 0.0
    lose: float = 0.0
    crash: float = 0.0
    pause: float = 0.0
    jump: float = 0.0
    stay: float = 0.5


def draw_rates(seed: str) -> Rates:
    """Each fault never, seldom or often: a history full of everything hides what only some of it would show."""
    source = random.Random(f"{seed}/rates")
    fail, lose, crash, pause, jump = (source.choice((0.0, 0.002, 0.01, 0.03)) for _ in range(5))
    return Rates(fail=fail, lose=lose, crash=crash, pause=pause, jump=jump / 5, stay=source.choice((0.0, 0.5, 0.9)))


class Violation(AssertionError):
    """A promise was broken. ``rule`` names it."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class HostClock:
    """A host's wall clock, which may be wrong, and the sleep of one actor there."""

    def __init__(self, simulation: Simulation, host: str, sleep: Callable[[float], None]) -> None:
        self._simulation = simulation
        self._host = host
        self._sleep = sleep

    def now(self) -> datetime:
        return self._simulation.wall_clock(self._host)

    def monotonic(self) -> float:
        return self._simulation.now

    def sleep(self, seconds: float) -> None:
        self._sleep(seconds)


Program = Callable[["Actor"], None]


class Actor:
    """One process. ``random`` is its own, so that what it does does not hang on when it is let do it.

    ``number`` counts the processes of one name: after a crash the next one is started.
    """

    def __init__(self, simulation: Simulation, name: str, host: str, program: Program, number: int) -> None:
        self.simulation = simulation
        self.name = name
        self.host = host
        self.program = program
        self.number = number
        self.random = random.Random(f"{simulation.seed}/{name}/{number}")
        self.clock = HostClock(simulation, host, self.sleep)
        self.store = simulation.store(self, simulation.inner, simulation.page)
        self.rounds = 0
        self.is_watching = False
        self.call: str | None = None
        self.wake = simulation.now
        self.is_dead = False
        self.error: BaseException | None = None
        self._greenlet = greenlet(self._run, simulation.hub)

    def sleep(self, seconds: float) -> None:
        self.wake = self.simulation.now + max(seconds, 0.0)
        self._stand_still(None)

    def watch(self, seconds: float) -> None:
        """Sleep, but wake when something begins that one could get in the way of."""
        self.is_watching = True
        self.sleep(seconds)
        self.is_watching = False

    def await_verdict(self, call: str) -> Verdict:
        """Stand still before a call. Nothing of a dead process reaches the store, whatever its handlers try."""
        return self._stand_still(call)

    def die(self) -> None:
        self.is_dead = True
        raise GreenletExit

    def _stand_still(self, call: str | None) -> Verdict:
        if self.is_dead:
            raise GreenletExit
        self.call = call
        verdict: Verdict = self.simulation.hub.switch()
        return verdict

    # -- the scheduler's side ---------------------------------------------------------------------------------------

    def resume(self, verdict: Verdict) -> bool:
        """Run up to the next call; False when that was its end."""
        if not self._greenlet and not self._greenlet.dead:
            self._greenlet.switch()  # starts it
        else:
            self._greenlet.switch(verdict)
        return not self._greenlet.dead

    def kill(self) -> None:
        self.is_dead = True
        if self._greenlet:
            self._greenlet.throw(GreenletExit)

    def _run(self) -> None:
        try:
            self.program(self)
        except GreenletExit:
            self.is_dead = True
        except BaseException as error:
            self.error = error


class ActorStore:
    """The store as one actor has it: every call, and every page of a listing, waits for the scheduler's verdict."""

    url = "memory:"

    def __init__(self, actor: Actor, inner: MemoryStore, page: int) -> None:
        self._actor = actor
        self._inner = inner
        self._page = page

    def _do(self, call: str, effect: Callable[[], Result]) -> Result:
        actor = self._actor
        verdict = actor.await_verdict(call)
        if verdict is Verdict.FAIL:
            raise StoreUnreachable(f"no answer to: {call}")
        actor.simulation.calls += 1
        try:
            result = effect()
        except BaseException:
            if verdict is Verdict.LOSE:
                raise StoreUnreachable(f"no answer to: {call}") from None
            raise
        if verdict is Verdict.CRASH_AFTER or actor.simulation.violation is not None:
            actor.die()
        if verdict is Verdict.LOSE:
            raise StoreUnreachable(f"no answer to: {call}")
        return result

    def create(self, name: str, content: Buffers) -> None:
        data = b"".join(content)

        def effect() -> None:
            self._inner.create(name, [data])
            self._actor.simulation.witness.on_created(name, data)
            self._actor.simulation.wake_watchers(name)

        self._do(f"create {name}", effect)

    def read(self, name: str) -> bytes:
        return self._do(f"read {name}", lambda: self._inner.read(name))

    def read_range(self, name: str, offset: int, length: int) -> Buffer:
        return self._do(f"read {name}", lambda: self._inner.read_range(name, offset, length))

    def find(self, name: str) -> ObjectInfo | None:
        return self._do(f"find {name}", lambda: self._inner.find(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As an object store lists: page after page, each as things are at its own moment."""
        last = ""
        while True:
            page = self._do(f"list {prefix}", lambda after=last: self._read_page(prefix, after))  # type: ignore[misc]
            yield from page
            if len(page) < self._page:
                return
            last = page[-1].name

    def _read_page(self, prefix: str, after: str) -> Sequence[ObjectInfo]:
        return [info for info in self._inner.list(prefix) if info.name > after][: self._page]

    def list_children(self, prefix: str) -> tuple[str, ...]:
        return self._do(f"list {prefix}", lambda: self._inner.list_children(prefix))

    def confirm(self, name: str) -> None:
        self._do(f"confirm {name}", lambda: self._inner.confirm(name))

    def delete(self, name: str) -> None:
        def effect() -> None:
            if self._inner.find(name) is not None:
                self._actor.simulation.witness.on_deleting(name)
                self._inner.delete(name)

        self._do(f"delete {name}", effect)

    def free_bytes(self) -> int | None:
        return None


class Witness:
    """Sees what takes effect, at the moment it does, and tells ``Simulation.fail`` what must not be."""

    def on_created(self, name: str, data: bytes) -> None:
        """An object has just come to be."""

    def on_deleting(self, name: str) -> None:
        """An object is about to go."""


@dataclass
class _Past:
    choices: list[Choice] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


class Simulation:
    """One history. With ``script`` its choices are made as they are written there; choices that cannot be made any
    more are passed over, and where it ends nothing fails any more."""

    def __init__(
        self,
        seed: str,
        *,
        script: Sequence[Choice] | None = None,
        store: type[ActorStore] = ActorStore,
    ) -> None:
        self.seed = seed
        self.rates = Rates()
        self.hub = getcurrent()
        self.now = 0.0
        self.calls = 0
        self.is_skewed = False
        self.violation: Violation | None = None
        self.witness = Witness()
        self.inner = MemoryStore(HostClock(self, STORE_HOST, lambda _: None))
        self.store = store
        self.past = _Past()
        self._random = random.Random(f"{seed}/schedule")
        self.page = random.Random(f"{seed}/page").choice((3, 10, 1000, 1000))
        self.slow: frozenset[str] = frozenset()
        self._script = None if script is None else list(reversed(script))
        self._skew: dict[str, float] = {}
        self._actors: dict[str, Actor] = {}
        self._restarts: dict[str, int] = {}
        self._last = ""

    def set_clock(self, host: str, ahead: float) -> None:
        self._skew[host] = ahead
        self.is_skewed = True

    def wall_clock(self, host: str) -> datetime:
        return START + timedelta(seconds=self.now + self._skew.get(host, 0.0))

    def spawn(self, name: str, host: str, program: Program, *, restarts: int = 0, number: int = 1) -> Actor:
        """Add a process; after a crash another one of its name follows, ``restarts`` times at most."""
        actor = Actor(self, name, host, program, number)
        self._actors[name] = actor
        self._restarts[name] = restarts
        return actor

    def wake(self, name: str) -> None:
        actor = self._actors.get(name)
        if actor is not None and actor.is_watching:
            actor.wake = self.now

    def wake_watchers(self, name: str) -> None:
        """Most mistakes show only when two are at work at once, and chance alone seldom brings them together."""
        if name.endswith(_BEGINNINGS):
            for actor in self._actors.values():
                if actor.is_watching:
                    actor.wake = min(actor.wake, self.now + actor.random.randrange(5))

    def is_running(self, name: str) -> bool:
        return name in self._actors

    def fail(self, rule: str, text: str) -> None:
        """Say that a promise was broken; the simulation stops at once."""
        if self.violation is None:
            self.violation = Violation(rule, text)

    def heal(self) -> None:
        """From now on nothing fails and clocks are right."""
        self.rates = Rates(stay=self.rates.stay)
        self._skew.clear()
        self._script = None

    def run(self) -> None:
        """Until no actor is left. Raises Violation, or what an actor raised."""
        try:
            while self._actors:
                if len(self.past.choices) > _STEPS_MAX:
                    self.fail("it ends", f"after {_STEPS_MAX} steps {sorted(self._actors)} still run")
                else:
                    self._apply(self._choose())
                if self.violation is not None:
                    raise self.violation
        finally:
            for actor in self._actors.values():
                actor.kill()
            self._actors.clear()

    # -- choosing ---------------------------------------------------------------------------------------------------

    def _choose(self) -> Choice:
        if self._script is not None:
            return self._follow_script(self._script)
        ready = [actor for actor in self._actors.values() if actor.wake <= self.now]
        if not ready:
            self.now = min(actor.wake for actor in self._actors.values())
            ready = [actor for actor in self._actors.values() if actor.wake <= self.now]
        source = self._random
        actor = self._actors.get(self._last)
        if actor not in ready or source.random() >= self.rates.stay:
            actor = source.choice(ready)
        assert actor is not None
        return Choice(actor.name) if actor.call is None else self._draw(actor.name)

    def _draw(self, name: str) -> Choice:
        source, rates, at = self._random, self.rates, self._random.random()
        if name in self.slow and str(self._actors[name].call).startswith("list ") and source.random() < _SLOW_RATE:
            return Choice(name, Verdict.PAUSE, source.choice(_SLOW_PAUSES))
        for rate, verdicts in (
            (rates.fail, (Verdict.FAIL,)),
            (rates.lose, (Verdict.LOSE,)),
            (rates.crash, (Verdict.CRASH, Verdict.CRASH_AFTER)),
            (rates.pause, (Verdict.PAUSE,)),
            (rates.jump, (Verdict.JUMP, Verdict.JUMP, Verdict.STORE_JUMP)),
        ):
            if at < rate:
                verdict = source.choice(verdicts)
                if verdict is Verdict.PAUSE:
                    return Choice(name, verdict, source.choice(_PAUSES))
                if verdict in (Verdict.JUMP, Verdict.STORE_JUMP):
                    return Choice(name, verdict, source.choice(_JUMPS) * source.choice((-1, 1)))
                return Choice(name, verdict)
            at -= rate
        return Choice(name)

    def _follow_script(self, script: list[Choice]) -> Choice:
        while script:
            choice = script.pop()
            actor = self._actors.get(choice.actor)
            if actor is not None:
                self.now = max(self.now, actor.wake)
                return choice if actor.call is not None else Choice(choice.actor)
        actor = min(self._actors.values(), key=lambda one: (one.wake, one.name))
        self.now = max(self.now, actor.wake)
        return Choice(actor.name)

    def _apply(self, choice: Choice) -> None:
        actor = self._actors[choice.actor]
        self._last = actor.name
        self.past.choices.append(choice)
        self.past.lines.append(_describe(self.now, actor, choice))
        if choice.verdict is Verdict.PAUSE:
            actor.wake = self.now + choice.seconds
        elif choice.verdict is Verdict.JUMP:
            self.set_clock(actor.host, self._skew.get(actor.host, 0.0) + choice.seconds)
        elif choice.verdict is Verdict.STORE_JUMP:
            self.set_clock(STORE_HOST, self._skew.get(STORE_HOST, 0.0) + choice.seconds)
        elif choice.verdict is Verdict.CRASH:
            actor.kill()
            self._bury(actor)
        else:
            self.now += _CALL_SECONDS
            if not actor.resume(choice.verdict):
                self._bury(actor)

    def _bury(self, actor: Actor) -> None:
        del self._actors[actor.name]
        if actor.error is not None:
            raise actor.error
        if actor.is_dead and self._restarts[actor.name] > 0 and self.violation is None:
            left = self._restarts[actor.name] - 1
            following = self.spawn(actor.name, actor.host, actor.program, restarts=left, number=actor.number + 1)
            following.wake = self.now + following.random.choice((MINUTE, HOUR, 30 * HOUR))


def _describe(now: float, actor: Actor, choice: Choice) -> str:
    call = actor.call or "goes on"
    seconds = f" {timedelta(seconds=choice.seconds)}" if choice.seconds else ""
    verdict = "" if choice.verdict is Verdict.GO else f"   !! {choice.verdict}{seconds}"
    return f"{timedelta(seconds=round(now))} {actor.name}.{actor.number}: {call}{verdict}"
