"""PostgreSQL's archive of a dump in one file: the custom format, written from what a dump holds.

The one idea: pg_dump's formats share their table of contents and differ in where it says that data lies (a file's name
here, an offset there), so the one that a dump is kept in becomes the other without pg_dump. As pg_backup_archiver.c,
pg_backup_directory.c and pg_backup_custom.c write them, versions 1.14 to 1.16 (PostgreSQL 12 and later).
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pghaven.errors import Damaged, Refused

_MAGIC = b"PGDMP"
_KNOWN = ((1, 14), (1, 16))
_CUSTOM, _BLOCK_DATA, _BLOCK_OBJECTS = 1, 1, 3
_POSITION_SET, _NO_DATA = 2, 3
_CHUNK_BYTES = 64 << 10
_DATE_NUMBERS = 7
_STRINGS_BEFORE_SECTION, _STRINGS_AFTER_SECTION = 4, 6
_ENCODING = re.compile("SET client_encoding = '([^']+)'")
_WINDOWS = re.compile("WIN(?=[0-9])")
# _getObjectDescription in pg_backup_archiver.c: these alone are given to their owner after they are made.
_OWNED = frozenset(
    (
        *("AGGREGATE", "BLOB", "BLOB METADATA", "COLLATION", "CONVERSION", "DATABASE", "DOMAIN", "EVENT TRIGGER"),
        *("FOREIGN DATA WRAPPER", "FOREIGN TABLE", "FUNCTION", "MATERIALIZED VIEW", "OPERATOR", "OPERATOR CLASS"),
        *("OPERATOR FAMILY", "PROCEDURAL LANGUAGE", "PROCEDURE", "PUBLICATION", "SCHEMA", "SEQUENCE", "SERVER"),
        *("STATISTICS", "SUBSCRIPTION", "TABLE", "TEXT SEARCH CONFIGURATION", "TEXT SEARCH DICTIONARY", "TYPE", "VIEW"),
    )
)

ReadFile = Callable[[str], Iterator[bytes]]
"""The contents of a file of the database's directory, in parts of any size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveEntry:
    """An entry of a table of contents, as the bytes that both formats have in common; ``file`` has its data, or is
    empty. ``oid`` is that of what it describes, 0 for what has none; ``tag`` is what names it in its schema
    ``namespace``, if it has one; ``needs`` are the numbers of entries. ``definition`` are the statements that make it,
    after which ``owner`` is given it if ``is_owned``; ``copy`` is the one that loads its data, in the dump's encoding;
    what is in no tablespace of its own has an empty one."""

    dump_id: int
    oid: int
    description: str
    tag: str
    namespace: str
    tablespace: str
    owner: str
    is_owned: bool
    definition: str
    copy: bytes
    needs: tuple[int, ...]
    body: bytes
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A whole table of contents; ``head`` is what comes before its entries, with the custom format's number."""

    head: bytes
    int_bytes: int
    offset_bytes: int
    entries: tuple[ArchiveEntry, ...]

    @property
    def encoding(self) -> str:
        """That of its texts and data, by PostgreSQL's name; empty if it does not say."""
        found = (_ENCODING.search(one.definition) for one in self.entries if one.description == "ENCODING")
        return next((match[1] for match in found if match is not None), "")

    def render_int(self, number: int) -> bytes:
        return bytes([number < 0]) + abs(number).to_bytes(self.int_bytes, "little")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.int_bytes = 4
        self.codec = "utf-8"

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise Damaged("the dump's table of contents ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        sign = self.take(1)[0]
        value = int.from_bytes(self.take(self.int_bytes), "little")
        return -value if sign else value

    def text(self) -> bytes | None:
        length = self.number()
        return None if length < 0 else self.take(length)

    def decode(self, text: bytes | None) -> str:
        return (text or b"").decode(self.codec, "replace")


def parse_contents(toc: bytes) -> Contents:
    """A ``toc.dat``. Raises Damaged, Refused for a version of the format that is not known."""
    reader = _Reader(toc)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise Damaged("the dump's table of contents does not begin as one")
    version = (reader.take(1)[0], reader.take(1)[0])
    reader.take(1)
    if not _KNOWN[0] <= version <= _KNOWN[1]:
        raise Refused(
            f"pg_dump's archive format {version[0]}.{version[1]} is not known to this version of pghaven",
            hint="Export the directory instead, or use a newer pghaven.",
        )
    reader.int_bytes, offset_bytes = reader.take(1)[0], reader.take(1)[0]
    at_format = reader.at
    reader.take(1)
    compression = reader.take(1)[0] if version >= (1, 15) else reader.number()
    if compression:
        raise Refused("the dump's data is compressed by pg_dump")
    for _ in range(_DATE_NUMBERS):
        reader.number()
    for _ in range(3):
        reader.text()
    head = bytearray(toc[: reader.at])
    head[at_format] = _CUSTOM
    count = reader.number()
    entries = tuple(_parse_entry(reader, version) for _ in range(count))
    if reader.at != len(toc):
        raise Damaged("the dump's table of contents has more than its entries")
    return Contents(head=bytes(head), int_bytes=reader.int_bytes, offset_bytes=offset_bytes, entries=entries)


def _parse_entry(reader: _Reader, version: tuple[int, int]) -> ArchiveEntry:
    begin = reader.at
    dump_id = reader.number()
    reader.number()
    strings = [reader.text() for _ in range(_STRINGS_BEFORE_SECTION)]
    reader.number()
    more = [reader.text() for _ in range(_STRINGS_AFTER_SECTION)]
    if version >= (1, 16):
        reader.number()  # relkind
    owner = reader.text()
    reader.text()  # with OIDs: "false"
    needs = []
    while (number := reader.text()) is not None:
        needs.append(int(number))
    body = reader.data[begin : reader.at]
    file = reader.text() or b""
    description = reader.decode(strings[3])
    definition, drop, _, namespace, tablespace, _ = map(reader.decode, more)
    if description == "ENCODING" and (match := _ENCODING.search(definition)) is not None:
        reader.codec = _find_codec(match[1])  # it is the first of all
    return ArchiveEntry(
        dump_id=dump_id,
        oid=int(strings[1] or b"0"),
        description=description,
        tag=reader.decode(strings[2]),
        namespace=namespace,
        tablespace=tablespace,
        owner=reader.decode(owner),
        is_owned=bool(drop) and description in _OWNED,
        definition=definition,
        copy=more[2] or b"",
        needs=tuple(needs),
        body=body,
        file=file.decode("utf-8", "surrogateescape"),
    )


def _find_codec(encoding: str) -> str:
    """Python's name for an encoding of PostgreSQL's; UTF-8 for those that it does not know."""
    try:
        return codecs.lookup(_WINDOWS.sub("cp", encoding).replace("KOI8", "KOI8_")).name
    except LookupError:
        return "utf-8"


def write_custom(target: BinaryIO, toc: bytes, sizes: dict[str, int], read: ReadFile) -> int:
    """Write a database's directory as one archive; returns its bytes. ``sizes`` has the directory's files.

    Raises Damaged, Refused, and what ``read`` raises.
    """
    contents = parse_contents(toc)
    objects = {
        one.file: list(_list_objects(b"".join(read(one.file))))
        for one in contents.entries
        if one.file in sizes and _holds_objects(one)
    }
    at = len(contents.head) + len(contents.render_int(0))
    at += sum(len(one.body) + 1 + contents.offset_bytes for one in contents.entries)
    target.write(contents.head + contents.render_int(len(contents.entries)))
    for one in contents.entries:
        has_data = one.file in sizes
        if one.file and not has_data:
            raise Damaged(f'the dump has no file "{one.file}", which its table of contents names')
        target.write(one.body + bytes([_POSITION_SET if has_data else _NO_DATA]))
        target.write((at if has_data else 0).to_bytes(contents.offset_bytes, "little"))
        if has_data:
            at += _measure(contents, one, sizes, objects)
    for one in contents.entries:
        if one.file in sizes:
            _write_block(target, contents, one, objects.get(one.file), read)
    return at


def _holds_objects(entry: ArchiveEntry) -> bool:
    return entry.description in ("BLOBS", "LARGE OBJECTS")


def _list_objects(listed: bytes) -> Iterator[tuple[int, str]]:
    """The large objects that a file with their list names, each with its file."""
    for line in listed.decode().splitlines():
        oid, _, name = line.partition(" ")
        yield int(oid), name


def _measure(
    contents: Contents, entry: ArchiveEntry, sizes: dict[str, int], objects: dict[str, list[tuple[int, str]]]
) -> int:
    number = 1 + contents.int_bytes
    if entry.file not in objects:
        return 1 + number + _measure_data(sizes[entry.file], number)
    return 1 + number + sum(number + _measure_data(sizes[name], number) for _, name in objects[entry.file]) + number


def _measure_data(size: int, number: int) -> int:
    return size + -(-size // _CHUNK_BYTES) * number + number


def _write_block(
    target: BinaryIO,
    contents: Contents,
    entry: ArchiveEntry,
    objects: Sequence[tuple[int, str]] | None,
    read: ReadFile,
) -> None:
    kind = _BLOCK_DATA if objects is None else _BLOCK_OBJECTS
    target.write(struct.pack("B", kind) + contents.render_int(entry.dump_id))
    if objects is None:
        _write_data(target, contents, read(entry.file))
        return
    for oid, name in objects:
        target.write(contents.render_int(oid))
        _write_data(target, contents, read(name))
    target.write(contents.render_int(0))


def _write_data(target: BinaryIO, contents: Contents, parts: Iterator[bytes]) -> None:
    """In chunks of one size, but the last, so that where the next block begins was known before."""
    rest = b""
    full = contents.render_int(_CHUNK_BYTES)
    for part in parts:
        data = rest + part
        whole = len(data) - len(data) % _CHUNK_BYTES
        for at in range(0, whole, _CHUNK_BYTES):
            target.write(full + data[at : at + _CHUNK_BYTES])
        rest = data[whole:]
    if rest:
        target.write(contents.render_int(len(rest)) + rest)
    target.write(contents.render_int(0))
