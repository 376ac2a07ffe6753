"""Loading a dump into a server with pg_restore.

    choose → look at the target: roles, tablespaces, extensions, encoding → fetch what is needed → pg_restore

The one idea: everything that can be known to fail is found before anything is loaded, all of it at once; what fails all
the same stops the load with the object that failed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from threading import Event

from psycopg import sql

from pghaven.dump.earlier import cut_out_file
from pghaven.dump.extract import ExtractSettings, extract_files, open_scratch
from pghaven.dump.facts import FACTS_FILE, GLOBALS_FILE, DatabaseFacts, DumpFacts, parse_facts
from pghaven.dump.globals import GlobalChange, compare_globals, make_missing
from pghaven.dump.options import find_encoding, find_load_options
from pghaven.dump.programs import Calling, Running
from pghaven.dump.restoring import StreamJob, choose_streamed, restore
from pghaven.dump.selection import Selection, give, select
from pghaven.dump.small import list_dumped, read_small_file
from pghaven.errors import NotFound, PghavenError, Refused
from pghaven.events import Listener, Notice, Step
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, Purpose
from pghaven.repository.manifest import Manifest
from pghaven.server.connection import Connection, connect, fetch_one, server_errors

_LARGE_OBJECTS = ("BLOB", "LARGE OBJECT")
_BYTES_WITHOUT_WORKERS = 32 << 20  # fetched sooner than a worker has started


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDump:
    """A dump that can be read: what it is, and where its files lie."""

    catalog: BackupCatalog
    entry: BackupEntry
    manifest: Manifest
    facts: DumpFacts

    @property
    def label(self) -> str:
        return self.entry.label

    @property
    def program_major(self) -> int:
        """The major version of the pg_dump that made it."""
        found = re.match(r"[0-9]+", self.facts.program_version)
        return int(found[0]) if found else 0

    def choose(self, name: str | None) -> DatabaseFacts:
        """The database of this name, or the only one. Raises NotFound."""
        if not self.facts.databases:
            raise NotFound(
                f'dump "{self.label}" has no databases, only roles and tablespaces',
                hint="Load these with --globals-only, or name another dump.",
            )
        if name is None and len(self.facts.databases) == 1:
            return self.facts.databases[0]
        found = self.facts.get(name) if name is not None else None
        if found is None:
            known = ", ".join(f'"{one.name}"' for one in self.facts.databases)
            what = f'has no database "{name}"' if name is not None else "has several databases"
            raise NotFound(f'dump "{self.label}" {what}', hint=f"Name one of: {known}.")
        return found

    def read_globals(self) -> bytes:
        return read_small_file(self.catalog, self.manifest, f"global/{GLOBALS_FILE}")

    def number_files(self, directory: str) -> dict[str, int]:
        """The numbers of the files in a directory of the dump, by their names there."""
        files = self.manifest.files
        paths = (os.path.split(os.fsdecode(files.path(number))) for number in range(len(files.size)))
        return {name: number for number, (parent, name) in enumerate(paths) if parent == directory}

    def list_files(self, directory: str) -> tuple[str, ...]:
        """The paths of the files below a directory of the dump."""
        files = self.manifest.files
        paths = (os.fsdecode(files.path(number)) for number in range(len(files.size)))
        return tuple(path for path in paths if path.startswith(f"{directory}/"))


def open_dump(catalog: BackupCatalog, label: str | None, *, with_databases: bool = True) -> OpenDump:
    """The dump of this label or beginning of one, else the newest, ``with_databases`` one that has any.

    Raises NotFound, Damaged, NotPermitted.
    """
    catalog.repository.require_readable("no dump can be read")
    if label is not None:
        entry = catalog.find_entry(label, purposes=(Purpose.DUMP,))
    else:
        entries = [one for one in catalog.list_committed(Purpose.DUMP) if list_dumped(one) or not with_databases]
        if not entries:
            raise NotFound(
                f'there is no dump of cluster "{catalog.cluster}"', hint=f"Take one: pghaven dump {catalog.cluster}"
            )
        entry = entries[-1]
    manifest = catalog.load_manifest(entry)
    facts = parse_facts(read_small_file(catalog, manifest, FACTS_FILE))
    return OpenDump(catalog=catalog, entry=entry, manifest=manifest, facts=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """``conninfo`` reaches the target server; ``target`` is the database there. ``schemas`` and ``tables`` choose
    parts, none for all; ``part`` is "all", "schema" or "data". ``create``: make the database.
    ``dry_run``: only say what would be changed and what stands in the way."""

    conninfo: str
    os_user: str | None
    target: str
    create: bool
    jobs: int
    processes: int
    scratch: str
    schemas: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    part: str = "all"
    make_globals: bool = False
    options: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    label: str
    database: str
    target: str
    created: bool
    fetched_bytes: int
    tables: int
    made_globals: tuple[str, ...]
    other_globals: tuple[str, ...]
    total_seconds: float


def run_load(
    dump: OpenDump,
    database: DatabaseFacts,
    calling: Calling,
    settings: LoadSettings,
    listener: Listener,
    *,
    asked: Running | None = None,
) -> LoadResult:
    """Load one database of a dump. ``calling`` has the target server's connection and programs; ``asked`` is what it
    was asked of the roles and tablespaces there, if that was begun before.

    Raises Refused with everything that stands in the way, before anything is changed; ServerUnsuitable with the object
    that failed, StoreUnreachable, Damaged.
    """
    clock = dump.catalog.repository.clock
    began = clock.monotonic()
    settings = replace(settings, options=(*find_load_options(dump.facts.options), *settings.options))
    with asked or calling.ask_globals() as running:
        changes = compare_globals(dump.read_globals(), running.take())
    tell_globals(changes, listener, make=settings.make_globals, dry_run=settings.dry_run)
    result = LoadResult(
        label=dump.label,
        database=database.name,
        target=settings.target,
        created=False,
        fetched_bytes=0,
        tables=0,
        made_globals=tuple(str(one) for one in changes if one.is_missing and settings.make_globals),
        other_globals=tuple(str(one) for one in changes if not (one.is_missing and settings.make_globals)),
        total_seconds=0.0,
    )
    with connect(settings.conninfo, os_user=settings.os_user) as connection:
        _refuse_obstacles(connection, dump, database, settings)
        if settings.part != "data":
            tell_extensions(connection, database, listener)
        if settings.dry_run:
            return replace(result, total_seconds=clock.monotonic() - began)
        with _created(connection, database, settings) as loading, open_scratch(settings.scratch) as place:
            if settings.make_globals and any(one.is_missing for one in changes):
                make_missing(connection, changes)
            selection, fetched, streams = _fetch(dump, database, calling, settings, (place, listener))
            listener(Step(text=f'loading into database "{settings.target}"'))
            loading.set()
            try:
                arguments = [
                    *("--exit-on-error", f"--jobs={settings.jobs}", *selection.arguments),
                    *("-d", calling.with_database(settings.target), os.path.join(place, "dump")),
                ]
                source = ExtractSettings(place=dump.catalog.pack_place, packs=dump.manifest.packs)
                restore(calling, arguments, streams, target=settings.target, source=source)
            except PghavenError:
                if settings.create:
                    text = f'database "{settings.target}" was made and is incomplete'
                    hint = f'Remove it before the next try: DROP DATABASE "{settings.target}"'
                    listener(Notice(level="warning", code="incomplete", text=text, hint=hint))
                raise
    tables = sum(what.startswith("TABLE DATA ") for _, what in selection.entries)
    spent = clock.monotonic() - began
    return replace(result, created=settings.create, fetched_bytes=fetched, tables=tables, total_seconds=spent)


def tell_globals(changes: Sequence[GlobalChange], listener: Listener, *, make: bool, dry_run: bool = False) -> None:
    """Say what the dump's roles and tablespaces would change on the target."""
    made = "would be made" if dry_run else "is made"
    for one in changes:
        verb = (made if make else "is missing") if one.is_missing else "differs, and is left as it is"
        listener(Notice(level="info", code="globals", text=f"{verb}: {one}"))


def tell_extensions(connection: Connection, database: DatabaseFacts, listener: Listener) -> None:
    """Say which extensions the server has, but not in the version that was dumped: pg_restore makes its default one."""
    with server_errors(connection, "look for extensions"):
        rows = connection.execute("SELECT name::text, version FROM pg_available_extension_versions").fetchall()
    available = {(str(name), str(version)) for name, version in rows}
    for name, version in database.extensions:
        if (name, version) not in available:
            there = ", ".join(sorted(one for other, one in available if other == name))
            text = f'extension "{name}" was dumped in version {version}, and the server has {there}'
            hint = "What was made with the dumped version may not load, or do other than it did."
            listener(Notice(level="warning", code="extension_version", text=text, hint=hint))


# -- before anything is changed --------------------------------------------------------------------------------------


def _refuse_obstacles(connection: Connection, dump: OpenDump, database: DatabaseFacts, settings: LoadSettings) -> None:
    obstacles = list(_find_obstacles(connection, dump, database, settings))
    if obstacles:
        raise Refused(
            f'database "{database.name}" of dump "{dump.label}" cannot be loaded: {obstacles[0]}',
            detail="\n".join(obstacles[1:]) or None,
            hint=_advise(obstacles),
        )


def _find_obstacles(
    connection: Connection, dump: OpenDump, database: DatabaseFacts, settings: LoadSettings
) -> Iterator[str]:
    """Everything for which the load would fail, in words."""
    with server_errors(connection, "look at the target"):
        exists = bool(fetch_one(connection, "SELECT count(*) FROM pg_database WHERE datname = %s", settings.target)[0])
        if exists and settings.create:
            yield f'there is a database "{settings.target}" already'
        if not exists and not settings.create:
            yield f'there is no database "{settings.target}"'
        version = int(fetch_one(connection, "SELECT current_setting('server_version_num')::int")[0])
        if version // 10000 < dump.program_major:
            yield (
                f"the dump was made by pg_dump {dump.facts.program_version}, and the server is of the older version "
                f"{version // 10000}"
            )
        if not settings.make_globals:
            yield from _find_missing_globals(connection, database, settings)
        if settings.part != "data":
            available = {row[0] for row in connection.execute("SELECT name::text FROM pg_available_extensions")}
            for name, extension_version in database.extensions:
                if name not in available:
                    yield f'extension "{name}" (version {extension_version} in the dump) is not installed on the server'
        if exists:
            query = "SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = %s"
            encoding = str(fetch_one(connection, query, settings.target)[0])
            if encoding not in (database.encoding, "UTF8"):
                yield f'database "{settings.target}" has encoding {encoding}, the dump {database.encoding}'
            elif encoding != database.encoding == (find_encoding(dump.facts.options) or "SQL_ASCII") == "SQL_ASCII":
                # Sent as SQL_ASCII, rows are not checked by COPY: what is no UTF8 would be found when it is read.
                yield (
                    f'database "{settings.target}" has encoding {encoding}, and the dump SQL_ASCII: bytes that the '
                    "server would take as they are"
                )


def _find_missing_globals(connection: Connection, database: DatabaseFacts, settings: LoadSettings) -> Iterator[str]:
    without_owners = {"--no-owner", "-O"} & {*settings.options}
    without_grants = {"--no-acl", "--no-privileges", "-x"} & {*settings.options}
    names_roles = not (without_owners and without_grants)
    if names_roles and settings.part != "data":
        roles = {row[0] for row in connection.execute("SELECT rolname::text FROM pg_roles")}
        for name in database.roles:
            if name not in roles:
                yield f'role "{name}" is missing'
    if "--no-tablespaces" not in settings.options and settings.part != "data":
        tablespaces = {row[0] for row in connection.execute("SELECT spcname::text FROM pg_tablespace")}
        for name in database.tablespaces:
            if name not in tablespaces:
                yield f'tablespace "{name}" is missing'


def _advise(obstacles: Sequence[str]) -> str | None:
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


@contextmanager
def _created(connection: Connection, database: DatabaseFacts, settings: LoadSettings) -> Iterator[Event]:
    """With ``create`` the new database: first of all, so that a locale or an encoding that the server does not have is
    found before anything else is done. Until what is given is set, nothing is in it, and it goes when the block fails.
    """
    loading = Event()
    if settings.create:
        create_database(connection, database, settings.target)
    try:
        yield loading
    except BaseException:
        if settings.create and not loading.is_set():
            with suppress(PghavenError), server_errors(connection, "remove the database that was made"):
                connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(settings.target)))
        raise


# -- the load --------------------------------------------------------------------------------------------------------


def _fetch(
    dump: OpenDump,
    database: DatabaseFacts,
    calling: Calling,
    settings: LoadSettings,
    means: tuple[str, Listener],
) -> tuple[Selection, int, list[StreamJob]]:
    """What pg_restore will read; returns what it is told to load, the bytes of that, and what of it is streamed into
    the pipes that are there for it."""
    place, listener = means
    target = os.path.join(place, "dump")
    numbers = dump.number_files(database.directory)
    listener(Step(text="fetching"))
    fetched = _extract(dump, database, ["toc.dat"], target, (settings, listener))
    give(calling, place)
    selection = select(calling, settings, place, listener)
    if (settings.tables or settings.schemas) and not selection.entries:
        wanted = ", ".join(f'"{name}"' for name in (*settings.tables, *settings.schemas))
        raise NotFound(f'dump "{dump.label}" has nothing of {wanted} in database "{database.name}"')
    chosen = {f"{number}.dat" for number, _ in selection.entries} & numbers.keys()
    if any(what.startswith(_LARGE_OBJECTS) for _, what in selection.entries):
        chosen |= {name for name in numbers if name.startswith("blob")}
    sizes = {name: int(dump.manifest.files.size[numbers[name]]) for name in chosen}
    streams = []
    for name in choose_streamed(sizes, settings.jobs):
        with suppress(OSError):  # a file system without named pipes; then it is a file like the others
            os.mkfifo(os.path.join(target, name), 0o600)
            file = cut_out_file(dump.manifest, numbers[name])
            streams.append(StreamJob(os.path.join(target, name), file))
            chosen.remove(name)
    fetched += _extract(dump, database, sorted(chosen), target, (settings, listener))
    give(calling, place)
    fetched += sum(one.file.size for one in streams)
    return selection, fetched, streams


def _extract(
    dump: OpenDump, database: DatabaseFacts, names: Sequence[str], target: str, means: tuple[LoadSettings, Listener]
) -> int:
    settings, listener = means
    wanted = [(f"{database.directory}/{name}", os.path.join(target, name)) for name in names]
    numbers = dump.number_files(database.directory)
    size = sum(int(dump.manifest.files.size[numbers[name]]) for name in names)
    processes = settings.processes if size > _BYTES_WITHOUT_WORKERS else 0
    return extract_files(dump.catalog, dump.manifest, wanted, processes=processes, listener=listener)


def create_database(connection: Connection, database: DatabaseFacts, name: str) -> None:
    """An empty database that is like the one that was dumped. Raises ServerUnsuitable, NotPermitted."""
    provider = {"c": "libc", "i": "icu", "b": "builtin"}.get(database.locale_provider, "libc")
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
        sql.Identifier(name), database.encoding, database.collate, database.ctype
    )
    if provider != "libc" and database.locale:
        statement += sql.SQL(" LOCALE_PROVIDER {} {} {}").format(
            sql.SQL(provider),
            sql.SQL("ICU_LOCALE" if provider == "icu" else "BUILTIN_LOCALE"),
            database.locale,
        )
    with server_errors(connection, f'create database "{name}"', privilege="CREATEDB"):
        connection.execute(statement)
