"""Servers of a cluster that may still have WAL which the archive lacks, asked for single segments.

The one idea: a file of ``pg_wal`` is only a claim, since servers recycle files under future names, so whatever a node
gives is judged by whoever asked; a node says only what it has under a name, that it has nothing, or why it cannot tell.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from pghaven.errors import Conflict, NotPermitted, ObjectMissing, ServerUnsuitable, UsageError
from pghaven.repository.walstore import WalArchive
from pghaven.units import parse_time_utc, since_epoch

# PostgreSQL gives no more than 1 GiB at once, and memory is better spent in smaller pieces.
_CHUNK_BYTES = 32 << 20
_STAT = "SELECT size, modification FROM pg_stat_file('pg_wal/' || %s, true)"
_READ = "SELECT pg_read_binary_file('pg_wal/' || %s, %s, %s, true)"
_IDENTIFIER = "SELECT system_identifier FROM pg_control_system()"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFile:
    """What a node has under a name, and when it was last written."""

    content: bytes
    written_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalNode:
    """A server whose ``pg_wal`` is on this host, running or not."""

    wal_directory: str

    @property
    def name(self) -> str:
        return self.wal_directory

    def read(self, file_name: str) -> NodeFile | None:
        """Raises NotPermitted, ServerUnsuitable."""
        path = os.path.join(self.wal_directory, file_name)
        try:
            with open(path, "rb") as file:
                written = os.fstat(file.fileno()).st_mtime
                return NodeFile(content=file.read(), written_at=since_epoch(written))
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise NotPermitted(f'could not read "{path}": permission denied') from error
        except OSError as error:
            raise ServerUnsuitable(f'could not read "{path}": {error.strerror}') from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlNode:
    """A running server, primary or standby, that is asked over a connection.

    Its role must be a superuser, or a member of ``pg_read_server_files`` with EXECUTE on ``pg_read_binary_file`` and
    ``pg_stat_file``.
    """

    conninfo: str
    system_identifier: int

    @property
    def name(self) -> str:
        from pghaven.server.connection import parse_conninfo

        try:
            parts = parse_conninfo(self.conninfo)
        except UsageError:
            return "one of wal_nodes"
        return f"{parts.get('host', 'local')}:{parts.get('port', 5432)}"

    def read(self, file_name: str) -> NodeFile | None:
        """Raises NotPermitted, ServerUnsuitable; Conflict when it is a server of another cluster."""
        from pghaven.server.connection import connect, fetch_one, server_errors

        doing = f'read "{file_name}" from pg_wal'
        with (
            closing(connect(self.conninfo)) as connection,
            server_errors(connection, doing, privilege="pg_read_server_files"),
        ):
            (identifier,) = fetch_one(connection, _IDENTIFIER)
            if int(identifier) != self.system_identifier:
                raise Conflict(f"the server at {self.name} has system identifier {identifier}")
            size, written = fetch_one(connection, _STAT, file_name)
            if size is None:
                return None
            pieces = []
            for offset in range(0, int(size), _CHUNK_BYTES):
                (piece,) = fetch_one(connection, _READ, file_name, offset, _CHUNK_BYTES)
                if piece is None:
                    return None  # removed meanwhile
                pieces.append(bytes(piece))
        return NodeFile(content=b"".join(pieces), written_at=written)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineNode:
    """The quarantine of the archive itself, which holds the WAL of a line that was left and then gone on with: some
    standby was promoted by hand and thrown away, and the primary that it had passed over is the one that stayed."""

    archive: WalArchive

    @property
    def name(self) -> str:
        return "quarantine"

    def read(self, file_name: str) -> NodeFile | None:
        """Of several the last one stored. Raises Damaged, StoreUnreachable."""
        found: list[tuple[str, str]] = []
        for entry in self.archive.list_quarantine(file_name):
            try:
                facts = self.archive.read_quarantined_facts(entry)
            except ObjectMissing:
                continue
            found.append((str(facts["pushed_at"]), entry))
        if not found:
            return None
        pushed_at, entry = max(found)
        return NodeFile(content=self.archive.get_quarantined(entry), written_at=parse_time_utc(pushed_at))


Node = LocalNode | SqlNode | QuarantineNode
