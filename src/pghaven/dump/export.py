"""A dump written out for plain PostgreSQL programs: as directories, as one file a database, or as SQL statements.

The one idea: whoever has what is written here needs no pghaven; every byte of it was proven before it was written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from pghaven.dump.archive import write_custom
from pghaven.dump.earlier import EarlierReader, cut_out_file
from pghaven.dump.extract import extract_files, writing_failed
from pghaven.dump.facts import DatabaseFacts
from pghaven.dump.load import OpenDump
from pghaven.dump.options import find_load_options
from pghaven.dump.programs import Calling, find_dump_programs
from pghaven.dump.small import read_small_file
from pghaven.errors import Damaged, Refused
from pghaven.events import Listener, Progress
from pghaven.restore.writing import Disks

FORMATS = ("directory", "custom", "sql")
_READ_BYTES = 4 << 20
_TOC_FILE = "toc.dat"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """``format`` is one of FORMATS; ``pg_bin`` is where programs are looked for, for SQL statements."""

    directory: str
    format: str
    processes: int
    pg_bin: str | None = None


def export_dump(
    dump: OpenDump, databases: Sequence[DatabaseFacts], settings: ExportSettings, listener: Listener
) -> tuple[dict[str, str], int]:
    """Write databases of a dump and its globals into a new directory, durably: what became of each, and the bytes.

    Raises Refused for a directory that is not empty, Damaged naming the pack, TargetFailed for a full disk, or one
    that lost what it had taken.
    """
    directory = settings.directory
    if os.path.isdir(directory) and os.listdir(directory):
        raise Refused(f'directory "{directory}" is not empty', hint="Name one that is new.")
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        disks = Disks([directory])
    except OSError as error:
        raise writing_failed(directory, error) from error
    with closing(disks):
        names, written = _write(dump, databases, settings, listener)
        try:
            disks.sync()
        except OSError as error:
            raise writing_failed(directory, error) from error
    return names, written


def _write(
    dump: OpenDump, databases: Sequence[DatabaseFacts], settings: ExportSettings, listener: Listener
) -> tuple[dict[str, str], int]:
    directory = settings.directory
    wanted = [("global/globals.sql", os.path.join(directory, "globals.sql"))]
    names = {one.name: os.path.join(directory, _file_name(one.name, one.oid)) for one in databases}
    if settings.format != "custom":
        for one in databases:
            paths = dump.list_files(one.directory)
            wanted += [(path, os.path.join(names[one.name], os.path.basename(path))) for path in paths]
    written = extract_files(dump.catalog, dump.manifest, wanted, processes=settings.processes, listener=listener)
    if settings.format == "custom":
        for one in databases:
            names[one.name] += ".dump"
            written += _write_archive(dump, one, names[one.name], listener)
    if settings.format == "sql":
        names = {name: _make_sql(dump, settings.pg_bin, path) for name, path in names.items()}
    return names, written


def _write_archive(dump: OpenDump, database: DatabaseFacts, path: str, listener: Listener) -> int:
    files = dump.manifest.files
    numbers = {}
    for number in range(len(files.size)):
        directory, name = os.path.split(os.fsdecode(files.path(number)))
        if directory == database.directory:
            numbers[name] = number
    reader = EarlierReader(dump.catalog.pack_place, dump.manifest.packs)
    total = int(sum(int(files.size[number]) for number in numbers.values()))
    done = 0

    def read(name: str) -> Iterator[bytes]:
        nonlocal done
        if name not in numbers:
            raise Damaged(f'dump "{dump.label}" has no file "{name}" of database "{database.name}"')
        file = cut_out_file(dump.manifest, numbers[name])
        for at in range(0, file.size, _READ_BYTES):
            size = min(_READ_BYTES, file.size - at)
            yield reader.read(file, at, size)
            done += size
            listener(Progress(phase="writing", done_bytes=done, total_bytes=total))

    toc = read_small_file(dump.catalog, dump.manifest, f"{database.directory}/{_TOC_FILE}")
    sizes = {name: int(files.size[number]) for name, number in numbers.items()}
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=_READ_BYTES) as target:
            return write_custom(target, toc, sizes, read)
    except OSError as error:
        raise writing_failed(path, error) from error


def _make_sql(dump: OpenDump, bin_dir: str | None, path: str) -> str:
    """Of a directory a file of statements beside it, which takes its place."""
    calling = Calling.of(find_dump_programs(dump.program_major, bin_dir), "", None)
    options = find_load_options(dump.facts.options)
    calling.run("pg_restore", [*options, f"--file={path}.sql", path], doing=f'write "{path}.sql"')
    shutil.rmtree(path)
    return f"{path}.sql"


def _file_name(name: str, oid: int) -> str:
    """The database's name where that can be a directory's."""
    is_plain = name not in ("", ".", "..", "globals.sql") and "/" not in name
    return name if is_plain else f"database-{oid}"
