"""Recovery targets, and the settings that make a server recover to them.

The one idea: every setting that decides where recovery ends is written, those not wanted as empty, so that nothing
left in a restored ``postgresql.conf`` can have a say. The order matters: the server refuses "multiple recovery targets"
when an empty one follows the wanted one, so the wanted one comes last (assign_recovery_target_* in xlogrecovery.c).
``target_time.py`` reads the times people write. Names and values are the same in all supported versions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal

from pghaven.errors import UsageError
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.target_time import parse_target_time
from pghaven.postgres.timeline import Timeline

__all__ = [
    "RECOVERY_SIGNAL_NAME",
    "STANDBY_SIGNAL_NAME",
    "TARGET_SETTINGS",
    "RecoveryTarget",
    "TargetAction",
    "TargetKind",
    "parse_target_time",
    "quote_setting",
    "render_recovery_settings",
    "render_settings_block",
    "render_target",
    "replace_settings_block",
    "strip_settings_block",
]

RECOVERY_SIGNAL_NAME: Final = "recovery.signal"
STANDBY_SIGNAL_NAME: Final = "standby.signal"

TargetAction = Literal["pause", "promote", "shutdown"]

TARGET_SETTINGS: Final = (
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
)
_TARGET_NAME_BYTES_MAX: Final = 63  # MAXFNAMELEN - 1
_FIRST_NORMAL_XID: Final = 3  # FirstNormalTransactionId: no transaction ever commits under a lower one

_BEGIN: Final = "# BEGIN pghaven"
_END: Final = "# END pghaven"
_BLOCK = re.compile(rf"^{_BEGIN}$.*?^{_END}$\n?", re.MULTILINE | re.DOTALL)
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$.]*", re.ASCII)
_ESCAPES: Final = str.maketrans({"'": "''", "\\": "\\\\", "\n": "\\n", "\r": "\\r"})


class TargetKind(StrEnum):
    """What decides where recovery stops; the values are for people and machines alike."""

    LATEST = "latest"
    IMMEDIATE = "immediate"
    TIME = "time"
    LSN = "lsn"
    XID = "xid"
    NAME = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryTarget:
    """Where recovery stops, and what then. UsageError when the parts do not fit together.

    ``kind`` says which one of ``time`` (aware), ``lsn``, ``xid`` and ``name`` is given; latest and immediate take
    none. ``inclusive`` says whether what happened exactly there is still replayed; it means nothing for the other
    kinds. ``xid`` may be 32 bits or the full 64 bits that ``pg_current_xact_id()`` returns. ``timeline`` None leaves
    the choice to the restore plan. ``action`` is what the server does on arrival.
    """

    kind: TargetKind
    time: datetime | None = None
    lsn: Lsn | None = None
    xid: int | None = None
    name: str | None = None
    inclusive: bool = True
    timeline: Timeline | None = None
    action: TargetAction = "promote"

    def __post_init__(self) -> None:
        given: tuple[tuple[TargetKind, object], ...] = (
            (TargetKind.TIME, self.time),
            (TargetKind.LSN, self.lsn),
            (TargetKind.XID, self.xid),
            (TargetKind.NAME, self.name),
        )
        for kind, value in given:
            if (value is not None) != (kind is self.kind):
                needs = "needs its" if kind is self.kind else "takes no"
                raise UsageError(f'recovery target "{self.kind}" {needs} {kind}')
        if self.time is not None and self.time.utcoffset() is None:
            raise UsageError(f"recovery target time {self.time} has no time zone")
        if self.xid is not None and not (0 <= self.xid < 1 << 64 and self.xid & 0xFFFFFFFF >= _FIRST_NORMAL_XID):
            raise UsageError(f"{self.xid} is not the ID of a transaction that could have been committed")
        if self.name is not None and not _is_restore_point_name(self.name):
            raise UsageError(
                f'"{self.name}" is not the name of a restore point: it must have 1 to {_TARGET_NAME_BYTES_MAX} bytes'
            )
        if self.kind is TargetKind.LATEST and self.action != "promote":
            # The server ignores recovery_target_action when there is no target to arrive at.
            raise UsageError(f"cannot {self.action} at the latest position, because the server promotes at its end")


def _is_restore_point_name(name: str) -> bool:
    return 1 <= len(name.encode(errors="surrogateescape")) <= _TARGET_NAME_BYTES_MAX and "\0" not in name


def render_target(target: RecoveryTarget) -> str:
    """For people: ``"up to and including 2026-11-23 04:47:00+01:00"``; times are in the local zone."""
    side = "up to and including" if target.inclusive else "up to but not including"
    timeline = f", timeline {target.timeline}" if target.timeline is not None else ""
    if target.kind is TargetKind.LATEST:
        return f"the latest position in the archive{timeline}"
    if target.kind is TargetKind.IMMEDIATE:
        return f"the end of the backup{timeline}"
    if target.kind is TargetKind.NAME:
        return f'restore point "{target.name}"{timeline}'
    if target.time is not None:
        return f"{side} {target.time.astimezone().isoformat(sep=' ')}{timeline}"
    if target.kind is TargetKind.XID:
        return f"{side} transaction {target.xid}{timeline}"
    return f"{side} WAL position {target.lsn}{timeline}"


def render_recovery_settings(
    target: RecoveryTarget, *, restore_command: str, timeline: Timeline | Literal["latest", "current"]
) -> tuple[tuple[str, str], ...]:
    """Names and values of settings, in the order in which they must be written.

    ``timeline`` is the one the restore plan decided on; ``"latest"`` is what a standby follows. Commands and the
    delay that the restored configuration may hold are switched off: an ``archive_cleanup_command`` would delete from
    an archive that is not this server's, and ``recovery_min_apply_delay`` holds up every recovery, not a standby's
    alone.
    """
    wanted = _render_target_setting(target)
    unset = [(name, "") for name in TARGET_SETTINGS if wanted is None or name != wanted[0]]
    return (
        ("restore_command", restore_command),
        ("archive_cleanup_command", ""),
        ("recovery_end_command", ""),
        ("recovery_min_apply_delay", "0"),
        *unset,
        ("recovery_target_timeline", str(timeline)),
        ("recovery_target_inclusive", "on" if target.inclusive else "off"),
        ("recovery_target_action", target.action),
        *([wanted] if wanted is not None else []),
    )


def _render_target_setting(target: RecoveryTarget) -> tuple[str, str] | None:
    if target.kind is TargetKind.IMMEDIATE:
        return ("recovery_target", "immediate")
    if target.time is not None:
        # With an offset, so that the server's TimeZone and DateStyle do not matter.
        return ("recovery_target_time", target.time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00"))
    if target.lsn is not None:
        return ("recovery_target_lsn", str(target.lsn))
    if target.xid is not None:
        return ("recovery_target_xid", str(target.xid))
    if target.name is not None:
        return ("recovery_target_name", target.name)
    return None


def quote_setting(value: str) -> str:
    """A value as postgresql.conf takes it: ``it's`` becomes ``'it''s'``. ValueError for a zero byte.

    Backslashes are doubled and line ends escaped, since the server resolves both (DeescapeQuotedString, guc-file.l).
    """
    if "\0" in value:
        raise ValueError("a setting cannot hold a zero byte")
    return f"'{value.translate(_ESCAPES)}'"


def render_settings_block(settings: Iterable[tuple[str, str]], header: str) -> str:
    """Lines for ``postgresql.auto.conf`` between marks of ours; ``header`` becomes comments that say why.

    ValueError for something that is not the name of a setting.
    """
    lines = [_BEGIN, *(f"# {line}".rstrip() for line in header.splitlines())]
    for name, value in settings:
        if not _SETTING_NAME.fullmatch(name):
            raise ValueError(f'"{name}" is not the name of a setting')
        lines.append(f"{name} = {quote_setting(value)}")
    return "\n".join([*lines, _END, ""])


def strip_settings_block(text: str) -> str:
    """``text`` without blocks of ours. A beginning without an end is left alone: nobody can say how far it goes.

    ALTER SYSTEM rewrites the file without comments; what we wrote is then settings like any other and stays. That
    does no harm: a later block is complete, and the last one to name a setting decides.
    """
    return _BLOCK.sub("", text)


def replace_settings_block(text: str, block: str) -> str:
    """``text`` with its blocks of ours replaced by ``block``, at the end, where it has the last word."""
    kept = strip_settings_block(text)
    separator = "" if not kept or kept.endswith("\n") else "\n"
    return f"{kept}{separator}{block}"
