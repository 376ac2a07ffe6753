"""The PostgreSQL versions pghaven supports, and the numbers that tell them apart. The only place that names them.

The one idea: a new major version is one more entry in ``SUPPORTED``. The numbers are those of the released servers
(PG_CONTROL_VERSION in pg_control.h, CATALOG_VERSION_NO in catversion.h, XLOG_PAGE_MAGIC in xlog_internal.h); they
never change after a release, so that a file of a beta version is told apart too.
"""

from __future__ import annotations

from typing import Final

from pghaven.errors import ServerUnsuitable
from pghaven.light import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MajorVersion:
    """A major version; ``str()`` gives ``"17"``."""

    major: int
    control_version: int
    catalog_version: int
    wal_magic: int

    @property
    def has_wal_summaries(self) -> bool:
        """Whether the server can summarize which blocks WAL changed (``summarize_wal``, since 17)."""
        return self.major >= 17

    def __str__(self) -> str:
        return str(self.major)


SUPPORTED: Final[tuple[MajorVersion, ...]] = (
    MajorVersion(major=15, control_version=1300, catalog_version=202209061, wal_magic=0xD110),
    MajorVersion(major=16, control_version=1300, catalog_version=202307071, wal_magic=0xD113),
    MajorVersion(major=17, control_version=1700, catalog_version=202406281, wal_magic=0xD116),
    MajorVersion(major=18, control_version=1800, catalog_version=202506291, wal_magic=0xD118),
)
"""Oldest first."""


def find_by_major(major: int) -> MajorVersion | None:
    return next((version for version in SUPPORTED if version.major == major), None)


def find_by_wal_magic(wal_magic: int) -> MajorVersion | None:
    """By the first two bytes of every WAL page (xlp_magic)."""
    return next((version for version in SUPPORTED if version.wal_magic == wal_magic), None)


def find_by_control(control_version: int, catalog_version: int) -> MajorVersion | None:
    """By the two version numbers of ``global/pg_control``; the first alone does not tell 15 from 16."""
    wanted = (control_version, catalog_version)
    return next(
        (version for version in SUPPORTED if (version.control_version, version.catalog_version) == wanted), None
    )


def supported_majors() -> str:
    """For messages: ``"15, 16, 17 and 18"``."""
    *first, last = (str(version) for version in SUPPORTED)
    return f"{', '.join(first)} and {last}"


def require_supported(server_version_num: int) -> MajorVersion:
    """The major version of a server whose ``server_version_num`` this is (``170011`` for 17.11).

    Raises ServerUnsuitable, naming the supported versions.
    """
    major = server_version_num // 10000
    version = find_by_major(major)
    if version is None:
        # Until 9.6 the first two numbers were the major version.
        name = str(major) if major >= 10 else f"{major}.{server_version_num // 100 % 100}"
        raise ServerUnsuitable(
            f"PostgreSQL {name} is not supported", hint=f"Supported major versions are {supported_majors()}."
        )
    return version
