"""The short way of ``wal push``: ask the agent of this host, through its socket in the server's own ``pg_wal``.

The one idea: PostgreSQL starts a program for every WAL file, and nearly all that it costs is what it imports. So this
imports nothing beyond what an interpreter has in it, and hands the name to the agent, which has everything loaded.
Whoever gets no answer does the work itself; whoever waits for one does not wait for longer than a push may take.

A request is its fields, joined by zero bytes, up to the end of what is sent. The agent says at once that it has taken
it and by when it will have answered, ``+SECONDS`` and a line feed; then the exit status, a line feed, and what is to be
told on standard error.
"""

from __future__ import annotations

import _socket
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKET_NAME = "agent"
SOCKET_PATH = f"pg_wal/pghaven/{SOCKET_NAME}"
"""In the data directory, where PostgreSQL runs its commands: a path of its own might be too long for a socket."""

PUSH, PING = "push", "ping"
REQUEST_BYTES_MAX = 16 << 10

_DIRECTORY = "pg_wal/"
_TAKEN_SECONDS = 2.0
"""An agent that has not even taken a request by then hangs, or the host is that busy that one more try costs little."""
_SLACK_SECONDS = 3.0
_READ_BYTES = 64 << 10
_STATUS_CANCELLED = 18


def ask_agent(words: Sequence[str]) -> tuple[int | None, float]:
    """Have the agent do what ``pghaven wal push`` with these words would; its exit status, or None when the caller is
    to do it, and the seconds that asking took. What the agent has to tell goes to standard error.

    Only the words that ``archive_command`` is given are handed on. Variables that change the configuration are this
    process's own, so with any of them the agent is not asked.
    """
    if len(words) != 5 or words[0] != "--config" or words[2] != "--cluster" or not words[4].startswith(_DIRECTORY):
        return None, 0.0
    name = words[4][len(_DIRECTORY) :]
    if not name or "/" in name or any(variable.startswith("PGHAVEN_") for variable in os.environ):
        return None, 0.0
    began = time.monotonic()
    answer = ask(SOCKET_PATH, (PUSH, words[1], words[3], name))
    if answer is None:
        return None, time.monotonic() - began
    status, text = answer
    _tell(text)
    return status, time.monotonic() - began


def ask(path: str, fields: Sequence[str]) -> tuple[int, bytes] | None:
    """The agent's answer, as an exit status and what it tells; None when there is no agent, it does not take the
    request, or it ends while it works on it."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.settimeout(_TAKEN_SECONDS)
        connection.connect(path)
        connection.sendall(b"\0".join([os.fsencode(field) for field in fields]))
        connection.shutdown(_socket.SHUT_WR)
        taken, _, rest = connection.recv(_READ_BYTES).partition(b"\n")
        if not taken.startswith(b"+"):
            return None
        return _wait(connection, float(taken[1:]) + _SLACK_SECONDS, rest)
    except (OSError, ValueError):
        return None
    finally:
        connection.close()


def _wait(connection: _socket.socket, seconds: float, received: bytes) -> tuple[int, bytes] | None:
    deadline = time.monotonic() + seconds
    try:
        while True:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            data = connection.recv(_READ_BYTES)
            if not data:
                break
            received += data
    except TimeoutError:
        late = f"pghaven: error: the agent has not answered within {seconds:.0f} s\nHINT:  The server will try again.\n"
        return _STATUS_CANCELLED, late.encode()
    status, separator, text = received.partition(b"\n")
    return (int(status), text) if separator else None


def _tell(text: bytes) -> None:
    try:
        while text:
            text = text[os.write(2, text) :]
    except OSError:
        return
