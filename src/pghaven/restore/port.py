"""The port that a restored server will want, and who has it already.

The one idea: a copy beside its original is configured as the original is, its port included. That is known before
anything is copied, and so it is said then, not by the copy's server after hours of copying and replay.
"""

from __future__ import annotations

import errno
import re
import socket

from pghaven.errors import Damaged, ServerUnsuitable
from pghaven.events import Notice
from pghaven.repository.manifest import BackupFacts
from pghaven.restore.request import RestoreRequest
from pghaven.server.postmaster import is_running

_SOCKET = re.compile(r"/\.s\.PGSQL\.([0-9]+)$", re.MULTILINE)


def find_port_notice(request: RestoreRequest, facts: BackupFacts) -> Notice | None:
    """What to know before a restore beside the running original; None when that is not so, or cannot be seen."""
    original = _find_original_port(facts)
    if original is None or request.port not in (None, original):
        return None
    text = f'a server runs in "{facts.data_directory}", on port {original}: the restored one will want it too'
    return Notice(level="info", code="port", text=text, hint="Give the restored server one of its own with --port.")


def is_port_taken(port: int) -> bool:
    """Whether some program listens on this TCP port here; one that only has a socket in a directory is not seen."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As PostgreSQL sets it: connections that ended lately do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def is_server_beside(facts: BackupFacts) -> bool:
    """Whether the original runs on this host, and has its port."""
    return _find_original_port(facts) is not None


def find_free_port(facts: BackupFacts) -> int:
    """A port for a copy beside its original: the next one that nobody listens on, by TCP or at a socket in whatever
    directory, since where the copy will have its own its configuration says."""
    first = int(_find_original_port(facts) or 5432) + 1
    at_sockets = _list_socket_ports()
    for candidate in range(first, 65536):
        if candidate not in at_sockets and not is_port_taken(candidate):
            return candidate
    raise ServerUnsuitable(f"every port from {first} on is in use", hint="Give one with --port.")


def _list_socket_ports() -> set[int]:
    """The ports of this host's servers that have a Unix socket; one that a dead server left is nobody's."""
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
            return {int(port) for port in _SOCKET.findall(file.read())}
    except OSError:
        return set()


def _find_original_port(facts: BackupFacts) -> int | None:
    """Where the server listens that runs in the directory the backup was made of; it may have been moved since."""
    try:
        running = is_running(facts.data_directory)
    except (OSError, Damaged):
        return None  # somebody else's, or on another host
    return None if running is None else running.port
