"""The WAL that a data directory still has when it is restored over: none of it is lost unless the archive has it.

The one idea: after an accident the last segments may be in ``pg_wal`` and nowhere else. A file may go if the archive
holds the same contents under its name, or if nothing was ever written to it under its name (PostgreSQL prepares
segments ahead by renaming old ones); every other one is moved beside the target."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from io import BufferedReader

from pghaven.errors import NotPermitted, ObjectMissing, PghavenError
from pghaven.postgres.segment import SegmentName, WalFileKind, classify
from pghaven.postgres.waldata import LONG_HEADER_SIZE, parse_page_header
from pghaven.repository.container import FRAME_BYTES
from pghaven.repository.filehash import hash_pieces
from pghaven.repository.walstore import WalArchive


def find_unarchived(archive: WalArchive, directory: str, names: Sequence[str]) -> tuple[str, ...]:
    """Of the WAL files in a ``pg_wal`` those that the archive does not have as they are.

    Raises NotPermitted, and StoreUnreachable when the archive does not answer.
    """
    return tuple(name for name in names if not _can_go(archive, f"{directory}/{name}", name))


def _can_go(archive: WalArchive, path: str, name: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise NotPermitted(f'could not read "{path}": permission denied') from None
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        if classify(name) is WalFileKind.SEGMENT and _is_unwritten(
            os.pread(descriptor, LONG_HEADER_SIZE, 0), name, archive
        ):
            return True
        try:
            facts = archive.read_facts(name)
        except ObjectMissing:
            return False
        if facts.get("size") != os.fstat(descriptor).st_size:
            return False
        return bool(facts.get("hash") == hash_pieces(_iter_pieces(file)))


def _is_unwritten(head: bytes, name: str, archive: WalArchive) -> bool:
    """Whether a segment begins with nothing, or with a page of an earlier one: it waits to be used."""
    if not any(head):
        return True
    try:
        segment = SegmentName.parse(name, archive.segment_size)
        header = parse_page_header(head)
    except (ValueError, PghavenError):
        return False
    return header.system_identifier == archive.system_identifier and header.page_lsn < segment.start_lsn


def _iter_pieces(file: BufferedReader) -> Iterator[bytes]:
    while piece := file.read(FRAME_BYTES):
        yield piece
