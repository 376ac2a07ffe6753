"""Connections to an SFTP server: the authority on how ``ssh`` is run, and on what its failures mean.

The one idea: the system's own ``ssh`` makes the connection, as ``sftp`` and ``git`` have it do. So host keys are
checked, keys, agents and jump hosts found exactly as when this user types ``ssh``, all of ``~/.ssh/config`` counts, and
no password or key is ever in our hands. We speak SFTP over its standard input and output.

    our socket ⇄ ssh ⇄ sshd ⇄ sftp-server

A link is used by one thread at a time; ``Links`` lends them. One that failed, or was left in the middle of an answer
(an interrupt), is ended and never lent again.
"""

from __future__ import annotations

import os
import select
import shlex
import socket
import struct
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import NotPermitted, PghavenError, Refused, StoreUnreachable
from pghaven.runtime.durable import Buffer
from pghaven.store import sftpwire as wire
from pghaven.store.sftpaddress import SshSettings
from pghaven.store.sftpwire import Reply, Request

CONNECT_SECONDS = 20
KEEP_ALIVE_SECONDS = 15
KEEP_ALIVE_COUNT = 3

MAX_LINKS = 4  # a process; sshd begins to turn away beyond ten that are still logging in (MaxStartups)
WINDOW_BYTES = 4 << 20  # on the way at once: a link of 100 ms stays full up to 40 MB/s
WINDOW_REQUESTS = 64
_LEAST_LENGTH = 32 << 10  # what every server takes
_MOST_LENGTH = 256 << 10
_MOST_REPLY = 1 << 20
_SEND_BYTES = 64 << 10

_CONNECT_PAUSES = (0.1, 0.3, 1.0)  # a server that has too many logging in closes some of them unheard
_END_SECONDS = 2.0

# Whatever ~/.ssh/config says: never ask, never take a host key unseen, nothing but the files.
_SSH_OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    "LogLevel=ERROR",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "ControlMaster=no",  # a connection that the user keeps is used, but none is left behind
    f"ConnectTimeout={CONNECT_SECONDS}",
    f"ServerAliveInterval={KEEP_ALIVE_SECONDS}",
    f"ServerAliveCountMax={KEEP_ALIVE_COUNT}",
)


class Lost(Exception):
    """The connection ended amid an exchange; what was asked may have been done. ``error`` says it for people."""

    def __init__(self, error: PghavenError, is_worth_another_try: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.is_worth_another_try = is_worth_another_try


class Link:
    """One ``ssh`` and the SFTP session it carries."""

    def __init__(self, settings: SshSettings) -> None:
        """Connect. Raises StoreUnreachable, NotPermitted, Refused."""
        self._settings = settings
        self._where = settings.place
        self._said = os.memfd_create("ssh-stderr", os.MFD_CLOEXEC)
        ours, theirs = socket.socketpair()
        options = [word for option in _SSH_OPTIONS for word in ("-o", option)]
        *words, host = settings.words
        try:
            self._process = subprocess.Popen(
                [*words, *options, "-s", "--", host, "sftp"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._said,
                start_new_session=True,  # an interrupt at the terminal is ours to handle, and nothing can ask there
            )
        except OSError as error:
            ours.close()
            os.close(self._said)
            raise StoreUnreachable(
                f'could not run "ssh" to reach {self._where}: {error.strerror}',
                hint="Install OpenSSH's client (Debian: openssh-client).",
            ) from error
        finally:
            theirs.close()
        ours.settimeout(settings.answer_seconds)
        self._socket = ours
        self._incoming = ours.makefile("rb", buffering=256 << 10)
        self._outgoing: list[bytes] = []
        self._waiting: deque[int] = deque()
        self._early: dict[int, Reply] = {}
        self._number = 0
        self._is_open = True
        self._action = "could not connect to"
        self.read_length = self.write_length = _LEAST_LENGTH
        try:
            self._greet()
            self._action = "lost the connection to"
        except Lost as lost:
            raise lost.error from None
        except BaseException:
            self.close()
            raise

    def ask(self, requests: Iterable[Request]) -> list[Reply]:
        """All replies, in the order of the requests. Raises Lost."""
        return list(self.stream(requests))

    def stream(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Replies in the order of the requests, of which many are on the way at once. Raises Lost.

        Draft, section 4.1: what concerns one file is done in the order it was sent.
        """
        on_the_way = 0
        sizes: deque[int] = deque()
        for request in requests:
            size = max(request.data_bytes, self.read_length)
            while sizes and (len(sizes) >= WINDOW_REQUESTS or on_the_way + size > WINDOW_BYTES):
                on_the_way -= sizes.popleft()
                yield self._receive()
            self._send(request)
            sizes.append(size)
            on_the_way += size
        while sizes:
            sizes.popleft()
            yield self._receive()

    def do(self, request: Request) -> Reply:
        """One request's reply. Raises Lost."""
        return self.ask([request])[0]

    @property
    def is_usable(self) -> bool:
        """Whether nothing is under way on it and its other end is still there."""
        if not self._is_open or self._waiting:
            return False
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return not poller.poll(0)  # unasked it says something only when it ends

    def close(self) -> None:
        """End it at once; ``ssh`` has ended when this returns."""
        if not self._is_open:
            return
        self._is_open = False
        self._incoming.close()
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._said)

    def _greet(self) -> None:
        self._outgoing.append(wire.render_hello())
        kind, rest = self._receive_packet()
        try:
            self.extensions = wire.parse_hello(kind, rest)
        except wire.NotSftp as error:
            raise self._lost(str(error)) from error
        if wire.LIMITS in self.extensions:
            longest_read, longest_write = wire.parse_limits(self.do(wire.ask_limits()))
            self.read_length = min(max(longest_read, _LEAST_LENGTH), _MOST_LENGTH)
            self.write_length = min(max(longest_write, _LEAST_LENGTH), _MOST_LENGTH)
        self.opens_directories = self._can_open_directories()

    def _can_open_directories(self) -> bool:
        """Whether directories can be opened as files, and so be flushed, which is asked of the one logged in to.

        Decided once: where they can, one that cannot later on is a failure, and no reason to go on without.
        """
        reply = self.do(wire.open_file(b".", wire.READ_ONLY))
        try:
            handle = wire.parse_handle(reply)
        except wire.Failed as failure:
            return failure.code in (wire.Status.NO_SUCH_FILE, wire.Status.PERMISSION_DENIED)
        self.do(wire.close(handle))
        return True

    def _send(self, request: Request) -> None:
        self._number = (self._number + 1) & 0xFFFFFFFF
        self._waiting.append(self._number)
        self._outgoing.append(request.render(self._number))
        if sum(map(len, self._outgoing)) >= _SEND_BYTES:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise self._lost(self._silence()) from error
        except OSError as error:
            raise self._lost(None) from error

    def _receive(self) -> Reply:
        number = self._waiting[0]
        while number not in self._early:
            kind, rest = self._receive_packet()
            if len(rest) < 4:
                raise self._lost("a reply without a number")
            self._early[struct.unpack_from(">I", rest)[0]] = Reply(kind, memoryview(rest)[4:])
        self._waiting.popleft()
        return self._early.pop(number)

    def _receive_packet(self) -> tuple[int, bytes]:
        if self._outgoing:
            self._flush()
        head = self._read(5)
        length, kind = struct.unpack(">IB", head)
        if not 1 <= length <= _MOST_REPLY:
            raise self._lost(f"it speaks no SFTP: {head!r}", _SHELL_HINT)
        return kind, self._read(length - 1)

    def _read(self, length: int) -> bytes:
        try:
            data: bytes = self._incoming.read(length)
        except TimeoutError as error:
            raise self._lost(self._silence()) from error
        except OSError as error:
            raise self._lost(None) from error
        if len(data) != length:
            raise self._lost(None)
        return data

    def _silence(self) -> str:
        return f"no answer for {self._settings.answer_seconds:g} seconds"

    def _lost(self, reason: str | None, hint: str | None = None) -> Lost:
        """End the link, and say why it ended: ``reason``, or what ssh said."""
        with suppress(subprocess.TimeoutExpired):  # its own words come before its end
            self._process.wait(0.0 if reason else _END_SECONDS)
        said = os.pread(self._said, 1 << 16, 0).decode(errors="replace")
        self.close()
        if reason is not None:
            return Lost(StoreUnreachable(f"{self._action} {self._where}: {reason}", hint=hint), False)
        return Lost(explain_ssh(self._action, said, self._process.returncode, self._settings), True)


_SHELL_HINT = 'The account\'s shell may print something at login; try "sftp" by hand.'


def explain_ssh(action: str, said: str, status: int, settings: SshSettings) -> PghavenError:
    """What ssh's last words on stderr mean."""
    where = settings.place
    lines = [line.strip() for line in said.splitlines() if line.strip().strip("@")]
    reason = lines[-1].rstrip(".") if lines else f"ssh ended with status {status}"
    by_hand = shlex.join(settings.words)
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return NotPermitted(
            f"could not connect to {where}: its host key is not the one that is known",
            hint="Somebody may be in between. When the server has a new key for a good reason, remove the old one with "
            f'"ssh-keygen -R" and accept the new one by running once, as this user: {by_hand}',
        )
    if "Host key verification failed" in said:
        return NotPermitted(
            f"could not connect to {where}: its host key is not known to this user",
            hint=f"Run once, as this user, and compare the fingerprint before accepting it: {by_hand}",
        )
    if "Permission denied" in reason or "Too many authentication failures" in said:
        return NotPermitted(
            f"could not log in to {where}: {reason}",
            hint=f"This must work as this user, without asking anything: {by_hand}",
        )
    if "subsystem request failed" in said:
        return Refused(f"could not use {where}: it offers no SFTP", hint='Its sshd_config needs "Subsystem sftp".')
    return StoreUnreachable(f"{action} {where}: {reason}", hint=f"Try it by hand: {by_hand}")


def _is_turned_away(error: PghavenError) -> bool:
    """Whether a server has closed a connection before any login, as it does when too many come at once."""
    words = ("kex_exchange_identification", "Connection closed by", "Connection reset by")
    return isinstance(error, StoreUnreachable) and any(word in error.message for word in words)


def connect(settings: SshSettings) -> Link:
    """A new link. Raises StoreUnreachable, NotPermitted, Refused."""
    for pause in _CONNECT_PAUSES:
        try:
            return Link(settings)
        except PghavenError as error:
            if not _is_turned_away(error):
                raise
        SYSTEM_CLOCK.sleep(pause * (1 + os.urandom(1)[0] / 255))
    return Link(settings)


class Links:
    """Lends links to threads, as many at once as ``MAX_LINKS``; they are kept for later, and end with the process."""

    def __init__(self, settings: SshSettings) -> None:
        self._settings = settings
        self._free = threading.Semaphore(MAX_LINKS)
        self._idle: list[Link] = []
        weakref.finalize(self, _close_all, self._idle)

    @contextmanager
    def lend(self) -> Iterator[Link]:
        """A link that is alive, as far as one can know. Never lend a second one to a thread that holds one."""
        with self._free:
            link = self._find_idle() or connect(self._settings)
            try:
                yield link
            except PghavenError:
                self._take_back(link)
                raise
            except BaseException:  # handles may have been left open at the far side, or answers be under way
                link.close()
                raise
            self._take_back(link)

    def close(self) -> None:
        """End those that nobody uses; more may be lent afterwards."""
        _close_all(self._idle)

    def _take_back(self, link: Link) -> None:
        if link.is_usable:
            self._idle.append(link)
        else:
            link.close()

    def _find_idle(self) -> Link | None:
        with suppress(IndexError):
            while True:
                link = self._idle.pop()
                if link.is_usable:
                    return link
                link.close()
        return None


def _close_all(links: list[Link]) -> None:
    while links:
        links.pop().close()


def cut(content: Sequence[Buffer], length: int) -> Iterator[tuple[list[Buffer], int]]:
    """The buffers, in order, as pieces of ``length`` bytes (the last one may be shorter), with each one's size."""
    piece: list[Buffer] = []
    size = 0
    for buffer in content:
        view = memoryview(buffer).cast("B") if memoryview(buffer).nbytes else memoryview(b"")
        while len(view):
            part = view[: length - size]
            piece.append(part)
            size += len(part)
            view = view[len(part) :]
            if size == length:
                yield piece, size
                piece, size = [], 0
    if size:
        yield piece, size
