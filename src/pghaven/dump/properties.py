"""What a database has beside what is in it: its owner, grants, settings, and comment.

The one idea: pg_restore gives them only to a database that it makes itself, under the dumped name; so for one that is
made here, under any name, the statements of the table of contents are carried out with that name in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from psycopg import sql

from pghaven.dump.archive import ArchiveEntry
from pghaven.dump.globals import iter_statements
from pghaven.errors import PghavenError
from pghaven.events import Listener, Notice
from pghaven.server.connection import Connection, server_errors

_UNLESS = {
    "DATABASE": frozenset(("--no-owner", "-O")),
    "ACL": frozenset(("--no-acl", "--no-privileges", "-x")),
    "COMMENT": frozenset(("--no-comments",)),
    "SECURITY LABEL": frozenset(("--no-security-labels",)),
    "DATABASE PROPERTIES": frozenset[str](),
}
# A string or a quoted name is passed over whole, whatever it has in it.
_NAMED = re.compile(r"""'(?:[^']|'')*'|\bDATABASE ("(?:[^"]|"")*"|[\w$]+)|"(?:[^"]|"")*\"""")


def find_properties(entries: Sequence[ArchiveEntry], options: Sequence[str]) -> tuple[ArchiveEntry, ...]:
    """The entries that say what the database itself is like, without what these options of pg_restore leave out."""
    return tuple(
        one
        for one in entries
        if one.description in _UNLESS
        and not _UNLESS[one.description] & {*options}
        and (one.description.startswith("DATABASE") or (one.tag.startswith("DATABASE ") and not one.namespace))
    )


def give_properties(
    connection: Connection, properties: Sequence[ArchiveEntry], target: str, listener: Listener
) -> None:
    """Make the database ``target`` like the dumped one. What the server refuses is told, statement by statement: the
    rest is loaded by then."""
    for statement in _iter_statements(properties, target):
        try:
            with server_errors(connection, f'make database "{target}" as it was dumped'):
                connection.execute(statement.encode())
        except PghavenError as error:
            listener(Notice(level="warning", code="database_property", text=error.message, hint=f"It was: {statement}"))


def _iter_statements(properties: Sequence[ArchiveEntry], target: str) -> Iterator[str]:
    name = sql.Identifier(target).as_string(None)
    for one in properties:
        if one.description == "DATABASE":
            yield f"ALTER DATABASE {name} OWNER TO {sql.Identifier(one.owner).as_string(None)};"
            continue
        for statement in iter_statements(one.definition.encode()):
            yield _NAMED.sub(lambda match: f"DATABASE {name}" if match[1] else match[0], statement)
