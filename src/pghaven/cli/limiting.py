"""Limits on what a command moves: options, configuration, and what changes there while the command runs.

The one idea: whoever spoke last is heard. A command begins with what its options say, else with the configuration; when
a limit is changed in the file afterwards, the new one holds within seconds, for running commands too, and also for who
waits under the old one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from pghaven.cli.opening import find_memory, open_chosen_repository
from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import ConfigError, PghavenError, UsageError
from pghaven.events import Event, Listener, Notice
from pghaven.runtime.pace import Pace
from pghaven.store.metered import MeteredStore
from pghaven.units import render_rate

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig, Config
    from pghaven.repository.repository import Repository

LOOK_SECONDS = 1.0

_LIMIT_HELP = "At most so much a second to and from the repository, such as 50MiB/s."
_IO_LIMIT_HELP = "At most so much a second read from, or written to, the data directory, such as 100MiB/s."


class _Rate(click.ParamType[int]):
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ARG002
        if isinstance(value, int):
            return value
        from pghaven.config.schema import RATE, Invalid

        try:
            return int(RATE.parse(value))
        except Invalid as reason:
            raise UsageError(f"{param.opts[0] if param is not None else 'rate'} {reason}") from None


limit_option: Callable[[Any], Any] = click.option("--limit", type=_Rate(), metavar="RATE", help=_LIMIT_HELP)
io_limit_option: Callable[[Any], Any] = click.option("--io-limit", type=_Rate(), metavar="RATE", help=_IO_LIMIT_HELP)


class Limits:
    """The limits of one command on one cluster; a listener too, which passes events on and looks at the file then.

    ``pace`` is for the data directory. The process is made as nice as the configuration says.
    """

    def __init__(
        self,
        config: Config,
        cluster: ClusterConfig,
        listener: Listener,
        *,
        limit: int | None = None,
        io_limit: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._tell = listener
        self._limit = limit
        self._clock = clock
        self._next = 0.0
        self._stamp = _stamp(config.source)
        self._paces: dict[str, Pace] = {}
        self.pace = self._make_pace(io_limit if io_limit is not None else cluster.io_limit or 0)
        if cluster.nice and os.getpriority(os.PRIO_PROCESS, 0) < cluster.nice:
            os.setpriority(os.PRIO_PROCESS, 0, cluster.nice)

    def open(self, name: str | None) -> Repository:
        """The repository of this name among the cluster's, without a name its first, with its limit."""
        opened = open_chosen_repository(self._config, self._cluster, name, self._tell)
        return self.hold(opened, name or self._cluster.repositories[0])

    def hold(self, repository: Repository, name: str) -> Repository:
        """Have the limit of the repository of this name hold for an opened one, before workers are given it."""
        store = repository.store
        if isinstance(store, MeteredStore):
            configured = self._config.repositories[name].limit
            rate = self._limit if self._limit is not None else configured or 0
            store.pace = self._paces[name] = self._make_pace(rate)
        return repository

    def watch(self, repository: Repository, name: str, *, keep: bool = True) -> None:
        """Tell of an opened repository that is in an older state than this host has seen; else remember what it has.

        What goes wrong with that is no reason not to go on: whatever comes next meets it again, and tells.
        """
        from pghaven.repository.memory import OLDER_HINT
        from pghaven.repository.older import describe_older, find_older, remember

        memory = find_memory(self._config, name)
        reason = None
        with suppress(PghavenError):
            if older := find_older(memory, repository, self._cluster.name):
                text = describe_older(repository, older)
                hint = OLDER_HINT.replace("NAME", name)
                self._tell(Notice(level="warning", code="older_state", text=text, hint=hint))
            elif keep:
                reason = remember(memory, repository, self._cluster.name)
        if reason is not None:
            self._tell(Notice(level="info", code="not_remembered", text=reason))

    def __call__(self, event: Event) -> None:
        self._look_if_due()
        self._tell(event)

    def _make_pace(self, rate: float) -> Pace:
        """One under which this process, too, may wait for so long that nothing is told meanwhile."""
        pace = Pace(rate, self._clock)
        pace.on_wait = self._look_if_due
        return pace

    def _look_if_due(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next and threading.current_thread() is threading.main_thread():
            self._next = now + LOOK_SECONDS
            self._look()

    def _look(self) -> None:
        stamp = _stamp(self._config.source)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        from pghaven.config.loading import load_config

        try:
            changed = load_config(self._config.source)
        except ConfigError as error:
            text = f"the limits stay as they were, as {self._config.source} cannot be read: {error.message}"
            self._tell(Notice(level="info", code="limit", text=text))
            return
        before, self._config = self._config, changed
        for name, pace in self._paces.items():
            if name in changed.repositories and name in before.repositories:
                old, new = before.repositories[name].limit, changed.repositories[name].limit
                self._follow(pace, old, new, f'repository "{name}"')
        cluster = self._cluster.name
        if cluster in changed.clusters and cluster in before.clusters:
            old, new = before.clusters[cluster].io_limit, changed.clusters[cluster].io_limit
            self._follow(self.pace, old, new, f'the data directory of "{cluster}"')

    def _follow(self, pace: Pace, old: int | None, new: int | None, where: str) -> None:
        if new != old:
            pace.set_rate(new or 0)
            rate = f"at most {render_rate(new)}" if new else "no limit"
            self._tell(Notice(level="info", code="limit", text=f"from now on {rate} for {where}"))


def _stamp(path: str) -> tuple[int, int, int] | None:
    """What differs once a file has been written anew or replaced."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
