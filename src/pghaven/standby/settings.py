"""The settings that make a data directory a standby's, in one marked block at the end of ``postgresql.auto.conf``.

The one idea: however the data came there (restored, copied, rewound), the same block is written behind it, so a standby
is told what it follows in one place; no password stands in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pghaven.errors import NotFound, NotPermitted, StoreUnreachable
from pghaven.postgres.recovery import (
    RecoveryTarget,
    TargetKind,
    render_recovery_settings,
    render_settings_block,
    replace_settings_block,
    strip_settings_block,
)
from pghaven.runtime.durable import OwnerOf, fsync_directory, write_durably

_AUTO_CONF = "postgresql.auto.conf"
STANDBY_SIGNAL = "standby.signal"
_DROPPED = ("password", "application_name", "passfile", "user", "dbname", "replication", "connect_timeout")
# Where the server listens, and what it may not have smaller than its primary.
_KEPT_LINE = re.compile(r"(port|max_[a-z_]+) = '([0-9]+)'")
_HEADER = (
    "Written by pghaven for a standby of cluster {}.\n"
    "What the standby is to follow is decided here; the last setting of a name counts."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbySettings:
    """``primary_conninfo`` is None for a standby that is fed by the archive alone. ``more`` are further settings."""

    cluster: str
    restore_command: str
    primary_conninfo: str | None
    slot: str | None = None
    delay_seconds: float = 0.0
    port: int | None = None
    target: RecoveryTarget | None = None
    more: Mapping[str, str] = field(default_factory=dict)


def render_primary_conninfo(
    upstream: str, host: str, port: int, *, role: str, application_name: str, passfile: str | None
) -> str:
    """How the standby connects: as ``upstream`` says, with nothing left to the server's environment.

    ``host`` and ``port`` are where a session by ``upstream`` went; they are taken where it names none.
    """
    parts = {name: value for name, value in conninfo_to_dict(upstream).items() if name not in _DROPPED}
    if not parts.get("host") and not parts.get("hostaddr") and not parts.get("service"):
        parts |= {"host": host, "port": str(port)}
    ours = {"user": role, "application_name": application_name}
    if passfile is not None:
        ours["passfile"] = passfile
    return make_conninfo("", **{**parts, **ours})


def render_settings(wanted: StandbySettings) -> tuple[tuple[str, str], ...]:
    """Names and values in the order in which they are written."""
    target = wanted.target or RecoveryTarget(kind=TargetKind.LATEST)
    pairs = dict(render_recovery_settings(target, restore_command=wanted.restore_command, timeline="latest"))
    pairs["recovery_min_apply_delay"] = f"{round(wanted.delay_seconds * 1000)}ms"
    pairs["primary_conninfo"] = wanted.primary_conninfo or ""
    pairs["primary_slot_name"] = wanted.slot or ""
    pairs["hot_standby"] = "on"
    if wanted.port is not None:
        pairs["port"] = str(wanted.port)
    return tuple({**pairs, **wanted.more}.items())


def write_standby(data_directory: str, wanted: StandbySettings, *, signal: bool = True) -> None:
    """Write the block, and the file that makes the server a standby. Durable when it returns; a running server is not
    told. Raises NotFound, NotPermitted, StoreUnreachable."""
    with _files_of(data_directory) as (place, owner):
        text = _read(f"{place}/{_AUTO_CONF}")
        pairs = {**_read_kept(text), **dict(render_settings(wanted))}
        block = render_settings_block(pairs.items(), _HEADER.format(wanted.cluster))
        content = replace_settings_block(text, block).encode("utf-8", "surrogateescape")
        write_durably(f"{place}/{_AUTO_CONF}", content, 0o600, owner)
        if signal:
            write_durably(f"{place}/{STANDBY_SIGNAL}", b"", 0o600, owner)


def _read_kept(text: str) -> dict[str, str]:
    """What an earlier block of ours says of the server itself, and a new one does not take away."""
    left = set(strip_settings_block(text).splitlines())
    ours = (_KEPT_LINE.fullmatch(line) for line in text.splitlines() if line not in left)
    return {match[1]: match[2] for match in ours if match}


@contextmanager
def _files_of(data_directory: str) -> Iterator[tuple[str, OwnerOf]]:
    """The directory by its open descriptor, so that nobody exchanges it for a link meanwhile, and its owner."""
    try:
        descriptor = os.open(data_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{descriptor}", OwnerOf.path(descriptor)
            fsync_directory(descriptor)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f'there is no data directory "{data_directory}"') from error
    except PermissionError as error:
        raise NotPermitted(f'could not write into "{data_directory}": permission denied') from error
    except OSError as error:
        raise StoreUnreachable(f'could not write into "{data_directory}": {error.strerror}') from error


def _read(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    with open(descriptor, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
