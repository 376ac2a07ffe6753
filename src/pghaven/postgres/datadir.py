"""What of a data directory belongs in a backup, and which of its files consist of checksummed pages.

The one idea: PostgreSQL's own base backup decides (sendDir and its lists in basebackup.c), with few additions of our
own: files that would make a restored directory do something nobody asked for. Paths are relative to the data
directory, with ``/`` between parts; tablespaces are seen through ``pg_tblspc/<oid>/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pghaven.light import pattern
from pghaven.postgres.relfile import Fork, RelFile, parse_relfile

WAL_DIRECTORY: Final = "pg_wal"
WAL_SUBDIRECTORIES: Final = ("pg_wal/archive_status", "pg_wal/summaries")
"""Made empty beside ``pg_wal``; the server of any version accepts them (``summaries`` is used since 17)."""

EXCLUDED_DIRECTORY_CONTENTS: Final = frozenset(
    {
        "pg_stat_tmp",
        "pg_replslot",  # a slot copied elsewhere would hold WAL there for nobody
        "pg_dynshmem",
        "pg_notify",
        "pg_serial",
        "pg_snapshots",
        "pg_subtrans",
        WAL_DIRECTORY,  # comes from the archive
    }
)
"""Directories kept, but empty."""

SNAPSHOT_DIRECTORY: Final = ".pghaven-snapshots"
"""Where kept snapshots lie on Btrfs: in the data directory itself, where that is mounted as a subvolume of its own."""

EXCLUDED_FILES: Final = frozenset(
    {
        SNAPSHOT_DIRECTORY,
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "postmaster.pid",
        "postmaster.opts",
        ".DS_Store",
    }
)
"""Base names left out wherever they are found."""

EXCLUDED_PREFIXES: Final = ("pgsql_tmp", "pg_internal.init", ".s.PGSQL.")
"""Beginnings of base names, of files and directories, left out wherever they are found. The lock file of a socket
is our addition: in a copy whose server keeps its socket in there, one that names a living process stops the start."""

RESTORE_PLAN_FILE: Final = "pghaven.restore.json"
"""Our own file in a restored data directory: the plan that ``wal get`` and ``wal push`` hold its server to."""

PUSH_STATE_DIRECTORY: Final = "pghaven"
"""In ``pg_wal``: what a push leaves for later pushes. No tool copies it with the data directory, and PostgreSQL looks
at nothing in ``pg_wal`` whose name it has not given."""

CONFIG_COPY_DIRECTORY: Final = "pghaven.config"
"""What a restore keeps of configuration that lay elsewhere."""

EXCLUDED_TOP_FILES: Final = frozenset(
    {
        "recovery.signal",
        "standby.signal",
        "promote",
        RESTORE_PLAN_FILE,
        CONFIG_COPY_DIRECTORY,
        "pghaven.recovery.log",
    }
)
"""Left out at the top only: a restore writes its own, according to its own target."""

_RELATION_DIRECTORY = pattern(r"global|base/[0-9]+|pg_tblspc/[0-9]+/PG_[0-9]+_[0-9]+/[0-9]+", re.ASCII)


def is_excluded_file(relative_path: str) -> bool:
    """Whether a file, or a directory with all that is in it, stays out of a backup because of its name.

    Temporary and unlogged relations are a matter of their own: ``relfile.is_temporary`` and ``find_unlogged``.
    """
    name = relative_path.rpartition("/")[2]
    return name in EXCLUDED_FILES or name.startswith(EXCLUDED_PREFIXES) or relative_path in EXCLUDED_TOP_FILES


def is_contents_excluded(relative_path: str) -> bool:
    """Whether a directory is kept as an empty one."""
    return relative_path in EXCLUDED_DIRECTORY_CONTENTS


def is_relation_directory(relative_path: str) -> bool:
    """Whether relation files live directly in this directory."""
    return _RELATION_DIRECTORY.fullmatch(relative_path) is not None


def find_unlogged(names: Iterable[str]) -> frozenset[int]:
    """Of the names in one relation directory, the numbers of relations with an init fork: they are unlogged."""
    files = (parse_relfile(name) for name in names if "_init" in name)
    return frozenset(file.relfilenode for file in files if file is not None and file.fork is Fork.INIT)


def is_unlogged_content(file: RelFile, unlogged: frozenset[int]) -> bool:
    """Whether a file is of an unlogged relation and can be left out; its init fork is what recovery starts from."""
    return file.fork is not Fork.INIT and file.relfilenode in unlogged


def has_page_checksums(relative_path: str) -> bool:
    """Whether the file consists of pages that carry checksums in a cluster that has them.

    True for all forks of relations and nothing else: not for ``pg_control``, ``pg_filenode.map`` or ``PG_VERSION``,
    which lie in the same directories.
    """
    directory, _, name = relative_path.rpartition("/")
    return is_relation_directory(directory) and parse_relfile(name) is not None
