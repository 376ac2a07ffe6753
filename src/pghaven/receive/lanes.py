"""How received WAL gets into the repositories: a keeper for each, and one that pushes what is finished.

The one idea: whoever listens to the server never waits for a store. It gives orders to child processes, hears what they
have done, and from that alone knows how far the repositories have come.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from pghaven.clock import Clock
from pghaven.errors import Cancelled, PghavenError
from pghaven.events import Event, Listener, Notice
from pghaven.receive.keeper import KeeperPlan, run_keeper
from pghaven.receive.spool import Spool
from pghaven.wal.children import Child, Tell, explain_end, parse_error, render_error, start_child
from pghaven.wal.everywhere import PushRequest, push_everywhere
from pghaven.wal.limit import unblock_interrupts
from pghaven.wal.marks import Marks

_RETRY_SECONDS = 5.0
_ORDER_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The first ``length`` bytes of a segment that is not finished; ``is_left``: nobody streams more of it now."""

    name: str
    length: int
    sent_at: str
    is_left: bool = False


@dataclass(slots=True, kw_only=True)
class Keeper:
    """One repository's keeper as its parent sees it. ``kept`` are the bytes of each segment that it has kept."""

    plan: KeeperPlan
    interval_seconds: float
    child: Child | None = None
    orders: int = -1
    asked: tuple[str, int] | None = None
    busy_since: float | None = None
    due: float = 0.0
    kept: dict[str, int] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)
    is_anew: bool = False
    error: Exception | None = None
    keeps_all: bool = False
    left_behind: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.plan.place.name

    def order(self, wanted: Sequence[Wanted], now: float) -> None:
        """Give it something to do, if there is anything, it has the time, and it is time."""
        if self.busy_since is not None:
            if now - self.busy_since > _ORDER_SECONDS:
                self._fail(Cancelled(f"it has not answered for {_ORDER_SECONDS:g} s"), now)
            return
        if self.error is not None and now < self.due:
            return
        if self.is_anew:
            self.is_anew = False
            self._send("anew", now)
        elif self.whole:
            self._send(f"whole {self.whole.pop(0)}", now)
        elif now >= self.due:
            for one in wanted:
                if self.kept.get(one.name, 0) < one.length:
                    self.asked = (one.name, one.length)
                    self.due = now + self.interval_seconds
                    self._send(f"{'rest' if one.is_left else 'keep'} {one.name} {one.length} {one.sent_at}", now)
                    return

    def take(self, now: float) -> None:
        """Hear its answer."""
        assert self.child is not None
        for what, *told in self.child.receive():
            if what == "kept_all":
                self.keeps_all = True
                continue
            if what == "goes_on":
                self.busy_since = now
                continue
            if what == "left_behind":
                self.left_behind.append(told[0])
                continue
            self.busy_since = None
            if what == "failed":
                self._note(parse_error(told[0]), now)
            else:
                self.error = None
                if self.asked is not None:
                    self.kept[self.asked[0]] = self.asked[1]
            self.asked = None
        if self.child.status is not None:
            os.close(self.child.reader)
            ended, self.child = self.child, None
            os.close(self.orders)
            self.busy_since = self.asked = None
            self._note(explain_end(ended), now)

    def end(self) -> None:
        if self.child is not None:
            os.close(self.orders)
            self.child.leave()
            self.child = None

    def _send(self, order: str, now: float) -> None:
        if self.child is None:
            reader, self.orders = os.pipe()
            try:
                self.child = start_child(partial(run_keeper, self.plan, reader), keep=[reader])
            except Cancelled as error:
                os.close(self.orders)
                self._note(error, now)
                return
            finally:
                unblock_interrupts()
                os.close(reader)
        self.busy_since = now
        with suppress(BrokenPipeError):  # its end is heard of in a moment
            os.write(self.orders, f"{order}\n".encode())

    def _fail(self, error: Exception, now: float) -> None:
        self.end()
        self.busy_since = self.asked = None
        self._note(error, now)

    def _note(self, error: Exception, now: float) -> None:
        self.error = error
        self.due = now + _RETRY_SECONDS


class Pusher:
    """Pushes what waits in the spool, in a child process, for as long as anything does."""

    def __init__(self, make_request: Callable[[str], PushRequest], spool: Spool, clock: Clock) -> None:
        self._make_request = make_request
        self._spool = spool
        self._clock = clock
        self._due = 0.0
        self.child: Child | None = None
        self.error: PghavenError | None = None
        self.pushed: list[str] = []

    def wake(self, now: float) -> None:
        if self.child is None and now >= self._due and self._spool.has_waiting():
            try:
                self.child = start_child(self._work, keep=[])
            except Cancelled as error:
                self.error, self._due = error, now + _RETRY_SECONDS
            finally:
                unblock_interrupts()

    def take(self, now: float) -> Iterator[Notice]:
        """Hear what it has to say; ``pushed`` grows by what it pushed."""
        assert self.child is not None
        for what, *told in self.child.receive():
            if what == "pushed":
                self.pushed.append(told[0])
                self.error = None
            elif what == "failed":
                self.error, self._due = parse_error(told[0]), now + _RETRY_SECONDS
            else:
                level, code, text, hint = told
                yield Notice(level=level, code=code, text=text, hint=hint)
        if self.child.status is not None:
            os.close(self.child.reader)
            ended, self.child = self.child, None
            if ended.status != 0:
                self.error = Cancelled(str(explain_end(ended)))
                self._due = now + _RETRY_SECONDS

    def end(self) -> None:
        if self.child is not None:
            self.child.leave()
            self.child = None

    def _work(self, tell: Tell) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

        def listen(event: Event) -> None:
            if isinstance(event, Notice) and event.code != "wal_waits":  # that speaks of a server's own pg_wal
                tell(("notice", event.level, event.code, event.text, event.hint))

        marks = Marks(self._spool.directory, self._clock)
        try:
            while waiting := marks.list_waiting():
                for name in waiting:
                    self._push(name, marks, listen)
                    tell(("pushed", name))
        except PghavenError as error:
            tell(("failed", render_error(error)))

    def _push(self, name: str, marks: Marks, listen: Listener) -> None:
        path = self._spool.path(name)
        if os.path.exists(path) and not marks.is_marked(name):
            push_everywhere(self._make_request(path), listen)
        self._spool.settle(name)
