"""Whether an agent serves a data directory, as whoever knocks at its door finds out.

The one idea: an agent that ends takes its socket away, so a socket that nobody listens to was left by one that was
killed, and is told of; where there is none, no agent is missed.
"""

from __future__ import annotations

import os
from enum import StrEnum

from pghaven.wal.asking import PING, SOCKET_PATH, ask

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class AgentState(StrEnum):
    RUNNING = "running"
    SILENT = "silent"
    """There is a socket, and no answer: it was killed, or hangs."""
    NONE = "none"
    """Nobody serves there, or it cannot be seen from here."""


def find_agent(data_directory: str) -> AgentState:
    """Ask it. Takes up to some seconds for one that hangs."""
    try:
        # The path of a socket has no room for that of any data directory.
        directory = os.open(data_directory, _DIRECTORY)
    except OSError:
        return AgentState.NONE
    try:
        path = f"/proc/self/fd/{directory}/{SOCKET_PATH}"
        if not os.path.lexists(path):
            return AgentState.NONE
        return AgentState.SILENT if ask(path, (PING,)) is None else AgentState.RUNNING
    finally:
        os.close(directory)
