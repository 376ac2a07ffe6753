"""What pg_restore is told to load of a dump.

The one idea: whole databases are pg_restore's business; of parts it lists what it would take, that is completed with
what belongs to it, and from then on the list says what is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from psycopg import sql

from pghaven.dump.archive import ArchiveEntry, parse_contents
from pghaven.dump.facts import DatabaseFacts
from pghaven.dump.needs import Needs, find_extensions, find_needs
from pghaven.dump.parts import Present, complete_parts, find_undumped_schemas, is_completed, look_at
from pghaven.dump.programs import Calling
from pghaven.dump.properties import find_properties
from pghaven.errors import Refused
from pghaven.events import Listener, Notice
from pghaven.server.connection import connect, server_errors

if TYPE_CHECKING:
    from pghaven.dump.load import LoadSettings

_TABLE = re.compile(r"TABLE (?!DATA |ATTACH )(\S+)")
_ENTRY = re.compile(r"([0-9]+); [0-9]+ [0-9]+ (.*)")
_NEW_DATABASE: tuple[Present, Set[str]] = (Present(schemas=frozenset(("public",))), frozenset(("plpgsql",)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """``arguments`` choose it; ``entries`` are what they choose: numbers in the table of contents, and what each is.
    ``schemas`` have to be made before, since the dump has only what is in them; ``properties`` are given to the
    database afterwards. ``encoding`` is that of its data."""

    arguments: tuple[str, ...]
    entries: tuple[tuple[str, str], ...]
    schemas: tuple[str, ...] = ()
    properties: tuple[ArchiveEntry, ...] = ()
    needs: Needs = field(default_factory=Needs)
    encoding: str = ""

    @property
    def numbers(self) -> Set[int]:
        return {int(number) for number, _ in self.entries}


def select(
    calling: Calling, settings: LoadSettings, place: str, database: DatabaseFacts, means: tuple[bool, Listener]
) -> Selection:
    """What to load of the archive whose table of contents lies in ``place``/dump; a list may be written beside it.
    ``means``: whether the database that is loaded into is there, else it is one as it is made; and who is told what is
    left out. Changes nothing.

    Raises ServerUnsuitable, Damaged, Refused for parts of an archive that a later pg_dump made.
    """
    is_there, listener = means
    parts = {"schema": ("--schema-only",), "data": ("--data-only",)}.get(settings.part, ())
    chosen = (
        *(f"--schema={name}" for name in settings.schemas),
        *(f"--table={name}" for name in settings.tables),
    )
    listed = _list(calling, (*parts, *chosen, *settings.options), place)
    is_part = bool(chosen) and is_completed(settings.options)
    with open(os.path.join(place, "dump", "toc.dat"), "rb") as file:
        toc = file.read()
    try:
        contents = parse_contents(toc)
    except Refused:
        if is_part:
            raise
        return replace(listed, needs=_foresee_needs(database), encoding=database.encoding)
    if listed.entries and settings.part != "data" and (is_part or _lacks_schemas(listed)):
        present, extensions = _look_at(settings) if is_there else _NEW_DATABASE
        schemas = find_undumped_schemas(contents.entries, listed.numbers) - present.schemas
        if is_part:
            completed = complete_parts(contents.entries, listed.numbers, present, of_tables=bool(settings.tables))
            for text in completed.left_out:
                listener(Notice(level="warning", code="left_out", text=text))
            numbers = completed.numbers | find_extensions(contents.entries, completed.numbers, extensions)
            path = os.path.join(place, "list")
            with open(path, "w") as file:
                file.writelines(f"{one.dump_id};\n" for one in contents.entries if one.dump_id in numbers)
            give(calling, place)
            listed = _list(calling, (f"--use-list={path}", *parts, *settings.options), place)
        listed = replace(listed, schemas=tuple(sorted(schemas)))
    if settings.create and settings.with_properties and not chosen and settings.part != "data":
        listed = replace(listed, properties=find_properties(contents.entries, settings.options))
    numbers = listed.numbers | {one.dump_id for one in listed.properties}
    needs = find_needs(contents.entries, numbers, settings.options)
    return replace(listed, needs=needs, encoding=contents.encoding or database.encoding)


def _look_at(settings: LoadSettings) -> tuple[Present, Set[str]]:
    """What is in the database that is loaded into, and its extensions."""
    with connect(settings.conninfo, os_user=settings.os_user, dbname=settings.target) as connection:
        present = look_at(connection)
        with server_errors(connection, "look at the database"):
            extensions = connection.execute("SELECT extname::text FROM pg_extension").fetchall()
    return present, {str(name) for (name,) in extensions}


def _foresee_needs(database: DatabaseFacts) -> Needs:
    """What anything of the database needs, as it was written down when it was dumped."""
    extensions = frozenset(name for name, _ in database.extensions)
    return Needs(
        roles=frozenset(database.roles),
        tablespaces=frozenset(database.tablespaces),
        extensions=extensions,
    )


def make_schemas(settings: LoadSettings, selection: Selection, listener: Listener) -> None:
    """Those without which nothing of the selection can be made. Raises NotPermitted, ServerUnsuitable."""
    if not selection.schemas:
        return
    with connect(settings.conninfo, os_user=settings.os_user, dbname=settings.target) as connection:
        for name in selection.schemas:
            text = f'schema "{name}" is made: the dump has only what is in it'
            listener(Notice(level="info", code="schema_made", text=text))
            with server_errors(connection, f'create schema "{name}"', privilege="CREATE"):
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))


def _lacks_schemas(listed: Selection) -> bool:
    """Whether tables may be in schemas that are not among the entries, as where pg_dump was given tables."""
    made = {what.split(" ")[2] for _, what in listed.entries if what.startswith("SCHEMA - ")}
    tables = (match for _, what in listed.entries if (match := _TABLE.match(what)) is not None)
    return any(match[1] not in made | {"public"} for match in tables)


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
