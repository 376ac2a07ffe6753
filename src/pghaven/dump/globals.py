"""Roles and tablespaces: what a dump's globals would change on a server, and making what is missing there.

The one idea: loading a database must never change a role that a server has already, so only what is missing is made,
and the rest is shown. What is compared are statements, as pg_dumpall writes them for both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pghaven.server.connection import Connection, server_errors

_NAME = r'("(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*)'
_SUBJECT = re.compile(rf"(CREATE ROLE|ALTER ROLE|CREATE TABLESPACE|ALTER TABLESPACE) {_NAME}")
_GRANTED = re.compile(rf"GRANT {_NAME}(?:, {_NAME})* TO {_NAME}")
_ON_TABLESPACE = re.compile(rf"(?:GRANT|REVOKE) .* ON TABLESPACE {_NAME} ")
_COMMENT = re.compile(rf"COMMENT ON (ROLE|TABLESPACE) {_NAME} ")
_PASSWORD = re.compile(r"( PASSWORD )'(?:[^']|'')*'")
_BY = re.compile(r" GRANTED BY .*;$")


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalChange:
    """A statement of a dump's globals that the server does not have. ``is_missing``: what it is about is not there at
    all, so that making it changes nothing."""

    statement: str
    is_missing: bool

    def __str__(self) -> str:
        """As it is, without a password."""
        return _PASSWORD.sub(r"\1'...'", self.statement)


def compare_globals(dumped: bytes, there: bytes) -> tuple[GlobalChange, ...]:
    """What the globals of a dump would change where those of the server are ``there``; both as pg_dumpall writes."""
    theirs = {_without_password(one) for one in iter_statements(there)}
    roles, tablespaces = list_names(there)
    found = []
    for statement in iter_statements(dumped):
        if _without_password(statement) in theirs:
            continue
        kind, names = _find_subjects(statement)
        if kind is not None:
            known = roles if kind == "ROLE" else tablespaces
            found.append(GlobalChange(statement=statement, is_missing=any(name not in known for name in names)))
    return tuple(found)


def make_missing(connection: Connection, changes: Sequence[GlobalChange]) -> None:
    """Make the roles and tablespaces that are missing. Raises ServerUnsuitable, NotPermitted with the statement.

    Not by psql, to which what is in a repository could give commands of its own.
    """
    for one in changes:
        if one.is_missing:
            with server_errors(connection, f"make what the dump's roles and tablespaces need ({one})"):
                connection.execute(one.statement.encode("utf-8", "surrogateescape"))


def list_names(globals_sql: bytes) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the roles and of the tablespaces that are created there."""
    roles: set[str] = set()
    tablespaces = {"pg_default", "pg_global"}
    for statement in iter_statements(globals_sql):
        match = _SUBJECT.match(statement)
        if match is not None and match[1].startswith("CREATE"):
            (roles if match[1].endswith("ROLE") else tablespaces).add(_unquote(match[2]))
    return frozenset(roles), frozenset(tablespaces)


def iter_statements(script: bytes) -> Iterator[str]:
    """The SQL statements of what pg_dumpall --globals-only writes, without comments and psql's own commands."""
    statement: list[str] = []
    for line in script.decode("utf-8", "surrogateescape").splitlines():
        if not statement and (not line.strip() or line.startswith(("--", "\\"))):
            continue
        statement.append(line)
        text = "\n".join(statement)
        if line.endswith(";") and not text.count("'") % 2 and not text.count('"') % 2:
            yield text
            statement = []


def _find_subjects(statement: str) -> tuple[str | None, tuple[str, ...]]:
    match = _SUBJECT.match(statement)
    if match is not None:
        return match[1].rpartition(" ")[2], (_unquote(match[2]),)
    match = _COMMENT.match(statement)
    if match is not None:
        return match[1], (_unquote(match[2]),)
    match = _ON_TABLESPACE.match(statement)
    if match is not None:
        return "TABLESPACE", (_unquote(match[1]),)
    match = _GRANTED.match(statement)
    if match is not None:
        return "ROLE", (_unquote(match[1]), _unquote(match[3]))
    return None, ()


def _without_password(statement: str) -> str:
    return _BY.sub(";", _PASSWORD.sub("", statement))


def _unquote(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
