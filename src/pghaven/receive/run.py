"""``wal receive``: the server's WAL as it is written, kept on this host at once and in the repositories in a moment.

The one idea: three positions and one promise for each. *Written* has arrived. *Synced* is durable in the spool on this
host. *Stored* is durable in as many repositories as must hold it, the unfinished segment as a partial. The server is
told "flushed" of what is stored, so that it keeps the rest; a synchronous receiver says so of what is synced, because
commits wait for that, and a restart brings home what is in the spool.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import NotPermitted, PghavenError, ServerUnsuitable, SlotLost, WalRemoved
from pghaven.events import Listener, Notice, Step, ignore
from pghaven.postgres.lsn import LSN_INVALID, Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.walstream import Keepalive, WalMessage
from pghaven.receive.delivery import Delivery
from pghaven.receive.spool import Spool, SpoolWriter, open_spool
from pghaven.receive.start import (
    find_start,
    follow_switch,
    keep_history,
    pass_over_removed,
    replace_slot,
    take_slot,
)
from pghaven.repository.place import RepositoryPlace
from pghaven.runtime.stopping import Stop
from pghaven.server.replication import (
    NextTimeline,
    ReplicationConnection,
    ServerIdentity,
    connect_for_replication,
)
from pghaven.wal.everywhere import PushRequest
from pghaven.wal.passedover import PassedOver, note_passed_over

_RECONNECT_SECONDS = 1.0
_REPORT_SECONDS = 1.0
_QUIET_SECONDS = 10.0
_SILENCE_SECONDS = 60.0
_TICK_SECONDS = 0.5
_GRACE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveRequest:
    """``slot`` is also the name by which the server knows the receiver (``application_name``). ``push`` says how what
    is finished gets into the repositories; its path is not used.

    The unfinished segment is kept every ``interval_seconds``. No more than ``spool_limit_bytes`` wait in
    ``spool_directory``: then nothing is received until some are gone. With ``once`` receiving ends when all that the
    server has at the beginning is stored, with ``until_lsn`` when that position is.
    """

    push: PushRequest
    conninfo: str
    slot: str
    spool_directory: str
    spool_limit_bytes: int
    interval_seconds: float
    is_synchronous: bool = False
    os_user: str | None = None
    once: bool = False
    until_lsn: Lsn | None = None
    clock: Clock = SYSTEM_CLOCK

    @property
    def repositories(self) -> tuple[RepositoryPlace, ...]:
        return self.push.repositories


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveResult:
    """How far it came: ``segments`` were finished and archived, everything up to ``stored_lsn`` is in the repositories.
    The positions are None when nothing was received."""

    segments: int
    received_lsn: Lsn | None
    stored_lsn: Lsn | None


def run_receive(request: ReceiveRequest, stop: Stop, listener: Listener = ignore) -> ReceiveResult:
    """Receive until it is time to end. A server that goes away is waited for, except with ``once``.

    Raises Locked, Conflict (another server's WAL), UsageError, NotPermitted, StoreUnreachable (the spool's disk fails);
    with ``once`` also ServerUnsuitable.
    """
    with open_spool(request.spool_directory) as spool:
        return _Receiver(request, spool, stop, listener).run()


class _Receiver:
    def __init__(self, request: ReceiveRequest, spool: Spool, stop: Stop, listener: Listener) -> None:
        self._request = request
        self._spool = spool
        self._stop = stop
        self._listener = listener
        self._clock = request.clock
        self._delivery = Delivery(request.push, spool, request.interval_seconds, request.spool_limit_bytes, listener)
        self._until = request.until_lsn
        self._received: Lsn | None = None
        self._writer: SpoolWriter | None = None
        self._skipped: WalRemoved | None = None
        self._slot_lost: str | None = None
        self._told: str | None = None
        self._reported = (LSN_INVALID, LSN_INVALID)
        self._report_due = 0.0
        self._heard_at = 0.0
        self._is_answered = False
        self._sent_at: datetime = request.clock.now()

    def run(self) -> ReceiveResult:
        try:
            self._delivery.take_leftovers()
            while not self._is_over():
                try:
                    self._stream()
                except (ServerUnsuitable, NotPermitted) as error:
                    self._let_go()
                    if self._request.once:
                        raise
                    self._tell_trouble(error)
                    self._wait(_RECONNECT_SECONDS)
            self._let_go()
        finally:
            self._bring_home()
        return ReceiveResult(
            segments=self._delivery.segments, received_lsn=self._received, stored_lsn=self._delivery.stored_lsn
        )

    def _is_over(self) -> bool:
        if self._stop.is_requested:
            return True
        stored = self._delivery.stored_lsn
        return self._until is not None and stored is not None and stored >= self._until

    # -- one connection ---------------------------------------------------------------------------------------------

    def _stream(self) -> None:
        request, spool = self._request, self._spool
        with closing(connect_for_replication(request.conninfo, request.slot, os_user=request.os_user)) as link:
            identity = link.identify()
            was_used = spool.notes is not None
            spool.adopt(identity.system_identifier, link.read_segment_size())
            if request.once and self._until is None:
                self._until = identity.flushed_lsn
            start: SegmentName | None = self._find_start(link, identity, was_used=was_used)
            while start is not None:
                keep_history(link, start.timeline, spool)
                self._listener(Step(text=f"receiving {start} from {link.host}"))
                following = self._begin(link, start) or self._follow(link)
                self._let_go()
                start = None if following is None else follow_switch(link, following, spool)

    def _find_start(self, link: ReplicationConnection, identity: ServerIdentity, *, was_used: bool) -> SegmentName:
        slot = take_slot(link, self._request.slot, self._listener, was_used=was_used)
        self._slot_lost = slot.lost or self._slot_lost
        wanted = find_start(link, identity, self._spool, slot)
        if self._skipped is None:
            return wanted
        start, self._skipped = pass_over_removed(wanted, self._skipped, identity, slot, self._listener), None
        self._note_passed_over(wanted, start)
        return start

    def _note_passed_over(self, wanted: SegmentName, start: SegmentName) -> None:
        """For whoever will ask why there is a gap."""
        note = PassedOver(
            timeline=wanted.timeline,
            begin_lsn=wanted.start_lsn,
            end_lsn=start.start_lsn,
            noticed_at=self._clock.now(),
            reason=self._slot_lost,
        )
        with suppress(OSError):
            note_passed_over(self._spool.directory, note)
        self._slot_lost = None

    def _begin(self, link: ReplicationConnection, start: SegmentName) -> NextTimeline | None:
        """Have the server stream; what follows if there is nothing to stream of this timeline."""
        slot = self._request.slot
        try:
            following = link.start(slot, start.start_lsn, start.timeline)
        except SlotLost as error:
            replace_slot(link, slot, error, self._listener)
            self._slot_lost = f'replication slot "{slot}" could not be used: {error.detail or error.message}'
            following = link.start(slot, start.start_lsn, start.timeline)
        if following is None:
            self._open(start)
            self._reported = (LSN_INVALID, LSN_INVALID)
            self._heard_at = self._clock.monotonic()
            self._is_answered = False
        return following

    def _follow(self, link: ReplicationConnection) -> NextTimeline | None:
        """Receive until the timeline ends (then what follows), or it is time to end."""
        is_new = True  # the server's first words may have come with its answer, and are in no socket any more
        while not self._is_over():
            if self._serve(None if is_new else link) or is_new:
                is_new = False
                try:
                    for message in link.receive():
                        self._take(message)
                    if not link.is_streaming:
                        self._sync()
                        return link.finish()
                except WalRemoved as error:
                    self._skipped = error
                    raise
                self._told = None
            if self._request.is_synchronous:
                self._sync()
            self._report(link)
        self._sync()
        self._report(link, at_once=True)
        link.leave()
        return None

    def _take(self, message: WalMessage | Keepalive) -> None:
        self._heard_at = self._clock.monotonic()
        self._is_answered = True
        if isinstance(message, Keepalive):
            if message.wants_reply:
                self._report_due = 0.0
            return
        self._sent_at = message.sent_at
        data, writer = message.data, self._writer
        assert writer is not None
        position = writer.segment.start_lsn + writer.written
        if message.start_lsn != position:
            raise ServerUnsuitable(f"the server sent WAL from {message.start_lsn}, expected {Lsn(position)}")
        while data:
            part = data[: writer.room]
            writer.write(part)
            data = data[len(part) :]
            if not writer.room:
                writer.finish(message.sent_at)
                self._writer = None
                self._delivery.add_finished(writer.segment)
                writer = self._open(writer.segment.next())
        self._note_progress()

    def _open(self, segment: SegmentName) -> SpoolWriter:
        self._writer = writer = self._spool.open_unfinished(segment)
        self._delivery.turn_to(segment)
        self._note_progress()
        return writer

    def _note_progress(self) -> None:
        writer = self._writer
        assert writer is not None
        self._received = Lsn(writer.segment.start_lsn + writer.written)
        if writer.rewritten:
            writer.rewritten = 0
            self._delivery.begin_anew()
        self._delivery.note_length(writer.length, self._sent_at)

    def _sync(self) -> None:
        if self._writer is not None:
            self._writer.sync()

    def _let_go(self) -> None:
        """Leave the segment as it is; the next connection takes it up again, or it stays behind."""
        if self._writer is not None:
            self._writer.sync()
            self._writer.close(self._sent_at)
            self._writer = None
            self._delivery.take_leftovers()

    def _report(self, link: ReplicationConnection, *, at_once: bool = False) -> None:
        """Tell the server what it may count on; without news no more than once a second."""
        writer, now = self._writer, self._clock.monotonic()
        assert writer is not None
        if now - self._heard_at > _SILENCE_SECONDS:
            raise ServerUnsuitable(f"the server has been silent for {_SILENCE_SECONDS:g} s")
        written = Lsn(writer.segment.start_lsn + writer.length)
        synced = Lsn(writer.segment.start_lsn + writer.synced)
        flushed = synced if self._request.is_synchronous else min(self._delivery.stored_lsn or LSN_INVALID, written)
        if not self._is_answered:
            # The server may be about to say that it has no such WAL any more, and a report would move its slot there.
            flushed = LSN_INVALID
        has_news = flushed > self._reported[1] and self._request.is_synchronous
        if at_once or has_news or now >= self._report_due:
            link.report(written, flushed, self._clock.now(), ask=now - self._heard_at > _QUIET_SECONDS)
            self._reported = (written, flushed)
            self._report_due = now + _REPORT_SECONDS

    # -- waiting ----------------------------------------------------------------------------------------------------

    def _serve(self, link: ReplicationConnection | None) -> bool:
        """Wait for anybody to have something to say, and hear all but the server; whether that is to be heard."""
        self._delivery.order()
        is_heard = link is not None and not self._delivery.is_full()
        descriptors: list[int] = [self._stop.fileno(), *self._delivery.list_descriptors()]
        if link is not None and is_heard:
            descriptors.append(link.fileno())
        ready = _poll(descriptors, min(_TICK_SECONDS, self._request.interval_seconds))
        self._delivery.hear(ready)
        return link is not None and is_heard and link.fileno() in ready

    def _wait(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while self._clock.monotonic() < until and not self._is_over():
            self._serve(None)

    def _bring_home(self) -> None:
        """Give the repositories a moment to get what is here; what they do not get stays in the spool."""
        try:
            until = self._clock.monotonic() + _GRACE_SECONDS
            self._delivery.hurry()
            while self._delivery.has_work() and self._clock.monotonic() < until:
                self._delivery.order()
                self._delivery.hear(_poll(list(self._delivery.list_descriptors()), _TICK_SECONDS))
        finally:
            self._delivery.end()

    def _tell_trouble(self, error: PghavenError) -> None:
        if error.message != self._told:
            self._told = error.message
            text = f"{error.message}; it is tried again every {_RECONNECT_SECONDS:g} s"
            self._listener(Notice(level="warning", code=error.code, text=text, hint=error.hint))


def _poll(descriptors: Sequence[int], seconds: float) -> frozenset[int]:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    return frozenset(descriptor for descriptor, _ in poll.poll(seconds * 1000))
