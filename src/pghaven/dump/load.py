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
from pghaven.dump.obstacles import Loading, advise, find_obstacles, tell_extensions
from pghaven.dump.options import find_load_options
from pghaven.dump.programs import Calling, Running
from pghaven.dump.properties import give_properties
from pghaven.dump.restoring import StreamJob, choose_streamed, restore
from pghaven.dump.selection import Selection, give, make_schemas, select
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


def find_dump(catalog: BackupCatalog, label: str | None, *, with_databases: bool = True) -> BackupEntry:
    """The dump of this label or beginning of one, else the newest, ``with_databases`` one that has any.

    Raises NotFound, Ambiguous, Damaged.
    """
    if label is not None:
        return catalog.find_entry(label, purposes=(Purpose.DUMP,))
    entries = [one for one in catalog.list_committed(Purpose.DUMP) if list_dumped(one) or not with_databases]
    if not entries:
        raise NotFound(
            f'there is no dump of cluster "{catalog.cluster}"', hint=f"Take one: pghaven dump {catalog.cluster}"
        )
    return entries[-1]


def open_dump(catalog: BackupCatalog, label: str | None, *, with_databases: bool = True) -> OpenDump:
    """As ``find_dump``, and what it is. Raises NotPermitted besides."""
    return open_entry(catalog, find_dump(catalog, label, with_databases=with_databases))


def open_entry(catalog: BackupCatalog, entry: BackupEntry) -> OpenDump:
    """What a dump is. Raises Damaged, NotPermitted."""
    catalog.repository.require_readable("no dump can be read")
    manifest = catalog.load_manifest(entry)
    facts = parse_facts(read_small_file(catalog, manifest, FACTS_FILE))
    return OpenDump(catalog=catalog, entry=entry, manifest=manifest, facts=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """``conninfo`` reaches the target server; ``target`` is the database there. ``schemas`` and ``tables`` choose
    parts, none for all; ``part`` is "all", "schema" or "data". ``create``: make the database.
    ``dry_run``: only say what would be changed and what stands in the way. ``with_properties``: a whole database that
    is made gets what the dumped one has beside what is in it."""

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
    with_properties: bool = True


@dataclass(frozen=True, slots=True)
class _Means:
    """``place`` is a directory of this load's own, with the directory "dump" for what pg_restore reads."""

    settings: LoadSettings
    place: str
    listener: Listener


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """``encoding`` is that of the data that was loaded."""

    label: str
    database: str
    target: str
    created: bool
    fetched_bytes: int
    tables: int
    made_globals: tuple[str, ...]
    other_globals: tuple[str, ...]
    total_seconds: float
    encoding: str


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
        encoding=database.encoding,
    )
    with (
        connect(settings.conninfo, os_user=settings.os_user) as connection,
        open_scratch(settings.scratch) as place,
    ):
        means = _Means(settings, place, listener)
        selection = _choose(connection, dump, database, calling, means)
        result = replace(result, encoding=selection.encoding)
        if settings.dry_run:
            return replace(result, total_seconds=clock.monotonic() - began)
        with _created(connection, database, settings) as loading:
            if settings.make_globals and any(one.is_missing for one in changes):
                make_missing(connection, changes)
            fetched, streams = _fetch(dump, database, calling, selection, means)
            listener(Step(text=f'loading into database "{settings.target}"'))
            loading.set()
            with _told_if_incomplete(means):
                make_schemas(settings, selection, listener)
                arguments = [
                    *("--exit-on-error", f"--jobs={settings.jobs}", *selection.arguments),
                    *("-d", calling.with_database(settings.target), os.path.join(place, "dump")),
                ]
                source = ExtractSettings(place=dump.catalog.pack_place, packs=dump.manifest.packs)
                restore(calling, arguments, streams, target=settings.target, source=source)
            give_properties(connection, selection.properties, settings.target, listener)
    tables = sum(what.startswith("TABLE DATA ") for _, what in selection.entries)
    spent = clock.monotonic() - began
    return replace(result, created=settings.create, fetched_bytes=fetched, tables=tables, total_seconds=spent)


def tell_globals(changes: Sequence[GlobalChange], listener: Listener, *, make: bool, dry_run: bool = False) -> None:
    """Say what the dump's roles and tablespaces would change on the target."""
    made = "would be made" if dry_run else "is made"
    for one in changes:
        verb = (made if make else "is missing") if one.is_missing else "differs, and is left as it is"
        listener(Notice(level="info", code="globals", text=f"{verb}: {one}"))


# -- before anything is changed --------------------------------------------------------------------------------------


def _choose(
    connection: Connection, dump: OpenDump, database: DatabaseFacts, calling: Calling, means: _Means
) -> Selection:
    """What of the database is loaded. Raises NotFound if there is nothing, Refused with all that stands in the way."""
    settings, listener = means.settings, means.listener
    with server_errors(connection, "look at the target"):
        count = fetch_one(connection, "SELECT count(*) FROM pg_database WHERE datname = %s", settings.target)[0]
    is_there = bool(count)
    _extract(dump, database, ["toc.dat"], means)
    give(calling, means.place)
    selection = select(calling, settings, means.place, database, (is_there and not settings.create, listener))
    loading = Loading(
        database=database,
        target=settings.target,
        is_there=is_there,
        makes_it=settings.create,
        makes_globals=settings.make_globals,
        needs=selection.needs,
        encoding=selection.encoding,
        program=dump.facts.program_version,
        program_major=dump.program_major,
    )
    if (settings.tables or settings.schemas) and not selection.entries:
        wanted = ", ".join(f'"{name}"' for name in (*settings.tables, *settings.schemas))
        raise NotFound(f'dump "{dump.label}" has nothing of {wanted} in database "{database.name}"')
    obstacles = find_obstacles(connection, loading)
    if obstacles:
        raise Refused(
            f'database "{database.name}" of dump "{dump.label}" cannot be loaded: {obstacles[0]}',
            detail="\n".join(obstacles[1:]) or None,
            hint=advise(obstacles),
        )
    tell_extensions(connection, database, listener, names=selection.needs.extensions)
    return selection


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


@contextmanager
def _told_if_incomplete(means: _Means) -> Iterator[None]:
    try:
        yield
    except PghavenError:
        if means.settings.create:
            target = means.settings.target
            text = f'database "{target}" was made and is incomplete'
            hint = f'Remove it before the next try: DROP DATABASE "{target}"'
            means.listener(Notice(level="warning", code="incomplete", text=text, hint=hint))
        raise


# -- the load --------------------------------------------------------------------------------------------------------


def _fetch(
    dump: OpenDump, database: DatabaseFacts, calling: Calling, selection: Selection, means: _Means
) -> tuple[int, list[StreamJob]]:
    """What pg_restore will read; returns the bytes of that, and what of it is streamed into the pipes that are there
    for it."""
    target = os.path.join(means.place, "dump")
    numbers = dump.number_files(database.directory)
    means.listener(Step(text="fetching"))
    chosen = {f"{number}.dat" for number, _ in selection.entries} & numbers.keys()
    if any(what.startswith(_LARGE_OBJECTS) for _, what in selection.entries):
        chosen |= {name for name in numbers if name.startswith("blob")}
    sizes = {name: int(dump.manifest.files.size[numbers[name]]) for name in chosen}
    streams = []
    for name in choose_streamed(sizes, means.settings.jobs):
        with suppress(OSError):  # a file system without named pipes; then it is a file like the others
            os.mkfifo(os.path.join(target, name), 0o600)
            file = cut_out_file(dump.manifest, numbers[name])
            streams.append(StreamJob(os.path.join(target, name), file))
            chosen.remove(name)
    _extract(dump, database, sorted(chosen), means)
    give(calling, means.place)
    return sum(sizes.values()) + int(dump.manifest.files.size[numbers["toc.dat"]]), streams


def _extract(dump: OpenDump, database: DatabaseFacts, names: Sequence[str], means: _Means) -> None:
    wanted = [(f"{database.directory}/{name}", os.path.join(means.place, "dump", name)) for name in names]
    numbers = dump.number_files(database.directory)
    size = sum(int(dump.manifest.files.size[numbers[name]]) for name in names)
    processes = means.settings.processes if size > _BYTES_WITHOUT_WORKERS else 0
    extract_files(dump.catalog, dump.manifest, wanted, processes=processes, listener=means.listener)


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
