"""What pg_restore is told to load of a dump.

The one idea: whole databases are pg_restore's business; of parts it lists what it would take, that is completed with
what belongs to it, and from then on the list says what is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from pghaven.dump.archive import parse_contents
from pghaven.dump.parts import complete_parts, find_undumped_schemas, is_completed, look_at
from pghaven.dump.programs import Calling
from pghaven.events import Listener, Notice
from pghaven.server.connection import Connection, connect, server_errors

if TYPE_CHECKING:
    from pghaven.dump.load import LoadSettings

_TABLE = re.compile(r"TABLE (?!DATA |ATTACH )(\S+)")
_ENTRY = re.compile(r"([0-9]+); [0-9]+ [0-9]+ (.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """``arguments`` choose it; ``entries`` are what they choose: numbers in the table of contents, and what each is."""

    arguments: tuple[str, ...]
    entries: tuple[tuple[str, str], ...]


def select(calling: Calling, settings: LoadSettings, place: str, listener: Listener) -> Selection:
    """What to load of the archive whose table of contents lies in ``place``/dump; a list may be written beside it.

    The database that is loaded into must be there. Raises ServerUnsuitable, Refused, Damaged.
    """
    parts = {"schema": ("--schema-only",), "data": ("--data-only",)}.get(settings.part, ())
    chosen = (
        *(f"--schema={name}" for name in settings.schemas),
        *(f"--table={name}" for name in settings.tables),
    )
    listed = _list(calling, (*parts, *chosen, *settings.options), place)
    is_part = bool(chosen) and is_completed(settings.options)
    if not listed.entries or settings.part == "data" or not (is_part or _lacks_schemas(listed)):
        return listed
    with open(os.path.join(place, "dump", "toc.dat"), "rb") as file:
        contents = parse_contents(file.read())
    numbers = {int(number) for number, _ in listed.entries}
    with connect(settings.conninfo, os_user=settings.os_user, dbname=settings.target) as connection:
        present = look_at(connection)
        _make_schemas(connection, find_undumped_schemas(contents.entries, numbers) - present.schemas, listener)
    if not is_part:
        return listed
    completed = complete_parts(contents.entries, numbers, present, of_tables=bool(settings.tables))
    for text in completed.left_out:
        listener(Notice(level="warning", code="left_out", text=text))
    path = os.path.join(place, "list")
    with open(path, "w") as file:
        file.writelines(f"{one.dump_id};\n" for one in contents.entries if one.dump_id in completed.numbers)
    give(calling, place)
    return _list(calling, (f"--use-list={path}", *parts, *settings.options), place)


def _lacks_schemas(listed: Selection) -> bool:
    """Whether tables may be in schemas that are not among the entries, as where pg_dump was given tables."""
    made = {what.split(" ")[2] for _, what in listed.entries if what.startswith("SCHEMA - ")}
    tables = (match for _, what in listed.entries if (match := _TABLE.match(what)) is not None)
    return any(match[1] not in made | {"public"} for match in tables)


def _make_schemas(connection: Connection, names: Set[str], listener: Listener) -> None:
    for name in sorted(names):
        listener(
            Notice(level="info", code="schema_made", text=f'schema "{name}" is made: the dump has only what is in it')
        )
        with server_errors(connection, f'create schema "{name}"', privilege="CREATE"):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))


def _list(calling: Calling, arguments: tuple[str, ...], place: str) -> Selection:
    command = ["--list", *arguments, os.path.join(place, "dump")]
    listed = calling.run("pg_restore", command, doing="read the dump's contents")
    matches = (_ENTRY.match(line) for line in listed.decode("utf-8", "replace").splitlines())
    return Selection(arguments=arguments, entries=tuple((match[1], match[2]) for match in matches if match is not None))


def give(calling: Calling, place: str) -> None:
    """Let pg_restore's user read what we have written below ``place``."""
    if calling.user is None or os.geteuid() != 0:
        return
    for directory, _, names in os.walk(place):
        for path in (directory, *(os.path.join(directory, name) for name in names)):
            os.chown(path, calling.user.uid, calling.user.gid)
