"""Whether the server can write the rows of large tables into pipes of ours, and the way to have it do so.

The one idea: it is tried. A server that is another host's, that runs in a container, that may not write there, or whose
role may not have it write, shows that with one row before anything depends on it; then pg_dump passes on all rows.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pghaven.dump.programs import Calling
from pghaven.dump.relay import PATH_BYTES_MAX, Relay, name_socket, open_relay
from pghaven.dump.streams import STREAMED_BYTES_MIN
from pghaven.errors import PghavenError
from pghaven.server.connection import Connection, connect, fetch_one

# What is small passes through the relay, which costs more than it saves where most is.
_LARGE_SHARE = 0.5
# Of options of pg_dump, which takes beginnings of their names too: the role that it becomes may have less rights than
# the one that was tried.
_OTHER_ROLE = "--rol"
_NOT_WITH = ("hostaddr", "requirepeer", "service")
_NOT_WITH_VARIABLES = ("PGHOSTADDR", "PGREQUIREPEER", "PGSERVICE")
_TRIAL_SECONDS = 5
_SOCKETS = "s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How pg_dump is to connect, and the relay that it does so through, if there is one."""

    conninfo: str
    relay: Relay | None = None


@contextmanager
def open_way(
    calling: Calling, name: str, sizes: Mapping[int, int], *, directory: str, options: Sequence[str]
) -> Iterator[Way]:
    """The way to one database, whose tables have these ``sizes``, for a pg_dump with these ``options``. ``directory``
    is one of ours that pg_dump's user can enter, and the pipes will be below it."""
    conninfo = calling.with_database(name)
    way, place = Way(conninfo=conninfo), os.path.join(directory, _SOCKETS)
    is_worth_it = _is_worth_it(sizes) and not any(option.startswith(_OTHER_ROLE) for option in options)
    with ExitStack() as stack:
        # What cannot be done this way can be done the other; what is wrong with the server pg_dump says.
        with suppress(PghavenError, OSError, psycopg.Error):
            if is_worth_it and (found := _find_server(calling, conninfo, directory)) is not None:
                os.mkdir(place, 0o700)
                stack.callback(shutil.rmtree, place)
                _give(place, calling)
                relay = stack.enter_context(open_relay(place, *found, calling.user))
                way = Way(conninfo=make_conninfo(conninfo, host=place, port=found[1]), relay=relay)
        yield way


def _is_worth_it(sizes: Mapping[int, int]) -> bool:
    large = sum(size for size in sizes.values() if size >= STREAMED_BYTES_MIN)
    return large > _LARGE_SHARE * sum(sizes.values())


def _find_server(calling: Calling, conninfo: str, directory: str) -> tuple[str, int] | None:
    """The directory of the server's socket, and its port, if it can be reached through another one and writes into a
    pipe of ours."""
    parameters = conninfo_to_dict(conninfo)
    if any(parameters.get(name) for name in _NOT_WITH) or any(os.environ.get(name) for name in _NOT_WITH_VARIABLES):
        return None
    # A path is written into a statement, whatever the client's encoding is; a socket's has little room.
    if not directory.isascii() or not directory.isprintable() or "\\" in directory or "'" in directory:
        return None
    with connect(conninfo, os_user=None if calling.user is None else calling.user.name) as connection:
        host, port = connection.info.host, connection.info.port
        if not host.startswith("/") or connection.pgconn.used_password:
            return None  # libpq looks a password up by the socket's directory
        if len(os.path.join(directory, _SOCKETS, name_socket(port))) > PATH_BYTES_MAX:
            return None
        return (host, port) if _try(connection, os.path.join(directory, "trial"), calling) else None


def _try(connection: Connection, path: str, calling: Calling) -> bool:
    (may_write,) = fetch_one(connection, "SELECT pg_has_role(current_user, 'pg_write_server_files', 'USAGE')")
    if not may_write:
        return False
    token = secrets.token_hex(16)
    os.mkfifo(path, 0o600)
    try:
        _give(path, calling)
        pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            connection.execute(f"SET statement_timeout = '{_TRIAL_SECONDS}s'")
            connection.execute(f"COPY (SELECT '{token}') TO '{path}'".encode())
            return os.read(pipe, 2 * len(token)) == token.encode() + b"\n"
        finally:
            os.close(pipe)
    finally:
        os.unlink(path)


def _give(path: str, calling: Calling) -> None:
    if calling.user is not None and os.geteuid() == 0:
        os.chown(path, calling.user.uid, calling.user.gid, follow_symlinks=False)
