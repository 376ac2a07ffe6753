"""Where one cluster's pushes are asked for: requests come through the door, rounds go on beside them.

The one idea: what is answered is what ``wal push`` itself has answered, in a child process that has everything loaded;
or a file has its mark, which the server would have taken as well. So with the agent a push is quicker and no less true.

The process itself touches no repository: a store that hangs holds up a child, and each child has a time limit.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from pghaven.agent.door import Door
from pghaven.agent.rounds import Round, start_round
from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import Cancelled, Locked
from pghaven.events import Listener, Notice
from pghaven.postgres.datadir import WAL_DIRECTORY
from pghaven.postgres.segment import is_valid_archive_name
from pghaven.repository.place import RepositoryPlace
from pghaven.wal.asking import PING, PUSH, REQUEST_BYTES_MAX
from pghaven.wal.behind import BehindNotes
from pghaven.wal.children import Child, Tell, reap_left, start_child
from pghaven.wal.limit import unblock_interrupts
from pghaven.wal.marks import Marks
from pghaven.wal.stretch import find_limit

PushOne = Callable[[str, float, bool], int]
"""Push one file of the current directory's ``pg_wal``, of whose time so many seconds are over, with or without looking
ahead; the exit status. What there is to tell goes to standard error. It is called in a process of its own."""

_POLL_SECONDS = 1.0
_CONNECTIONS_MAX = 32
# Of the time that a push may take, how long a request waits for a round that has its file already.
_ROUND_SHARE = 0.5
_KILL_AFTER_SECONDS = 2.0
# After a round that came to nothing, so long none is begun; requests look ahead by themselves then.
_REST_SECONDS = (1.0, 30.0)
# Whoever works off a backlog is answered when so many more files have marks, or after so long: the server then takes
# those at the price of a shell each, in place of starting a program for every single one.
_MARKED_TOGETHER = 16
_MARKED_SECONDS = 0.5
_HELD_POLL_SECONDS = 0.1
_ENDING_POLL_SECONDS = 0.002
_TEXT_BYTES_MAX = 32 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskSettings:
    """``config_path`` is what a request must name; a round has ``look_ahead`` files at most, and so many ``processes``
    for each repository."""

    cluster: str
    config_path: str
    data_directory: str
    places: tuple[RepositoryPlace, ...]
    limit_seconds: float
    look_ahead: int
    processes: int
    push: PushOne


@dataclass(slots=True, kw_only=True)
class _Asked:
    """Somebody who asks. ``name`` is None until the request is whole; ``child`` pushes for this one. ``marked`` is when
    the file was found to have its mark, and what the round had done by then; ``limit`` how many seconds it may all
    take."""

    connection: socket.socket
    since: float
    received: bytes = b""
    name: str | None = None
    child: Child | None = None
    answer: tuple[int, bytes] | None = None
    marked: tuple[float, int] | None = None
    limit: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Open:
    """What there is as long as the data directory is the one it was."""

    door: Door
    marks: Marks
    notes: BehindNotes
    asked: list[_Asked] = field(default_factory=list)
    round: Round | None = None


class Desk:
    """Serves until it is interrupted, or its parent has gone."""

    def __init__(self, settings: DeskSettings, listener: Listener, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._tell = listener
        self._clock = clock
        self._open: _Open | None = None
        self._rest_until = 0.0
        self._rest_seconds = 0.0
        self._trouble: str | None = None

    def run(self) -> None:
        parent = os.getppid()
        try:
            while os.getppid() == parent:
                reap_left()
                self._keep_open()
                self._begin_round()
                self._listen()
        finally:
            # A door that is shut behind an agent that was killed would say that it has ended as it should.
            self._shut(leaves_door=os.getppid() != parent)

    # -- the door -----------------------------------------------------------------------------------------------------

    def _keep_open(self) -> None:
        if self._open is not None and self._open.door.is_there():
            return
        self._shut()
        try:
            os.chdir(self._settings.data_directory)
            door = Door.open(os.curdir)
        except Locked as error:
            self._report(error.message)
        except OSError as error:
            # Before initdb, between two restores, before its file system is mounted: all of these end by themselves.
            self._report(f'"{self._settings.data_directory}" cannot be served: {error.strerror or error}')
        else:
            self._report(None)
            self._open = _Open(door=door, marks=Marks(WAL_DIRECTORY), notes=BehindNotes(WAL_DIRECTORY))

    def _shut(self, *, leaves_door: bool = False) -> None:
        if self._open is None:
            return
        opened, self._open = self._open, None
        if leaves_door:
            opened.door.leave()
        else:
            opened.door.close()
        if opened.round is not None:
            opened.round.end()
        for one in opened.asked:
            if one.child is not None and one.child.status is None:
                one.child.leave()
            one.connection.close()

    def _forget(self) -> None:
        """In a child: what it holds open would keep others waiting for it."""
        if self._open is not None:
            self._open.door.leave()
            for one in self._open.asked:
                one.connection.close()

    # -- rounds -------------------------------------------------------------------------------------------------------

    def _begin_round(self) -> None:
        opened, settings = self._open, self._settings
        if opened is None or opened.round is not None or not settings.look_ahead or self._is_resting():
            return
        if opened.notes.read_all([place.name for place in settings.places]):
            return  # a push knows what to do about one that is behind
        opened.round = start_round(
            opened.marks,
            WAL_DIRECTORY,
            settings.places,
            [one.name for one in opened.asked if one.name is not None],
            cluster=settings.cluster,
            look_ahead=settings.look_ahead,
            processes=settings.processes,
            clock=self._clock,
            enter=self._forget,
        )
        unblock_interrupts()

    def _is_resting(self) -> bool:
        return self._clock.monotonic() < self._rest_until

    def _end_round(self, opened: _Open) -> None:
        if opened.round is None:
            return
        opened.round.leave_if_silent(self._settings.limit_seconds)
        if opened.round.open_children:
            return
        if opened.round.end():
            self._rest_seconds = 0.0
        else:
            first, most = _REST_SECONDS
            self._rest_seconds = min(max(self._rest_seconds * 2, first), most)
            self._rest_until = self._clock.monotonic() + self._rest_seconds
        opened.round = None

    # -- requests -----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        opened = self._open
        if opened is None:
            self._clock.sleep(_POLL_SECONDS)
            return
        poll = select.poll()
        poll.register(opened.door.fileno(), select.POLLIN)
        for one in opened.asked:
            if one.name is None:
                poll.register(one.connection.fileno(), select.POLLIN)
        children = self._list_children(opened)
        for child in children:
            if not child.is_ending:
                poll.register(child.reader, select.POLLIN)
        seconds = _HELD_POLL_SECONDS if any(one.marked is not None for one in opened.asked) else _POLL_SECONDS
        seconds = _ENDING_POLL_SECONDS if any(child.is_ending for child in children) else seconds
        ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
        self._hear_children(opened, ready)
        if opened.door.fileno() in ready:
            self._accept(opened)
        for one in list(opened.asked):
            if one.name is None and one.connection.fileno() in ready:
                self._read(opened, one)
        self._end_round(opened)
        for one in list(opened.asked):
            self._attend(opened, one)

    def _list_children(self, opened: _Open) -> list[Child]:
        own = [one.child for one in opened.asked if one.child is not None and one.child.status is None]
        return own + ([] if opened.round is None else opened.round.open_children)

    def _hear_children(self, opened: _Open, ready: set[int]) -> None:
        for one in opened.asked:
            child = one.child
            if child is not None and child.status is None and (child.is_ending or child.reader in ready):
                for status, text in child.receive():
                    one.answer = (status, text)
                if child.status is not None:
                    os.close(child.reader)
        if opened.round is not None:
            for child in opened.round.open_children:
                if child.is_ending or child.reader in ready:
                    opened.round.take(child)

    def _accept(self, opened: _Open) -> None:
        while (connection := opened.door.accept()) is not None:
            if len(opened.asked) >= _CONNECTIONS_MAX:
                connection.close()
            else:
                opened.asked.append(_Asked(connection=connection, since=self._clock.monotonic()))

    def _read(self, opened: _Open, one: _Asked) -> None:
        try:
            data = one.connection.recv(REQUEST_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        one.received += data
        if data and len(one.received) <= REQUEST_BYTES_MAX:
            return
        what, *fields = map(os.fsdecode, one.received.split(b"\0"))
        if what == PING and not data:
            one.name = ""
            one.answer = (0, f"{os.getpid()}\n".encode())
            self._send(one, b"+1\n")
        elif what == PUSH and not data and self._is_for_us(fields):
            one.name = fields[2]
            one.limit = find_limit(os.path.join(WAL_DIRECTORY, one.name), self._settings.limit_seconds)
            self._send(one, f"+{one.limit}\n".encode())
        else:
            opened.asked.remove(one)
            one.connection.close()

    def _is_for_us(self, fields: list[str]) -> bool:
        settings = self._settings
        if len(fields) != 3 or fields[1] != settings.cluster or not is_valid_archive_name(fields[2]):
            return False
        return os.path.realpath(fields[0]) == os.path.realpath(settings.config_path)

    def _attend(self, opened: _Open, one: _Asked) -> None:
        """What is to be done now for somebody who asks."""
        if one.name is None:
            if self._clock.monotonic() - one.since > self._settings.limit_seconds:
                opened.asked.remove(one)
                one.connection.close()
            return
        if one.answer is None and one.child is None:
            self._begin(opened, one, one.name)
        if one.child is not None and one.answer is None:
            self._watch(one, one.child)
        if one.answer is not None and (one.child is None or one.child.status is not None):
            status, text = one.answer
            self._send(one, f"{status}\n".encode() + text[:_TEXT_BYTES_MAX])
            opened.asked.remove(one)
            one.connection.close()
            if one.name:
                self._report(None if status == 0 else _first_line(text))

    def _begin(self, opened: _Open, one: _Asked, name: str) -> None:
        if opened.marks.is_marked(name):
            if not self._may_wait(opened, one):
                one.answer = (0, b"")
            return
        spent = self._clock.monotonic() - one.since
        if opened.round is not None and opened.round.has(name) and spent < one.limit * _ROUND_SHARE:
            return
        with_ahead = opened.round is None and (self._is_resting() or bool(self._behind(opened)))
        try:
            one.child = start_child(partial(self._work, name, spent, with_ahead))
        except Cancelled as error:
            one.answer = (error.exit_status, f"pghaven: error: {error.message}\n".encode())
        unblock_interrupts()

    def _may_wait(self, opened: _Open, one: _Asked) -> bool:
        """Whether more of what the server will ask for next is about to get its mark."""
        now = self._clock.monotonic()
        if opened.round is None:
            return False
        since, done = one.marked = one.marked or (now, opened.round.done)
        seconds = min(_MARKED_SECONDS, self._settings.limit_seconds / 4)
        return now - since < seconds and 0 <= opened.round.done - done < _MARKED_TOGETHER

    def _behind(self, opened: _Open) -> bool:
        return bool(opened.notes.read_all([place.name for place in self._settings.places]))

    def _watch(self, one: _Asked, child: Child) -> None:
        if child.status is not None:
            # It ended without a word: killed, or by a bug, which the child could not tell anybody else.
            text = child.trace or f"pghaven: error: the process that pushed ended with status {child.status}\n"
            one.answer = (Cancelled.exit_status, text.encode())
        elif self._clock.monotonic() - one.since > one.limit + _KILL_AFTER_SECONDS:
            child.leave()
            text = f'pghaven: error: "{one.name}" was not archived within {one.limit:g} s\n'
            one.answer = (Cancelled.exit_status, text.encode())

    def _work(self, name: str, spent: float, with_ahead: bool, tell: Tell) -> None:
        self._forget()
        told = os.memfd_create("told")
        os.dup2(told, 2)
        status = self._settings.push(name, spent, with_ahead)
        size = min(os.fstat(told).st_size, _TEXT_BYTES_MAX)
        tell((status, os.pread(told, size, 0)))

    def _send(self, one: _Asked, data: bytes) -> None:
        with suppress(OSError):  # whoever asked has gone; the file is archived all the same
            one.connection.sendall(data)

    def _report(self, trouble: str | None) -> None:
        """Tell what keeps pushes from succeeding, once, and that it is over."""
        if trouble == self._trouble:
            return
        if trouble is not None:
            self._tell(Notice(level="warning", code="push", text=trouble))
        elif self._trouble is not None:
            self._tell(Notice(level="info", code="push", text="archiving works again"))
        self._trouble = trouble


def _first_line(text: bytes) -> str:
    return text.decode("utf-8", "replace").partition("\n")[0].removeprefix("pghaven: error: ")
