"""Connections to PostgreSQL, and the one table that turns the driver's errors into ours.

The one idea: every session is made the same whatever the role's and database's settings are (names are resolved in
``pg_catalog`` only, nothing times out, text is UTF-8), so that the queries elsewhere need not defend themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pghaven.errors import NotPermitted, ServerUnsuitable, UsageError
from pghaven.server.identity import acting_as, get_os_user, must_switch
from pghaven.server.privileges import render_grant

Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT_SECONDS: Final = 10

# A backup's session is idle for as long as the copy takes; these keep it alive across firewalls and role settings.
_LIBPQ_DEFAULTS: Final = {
    "connect_timeout": (str(CONNECT_TIMEOUT_SECONDS), "PGCONNECT_TIMEOUT"),
    "application_name": ("pghaven", None),
    "client_encoding": ("UTF8", None),
    "keepalives_idle": ("60", None),
}
_SESSION: Final = """
    SET search_path = pg_catalog;
    SET default_transaction_read_only = off;
    SET statement_timeout = 0;
    SET lock_timeout = 0;
    SET idle_in_transaction_session_timeout = 0;
    SET idle_session_timeout = 0;
    SET datestyle = 'ISO, YMD';
    SET bytea_output = 'hex';
    SET standard_conforming_strings = on;
"""
_PREFIX: Final = "connection failed: "
# Where libpq repeats what it was given; but the name of an option that it does not know helps, and is no value.
_REPEATED: Final = re.compile(r'(after|:|in) ".*"', re.DOTALL)
_UNKNOWN_OPTION: Final = ("invalid connection option", "invalid URI query parameter")


def connect(conninfo: str, *, os_user: str | None = None, dbname: str | None = None) -> Connection:
    """A session in autocommit mode, for one thread. Blocks for 10 s at most unless ``conninfo`` says otherwise.

    ``os_user`` is the owner of the data directory: as root the connection over a socket is made under its identity, so
    that peer authentication works and the default database role is its name (root's ``.pgpass`` is not read then).
    ``dbname`` takes the place of the one in ``conninfo``. Raises UsageError for a malformed ``conninfo``,
    ServerUnsuitable with libpq's reason when the server does not let us in.
    """
    connection = open_connection(conninfo, os_user=os_user, more={} if dbname is None else {"dbname": dbname})
    with closing_on_error(connection), server_errors(connection, "prepare the session"):
        connection.execute(_SESSION)
    return connection


def open_connection(conninfo: str, *, os_user: str | None, more: Mapping[str, str]) -> Connection:
    """A connection as ``connect`` makes it, before the session is prepared; ``more`` takes the place of what is in
    ``conninfo``. Raises the same."""
    parameters = {**_complete(conninfo), **more}
    user = get_os_user(os_user) if os_user is not None and _uses_socket(parameters) and os.geteuid() == 0 else None
    try:
        with acting_as(user if must_switch(user) else None):
            return psycopg.connect(autocommit=True, prepare_threshold=None, **parameters)
    except psycopg.Error as error:
        raise _connection_failed(error, parameters) from error


@contextmanager
def closing_on_error(connection: Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def parse_conninfo(conninfo: str) -> dict[str, Any]:
    """What a connection string says, by libpq's names. Raises UsageError, which repeats nothing of it: what libpq could
    not make out, and quotes, may be a part of a password."""
    try:
        return conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError as error:
        reason = _one_line(str(error))
    if not reason.startswith(_UNKNOWN_OPTION):
        reason = _REPEATED.sub(r'\1 "…"', reason)
    raise UsageError(
        f"the connection string is not valid: {reason}",
        hint='It is written as for psql, such as "host=/var/run/postgresql dbname=postgres"; a value with a space in '
        "it stands in single quotes.",
    )


def _complete(conninfo: str) -> dict[str, Any]:
    parameters = parse_conninfo(conninfo)
    for name, (value, variable) in _LIBPQ_DEFAULTS.items():
        if variable is None or variable not in os.environ:
            parameters.setdefault(name, value)
    return parameters


def _uses_socket(parameters: dict[str, Any]) -> bool:
    """Whether any of the hosts may be a Unix socket: no host at all means libpq's default, which is one."""
    hosts = str(parameters.get("hostaddr") or parameters.get("host") or "")
    return any(not host or host.startswith(("/", "@")) for host in hosts.split(","))


def _connection_failed(error: psycopg.Error, parameters: dict[str, Any]) -> ServerUnsuitable:
    lines = [line.strip() for line in str(error).removeprefix(_PREFIX).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    hint = None
    if "Peer authentication failed" in reason:
        hint = "Run pghaven as root or as the operating-system user that owns the data directory."
    elif "No such file or directory" in reason or "Connection refused" in reason:
        hint = "Check that the server runs, and that conninfo names its host or socket directory and its port."
    database = f' to database "{parameters["dbname"]}"' if "dbname" in parameters else ""
    return ServerUnsuitable(f"could not connect{database}: {reason}", detail="\n".join(lines[1:]) or None, hint=hint)


@contextmanager
def server_errors(connection: Connection, doing: str, *, privilege: str | None = None) -> Iterator[None]:
    """The driver's errors inside the block become ours; ``doing`` completes "could not …".

    ``privilege`` is what the role needs for it, as in GRANT: a missing one raises NotPermitted with the statement
    that helps. Everything else raises ServerUnsuitable with the server's reason.
    """
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        role = connection.info.user
        hint = f"As a superuser, run: {render_grant(role, privilege)}" if privilege else error.diag.message_hint
        raise NotPermitted(
            f'role "{role}" may not {doing}: {error.diag.message_primary}', detail=error.diag.message_detail, hint=hint
        ) from error
    except psycopg.Error as error:
        reason = error.diag.message_primary or _one_line(str(error)) or type(error).__name__
        raise ServerUnsuitable(
            f"could not {doing}: {reason}", detail=error.diag.message_detail, hint=error.diag.message_hint
        ) from error


def fetch_one(connection: Connection, query: str, *parameters: object) -> tuple[Any, ...]:
    """The single row of a query that always gives one. Raises the driver's errors."""
    row = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None, query
    return row


def _one_line(text: str) -> str:
    return " ".join(text.split())
