"""The agent's own process: starts the services, hears them, begins again what ended, follows the configuration.

The one idea: it does no work, so it cannot hang. It touches neither repository nor server nor data directory beyond
asking whether it is there; everything else is done by children that can be left behind.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pghaven.agent.notify import notify
from pghaven.agent.services import Keeper, Service, render_status
from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import PghavenError
from pghaven.events import Listener, Notice
from pghaven.wal.children import reap_left, wait_for_any

_POLL_SECONDS = 1.0
_GRACE_SECONDS = 10.0

Load = Callable[[], Sequence[Service]]
"""Read the configuration and tell what is to be kept going. Raises PghavenError."""


class Supervisor:
    """``config_path`` is watched; when it changes, or at SIGHUP, everything is begun anew as it says then."""

    def __init__(self, config_path: str, load: Load, listener: Listener, clock: Clock = SYSTEM_CLOCK) -> None:
        self._config_path = config_path
        self._load = load
        self._listen = listener
        self._clock = clock
        self._keepers: list[Keeper] = []
        self._must_reload = False
        self._told = ""

    def run(self) -> None:
        """Until an interrupt, which is raised when all services have ended. Raises PghavenError for a configuration
        that is wrong from the beginning."""
        seen = self._look()
        self._take(self._load())
        with self._hearing_hangups():
            try:
                notify("READY=1")
                while True:
                    self._turn()
                    now = self._look()
                    if self._must_reload or now != seen:
                        seen, self._must_reload = now, False
                        self._reload()
            finally:
                notify("STOPPING=1")
                self._stop()

    def _take(self, services: Sequence[Service]) -> None:
        self._keepers = [Keeper(service, self._listen, self._clock) for service in services]

    def _turn(self) -> None:
        reap_left()
        for keeper in self._keepers:
            keeper.start_if_due()
        running = [keeper.child for keeper in self._keepers if keeper.child is not None and keeper.is_running]
        ready = list(wait_for_any(running, _POLL_SECONDS))
        for keeper in self._keepers:
            if keeper.child in ready:
                keeper.hear()
        status = render_status(self._keepers)
        notify("WATCHDOG=1", *([] if status == self._told else [f"STATUS={status}"]))
        self._told = status

    def _look(self) -> tuple[int, ...] | None:
        """What tells that the file is another one."""
        try:
            status = os.stat(self._config_path)
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size

    def _reload(self) -> None:
        notify("RELOADING=1")
        try:
            services = self._load()
        except PghavenError as error:
            text = f"the changed configuration is not used, the one before goes on: {error.message}"
            self._listen(Notice(level="warning", code="configuration", text=text, hint=error.hint))
        else:
            self._stop()
            self._take(services)
            self._listen(Notice(level="info", code="configuration", text="the configuration was read anew"))
        notify("READY=1")

    def _stop(self) -> None:
        """Ask all to end; who does not is left behind."""
        running = [keeper for keeper in self._keepers if keeper.is_running and keeper.child is not None]
        for keeper in running:
            if keeper.child is not None:
                keeper.child.end(signal.SIGTERM)
        deadline = self._clock.monotonic() + _GRACE_SECONDS
        while running:
            children = [keeper.child for keeper in running if keeper.child is not None]
            ready = list(wait_for_any(children, deadline - self._clock.monotonic()))
            for child in ready:
                child.receive()
                if child.status is not None:
                    os.close(child.reader)
            if not ready and self._clock.monotonic() >= deadline:
                for child in children:
                    child.leave()
            running = [keeper for keeper in running if keeper.is_running]

    @contextmanager
    def _hearing_hangups(self) -> Iterator[None]:
        def hear(_number: int, _frame: object) -> None:
            self._must_reload = True

        earlier = signal.signal(signal.SIGHUP, hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, earlier)
