"""Fetching ahead of a recovery: the process that fills the spool while the server replays.

The one idea: it only guesses which files recovery will ask for, and answers each just as ``wal get`` would, so a wrong
guess costs work and nothing else. It has one answer, the file; what it does not find, or fails to fetch, is left to
``wal get`` in its turn, because only that may say "absent".

It vouches for the spool only while nothing that an answer follows from has changed: the plan, the configuration, that
the server is a standby or none; for a standby also where timelines were left, which is looked up again all the time.
It ends when the startup process does, when there is nothing more to fetch, or when nobody takes anything.

As in ``children``, this process never touches a store: a child hangs, and is left behind.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import Cancelled, NotPermitted, PghavenError
from pghaven.events import ignore
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.ledger import PathLeg, list_legs
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.wal.archives import OpenArchive, open_archive
from pghaven.wal.children import Child, Tell, start_child, wait_for_any
from pghaven.wal.directory import is_standby
from pghaven.wal.fence import Fork, find_current_fork, load_later_histories
from pghaven.wal.get import GetRequest, find_file
from pghaven.wal.limit import unblock_interrupts
from pghaven.wal.plan import FollowedPlan, read_plan
from pghaven.wal.spool import RECOVERY_TARGET, Spool, SpoolKeeper, claim_spool, fill

_LEASE_SECONDS = 2.0
_RENEW_SECONDS = 0.5
_TICK_SECONDS = 0.05
_IDLE_SECONDS = 120.0
# How often it is looked up where timelines were left, and how old the last answer may be.
_WATCH_SECONDS = 0.5
_WATCH_MAX_SECONDS = 3.0
_PROCESSES_MAX = 4
# What the files in hand may take; each is there once as stored and once as it is.
_MEMORY_BYTES = 512 << 20
_NAME_BYTES = 24
# A repository that failed is passed over for so long.
_REST_SECONDS = 5.0
# What became of a file, as a child tells it.
_SPOOLED, _FAILED, _WITHDRAWN = "spooled", "failed", "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefetchOrder:
    """What to fetch ahead for: the recovery in ``data_directory``, which has just been given ``first``. Paths are
    absolute; ``segment_size`` and ``limit_bytes``, which the spool may hold, are in bytes. ``without`` so many of the
    first repositories, which were too slow."""

    cluster: str
    repositories: tuple[RepositoryPlace, ...]
    system_identifier: int | None
    config_path: str
    plan_path: str | None
    data_directory: str
    spool: Spool
    first: str
    segment_size: int
    limit_bytes: int
    processes: int
    limit_seconds: float
    without: int = 0


def run_prefetch(order: PrefetchOrder, startup_process: int) -> None:
    """Fetch ahead until there is no more to do; ``startup_process`` is a descriptor for it (pidfd_open(2)).

    Does nothing if another process fills a spool here. Raises OSError, and what reading the plan raises.
    """
    slots = order.limit_bytes // order.segment_size
    keeper = claim_spool(order.data_directory, order.spool) if slots else None
    if keeper is None:
        return
    prefetch = None
    try:
        # In this order: what changes after it was looked at is seen later.
        state = _look_at(order)
        plan = None if order.plan_path is None else read_plan(order.plan_path)
        prefetch = _Prefetch(order, keeper, plan, slots)
        prefetch.start()
        while not _has_ended(startup_process) and _look_at(order) == state and prefetch.step():
            pass
    finally:
        try:
            if prefetch is not None:
                prefetch.end()
        finally:
            keeper.close()


def _look_at(order: PrefetchOrder) -> tuple[object, ...]:
    """What answers follow from, apart from the repositories."""
    paths = [path for path in (order.config_path, order.plan_path) if path is not None]
    found = [os.stat(path) for path in paths]
    standby = is_standby(order.data_directory)
    return standby, *((one.st_dev, one.st_ino, one.st_mtime_ns, one.st_size) for one in found)


def _has_ended(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))


class _Prefetch:
    def __init__(self, order: PrefetchOrder, keeper: SpoolKeeper, plan: FollowedPlan | None, slots: int) -> None:
        self._order = order
        self._keeper = keeper
        self._standby = is_standby(order.data_directory)
        self._plan = None if self._standby else plan
        self._identifier = plan.system_identifier if plan is not None else order.system_identifier
        self._slots = slots
        places = order.repositories if plan is None else plan.choose_places(order.repositories)
        self._places = places[order.without :]
        self._legs: Sequence[PathLeg] = ()
        self._at = SegmentName.parse(order.first, order.segment_size)
        self._ready: set[str] = set()
        self._coming: dict[str, float] = {}
        self._failed: set[str] = set()
        self._workers: list[Child] = []
        self._scout: Child | None = None
        self._tokens = -1
        now = SYSTEM_CLOCK.monotonic()
        self._vouched_until = now + _LEASE_SECONDS
        self._active_at = self._heard_at = now

    def start(self) -> None:
        """Raises Cancelled if no process can be made, or nothing can be found out."""
        if self._plan is not None:
            self._legs = self._plan.path
        else:
            self._scout = start_child(self._explore)
            self._hear_scout()
        self._keeper.vouch(_LEASE_SECONDS)
        reader, self._tokens = os.pipe()
        affordable = _MEMORY_BYTES // (2 * self._order.segment_size)
        for _ in range(max(1, min(self._order.processes, _PROCESSES_MAX, self._slots, affordable))):
            self._workers.append(start_child(partial(self._work, reader)))
        os.close(reader)
        unblock_interrupts()

    def _hear_scout(self) -> None:
        """Wait for what the scout finds out first."""
        assert self._scout is not None
        deadline = SYSTEM_CLOCK.monotonic() + self._order.limit_seconds
        while not self._legs:
            told = [one for child in wait_for_any([self._scout], _TICK_SECONDS) for one in child.receive()]
            if told:
                names, legs = told[0]
                self._places = tuple(place for place in self._places if place.name in names)
                self._legs = tuple(
                    PathLeg(timeline=Timeline(timeline), begin_lsn=Lsn(begin), end_lsn=None if end < 0 else Lsn(end))
                    for timeline, begin, end in legs
                )
            elif self._scout.status is not None or SYSTEM_CLOCK.monotonic() >= deadline:
                raise Cancelled("no repository could be asked")

    def step(self) -> bool:
        """Do what there is to do, and wait a moment; False when there is no more."""
        now = SYSTEM_CLOCK.monotonic()
        if not self._keep_vouching(now):
            return False
        self._follow(now)
        self._assign(now)
        is_done = not self._ready and not self._coming
        is_stuck = any(now - began > self._order.limit_seconds for began in self._coming.values())
        if is_done or is_stuck or now - self._active_at > _IDLE_SECONDS:
            return False
        children = [child for child in (*self._workers, self._scout) if child is not None and child.status is None]
        for child in wait_for_any(children, _TICK_SECONDS):
            for told in child.receive():
                if child is self._scout:
                    self._heard_at = SYSTEM_CLOCK.monotonic()
                else:
                    self._take_in(*told)
            if child.status is not None and (child is not self._scout or self._standby):
                return False
        return True

    def end(self) -> None:
        if self._tokens >= 0:
            os.close(self._tokens)
        for child in (*self._workers, self._scout):
            if child is not None and child.status is None:
                child.leave()

    def _keep_vouching(self, now: float) -> bool:
        """False where we were too late to: nobody knows what has happened meanwhile."""
        if now > self._vouched_until or (self._standby and now - self._heard_at > _WATCH_MAX_SECONDS):
            return False
        if self._vouched_until - now < _LEASE_SECONDS - _RENEW_SECONDS:
            self._keeper.vouch(_LEASE_SECONDS)
            self._vouched_until = now + _LEASE_SECONDS
        return True

    def _follow(self, now: float) -> None:
        """See how far recovery has come."""
        ready = self._keeper.list_ready()
        taken = self._ready - ready
        self._ready &= ready
        asked = self._keeper.read_asked()
        if taken:
            segments = [SegmentName.parse(name, self._order.segment_size) for name in taken]
            self._at = max(segments, key=lambda segment: segment.number)
        if asked is not None:
            self._at = SegmentName.parse(asked, self._order.segment_size)
            self._failed.clear()
            if self._plan is None and next(iter(self._list_next(self._at.number - 1, 1)), asked) != asked:
                # Recovery does not go to the newest timeline.
                self._legs = (PathLeg(timeline=self._at.timeline, begin_lsn=Lsn(0), end_lsn=None),)
        if taken or asked is not None:
            self._active_at = now
            wanted = set(self._list_next(self._at.number, self._slots))
            for name in (self._ready | self._coming.keys()) - wanted:
                self._keeper.drop(name)
                self._ready.discard(name)

    def _assign(self, now: float) -> None:
        """Have fetched what comes next, up to the first file that could not be."""
        for name in self._list_next(self._at.number, self._slots):
            if name in self._failed or len(self._coming) > len(self._workers):  # each has one, and one waits
                return
            if len(self._ready) + len(self._coming) >= self._slots:
                return
            if name in self._ready or name in self._coming:
                continue
            # As much as the spool may hold stays free for the server.
            if self._keeper.count_free_bytes() < self._order.limit_bytes + self._order.segment_size:
                return
            self._keeper.announce(name)
            self._coming[name] = now
            os.write(self._tokens, name.encode())

    def _take_in(self, name: str, outcome: str) -> None:
        del self._coming[name]
        if outcome == _SPOOLED and name in self._list_next(self._at.number, self._slots):
            self._ready.add(name)
            return
        self._keeper.drop(name)
        if outcome == _FAILED:
            self._failed.add(name)

    def _list_next(self, number: int, count: int) -> Iterator[str]:
        """The files that follow on the path: for each number the one that holds its last byte before the end."""
        size = self._order.segment_size
        end = None if self._plan is None else self._plan.expected_end_lsn
        for one in range(number + 1, number + 1 + count):
            last = (one + 1) * size - 1
            if end is not None:
                if one * size >= end:
                    return
                last = min(last, end - 1)
            for leg in self._legs:
                if leg.begin_lsn <= last and (leg.end_lsn is None or last < leg.end_lsn):
                    yield str(SegmentName(timeline=leg.timeline, number=one, segment_size=size))

    # -- in child processes -------------------------------------------------------------------------------------------

    def _explore(self, tell: Tell) -> None:
        """Tell which repositories can be asked, and the path to the newest timeline; then, for a standby, that it is
        still the same, until it is not."""
        opened: dict[str, OpenArchive] = {}
        for place in self._places:
            with suppress(PghavenError):
                opened[place.name] = open_archive(open_place(place), self._order.cluster, self._identifier)
        forks = self._find_forks(opened)
        for one in opened.values():
            histories = load_later_histories(one.archive, self._at.timeline, ignore)
            ours = [history for history in histories if history.includes(self._at.timeline)]
            newest = max(ours, key=lambda history: history.timeline, default=None)
            straight = (PathLeg(timeline=self._at.timeline, begin_lsn=Lsn(0), end_lsn=None),)
            legs = straight if newest is None else list_legs(newest)
            tell((tuple(opened), [_render_leg(leg) for leg in legs]))
            break
        while self._standby and opened and self._find_forks(opened) == forks:
            tell(0)
            SYSTEM_CLOCK.sleep(_WATCH_SECONDS)

    def _find_forks(self, opened: dict[str, OpenArchive]) -> list[Fork | None]:
        """Where the timeline that recovery is on was left. Nothing is looked up but for a standby."""
        if not self._standby:
            return []
        timeline = self._at.timeline
        return [
            find_current_fork(timeline, load_later_histories(one.archive, timeline, ignore)) for one in opened.values()
        ]

    def _work(self, tokens: int, tell: Tell) -> None:
        os.close(self._tokens)
        places = _Places()
        while name := os.read(tokens, _NAME_BYTES).decode():
            request = GetRequest(
                cluster=self._order.cluster,
                repositories=self._places,
                file_name=name,
                target_path=RECOVERY_TARGET,
                system_identifier=self._identifier,
                plan=self._plan,
                standby=self._standby,
                ahead=True,
            )
            outcome = _FAILED
            with suppress(PghavenError, OSError):
                content = _find(request, places)
                if content is not None:
                    outcome = _SPOOLED if fill(self._keeper.directory, name, content) else _WITHDRAWN
            tell((name, outcome))


def _find(request: GetRequest, places: _Places) -> bytes | None:
    """As ``find_file``. What is sealed under a key that was not there when its repository was opened opens after that
    is opened anew: recoveries last, and keys are rotated."""
    try:
        return find_file(request, ignore, places.open)
    except NotPermitted:
        places.forget()
        return find_file(request, ignore, places.open)


def _render_leg(leg: PathLeg) -> tuple[int, int, int]:
    """A leg as plain values; -1 for no end."""
    return int(leg.timeline), int(leg.begin_lsn), -1 if leg.end_lsn is None else int(leg.end_lsn)


class _Places:
    """Repositories that stay open, and those that failed a moment ago."""

    def __init__(self) -> None:
        self._opened: dict[str, OpenArchive] = {}
        self._failed: dict[str, tuple[float, PghavenError]] = {}

    def open(self, place: RepositoryPlace, cluster: str, system_identifier: int | None) -> OpenArchive:
        if place.name not in self._opened:
            failed_at, error = self._failed.get(place.name, (0.0, None))
            if error is not None and SYSTEM_CLOCK.monotonic() - failed_at < _REST_SECONDS:
                raise error
            try:
                self._opened[place.name] = open_archive(open_place(place), cluster, system_identifier)
            except PghavenError as failure:
                self._failed[place.name] = SYSTEM_CLOCK.monotonic(), failure
                raise
        return self._opened[place.name]

    def forget(self) -> None:
        self._opened.clear()
