"""What is mounted where, as the kernel says it.

The one idea: a path's file system is the last mount over the longest part of it, read from ``/proc/self/mountinfo``;
proc_pid_mountinfo(5) gives the columns.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """``device`` is ``major:minor``, equal for all mounts of one file system; ``source`` what was mounted."""

    point: str
    device: str
    type: str
    source: str


def find_mount(path: str, table: str | None = None) -> Mount:
    """The mount that a path, its links followed, lies on. ``table`` is mountinfo's text, by default this process's."""
    real = os.path.realpath(path)
    if table is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            table = file.read()
    best: Mount | None = None
    for line in table.splitlines():
        mount = _parse(line)
        is_over = real == mount.point or real.startswith(mount.point.rstrip("/") + "/")
        if is_over and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    if best is None:
        raise ValueError(f'no mount is over "{real}"')
    return best


def _parse(line: str) -> Mount:
    front, _, back = line.partition(" - ")
    fields = front.split(" ")
    kind, source = back.split(" ")[:2]
    return Mount(point=_unescape(fields[4]), device=fields[2], type=kind, source=_unescape(source))


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
