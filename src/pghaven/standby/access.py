"""Whether a standby is let in by the server it is to follow, tried as it will be; and what opens the door.

The one idea: role, password and pg_hba.conf are not read and judged but tried, with the very connection string that the
standby gets. What is in the way is told by the server itself, and each answer has one remedy.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from psycopg.conninfo import conninfo_to_dict

from pghaven.errors import NotFound, NotPermitted, PghavenError, Refused, ServerUnsuitable
from pghaven.runtime.durable import OwnerOf, write_durably
from pghaven.server.connection import Connection, server_errors
from pghaven.server.identity import OsUser
from pghaven.server.postmaster import is_running
from pghaven.server.privileges import quote_identifier
from pghaven.server.probe import ServerFacts
from pghaven.server.settings_apply import reload_configuration
from pghaven.standby.upstream import Answer, ask_server

_NO_ENTRY = re.compile(r'no pg_hba\.conf entry for replication connection from host "([^"]+)", user "([^"]+)"')
_REJECTED = re.compile(r"pg_hba\.conf rejects replication connection")
_NO_ROLE = re.compile(r'role "(.+?)" does not exist')
_NO_REPLICATION = ("to start WAL sender", "replication role to start walsender")
_PASSWORD_WORDS = ("no password supplied", "password authentication failed")
_NO_LOGIN = "is not permitted to log in"
_FULL = ("max_wal_senders", "remaining connection slots", "too many clients")


class Obstacle(StrEnum):
    """What keeps a standby out."""

    NO_ROLE = "there is no such role"
    NO_ATTRIBUTE = "the role may not replicate"
    NO_ENTRY = "pg_hba.conf lets it not in"
    NOT_PROVEN = "the password is missing or wrong"
    NO_ROOM = "there is no connection left for it"
    UNREACHABLE = "the server does not answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """``reason`` is the server's own; ``hba_line`` the line that would let it in."""

    obstacle: Obstacle
    reason: str
    hba_line: str | None = None


def try_login(conninfo: str, *, os_user: str | None, with_history: bool = False) -> Answer | Refusal:
    """Log in as the standby will. Raises UsageError for a malformed ``conninfo``."""
    name = str(conninfo_to_dict(conninfo).get("application_name") or "pghaven")
    try:
        return ask_server(conninfo, name, os_user=os_user, with_history=with_history)
    except (ServerUnsuitable, NotPermitted) as error:
        return judge_refusal(f"{error.message}\n{error.detail or ''}", error.message)


def judge_refusal(text: str, reason: str) -> Refusal:
    """What a server's or libpq's words mean. Pure."""
    entry = _NO_ENTRY.search(text)
    if entry is not None:
        return Refusal(obstacle=Obstacle.NO_ENTRY, reason=reason, hba_line=render_hba_line(entry[1], entry[2]))
    if _REJECTED.search(text):
        return Refusal(obstacle=Obstacle.NO_ENTRY, reason=reason)
    if _NO_ROLE.search(text):
        return Refusal(obstacle=Obstacle.NO_ROLE, reason=reason)
    if _NO_LOGIN in text or any(words in text for words in _NO_REPLICATION):
        return Refusal(obstacle=Obstacle.NO_ATTRIBUTE, reason=reason)
    if any(words in text for words in _PASSWORD_WORDS):
        return Refusal(obstacle=Obstacle.NOT_PROVEN, reason=reason)
    if any(words in text for words in _FULL):
        return Refusal(obstacle=Obstacle.NO_ROOM, reason=reason)
    return Refusal(obstacle=Obstacle.UNREACHABLE, reason=reason)


def render_hba_line(host: str, role: str) -> str:
    """The line of pg_hba.conf that lets a role replicate from one address, by password."""
    quoted = quote_identifier(role)
    if host == "[local]":
        return f"local  replication  {quoted}  scram-sha-256"
    return f"host  replication  {quoted}  {host}/{128 if ':' in host else 32}  scram-sha-256"


# -- opening the door, with consent ---------------------------------------------------------------------------------


def add_hba_line(connection: Connection, facts: ServerFacts, line: str, why: str) -> str:
    """Append a line to the server's pg_hba.conf, if that lies on this host, and have it read; the file's path.

    Raises Refused, with the line and the place, where the file is out of reach.
    """
    path = facts.settings.get("hba_file", "")
    running = is_running(facts.data_directory) if os.path.isdir(facts.data_directory) else None
    if running is None or running.port != connection.info.port or not os.path.isfile(path):
        raise Refused(
            f"the server's {path or 'pg_hba.conf'} is not on this host",
            detail=f"It needs this line:\n{line}",
            hint="Add the line there, and have it read: SELECT pg_reload_conf()",
        )
    try:
        status = os.stat(path)
        with open(path, "rb") as file:
            text = file.read()
        added = f"\n# Added by pghaven: {why}\n{line}\n".encode()
        owner = OwnerOf(uid=status.st_uid, gid=status.st_gid)
        write_durably(os.path.realpath(path), text + added, status.st_mode & 0o777, owner)
    except PermissionError as error:
        raise NotPermitted(
            f'could not write "{path}": permission denied', hint=f"As its owner or root, add this line: {line}"
        ) from error
    reload_configuration(connection)
    return path


def make_role(connection: Connection, statement: str, role: str, password: str | None) -> None:
    """Run what ``needs.render_role_statement`` gave. A password is sent as a verifier, so that no log has it.

    Raises NotPermitted, ServerUnsuitable (on a standby: roles are made on its primary).
    """
    text = statement
    if password is not None:
        verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
        text += f" PASSWORD '{bytes(verifier).decode()}'"  # of letters, digits, $ : + / =
    with server_errors(connection, f'make role "{role}" one that replicates'):
        connection.execute(text.encode())


def make_password() -> str:
    return secrets.token_urlsafe(24)


def find_passfile(user: OsUser | None) -> str | None:
    """The password file of the user that runs the server, if there is one."""
    home = os.path.expanduser("~") if user is None else user.home
    path = os.path.join(home, ".pgpass")
    return path if os.path.isfile(path) else None


def add_password(path: str, conninfo: str, role: str, password: str, user: OsUser | None) -> None:
    """Add a line to a password file, which its owner alone can read. Durable when it returns.

    Raises NotPermitted, NotFound when its directory is not there.
    """
    parts = conninfo_to_dict(conninfo)
    host = str(parts.get("host") or "")
    named = host if host and "," not in host and not host.startswith("/") else "*"
    port = str(parts.get("port") or "*")
    fields = [named, port if "," not in port else "*", "*", role, password]
    line = ":".join(field.replace("\\", "\\\\").replace(":", "\\:") for field in fields)
    with _writing(path):
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            text = ""
        owner = None if user is None else OwnerOf(uid=user.uid, gid=user.gid)
        separator = "" if not text or text.endswith("\n") else "\n"
        write_durably(path, f"{text}{separator}{line}\n".encode(), 0o600, owner)


def explain(refusal: Refusal, role: str) -> PghavenError:
    """The refusal as an error with what helps."""
    hints = {
        Obstacle.NO_ROLE: f"As a superuser, run: CREATE ROLE {quote_identifier(role)} LOGIN REPLICATION",
        Obstacle.NO_ATTRIBUTE: f"As a superuser, run: ALTER ROLE {quote_identifier(role)} LOGIN REPLICATION",
        Obstacle.NO_ENTRY: f"Add this line to pg_hba.conf, and reload: {refusal.hba_line}"
        if refusal.hba_line
        else "A line of pg_hba.conf rejects it; take it out, or put one that lets it in before it.",
        Obstacle.NOT_PROVEN: "Put the password into a file as libpq reads it, for the server's user alone, and name "
        "that with --passfile.",
        Obstacle.NO_ROOM: "Raise max_wal_senders or max_connections there.",
        Obstacle.UNREACHABLE: "Check that the server runs, and that --upstream names its host and port.",
    }
    return ServerUnsuitable(
        f'role "{role}" cannot replicate from there: {refusal.reason}', hint=hints[refusal.obstacle]
    )


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise NotPermitted(
            f'could not write the password file "{path}": permission denied', hint="Name another with --passfile."
        ) from error
    except OSError as error:
        raise NotFound(
            f'could not write the password file "{path}": {error.strerror}', hint="Name another with --passfile."
        ) from error
