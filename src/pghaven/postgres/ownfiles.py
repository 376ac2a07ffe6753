"""Which names in a data directory are PostgreSQL's own, as against what people put there.

The one idea: a file may be taken for PostgreSQL's only by the exact form of the name that the server gives it in that
very directory. Everything else, a server's log in a directory of the administrator's choice included, is somebody's.
Sources: relpath.c, fd.c (temporary files), slru.c, twophase.c, snapbuild.c, slot.c, reorderbuffer.c, pgstat.c,
snapmgr.c, dsm_impl.c, xlog_internal.h, relmapper.c, relcache.c."""

from __future__ import annotations

import re
from typing import Final

from pghaven.postgres.datadir import CONFIG_COPY_DIRECTORY, PUSH_STATE_DIRECTORY, RESTORE_PLAN_FILE, WAL_DIRECTORY
from pghaven.postgres.relfile import is_temporary, parse_relfile
from pghaven.postgres.segment import WalFileKind, classify

TABLESPACES: Final = "pg_tblspc"

_TOP_FILES = frozenset(
    {
        "PG_VERSION",
        "backup_label",
        "backup_label.old",
        "backup_manifest",
        "current_logfiles",
        "current_logfiles.tmp",
        "logrotate",
        "pg_hba.conf",
        "pg_ident.conf",
        "postgresql.auto.conf",
        "postgresql.auto.conf.tmp",
        "postgresql.conf",
        "postmaster.opts",
        "postmaster.pid",
        "promote",
        "recovery.signal",
        "standby.signal",
        "tablespace_map",
        "tablespace_map.old",
        RESTORE_PLAN_FILE,
    }
)
_SLRU_DIRECTORIES = "pg_commit_ts|pg_multixact/(?:members|offsets)|pg_notify|pg_serial|pg_subtrans|pg_xact"
_TEMPORARY_DIRECTORY = "base/pgsql_tmp"
_OWN_FILE = re.compile(
    "|".join(
        (
            rf"(?:{_SLRU_DIRECTORIES})/[0-9A-F]{{4,15}}",
            r"(?:base/[0-9]+|global)/(?:pg_filenode\.map(?:\.tmp)?|pg_internal\.init(?:\.[0-9]+)?)",
            r"base/[0-9]+/PG_VERSION",
            r"global/pg_control",
            rf"{_TEMPORARY_DIRECTORY}/pgsql_tmp[^/]+(?:/[^/]+)?",
            r"pg_dynshmem/mmap\.[0-9]+",
            r"pg_logical/replorigin_checkpoint(?:\.tmp)?",
            r"pg_logical/snapshots/[0-9A-F]+-[0-9A-F]+\.snap(?:\.[0-9]+\.tmp)?",
            r"pg_logical/mappings/map-[0-9a-f_A-F-]+",
            r"pg_replslot/[a-z0-9_]+(?:\.tmp)?/(?:state(?:\.tmp)?|xid-[^/]+\.(?:spill|snap))",
            r"pg_snapshots/[0-9A-F-]+(?:\.tmp)?",
            r"pg_stat(?:_tmp)?/[A-Za-z0-9_]+\.(?:stat|tmp)",
            r"pg_stat_tmp/pgss_query_texts\.stat",
            r"pg_twophase/[0-9A-F]{8}(?:[0-9A-F]{8})?",
            rf"{WAL_DIRECTORY}/(?:xlogtemp\.[0-9]+|RECOVERYXLOG|RECOVERYHISTORY)",
            rf"{WAL_DIRECTORY}/archive_status/[0-9A-Za-z.]+\.(?:ready|done)",
            rf"{WAL_DIRECTORY}/summaries/(?:[0-9A-F]{{40}}\.summary|temp\.summary)",
            rf"{WAL_DIRECTORY}/{PUSH_STATE_DIRECTORY}/(?:[^/]+/)?[^/]+",
            rf"{CONFIG_COPY_DIRECTORY}/[^/]+",
        )
    ),
    re.ASCII,
)
_OWN_DIRECTORY = re.compile(
    "|".join(
        (
            rf"{_SLRU_DIRECTORIES}|pg_multixact",
            r"base|base/[0-9]+|global",
            rf"{_TEMPORARY_DIRECTORY}|{_TEMPORARY_DIRECTORY}/pgsql_tmp[^/]+",
            r"pg_dynshmem|pg_logical|pg_logical/(?:snapshots|mappings)|pg_snapshots|pg_stat|pg_stat_tmp|pg_twophase",
            r"pg_replslot|pg_replslot/[a-z0-9_]+(?:\.tmp)?",
            rf"{TABLESPACES}",
            rf"{WAL_DIRECTORY}|{WAL_DIRECTORY}/(?:archive_status|summaries|{PUSH_STATE_DIRECTORY}(?:/[^/]+)?)",
            re.escape(CONFIG_COPY_DIRECTORY),
        )
    ),
    re.ASCII,
)
_IN_TABLESPACE = re.compile(rf"{TABLESPACES}/[0-9]+/(PG_[0-9]+_[0-9]+)(?:/(.*))?", re.ASCII | re.DOTALL)
_RELATION_DIRECTORY = re.compile(r"base/[0-9]+|global", re.ASCII)
_TABLESPACE_LINK = re.compile(rf"{TABLESPACES}/[0-9]+", re.ASCII)


def is_own_file(path: str, tablespace_version: str) -> bool:
    """Whether PostgreSQL itself gives this name (relative to the data directory) to a file.

    WAL files are: see ``is_wal_file``. ``tablespace_version`` is this server's directory in a tablespace's place,
    ``PG_17_202406281``: those of other versions are other clusters'.
    """
    path = _as_in_base(path, tablespace_version)
    directory, _, name = path.rpartition("/")
    if not directory:
        return name in _TOP_FILES
    if _RELATION_DIRECTORY.fullmatch(directory) and (parse_relfile(name) is not None or is_temporary(name)):
        return True
    return is_wal_file(path) or _OWN_FILE.fullmatch(path) is not None


def is_own_directory(path: str, tablespace_version: str) -> bool:
    """Whether PostgreSQL itself gives this name to a directory."""
    return _OWN_DIRECTORY.fullmatch(_as_in_base(path, tablespace_version)) is not None


def is_wal_file(path: str) -> bool:
    """Whether this is a segment in ``pg_wal``, a part of one, or a history file."""
    directory, _, name = path.rpartition("/")
    return directory == WAL_DIRECTORY and classify(name) is not WalFileKind.OTHER


def is_tablespace_link(path: str) -> bool:
    """Whether this is where PostgreSQL links to a tablespace."""
    return _TABLESPACE_LINK.fullmatch(path) is not None


def _as_in_base(path: str, tablespace_version: str) -> str:
    """A tablespace holds databases and temporary files as ``base`` does."""
    match = _IN_TABLESPACE.fullmatch(path)
    if match is None or match[1] != tablespace_version:
        return path
    return f"base/{match[2]}" if match[2] else "base"
