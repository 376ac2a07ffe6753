"""A process between pg_dump and its server, so that the rows of large tables need not pass through pg_dump.

The one idea: the server can write into a pipe what it would otherwise send row by row. pg_dump connects to a socket of
ours, and all that is said goes on to the server's, but for what ``exchange`` changes; so snapshot, settings and the
statement itself are pg_dump's own, and the pipe gets what pg_dump would have written into it.

The process is forked, since an interpreter of root's could not be started as the server's user, and is that user, since
the server knows its clients by theirs. It ends with us, however we end: its end of ``control`` tells it.

A process of the server's that waits for room in a pipe hears nothing else, and a server that is to shut down would wait
for it. So when the server hangs up on any of pg_dump's connections, as it then does first on those that are idle, all
of them are cut off, which ends pg_dump with an error, and the pipes are emptied.
"""

from __future__ import annotations

import gc
import marshal
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pghaven.dump.exchange import Exchange
from pghaven.errors import Cancelled
from pghaven.server.identity import OsUser, become

PATH_BYTES_MAX = 107
"""Of a socket (sun_path in unix(7), less its end)."""

_LENGTH = struct.Struct("<I")
_READ_BYTES = 64 << 10
_WAITING_BYTES_MAX = 256 << 10  # for one that does not read its counterpart is not read from
_BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Relay:
    """``directory`` is what a client gets as its host; the port is the server's."""

    directory: str
    _control: socket.socket

    def point(self, pipes: Mapping[bytes, bytes]) -> None:
        """Have the server answer these statements into pipes. In force for whatever a client asks from now on."""
        message = marshal.dumps(dict(pipes))
        self._control.sendall(_LENGTH.pack(len(message)) + message)


@contextmanager
def open_relay(directory: str, host: str, port: int, user: OsUser | None) -> Iterator[Relay]:
    """A relay to the server whose socket is in the directory ``host``. ``directory`` is an own one of this name's
    length at most; ``user`` is who connects, None for ourselves. Raises OSError, Cancelled if no process can be made.
    """
    place = os.path.join(directory, name_socket(port))
    ours, theirs = socket.socketpair()
    with ours, socket.socket(socket.AF_UNIX) as listener:
        with theirs:
            listener.bind(place)
            if user is not None and os.geteuid() == 0:
                os.chown(place, user.uid, user.gid, follow_symlinks=False)
            listener.listen(_BACKLOG)
            try:
                child = os.fork()
            except OSError as error:
                raise Cancelled(f"could not start a process: {error.strerror}") from error
            if child == 0:
                _run_as_child(listener, theirs, os.path.join(host, name_socket(port)), user)
        try:
            yield Relay(directory, ours)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def name_socket(port: int) -> str:
    return f".s.PGSQL.{port}"


def _run_as_child(listener: socket.socket, control: socket.socket, target: str, user: OsUser | None) -> None:
    try:
        os.setpgid(0, 0)  # whoever interrupts us from a terminal is answered by our parent
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        following = 0
        for kept in sorted((listener.fileno(), control.fileno())):
            os.closerange(following, kept)
            following = kept + 1
        os.closerange(following, os.sysconf("SC_OPEN_MAX"))
        gc.disable()  # what the parent holds, clients of stores among it, is not ours to end
        if user is not None and os.geteuid() == 0:
            become(user)
        _Switchboard(listener, control, target).run()
    finally:
        os._exit(0)


@dataclass(slots=True, eq=False)
class _End:
    """One of a connection's two ends. ``waiting`` is what it has not taken yet; ``is_over`` when nothing more comes."""

    socket: socket.socket
    exchange: Exchange
    is_client: bool
    other: _End = field(init=False)
    waiting: bytearray = field(default_factory=bytearray)
    is_over: bool = False

    @property
    def wanted_events(self) -> int:
        reads = not self.is_over and len(self.other.waiting) < _WAITING_BYTES_MAX
        return (select.POLLIN if reads else 0) | (select.POLLOUT if self.waiting else 0)


class _Switchboard:
    def __init__(self, listener: socket.socket, control: socket.socket, target: str) -> None:
        self._listener, self._control, self._target = listener, control, target
        self._pipes: dict[bytes, bytes] = {}
        self._told = bytearray()
        self._ends: dict[int, _End] = {}
        self._drains: set[int] = set()
        self._is_cut_off = False

    def run(self) -> None:
        """Until the other end of ``control`` is closed."""
        while True:
            poller = select.poll()
            for one in (self._listener, self._control):
                poller.register(one, select.POLLIN)
            for fd, end in self._ends.items():
                if events := end.wanted_events:
                    poller.register(fd, events)
            for fd in self._drains:
                poller.register(fd, select.POLLIN)
            ready = dict(poller.poll())
            # First: what it says holds for all that is asked afterwards.
            if ready.pop(self._control.fileno(), 0) and not self._listen():
                return
            if ready.pop(self._listener.fileno(), 0):
                self._accept()
            for fd, events in ready.items():
                if fd in self._drains:
                    self._drain(fd)
                elif fd in self._ends:
                    self._serve(self._ends[fd], events)

    def _listen(self) -> bool:
        data = self._control.recv(_READ_BYTES)
        self._told += data
        while len(self._told) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._told)[0]
            if len(self._told) < end:
                return bool(data) and self._listen()  # all of it has been sent
            self._pipes.update(marshal.loads(bytes(self._told[_LENGTH.size : end])))  # noqa: S302  our own parent's
            del self._told[:end]
        return bool(data)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._is_cut_off:
            client.close()
            return
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self._target)
        except OSError:  # the client is told that it was not let in
            client.close()
            server.close()
            return
        exchange = Exchange(self._pipes)
        ends = _End(client, exchange, is_client=True), _End(server, exchange, is_client=False)
        ends[0].other, ends[1].other = ends[1], ends[0]
        for end in ends:
            end.socket.setblocking(False)
            self._ends[end.socket.fileno()] = end

    def _serve(self, end: _End, events: int) -> None:
        if events & select.POLLOUT:
            self._give(end)
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR) and not end.is_over:
            self._take(end)
        if end.is_over and not end.is_client and not end.exchange.has_taken_leave:
            self._cut_off()
            return
        # Where one has gone the other gets what is still its own, and goes too.
        for one in (end, end.other):
            if one.is_over and not one.other.waiting:
                self._close(one)
                return

    def _take(self, end: _End) -> None:
        try:
            data = end.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        end.is_over = not data
        if end.is_client:
            to_server, to_client = end.exchange.from_client(data)
            end.other.waiting += to_server
            end.waiting += to_client
            self._give(end)
        else:
            end.other.waiting += end.exchange.from_server(data)
        self._give(end.other)

    def _give(self, end: _End) -> None:
        while end.waiting:
            try:
                done = end.socket.send(end.waiting)
            except BlockingIOError:
                return
            except OSError:
                end.is_over = True
                end.waiting.clear()
                return
            del end.waiting[:done]

    def _cut_off(self) -> None:
        self._is_cut_off = True
        for end in [end for end in self._ends.values() if end.is_client]:
            self._close(end)
        for path in self._pipes.values():
            with suppress(OSError):
                self._drains.add(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW))

    def _drain(self, fd: int) -> None:
        with suppress(BlockingIOError):
            if os.read(fd, _READ_BYTES):
                return
            self._drains.remove(fd)  # nobody writes any more
            os.close(fd)

    def _close(self, end: _End) -> None:
        for one in (end, end.other):
            with suppress(KeyError):
                del self._ends[one.socket.fileno()]
            one.socket.close()
