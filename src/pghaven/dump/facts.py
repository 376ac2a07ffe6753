"""What a dump says of itself, as values and as the JSON file that lies among its files.

The one idea: a dump is loaded into another server, months later, so whatever that server must have is written down when
the dump is taken, out of the same snapshot: roles, extensions, encodings, and what each table's data was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pghaven.dump.options import NOT_COPY
from pghaven.errors import Damaged

FACTS_FILE = "dump.json"
GLOBALS_FILE = "globals.sql"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """A table's data. ``file`` is its name in the database's directory; ``hash`` the first 16 bytes of the BLAKE3 hash
    of what is in it, in hexadecimal; ``sketch`` the hashes of some rows, see ``rows.sketch_rows``; ``anchors`` rows
    by which places in it are known again, see ``anchors``."""

    oid: int
    schema: str
    name: str
    file: str
    rows: int
    size_bytes: int
    hash: str
    sketch: str = ""
    anchors: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """One database of a dump; its files lie in the directory ``databases/<oid>``, in pg_dump's directory format.

    ``locale`` is that of a provider other than the C library's, or empty. ``extensions`` are names and versions,
    ``roles`` those that own something or are granted something, ``tablespaces`` those of its tables and indexes other
    than the default ones. ``lsn`` is about where the snapshot lies. ``settings`` are those of pg_dump's session that
    decide how values are written.
    """

    oid: int
    name: str
    owner: str
    encoding: str
    collate: str
    ctype: str
    locale_provider: str
    locale: str
    tablespace: str
    lsn: str
    taken_at: str
    extensions: tuple[tuple[str, str], ...]
    roles: tuple[str, ...]
    tablespaces: tuple[str, ...]
    tables: tuple[TableFacts, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def directory(self) -> str:
        return f"databases/{self.oid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpFacts:
    """``server_version`` and ``program_version`` as the server and pg_dump say; ``options`` were passed to pg_dump.
    ``archive`` is how the dump is written out where nothing else is asked for: a directory or a custom archive."""

    server_version: str
    program_version: str
    options: tuple[str, ...]
    databases: tuple[DatabaseFacts, ...]
    archive: str = "directory"

    @property
    def rows(self) -> int | None:
        """Of all its tables; None where the data are statements, which nobody has counted."""
        if any(option.startswith(NOT_COPY) for option in self.options):
            return None
        return sum(table.rows for one in self.databases for table in one.tables)

    def get(self, name: str) -> DatabaseFacts | None:
        return next((one for one in self.databases if one.name == name), None)


def render_facts(facts: DumpFacts) -> bytes:
    return json.dumps({"format": FORMAT, **asdict(facts)}, indent=1).encode() + b"\n"


def parse_facts(content: bytes) -> DumpFacts:
    """The reverse. Raises Damaged for anything else, and for one of a later format."""
    try:
        body = json.loads(content)
        if body["format"] != FORMAT:
            raise Damaged(
                f"{FACTS_FILE} of the dump is of format {body['format']!r}; this pghaven reads {FORMAT}",
                hint="Use a newer pghaven.",
            )
        return DumpFacts(
            server_version=str(body["server_version"]),
            program_version=str(body["program_version"]),
            options=tuple(str(one) for one in body["options"]),
            databases=tuple(_parse_database(one) for one in body["databases"]),
            archive=str(body.get("archive", "directory")),  # dumps of early versions do not say
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{FACTS_FILE} of the dump is damaged ({error!r})") from error


def _parse_database(body: Mapping[str, Any]) -> DatabaseFacts:
    known = {name: body[name] for name in DatabaseFacts.__slots__ if name != "settings"}
    # Dumps of early versions have no settings.
    for name, pairs in (("extensions", known["extensions"]), ("settings", body.get("settings", ()))):
        known[name] = tuple((str(one), str(other)) for one, other in pairs)
    known["tables"] = tuple(map(_parse_table, known["tables"]))
    for name in ("roles", "tablespaces"):
        known[name] = tuple(str(one) for one in known[name])
    return DatabaseFacts(**known)


def _parse_table(body: Mapping[str, Any]) -> TableFacts:
    known = {name: body[name] for name in TableFacts.__slots__ if name != "anchors"}
    return TableFacts(**known, anchors=str(body.get("anchors", "")))  # those of early versions have none
