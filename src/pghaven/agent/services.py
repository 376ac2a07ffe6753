"""What the agent keeps going: one child process for each piece of work of each cluster.

The one idea: what runs may hang, die or be killed without taking anything else along. It is begun again, after a pause
that grows while it goes on failing; what ends by itself is begun again when it is due.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pghaven.clock import Clock
from pghaven.errors import Cancelled, PghavenError
from pghaven.events import Event, Listener, Notice
from pghaven.server.identity import OsUser, become, find_owner
from pghaven.wal.children import Child, Tell, start_child
from pghaven.wal.limit import unblock_interrupts

_PAUSE_SECONDS = 1.0
# What is done now and then gives way to pushing and receiving, also when all of it begins at once.
_NICE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A piece of work. ``run`` is called in a child process, ``as_owner`` of ``data_directory`` when we are root, with
    a listener for what is to be logged; it returns when it is done for now, and raises when it failed.

    It waits until the directory is there, except with a ``place`` of its own, which may lie on another host than the
    server: then that, where it is there, also decides as whom it runs.

    ``every_seconds`` is when it is begun again after it is done; None for what is never done. While it goes on failing
    the pause doubles, up to ``longest_pause_seconds``.
    """

    name: str
    data_directory: str
    run: Callable[[Listener], None]
    every_seconds: float | None = None
    longest_pause_seconds: float = 60.0
    as_owner: bool = True
    place: str | None = None

    def find_user(self) -> OsUser | None:
        """As whom root runs it; None for root itself."""
        if not self.as_owner:
            return None
        directories = [one for one in (self.place, self.data_directory) if one is not None and os.path.isdir(one)]
        return find_owner(directories[0]) if directories else None


class Keeper:
    """One service, and its child when it runs."""

    def __init__(self, service: Service, listener: Listener, clock: Clock) -> None:
        self.service = service
        self.child: Child | None = None
        self._listen = listener
        self._clock = clock
        self._due = clock.monotonic()
        self._pause = 0.0

    @property
    def is_running(self) -> bool:
        return self.child is not None and self.child.status is None

    def start_if_due(self) -> None:
        if self.is_running or self._clock.monotonic() < self._due:
            return
        if self.service.place is None and not os.path.isdir(self.service.data_directory):
            self._due = self._clock.monotonic() + _PAUSE_SECONDS
            return
        with suppress(Cancelled):  # no process can be made now
            self.child = start_child(partial(_run, self.service))
        unblock_interrupts()

    def hear(self) -> None:
        """What its child has to say, when it has something to say or has ended."""
        child = self.child
        if child is None or child.status is not None:
            return
        for level, code, text, hint in child.receive():
            self._listen(Notice(level=level, code=code, text=f"{self.service.name}: {text}", hint=hint))
        if child.status is not None:
            os.close(child.reader)
            self._end(child)

    def _end(self, child: Child) -> None:
        now = self._clock.monotonic()
        if child.status == 0 and self.service.every_seconds is not None:
            self._pause, self._due = 0.0, now + self.service.every_seconds
            return
        shortest = self.service.every_seconds or _PAUSE_SECONDS
        self._pause = max(min(max(self._pause * 2, shortest), self.service.longest_pause_seconds), shortest)
        self._due = now + self._pause
        reason = child.trace or f"it ended with status {child.status}"
        text = f"{self.service.name}: {reason}; it is begun again in {self._due - now:.0f} s"
        self._listen(Notice(level="warning", code="service", text=text))


def _run(service: Service, tell: Tell) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            tell((event.level, event.code, event.text, event.hint))

    try:
        if os.geteuid() == 0 and (owner := service.find_user()) is not None:
            become(owner)
        if service.every_seconds is not None:
            os.nice(_NICE)
        service.run(listen)
    except PghavenError as error:
        tell(("warning", error.code, error.message, error.hint))
        os._exit(error.exit_status)


def render_status(keepers: list[Keeper]) -> str:
    running = [keeper.service.name for keeper in keepers if keeper.is_running]
    return "running: " + (", ".join(running) or "nothing yet")
