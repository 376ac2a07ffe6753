"""One file into every repository of its cluster, side by side, however some of them behave.

The one idea: each repository has a process of its own, so none waits for another, and one that hangs is left behind. A
push succeeds when as many repositories hold the file as must; whoever missed it then is noted as behind, and filled in
when it is back. A push fails whenever one of them holds other contents under the name, or another cluster's WAL: then
two servers write one history.

Files that wait behind this one are pushed beside it (``ahead``), within the time that the push may take.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import Cancelled, Conflict, PghavenError
from pghaven.events import Event, Listener, Notice, ignore
from pghaven.light import dataclass, field
from pghaven.postgres.segment import WalFileKind
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.walstore import PutOutcome, WalArchive
from pghaven.units import render_duration
from pghaven.wal.ahead import Ahead, choose_ahead, count_affordable
from pghaven.wal.archives import PlaceFailure, join_failures, open_archive
from pghaven.wal.behind import Behind, BehindNotes, find_wal_directory
from pghaven.wal.children import Child, Tell, explain_end, parse_error, render_error, start_child, wait_for_any
from pghaven.wal.limit import unblock_interrupts
from pghaven.wal.marks import Marks
from pghaven.wal.push import WalFile, open_for, push_into, read_wal_file

REST = timedelta(seconds=30)
"""A repository that may be missed, and was, is not tried again for so long."""

# What one push spends on filling in, in each repository that is back.
_REFILL_SECONDS = 1.0
_GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRequest:
    """``path`` may be relative to the current directory, as PostgreSQL's ``%p`` is; ``data_directory`` is the
    configured one, for when the current directory is none.

    The push succeeds when ``required`` repositories hold the file, and then waits for the others no longer than
    ``patience_seconds``; it never takes longer than ``limit_seconds``. Up to ``look_ahead`` files that wait are pushed
    beside it, by ``processes`` for each repository. ``claim`` is as in ``read_wal_file``.
    """

    cluster: str
    repositories: tuple[RepositoryPlace, ...]
    path: str
    required: int
    limit_seconds: float
    patience_seconds: float
    look_ahead: int = 0
    processes: int = 1
    data_directory: str | None = None
    claim: int | None = None
    clock: Clock = SYSTEM_CLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryPush:
    repository: str
    outcome: PutOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedPush:
    """A repository that does not have the file yet, and why."""

    repository: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """One entry of ``pushes`` for each repository in which the file is durable. The others ``missed`` it."""

    file_name: str
    kind: WalFileKind
    size_bytes: int
    pushes: tuple[RepositoryPush, ...]
    missed: tuple[MissedPush, ...]


@dataclass(slots=True, kw_only=True)
class _Lane:
    """The way into one repository."""

    place: RepositoryPlace
    behind: Behind | None
    child: Child | None = None
    outcome: PutOutcome | None = None
    error: Exception | None = None
    filled: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        return self.child is not None and self.child.status is None


def push_everywhere(request: PushRequest, listener: Listener = ignore) -> PushResult:
    """Archive one file.

    Raises what ``read_wal_file`` and ``push_into`` raise, and Cancelled when time is up. With several repositories the
    error names each that failed; the others hold the file.
    """
    file = read_wal_file(request.path, request.data_directory, request.claim, cluster=request.cluster)
    wal_directory = find_wal_directory(request.path)
    notes = None if wal_directory is None else BehindNotes(wal_directory)
    push = _Push(request, file, wal_directory, notes, listener)
    push.run()
    try:
        return push.conclude()
    except PghavenError:
        from pghaven.wal.room import tell_room

        tell_room(wal_directory, request.clock, listener)
        raise


class _Push:
    def __init__(
        self,
        request: PushRequest,
        file: WalFile,
        wal_directory: str | None,
        notes: BehindNotes | None,
        listener: Listener,
    ) -> None:
        self._request = request
        self._file = file
        self._wal_directory = wal_directory
        self._notes = notes
        self._listener = listener
        self._clock = request.clock
        behind = {} if notes is None else notes.read_all([place.name for place in request.repositories])
        self._lanes = [_Lane(place=place, behind=behind.get(place.name)) for place in request.repositories]
        self._marks = None if wal_directory is None else Marks(wal_directory, request.clock)
        self._ahead: Ahead | None = None

    def run(self) -> None:
        """Try every repository but those that rest, until enough hold the file and the others had their time."""
        try:
            lanes = self._choose_lanes()
            for lane in lanes:
                if self._is_held(lane):
                    lane.outcome = PutOutcome.ALREADY
                else:
                    self._start(lane)
            self._look_ahead(lanes)
            unblock_interrupts()
            self._listen()
        except BaseException:
            self._end_all()
            raise
        finally:
            unblock_interrupts()

    def conclude(self) -> PushResult:
        """Note who is behind. Raises what the push failed by."""
        held = [lane for lane in self._lanes if lane.outcome is not None]
        missed = [lane for lane in self._lanes if lane.outcome is None]
        conflict = any(isinstance(lane.error, Conflict) for lane in missed)
        if conflict or len(held) < self._request.required:
            self._mark_held(held)
            raise self._join(missed)
        self._write_notes(missed)
        self._mark_ahead(missed)
        return PushResult(
            file_name=self._file.name,
            kind=self._file.kind,
            size_bytes=len(self._file.content),
            pushes=tuple(RepositoryPush(repository=lane.place.name, outcome=_get(lane.outcome)) for lane in held),
            missed=tuple(MissedPush(repository=lane.place.name, reason=str(lane.error)) for lane in missed),
        )

    # -- the parent -------------------------------------------------------------------------------------------------

    def _choose_lanes(self) -> list[_Lane]:
        """All, unless enough are left without those that rest."""
        now = self._clock.now()
        resting = [lane for lane in self._lanes if lane.behind is not None and lane.behind.is_resting(now, REST)]
        chosen = [lane for lane in self._lanes if lane not in resting]
        if len(chosen) < self._request.required:
            return self._lanes
        for lane in resting:
            lane.error = Cancelled(f"it is tried again in a moment; {_get(lane.behind).reason}")
        return chosen

    def _start(self, lane: _Lane) -> None:
        try:
            lane.child = start_child(partial(self._work, lane))
        except Cancelled as error:
            lane.error = error

    def _is_held(self, lane: _Lane) -> bool:
        """Whether an earlier push, which failed elsewhere, has left the file there."""
        return self._marks is not None and self._marks.is_held(lane.place.name, self._file.name)

    def _look_ahead(self, lanes: Sequence[_Lane]) -> None:
        request, marks = self._request, self._marks
        if marks is None or (where := self._wal_directory) is None or not request.look_ahead:
            return
        waiting = marks.list_waiting()
        marks.sweep({*waiting, self._file.name})
        names = choose_ahead(waiting, self._file.name, marks, request.look_ahead)
        processes = count_affordable(where, names, request.processes)
        if processes:
            self._ahead = Ahead(marks, where, names, cluster=request.cluster, clock=self._clock, waiting=waiting)
            self._ahead.start([lane.place for lane in lanes], processes, request.data_directory)

    def _listen(self) -> None:
        request = self._request
        start = self._clock.monotonic()
        deadline = start + request.limit_seconds
        enough_at: float | None = None
        while True:
            lanes = [lane for lane in self._lanes if lane.is_open]
            others = [] if self._ahead is None else self._ahead.open_children
            if not lanes and not others:
                return
            now = self._clock.monotonic()
            if enough_at is None and self._has_enough():
                enough_at = now
            until = deadline if enough_at is None else min(deadline, enough_at + request.patience_seconds)
            if now >= until:
                for lane in lanes:
                    self._leave(lane, request.limit_seconds if enough_at is None else request.patience_seconds)
            moments = [until] if lanes else []
            if self._ahead is not None and others:
                moments.append(self._ahead.keep_to(start, request.limit_seconds, now))
            self._hear(lanes, others, min(moments) - now)

    def _hear(self, lanes: Sequence[_Lane], others: Sequence[Child], seconds: float) -> None:
        children = [child for child in (*(_get(lane.child) for lane in lanes), *others) if child.status is None]
        ready = list(wait_for_any(children, seconds))
        for lane in lanes:
            if lane.is_open and lane.child in ready:
                self._take(lane)
        for child in others:
            if child.status is None and child in ready and self._ahead is not None:
                self._ahead.take(child)

    def _has_enough(self) -> bool:
        return sum(lane.outcome is not None for lane in self._lanes) >= self._request.required

    def _take(self, lane: _Lane) -> None:
        child = _get(lane.child)
        for what, *told in child.receive():
            if what == "held":
                lane.outcome = PutOutcome(told[0])
            elif what == "failed":
                lane.error = parse_error(told[0])
            elif what == "filled":
                lane.filled.add(told[0])
            else:
                level, code, text, hint = told
                self._listener(Notice(level=level, code=code, text=text, hint=hint))
        if child.status is not None:
            os.close(child.reader)
            if lane.outcome is None and lane.error is None:
                lane.error = explain_end(child)

    def _leave(self, lane: _Lane, seconds: float) -> None:
        """Let go of a child. One that has stored the file and is filling in has done its duty."""
        _get(lane.child).leave()
        if self._ahead is not None:
            self._ahead.leave(lane.place)
        if lane.outcome is None and lane.error is None:
            lane.error = Cancelled(
                f'"{self._file.name}" was not archived within {render_duration(seconds)}',
                hint="The repository hangs or is slow; the limit is the option wal_timeout. The server will try again.",
            )

    def _end_all(self) -> None:
        if self._ahead is not None:
            self._ahead.leave()
        for lane in self._lanes:
            if lane.is_open:
                _get(lane.child).end(signal.SIGTERM)
        deadline = self._clock.monotonic() + _GRACE_SECONDS
        while lanes := [lane for lane in self._lanes if lane.is_open]:
            ready = list(wait_for_any([_get(lane.child) for lane in lanes], deadline - self._clock.monotonic()))
            for lane in lanes:
                if not ready:
                    self._leave(lane, _GRACE_SECONDS)
                elif lane.child in ready:
                    self._take(lane)

    def _join(self, missed: Sequence[_Lane]) -> Exception:
        for lane in missed:
            if lane.error is not None and not isinstance(lane.error, PghavenError):
                return lane.error
        failures = [
            PlaceFailure(place=lane.place, error=lane.error)
            for lane in sorted(missed, key=lambda lane: not isinstance(lane.error, Conflict))
            if isinstance(lane.error, PghavenError)
        ]
        return join_failures(f'"{self._file.name}" is not archived', failures, len(self._lanes))

    def _write_notes(self, missed: Sequence[_Lane]) -> None:
        name = self._file.name
        for lane in missed:
            self._warn(
                "repository_behind",
                f'repository "{lane.place.name}" has missed "{name}": {lane.error}',
                "It is filled in when the repository is back; pghaven wal refill does it at once.",
            )
        if self._notes is None:
            return
        try:
            self._note(missed, [name])
            for lane in self._lanes:
                if lane.outcome is not None and lane.behind is not None:
                    self._notes.settle(lane.place.name, {*lane.filled, name})
        except OSError as error:
            self._warn("repository_behind", f"could not note who is behind: {error}", "pghaven wal refill finds out.")

    def _note(self, missed: Sequence[_Lane], names: Sequence[str]) -> None:
        """Note what these repositories missed, and when one that was not left in peace was tried."""
        for lane in missed if names else ():
            known = lane.behind
            was_tried = known is None or lane.child is not None
            reason = str(lane.error) if was_tried else _get(known).reason
            _get(self._notes).note(
                lane.place.name, names, reason, self._clock.now() if was_tried else _get(known).tried_at
            )

    def _mark_held(self, held: Sequence[_Lane]) -> None:
        """Spare those that hold the file from being given it again with every attempt."""
        with suppress(OSError):
            for lane in held:
                if self._marks is not None and lane.outcome is not PutOutcome.QUARANTINED:
                    self._marks.mark_held(lane.place.name, self._file.name, self._file.mtime_ns)

    def _mark_ahead(self, missed: Sequence[_Lane]) -> None:
        """Mark what looking ahead has done. Whoever missed this file misses those too, and that is noted first."""
        if self._ahead is None or self._marks is None or self._notes is None:
            return
        try:
            done = list(self._ahead.list_done(without=[lane.place.name for lane in missed]))
            self._note(missed, [name for name, _ in done])
            for name, mtime_ns in done:
                self._marks.mark(name, mtime_ns)
        except OSError as error:
            self._warn("look_ahead", f"could not leave marks: {error}", "The files are archived in their turn.")

    def _warn(self, code: str, text: str, hint: str) -> None:
        self._listener(Notice(level="warning", code=code, text=text, hint=hint))

    # -- the child --------------------------------------------------------------------------------------------------

    def _work(self, lane: _Lane, tell: Tell) -> None:
        def listen(event: Event) -> None:
            if isinstance(event, Notice):
                tell(("notice", event.level, event.code, event.text, event.hint))

        request = self._request
        try:
            opened = open_for(open_place(lane.place), request.cluster, self._file)
            opened.archive.uses_two_cores = request.processes > 1
            tell(("held", push_into(opened, self._file, request.clock, listen).value))
        except PghavenError as error:
            tell(("failed", render_error(error)))
            return
        if lane.behind is not None:
            with suppress(PghavenError):  # it is tried again with the next push
                self._fill_in(lane, lane.behind.names, opened.archive, tell)

    def _fill_in(self, lane: _Lane, names: Sequence[str], archive: WalArchive, tell: Tell) -> None:
        from pghaven.wal.refill import Refill

        until = self._clock.monotonic() + _REFILL_SECONDS
        others = (open_place(one.place) for one in self._lanes if one is not lane)
        sources = [open_archive(other, self._request.cluster, self._file.claim).archive for other in others]
        refill = Refill(target=archive, sources=sources, wal_directory=self._wal_directory)
        for name in names:
            if name != self._file.name and self._clock.monotonic() < until:
                refill.fill(name)
                tell(("filled", name))


def _get(value: Any) -> Any:
    assert value is not None
    return value
