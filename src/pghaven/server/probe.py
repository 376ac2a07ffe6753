"""What a running server is: version, identity, files, settings, archiver. Read-only.

The one idea: everything later steps decide on is gathered here once, as one value, with the server's own answers and no
conclusions drawn. Settings are in the server's base units, as ``pg_settings.setting`` has them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pghaven.errors import NotPermitted
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.postgres.version import MajorVersion, require_supported
from pghaven.server.connection import Connection, fetch_one, server_errors
from pghaven.server.privileges import render_grant

_FILE_SETTINGS = {"config": "config_file", "hba": "hba_file", "ident": "ident_file"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A file the server reads its configuration from. ``role``: ``config``, ``hba``, ``ident`` or ``include``."""

    role: str
    path: str
    is_outside: bool
    """Not below the data directory, so that no copy of that directory holds it (Debian keeps all of them in /etc)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tablespace:
    """A tablespace beside the two built in. ``path`` is relative for one inside the data directory (tests only)."""

    oid: int
    name: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    oid: int
    name: str
    encoding: str
    is_template: bool
    is_connectable: bool
    tablespace_oid: int
    row: str
    """Which row of pg_database this is (the transaction that wrote it): another one under the same OID has another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiverFacts:
    """``pg_stat_archiver``. Times are None as long as nothing was archived or failed since the reset."""

    archived_count: int
    last_archived_name: str | None
    last_archived_time: datetime | None
    failed_count: int
    last_failed_name: str | None
    last_failed_time: datetime | None
    stats_reset: datetime | None

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to archive was a failure."""
        if self.last_failed_time is None:
            return False
        return self.last_archived_time is None or self.last_archived_time < self.last_failed_time


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """A server as it was at ``probed``. Sizes are bytes."""

    version_num: int
    version: str
    major: MajorVersion
    system_identifier: int
    data_directory: str
    in_recovery: bool
    timeline: Timeline
    lsn: Lsn
    """Where WAL was written to; on a standby, up to where it was replayed."""
    block_size: int
    segment_size: int
    """Of the files relations are split into (1 GiB unless the server was built otherwise)."""
    wal_segment_size: int
    data_checksums: bool
    settings: Mapping[str, str]
    pending_restart: tuple[str, ...]
    """Settings whose new value waits for a restart."""
    config_files: tuple[ConfigFile, ...]
    tablespaces: tuple[Tablespace, ...]
    databases: tuple[Database, ...]
    archiver: ArchiverFacts
    role: str
    is_superuser: bool
    backend_pid: int = 0
    """The process that serves this session, by the numbers of the server's host; 0 when it was not asked."""
    started: datetime
    probed: datetime


def probe_server(connection: Connection) -> ServerFacts:
    """Ask a server for everything in ``ServerFacts``. A few short queries; blocks on nothing but the network.

    Raises ServerUnsuitable for an unsupported version, NotPermitted with the GRANT that helps when the role cannot
    read settings or statistics.
    """
    with server_errors(connection, "probe the server", privilege="pg_monitor"):
        version_num, version, role = fetch_one(
            connection,
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_user",
        )
        major = require_supported(version_num)
        _require_monitor(connection, role)
        settings, pending = _read_settings(connection)
        data_directory = settings["data_directory"]
        in_recovery, is_superuser, started, probed, system_identifier = fetch_one(
            connection,
            "SELECT pg_is_in_recovery(), current_setting('is_superuser') = 'on', pg_postmaster_start_time(),"
            " clock_timestamp(), (SELECT system_identifier FROM pg_control_system())",
        )
        block_size, wal_segment_size, relation_blocks, checksum_version = fetch_one(
            connection,
            "SELECT database_block_size, bytes_per_wal_segment, blocks_per_segment, data_page_checksum_version"
            " FROM pg_control_init()",
        )
        return ServerFacts(
            version_num=version_num,
            version=version,
            major=major,
            # The server shows this unsigned number in a signed column.
            system_identifier=system_identifier % (1 << 64),
            data_directory=data_directory,
            in_recovery=in_recovery,
            timeline=read_timeline(connection),
            lsn=read_lsn(connection),
            block_size=block_size,
            segment_size=relation_blocks * block_size,
            wal_segment_size=wal_segment_size,
            data_checksums=checksum_version != 0,
            settings=settings,
            pending_restart=pending,
            config_files=_read_config_files(connection, settings, data_directory),
            backend_pid=connection.info.backend_pid,
            tablespaces=_read_tablespaces(connection),
            databases=_read_databases(connection),
            archiver=_read_archiver(connection),
            role=role,
            is_superuser=is_superuser,
            started=started,
            probed=probed,
        )


def read_timeline(connection: Connection) -> Timeline:
    """The timeline the server writes, or on a standby the newest one it has followed so far.

    ``pg_control_checkpoint()`` alone still shows the old timeline for a while after a promotion, and
    ``pg_walfile_name()`` is refused in recovery. Raises the driver's errors.
    """
    (in_recovery,) = fetch_one(connection, "SELECT pg_is_in_recovery()")
    if not in_recovery:
        (name,) = fetch_one(connection, "SELECT pg_walfile_name(pg_current_wal_lsn())")
        return Timeline(int(name[:8], 16))
    (timeline,) = fetch_one(
        connection,
        "SELECT greatest((SELECT received_tli FROM pg_stat_wal_receiver),"
        " (SELECT min_recovery_end_timeline FROM pg_control_recovery()),"
        " (SELECT timeline_id FROM pg_control_checkpoint()))",
    )
    return Timeline(timeline)


def read_lsn(connection: Connection) -> Lsn:
    """The end of WAL written so far; on a standby, of WAL replayed. Raises the driver's errors."""
    (text,) = fetch_one(
        connection,
        "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text",
    )
    return Lsn.parse(text)


def read_archiver(connection: Connection) -> ArchiverFacts:
    """Raises ServerUnsuitable."""
    with server_errors(connection, "read pg_stat_archiver"):
        return _read_archiver(connection)


def _require_monitor(connection: Connection, role: str) -> None:
    # Without the privilege pg_settings leaves rows out silently.
    (allowed,) = fetch_one(
        connection,
        "SELECT pg_has_role('pg_read_all_settings', 'USAGE') AND pg_has_role('pg_read_all_stats', 'USAGE')",
    )
    if not allowed:
        raise NotPermitted(
            f'role "{role}" may not read all settings and statistics',
            hint=f"As a superuser, run: {render_grant(role, 'pg_monitor')}",
        )


def _read_settings(connection: Connection) -> tuple[dict[str, str], tuple[str, ...]]:
    rows = connection.execute(
        "SELECT name, coalesce(setting, ''), pending_restart FROM pg_settings ORDER BY name"
    ).fetchall()
    return {name: value for name, value, _ in rows}, tuple(name for name, _, pending in rows if pending)


def _read_config_files(
    connection: Connection, settings: Mapping[str, str], data_directory: str
) -> tuple[ConfigFile, ...]:
    files = {settings[name]: role for role, name in _FILE_SETTINGS.items() if settings[name]}
    rows = connection.execute("SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL ORDER BY 1")
    for (path,) in rows.fetchall():
        files.setdefault(path, "include")
    return tuple(
        ConfigFile(role=role, path=path, is_outside=not _is_below(path, data_directory)) for path, role in files.items()
    )


def _is_below(path: str, directory: str) -> bool:
    """Whether a file lies in a directory of this host; symbolic links are followed, as a copy would not."""
    directory = os.path.realpath(directory)
    return os.path.commonpath([os.path.realpath(path), directory]) == directory


def _read_tablespaces(connection: Connection) -> tuple[Tablespace, ...]:
    rows = connection.execute(
        "SELECT oid, spcname, pg_tablespace_location(oid) FROM pg_tablespace"
        " WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid"
    ).fetchall()
    return tuple(Tablespace(oid=oid, name=name, path=path) for oid, name, path in rows)


def _read_databases(connection: Connection) -> tuple[Database, ...]:
    # A connection limit of -2 marks a database whose removal was interrupted (since 15.4).
    rows = connection.execute(
        "SELECT oid, datname, pg_encoding_to_char(encoding), datistemplate, datallowconn AND datconnlimit <> -2,"
        " dattablespace, xmin::text FROM pg_database ORDER BY oid"
    ).fetchall()
    return tuple(
        Database(
            oid=oid,
            name=name,
            encoding=encoding,
            is_template=is_template,
            is_connectable=is_connectable,
            tablespace_oid=tablespace_oid,
            row=row,
        )
        for oid, name, encoding, is_template, is_connectable, tablespace_oid, row in rows
    )


def _read_archiver(connection: Connection) -> ArchiverFacts:
    row = fetch_one(
        connection,
        "SELECT archived_count, last_archived_wal, last_archived_time, failed_count, last_failed_wal, last_failed_time,"
        " stats_reset FROM pg_stat_archiver",
    )
    return ArchiverFacts(
        archived_count=row[0],
        last_archived_name=row[1],
        last_archived_time=row[2],
        failed_count=row[3],
        last_failed_name=row[4],
        last_failed_time=row[5],
        stats_reset=row[6],
    )


def read_clock(connection: Connection) -> datetime:
    """The server's own clock, with its time zone. Raises ServerUnsuitable."""
    with server_errors(connection, "read the server's clock"):
        (now,) = fetch_one(connection, "SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    return now


def read_databases(connection: Connection) -> tuple[Database, ...]:
    """The databases there are now. Raises ServerUnsuitable."""
    with server_errors(connection, "list the databases"):
        return _read_databases(connection)


def read_tablespaces(connection: Connection) -> tuple[Tablespace, ...]:
    """The tablespaces there are now, without the two built in. Raises ServerUnsuitable."""
    with server_errors(connection, "list the tablespaces"):
        return _read_tablespaces(connection)
