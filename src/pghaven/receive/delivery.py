"""What of the received WAL is stored, and what has to be done about the rest.

The one idea: everything that is not stored lies in the spool, so what is to do follows from what is there: finished
segments are pushed, unfinished ones kept as partials, one that is streamed no more until every repository has it whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from pghaven.errors import PghavenError
from pghaven.events import Listener, Notice
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.receive.keeper import KeeperPlan
from pghaven.receive.lanes import Keeper, Pusher, Wanted
from pghaven.receive.spool import Spool
from pghaven.units import render_duration, render_rate, render_size, render_time_utc
from pghaven.wal.children import reap_left
from pghaven.wal.everywhere import PushRequest

_TELL_SECONDS = 60.0
_MEASURE_SECONDS = 1.0
_WAKE_SECONDS = 0.5


class Delivery:
    """Between the spool and the repositories. Nothing here blocks."""

    def __init__(
        self, push: PushRequest, spool: Spool, interval_seconds: float, limit_bytes: int, listener: Listener
    ) -> None:
        self._push = push
        self._spool = spool
        self._interval = interval_seconds
        self._limit_bytes = limit_bytes
        self._listener = listener
        self._clock = push.clock
        self._keepers: list[Keeper] = []
        self._pusher = Pusher(self._make_push, spool, push.clock)
        self._waiting: set[SegmentName] = set(spool.list_finished())
        self._leftovers: dict[SegmentName, tuple[int, str]] = {}
        self._current: SegmentName | None = None
        self._length = 0
        self._sent_at = ""
        self._stored: Lsn | None = None
        self._timeline: int | None = None
        self._wake_due = 0.0
        self._used = (0, -_MEASURE_SECONDS)
        self._since: tuple[float, int] | None = None
        self._tell_due = 0.0
        self.segments = 0

    # -- what there is ----------------------------------------------------------------------------------------------

    def take_leftovers(self) -> None:
        """Take up what unfinished segments the spool has; the one that will be streamed again is among them."""
        self._current = None
        for one in self._spool.list_unfinished():
            self._leftovers[one.segment] = (one.length, render_time_utc(one.written_at))

    def turn_to(self, segment: SegmentName) -> None:
        """This segment is received from now on."""
        if self._timeline != segment.timeline:
            self._timeline, self._stored = segment.timeline, None
        self._current, self._length = segment, 0
        self._leftovers.pop(segment, None)

    def note_length(self, length: int, sent_at: datetime) -> None:
        """So much of the current segment is in the spool."""
        if length > self._length:
            self._length, self._sent_at = length, render_time_utc(sent_at)

    def add_finished(self, segment: SegmentName) -> None:
        self._waiting.add(segment)
        self._current = None
        self._wake_due = 0.0

    def begin_anew(self) -> None:
        """What was kept of the current segment was not what the server has."""
        for keeper in self._keepers:
            keeper.is_anew = True
            keeper.kept.clear()

    @property
    def stored_lsn(self) -> Lsn | None:
        """Everything up to here is in as many repositories as must have it; None where that is not known."""
        current = self._current
        if self._waiting:
            end = min(self._waiting).start_lsn
        elif current is not None:
            kept = sorted((keeper.kept.get(str(current), 0) for keeper in self._keepers), reverse=True)
            required = self._push.required
            end = Lsn(current.start_lsn + (kept[required - 1] if len(kept) >= required else 0))
        else:
            return self._stored
        self._stored = end if self._stored is None else max(self._stored, end)
        return self._stored

    def is_full(self) -> bool:
        """Whether no more may wait here. It is told, and how long there is room when a repository does not take it."""
        now = self._clock.monotonic()
        if now - self._used[1] >= _MEASURE_SECONDS:
            self._used = (self._spool.measure(), now)
            self._tell_room(now)
        return self._used[0] >= self._limit_bytes

    def has_work(self) -> bool:
        """Whether anything is left to do that has not failed."""
        if self._pusher.child is not None or (self._waiting and self._pusher.error is None):
            return True
        wanted = self._list_wanted()
        return any(
            keeper.busy_since is not None
            or (keeper.error is None and any(keeper.kept.get(one.name, 0) < one.length for one in wanted))
            for keeper in self._keepers
        )

    # -- what is done -----------------------------------------------------------------------------------------------

    def order(self) -> None:
        """Give everybody something to do."""
        now = self._clock.monotonic()
        self._make_keepers()
        wanted = self._list_wanted()
        for keeper in self._keepers:
            keeper.order(wanted, now)
        if now >= self._wake_due:
            self._wake_due = now + _WAKE_SECONDS
            reap_left()
            self._pusher.wake(now)

    def hurry(self) -> None:
        """Keep what is here now, whenever it was kept last."""
        self._make_keepers()
        for keeper in self._keepers:
            keeper.due = 0.0

    def list_descriptors(self) -> Iterator[int]:
        for child in (self._pusher.child, *(keeper.child for keeper in self._keepers)):
            if child is not None:
                yield child.reader

    def hear(self, ready: frozenset[int]) -> None:
        now = self._clock.monotonic()
        for keeper in self._keepers:
            if keeper.child is not None and keeper.child.reader in ready:
                known, kept_all = str(keeper.error), keeper.keeps_all
                keeper.take(now)
                self._tell_keeper(keeper, known, was_told=kept_all)
        if self._pusher.child is not None and self._pusher.child.reader in ready:
            known = str(self._pusher.error)
            for notice in self._pusher.take(now):
                self._listener(notice)
            self._settle_pushed()
            error = self._pusher.error
            if error is not None and str(error) != known:
                self._warn("push_failed", f"could not archive what was received: {error.message}", error.hint)
        self._settle_leftovers()

    def end(self) -> None:
        for keeper in self._keepers:
            keeper.end()
        self._pusher.end()

    # -- pieces of it -----------------------------------------------------------------------------------------------

    def _list_wanted(self) -> list[Wanted]:
        wanted = [
            Wanted(name=str(segment), length=length, sent_at=sent_at, is_left=True)
            for segment, (length, sent_at) in sorted(self._leftovers.items())
        ]
        if self._current is not None and self._length:
            wanted.append(Wanted(name=str(self._current), length=self._length, sent_at=self._sent_at))
        return wanted

    def _make_keepers(self) -> None:
        notes = self._spool.notes
        if notes is None or self._keepers:
            return
        for place in self._push.repositories:
            plan = KeeperPlan(
                cluster=self._push.cluster,
                place=place,
                directory=self._spool.directory,
                receiver=notes.receiver,
                system_identifier=notes.system_identifier,
                clock=self._clock,
            )
            self._keepers.append(Keeper(plan=plan, interval_seconds=self._interval))

    def _make_push(self, path: str) -> PushRequest:
        assert self._spool.notes is not None
        return replace(self._push, path=path, data_directory=None, claim=self._spool.notes.system_identifier)

    def _settle_pushed(self) -> None:
        for name in self._pusher.pushed:
            for segment in [one for one in self._waiting if str(one) == name]:
                self._waiting.remove(segment)
                self.segments += 1
                for keeper in self._keepers:
                    keeper.kept.pop(name, None)
                    keeper.whole.append(name)
        self._pusher.pushed.clear()

    def _settle_leftovers(self) -> None:
        """One that is streamed no more may go when every repository has it; until then it might be taken up again."""
        current = self._current
        for segment, (length, _) in list(self._leftovers.items()):
            is_passed = current is not None and current != segment
            if is_passed and all(keeper.kept.get(str(segment), 0) >= length for keeper in self._keepers):
                self._spool.drop_unfinished(segment)
                del self._leftovers[segment]

    # -- words ------------------------------------------------------------------------------------------------------

    def _tell_keeper(self, keeper: Keeper, known: str, *, was_told: bool) -> None:
        if keeper.error is not None and str(keeper.error) != known:
            hint = keeper.error.hint if isinstance(keeper.error, PghavenError) else None
            text = f'repository "{keeper.name}" does not get the unfinished segment: {keeper.error}'
            self._warn("partial_failed", text, hint)
        if keeper.keeps_all and not was_told:
            text = f'repository "{keeper.name}" lets nobody remove what newer pieces of a segment have replaced'
            self._warn(
                "pieces_stay", text, "pghaven expire removes them where it may. receive_interval makes them fewer."
            )

        while keeper.left_behind:
            name = keeper.left_behind.pop()
            text = f'repository "{keeper.name}" has what was received of "{name}" in quarantine, as "{name}.partial"'
            self._warn(
                "quarantined",
                f"{text}: another server took over before it was kept, from further back",
                "No restore leads there. See: pghaven wal list",
            )

    def _tell_room(self, now: float) -> None:
        """While something fails: for how long there is room, by what has come since."""
        is_failing = self._pusher.error is not None
        if not is_failing:
            self._since = None
            return
        if self._since is None:
            self._since = (now, self._used[0])
        if now < self._tell_due:
            return
        self._tell_due = now + _TELL_SECONDS
        volume = os.statvfs(self._spool.directory)
        room = max(0, min(self._limit_bytes - self._used[0], volume.f_bavail * volume.f_frsize))
        seconds, grown = now - self._since[0], self._used[0] - self._since[1]
        if not room:
            lasts = "is full: nothing is received until some of it is archived"
        elif seconds < 10 or grown <= 0:
            lasts = f"has room for {render_size(room)} more"
        else:
            rate = grown / seconds
            lasts = f"has room for {render_duration(room / rate)} at the present {render_rate(rate)}"
        text = f"{render_size(self._used[0])} of WAL wait in the spool, which {lasts}"
        hint = "The server keeps what is not received, by its slot. The limit is the option receive_spool_limit."
        self._warn("spool_waits", text, hint)

    def _warn(self, code: str, text: str, hint: str | None) -> None:
        self._listener(Notice(level="warning", code=code, text=text, hint=hint))
