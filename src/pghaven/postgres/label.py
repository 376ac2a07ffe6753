"""``backup_label`` and ``tablespace_map``: the two files ``pg_backup_stop`` hands out with a backup.

The one idea: both must reach the restored directory byte for byte as the server gave them; they are read here to know
what they say, and only the tablespace map may be written anew, when tablespaces move. Sources: xlogbackup.c
(build_backup_content), xlogrecovery.c (read_backup_label, read_tablespace_map), xlog.c (do_pg_backup_start).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline

BACKUP_LABEL_NAME: Final = "backup_label"
TABLESPACE_MAP_NAME: Final = "tablespace_map"

_START = re.compile(r"([0-9A-F]{1,8}/[0-9A-F]{1,8}) \(file ([0-9A-F]{24})\)", re.ASCII)
_MAP_LINE = re.compile(r"([0-9]{1,10}) (.+)", re.ASCII | re.DOTALL)
_MAP_ESCAPED = re.compile(r"([\\\n\r])")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupLabelFile:
    """What ``backup_label`` says. ``start_lsn`` is where replay must begin; ``start_time`` is as the server wrote it,
    in its own log zone, and only good for showing.
    """

    start_lsn: Lsn
    start_segment_name: str
    start_timeline: Timeline
    checkpoint_lsn: Lsn
    method: str
    backup_from: Literal["primary", "standby"]
    start_time: str
    label: str


def parse_backup_label(text: str) -> BackupLabelFile:
    """The contents of ``backup_label``. Raises Damaged when a line is missing, doubled or contradicts another."""
    lines = _split_label_lines(text)
    start = _START.fullmatch(_get_line(lines, "START WAL LOCATION"))
    if start is None:
        raise Damaged(f'{BACKUP_LABEL_NAME}: invalid START WAL LOCATION "{lines["START WAL LOCATION"]}"')
    backup_from = _get_line(lines, "BACKUP FROM")
    if backup_from not in {"primary", "standby"}:
        raise Damaged(f'{BACKUP_LABEL_NAME}: backup is from "{backup_from}", neither primary nor standby')
    try:
        timeline = Timeline(int(_get_line(lines, "START TIMELINE")))
        checkpoint_lsn = Lsn.parse(_get_line(lines, "CHECKPOINT LOCATION"))
    except ValueError as error:
        raise Damaged(f"{BACKUP_LABEL_NAME}: {error}") from error
    if start[2][:8] != timeline.hex8:
        raise Damaged(f'{BACKUP_LABEL_NAME}: segment "{start[2]}" is not of timeline {timeline}')
    return BackupLabelFile(
        start_lsn=Lsn.parse(start[1]),
        start_segment_name=start[2],
        start_timeline=timeline,
        checkpoint_lsn=checkpoint_lsn,
        method=_get_line(lines, "BACKUP METHOD"),
        backup_from="primary" if backup_from == "primary" else "standby",
        start_time=_get_line(lines, "START TIME"),
        label=_get_line(lines, "LABEL"),
    )


def _split_label_lines(text: str) -> dict[str, str]:
    lines: dict[str, str] = {}
    for line in text.split("\n"):
        key, separator, value = line.partition(": ")
        if separator and key in lines:
            # The server does not keep line ends out of LABEL; what it then reads is anybody's guess.
            raise Damaged(f'{BACKUP_LABEL_NAME}: line "{key}" comes twice')
        if separator:
            lines[key] = value
    return lines


def _get_line(lines: dict[str, str], key: str) -> str:
    if key not in lines:
        raise Damaged(f'{BACKUP_LABEL_NAME}: there is no line "{key}"')
    return lines[key]


def parse_tablespace_map(text: str) -> tuple[tuple[int, str], ...]:
    """Pairs of a tablespace's OID and the directory its link in ``pg_tblspc`` points to, in the file's order.

    A backslash takes the following character as it is, so that paths may hold line ends. Raises Damaged.
    """
    entries: list[tuple[int, str]] = []
    for line in _split_map_lines(text):
        match = _MAP_LINE.fullmatch(line)
        if match is None or not 0 < int(match[1]) < 1 << 32:
            raise Damaged(f'{TABLESPACE_MAP_NAME}: expected an OID and a directory, found "{line}"')
        entries.append((int(match[1]), match[2]))
    return tuple(entries)


def _split_map_lines(text: str) -> list[str]:
    """Lines with their escapes resolved; empty lines are dropped, as the server does."""
    lines: list[str] = []
    current: list[str] = []
    after_backslash = False
    for character in text:
        if not after_backslash and character in "\n\r":
            if current:
                lines.append("".join(current))
            current = []
        elif not after_backslash and character == "\\":
            after_backslash = True
        else:
            current.append(character)
            after_backslash = False
    if current or after_backslash:
        raise Damaged(f"{TABLESPACE_MAP_NAME}: the last line is cut off")
    return lines


def render_tablespace_map(entries: Iterable[tuple[int, str]]) -> str:
    """The inverse of ``parse_tablespace_map``."""
    return "".join(f"{oid} {_escape_path(path)}\n" for oid, path in entries)


def _escape_path(path: str) -> str:
    return _MAP_ESCAPED.sub(r"\\\1", path)
