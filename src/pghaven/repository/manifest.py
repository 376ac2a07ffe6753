"""Manifests: one backup's facts, files and block map, as one object.

The one idea: everything that grows with the cluster is a column (integers of one width, or names joined by NUL), so a
million files cost tens of megabytes, not gigabytes; what is small and for people is JSON in the container's index.
A manifest is believed, and written, only after ``check_manifest``: nothing in it may name a place outside the directory
it is restored to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.blockmap import BlockMap
from pghaven.repository.codec import Buffer, Compressor
from pghaven.repository.container import FRAME_BYTES, Container, ContainerWriter, FinishedContainer, Kind
from pghaven.repository.manifest_check import check_manifest, check_packs
from pghaven.repository.manifest_columns import (
    OTHER_TYPES,
    choose_types,
    complete_runs,
    iter_byte_planes,
    make_steps,
    rank_lengths,
    read_blob,
    read_column,
)
from pghaven.repository.pack import PackRef
from pghaven.repository.packtable import ID_BYTES, PackTable
from pghaven.repository.seal import Keyring
from pghaven.runtime.names import Names
from pghaven.runtime.spill import Spool, in_parts, let_go
from pghaven.units import parse_time_utc, render_time_utc

# Set for files whose pages carry checksums that were verified while they were read.
FLAG_PAGES_VERIFIED = 1
HASH_BYTES = 16

_MANIFEST_LEVEL = 6
_COLUMN_TYPES: dict[str, str] = {
    "directory_mode": "<u2",
    "file_directory": "<u4",
    "file_size": "<u8",
    "file_mode": "<u2",
    "file_mtime": "<i8",
    "file_owner": "<u2",
    "file_flags": "<u1",
    "file_runs": "<u4",
    "run_length": "<u8",
    "run_pack": "<u4",
    "run_step": "<u8",
    "pack_writer": "<u4",
    "pack_size": "<u8",
    "pack_tail": "<u4",
    "pack_plain": "<u8",
}
_PACK_COLUMNS = ("pack_writer", "pack_size", "pack_tail", "pack_plain")
_PACK_TABLE = (*_PACK_COLUMNS, "pack_ids")
_BLOBS = ("directories", "file_names", "file_hashes", "pack_ids", "relations", "config_contents", "control")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tablespace:
    """A tablespace as the server knew it; ``path`` is where ``pg_tblspc/<oid>`` pointed."""

    oid: int
    name: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A configuration file that lies outside the data directory; ``role`` is config, hba, ident or include."""

    role: str
    path: str
    mode: int
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BadPage:
    """A page whose checksum was wrong on every reading and that WAL replay will not write anew."""

    path: str
    block: int
    lsn: str
    relation: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFacts:
    """What a backup is, apart from its files. Sizes in bytes; moments in UTC by the server's clock.

    ``databases`` are OIDs, each with what identifies its row in ``pg_database``.
    """

    label: str
    cluster: str
    system_identifier: int
    server_version_num: int
    catalog_version: int
    control_version: int
    block_size: int
    segment_blocks: int
    wal_segment_size: int
    data_checksums: bool
    timeline: Timeline
    start_lsn: Lsn
    stop_lsn: Lsn
    started_at: datetime
    stopped_at: datetime
    from_standby: bool
    method: str
    changes: str
    parent: str | None
    host: str
    data_directory: str
    written_by: str
    backup_label: str
    tablespace_map: str | None
    tablespaces: tuple[Tablespace, ...]
    databases: tuple[tuple[int, str], ...]
    owners: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    bad_pages: tuple[BadPage, ...]
    file_count: int
    total_bytes: int
    stored_bytes: int

    @property
    def major(self) -> int:
        return self.server_version_num // 10000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileColumns:
    """The files of a backup, ordered by directory and name. ``names`` and ``directories`` are bytes, as on disk.

    Paths are relative to the data directory; tablespaces appear as ``pg_tblspc/<oid>/…``. ``content_hash`` has a row of
    HASH_BYTES a file: the beginning of the BLAKE3 hash of what a file held that is judged by its content, or zeros.
    """

    directories: Sequence[bytes]
    directory_mode: npt.NDArray[np.uint16]
    names: Names
    directory: npt.NDArray[np.uint32]
    size: npt.NDArray[np.uint64]
    mode: npt.NDArray[np.uint16]
    mtime_ns: npt.NDArray[np.int64]
    owner: npt.NDArray[np.uint16]
    flags: npt.NDArray[np.uint8]
    content_hash: npt.NDArray[np.uint8]

    def path(self, number: int) -> bytes:
        directory = self.directories[self.directory[number]]
        name = self.names[number]
        return directory + b"/" + name if directory else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    facts: BackupFacts
    files: FileColumns
    block_map: BlockMap
    packs: Sequence[PackRef]  # a PackTable, where there are many
    relations: Buffer  # JSON lines: [database oid, database, tablespace oid, file node, schema, name, kind]
    config_files: tuple[ConfigFile, ...]
    control: bytes  # global/pg_control: read last, restored last


def render_manifest(manifest: Manifest, *, context: bytes, keyring: Keyring) -> FinishedContainer:
    """The stored form of a manifest. Raises Damaged for one that no reader would take."""
    check_manifest(manifest)
    files, block_map, packs = manifest.files, manifest.block_map, PackTable.of(manifest.packs)
    let_go()
    columns: dict[str, npt.NDArray[Any]] = {
        "directory_mode": files.directory_mode,
        "file_directory": files.directory,
        "file_size": files.size,
        "file_mode": files.mode,
        "file_mtime": files.mtime_ns,
        "file_owner": files.owner,
        "file_flags": files.flags,
        "file_runs": block_map.runs_of_file,
        "run_length": block_map.length,
        "run_pack": block_map.pack,
        "run_step": make_steps(block_map.length, block_map.pack, block_map.offset, len(packs.size_bytes)),
        "pack_writer": packs.writer,
        "pack_size": packs.size_bytes,
        "pack_tail": packs.tail_bytes,
        "pack_plain": packs.plain_length,
    }
    blobs: dict[str, Buffer] = {
        "directories": _join_names(files.directories),
        "file_names": files.names.joined,
        "file_hashes": files.content_hash.reshape(-1).data,
        "pack_ids": packs.ids.reshape(-1).data,
        "relations": manifest.relations,
        "config_contents": b"".join(file.content for file in manifest.config_files),
        "control": manifest.control,
    }
    writer = ContainerWriter(Kind.MANIFEST, context, keyring, Compressor(_MANIFEST_LEVEL))
    described: dict[str, list[int]] = {}
    for name, column in rank_lengths(columns).items():
        described[name] = [writer.plain_length, len(column)]
        for frame in iter_byte_planes(column, np.dtype((_COLUMN_TYPES | OTHER_TYPES)[name])):
            writer.add_frame(frame)
    for name in _BLOBS:
        described[name] = [writer.plain_length, len(blobs[name])]
        for part in in_parts(len(blobs[name]), FRAME_BYTES):
            writer.add_frame(blobs[name][part])
    meta = {
        "facts": render_facts(manifest.facts),
        "columns": described,
        "pack_writers": list(packs.labels),
        "config_files": [[file.role, file.path, file.mode, len(file.content)] for file in manifest.config_files],
    }
    return writer.finish(meta)


def _join_names(names: Sequence[bytes]) -> bytes:
    """Each followed by NUL; without making a second million of strings."""
    return b"\0".join(names) + b"\0" if names else b""


def parse_manifest(container: Container) -> Manifest:
    """A manifest from its stored form, checked. Raises Damaged saying what is wrong with it."""
    spool = Spool()
    for frame in container.iter_frames():
        spool.write(frame)
    plain = spool.view()
    meta = container.meta
    try:
        facts = parse_facts(meta["facts"])
        described = {str(name): (int(place[0]), int(place[1])) for name, place in meta["columns"].items()}
        types = choose_types(described, _COLUMN_TYPES)
        columns = {name: read_column(plain, described[name], dtype) for name, dtype in types.items()}
        complete_runs(columns)
        blobs = {name: read_blob(plain, described[name]) for name in _BLOBS}
        config_files = _parse_config_files(meta["config_files"], bytes(blobs["config_contents"]))
        packs = _parse_packs(columns, blobs["pack_ids"], meta["pack_writers"])
        content_hash = np.frombuffer(blobs["file_hashes"], np.uint8).reshape(-1, HASH_BYTES)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise Damaged(f"it is not a backup's manifest ({error!r})") from error
    files = FileColumns(
        directories=_split_names(bytes(blobs["directories"]), len(columns["directory_mode"])),
        directory_mode=columns["directory_mode"],
        names=_parse_names(blobs["file_names"], len(columns["file_size"])),
        directory=columns["file_directory"],
        size=columns["file_size"],
        mode=columns["file_mode"],
        mtime_ns=columns["file_mtime"],
        owner=columns["file_owner"],
        flags=columns["file_flags"],
        content_hash=content_hash,
    )
    block_map = BlockMap(
        runs_of_file=columns["file_runs"],
        length=columns["run_length"],
        pack=columns["run_pack"],
        offset=columns["run_offset"],
    )
    manifest = Manifest(
        facts=facts,
        files=files,
        block_map=block_map,
        packs=packs,
        relations=blobs["relations"],
        config_files=config_files,
        control=bytes(blobs["control"]),
    )
    check_manifest(manifest)
    return manifest


def parse_pack_table(
    meta: Mapping[str, Any], fetch: Callable[[Sequence[tuple[int, int]]], Sequence[bytes]]
) -> tuple[BackupFacts, PackTable]:
    """What a manifest says of its packs alone. ``fetch`` gives plain bytes at (offset, length). Raises Damaged."""
    try:
        facts = parse_facts(meta["facts"])
        widths = {name: np.dtype(_COLUMN_TYPES[name]).itemsize for name in _PACK_COLUMNS}
        places = {name: (int(at), int(count)) for name, (at, count) in meta["columns"].items() if name in _PACK_TABLE}
        parts = fetch([(places[name][0], places[name][1] * widths.get(name, 1)) for name in _PACK_TABLE])
        blobs = dict(zip(_PACK_TABLE, parts, strict=True))
        columns = {name: read_column(blobs[name], (0, places[name][1]), _COLUMN_TYPES[name]) for name in _PACK_COLUMNS}
        packs = _parse_packs(columns, blobs["pack_ids"], meta["pack_writers"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise Damaged(f"it is not a backup's manifest ({error!r})") from error
    check_packs(packs)
    return facts, packs


def _split_names(blob: bytes, count: int) -> list[bytes]:
    names = blob.split(b"\0")
    if names.pop() != b"" or len(names) != count:
        raise Damaged("it has another number of names than of files or directories")
    return names


def _parse_names(blob: Buffer, count: int) -> Names:
    try:
        return Names.parse(blob, count)
    except ValueError as error:
        raise Damaged(f"it has another number of names than of files: {error}") from error


def _parse_packs(columns: Mapping[str, npt.NDArray[Any]], ids: Buffer, writers: Sequence[object]) -> PackTable:
    writer, size, tail, plain = (columns[name] for name in _PACK_COLUMNS)
    if any(len(column) * ID_BYTES != len(ids) for column in (writer, size, tail, plain)):
        raise Damaged("its table of packs is incomplete")
    labels = tuple(layout.check_label(label) for label in writers)
    if len(writer) and int(writer.max()) >= len(labels):
        raise Damaged("its table of packs names a label that it does not list")
    return PackTable(
        labels=labels,
        writer=writer,
        ids=np.frombuffer(ids, np.uint8).reshape(-1, ID_BYTES),
        size_bytes=size,
        tail_bytes=tail,
        plain_length=plain,
    )


def _parse_config_files(rows: Sequence[Sequence[Any]], contents: bytes) -> tuple[ConfigFile, ...]:
    result = []
    at = 0
    for role, path, mode, length in rows:
        result.append(
            ConfigFile(role=str(role), path=str(path), mode=int(mode) & 0o777, content=contents[at : at + int(length)])
        )
        at += int(length)
    if at != len(contents):
        raise ValueError("configuration files do not fill their column")
    return tuple(result)


def render_facts(facts: BackupFacts) -> dict[str, Any]:
    """What JSON holds of a backup's facts."""
    body = asdict(facts)
    for name, value in body.items():
        if isinstance(value, Lsn):
            body[name] = str(value)
        elif isinstance(value, datetime):
            body[name] = render_time_utc(value)
    body["timeline"] = int(facts.timeline)
    body["system_identifier"] = str(facts.system_identifier)
    return body


def parse_facts(body: Mapping[str, Any]) -> BackupFacts:
    """The reverse. Raises KeyError, TypeError, ValueError for what is none."""
    values: dict[str, Any] = {field.name: body[field.name] for field in fields(BackupFacts)}
    if type(values["timeline"]) is not int or not isinstance(values["system_identifier"], str):
        raise TypeError("timeline or system_identifier is of another type")
    for name in ("start_lsn", "stop_lsn"):
        values[name] = Lsn.parse(values[name])
    for name in ("started_at", "stopped_at"):
        values[name] = parse_time_utc(values[name])
    values["timeline"] = Timeline(values["timeline"])
    values["system_identifier"] = int(values["system_identifier"])
    values["tablespaces"] = tuple(_parse_row(Tablespace, row) for row in values["tablespaces"])
    values["bad_pages"] = tuple(_parse_row(BadPage, row) for row in values["bad_pages"])
    values["databases"] = tuple((int(oid), str(row)) for oid, row in values["databases"])
    for name in ("owners", "links"):
        values[name] = tuple((str(first), str(second)) for first, second in values[name])
    return _checked(BackupFacts, values)


_Row = TypeVar("_Row", BackupFacts, Tablespace, BadPage)


def _parse_row(cls: type[_Row], body: Mapping[str, Any]) -> _Row:
    return _checked(cls, {field.name: body[field.name] for field in fields(cls)})


def _checked(cls: type[_Row], values: Mapping[str, Any]) -> _Row:
    """A value from JSON; raises TypeError for a field of another type, and what is not in the class is left out."""
    for field in fields(cls):
        wanted = str(field.type).split(" | ")
        if wanted[0] in ("int", "str", "bool") and type(values[field.name]).__name__.removesuffix("Type") not in wanted:
            raise TypeError(f"{field.name} is not of type {field.type}")
    return cls(**values)


def render_relation(row: Sequence[int | str]) -> bytes:
    """One line of a manifest's ``relations``."""
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"
