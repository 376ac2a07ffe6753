"""What stands in the way of a load, found before anything is changed.

The one idea: everything that can be known to fail is told at once, and of what is loaded alone: what the rest of the
dump would need does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from pghaven.dump.facts import DatabaseFacts
from pghaven.dump.needs import Needs
from pghaven.events import Listener, Notice
from pghaven.server.connection import Connection, fetch_one, server_errors

_NO_ENCODING = "SQL_ASCII"
_ANY_ENCODING = "UTF8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """What is to be loaded where. ``is_there``: the database ``target`` is; ``makes_it`` and ``makes_globals``: it,
    or roles and tablespaces, are made. ``encoding`` is that of the dump's data, ``program`` the version of the pg_dump
    that made it."""

    database: DatabaseFacts
    target: str
    is_there: bool
    makes_it: bool
    makes_globals: bool
    needs: Needs
    encoding: str
    program: str
    program_major: int


def find_obstacles(connection: Connection, loading: Loading) -> tuple[str, ...]:
    """Everything for which the load would fail, in words."""
    with server_errors(connection, "look at the target"):
        return tuple(_iter_obstacles(connection, loading))


def _iter_obstacles(connection: Connection, loading: Loading) -> Iterator[str]:
    if loading.is_there and loading.makes_it:
        yield f'there is a database "{loading.target}" already'
    if not loading.is_there and not loading.makes_it:
        yield f'there is no database "{loading.target}"'
    version = int(fetch_one(connection, "SELECT current_setting('server_version_num')::int")[0])
    if version // 10000 < loading.program_major:
        yield (
            f"the dump was made by pg_dump {loading.program}, and the server is of the older version {version // 10000}"
        )
    needs = loading.needs
    if not loading.makes_globals:
        for name in _list_lacking(connection, needs.roles, "SELECT rolname::text FROM pg_roles"):
            yield f'role "{name}" is missing'
        for name in _list_lacking(connection, needs.tablespaces, "SELECT spcname::text FROM pg_tablespace"):
            yield f'tablespace "{name}" is missing'
    versions = dict(loading.database.extensions)
    query = "SELECT name::text FROM pg_available_extensions"
    for name in _list_lacking(connection, needs.extensions, query):
        yield f'extension "{name}" (version {versions.get(name, "unknown")} in the dump) is not installed on the server'
    if loading.is_there:
        yield from _find_encodings(connection, loading)


def _list_lacking(connection: Connection, names: Set[str], query: str) -> list[str]:
    if not names:
        return []
    return sorted(names - {str(row[0]) for row in connection.execute(query.encode())})


def _find_encodings(connection: Connection, loading: Loading) -> Iterator[str]:
    """What the dump is written in the server turns into what it was before, and anything into UTF8."""
    query = "SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = %s"
    there = str(fetch_one(connection, query, loading.target)[0])
    written, before = loading.encoding, loading.database.encoding
    if there == written:
        return
    if written == _NO_ENCODING:
        # Rows that are sent as SQL_ASCII are not checked by COPY: what is no UTF8 would be found when it is read.
        if there != before:
            yield (
                f'database "{loading.target}" has encoding {there}, and the dump {written}: bytes that the server '
                "would take as they are"
            )
    elif there not in (before, _ANY_ENCODING):
        yield f'database "{loading.target}" has encoding {there}, the dump {written}'


def advise(obstacles: Sequence[str]) -> str | None:
    """What to do about them."""
    if any(one.startswith(("role ", "tablespace ")) for one in obstacles):
        return "--globals makes what is missing; --no-owner with --no-acl, or --no-tablespaces, does without."
    if any("bytes that the server" in one for one in obstacles):
        return (
            "--create makes a database that takes any bytes. A dump with --option=--encoding=NAME says what they are, "
            "and is checked."
        )
    if any("there is no database" in one for one in obstacles):
        return "--create makes it."
    if any("already" in one for one in obstacles):
        return "Choose another name with --into, or leave --create out to load into it."
    return None


def tell_extensions(
    connection: Connection, database: DatabaseFacts, listener: Listener, *, names: Set[str] | None = None
) -> None:
    """Say which extensions, of these ``names`` or of all, the server has, but not in the version that was dumped:
    pg_restore makes its default one."""
    wanted = [(name, version) for name, version in database.extensions if names is None or name in names]
    if not wanted:
        return
    with server_errors(connection, "look for extensions"):
        rows = connection.execute("SELECT name::text, version FROM pg_available_extension_versions").fetchall()
    available = {(str(name), str(version)) for name, version in rows}
    for name, version in wanted:
        if (name, version) not in available:
            there = ", ".join(sorted(one for other, one in available if other == name))
            text = f'extension "{name}" was dumped in version {version}, and the server has {there}'
            hint = "What was made with the dumped version may not load, or do other than it did."
            listener(Notice(level="warning", code="extension_version", text=text, hint=hint))
