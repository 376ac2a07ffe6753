"""Looking at what changes meanwhile: files that others remove, processes that end.

The one idea: ``rglob`` and ``glob`` fail where a directory goes between being seen and being read, and so does whoever
opens what they have seen; who looks at something in use must take it that what has gone was not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from tests.support.places import own


def list_names(root: Path) -> set[str]:
    """The names of all files below ``root``, which may change or go while this looks."""
    return {name for _, _, names in os.walk(root) for name in names}


def list_files(root: Path, pattern: str = "*") -> list[Path]:
    """All files below ``root`` whose names match, in order; ``root`` may change or go while this looks."""
    return sorted(
        Path(place, name) for place, _, names in os.walk(root) for name in names if fnmatchcase(name, pattern)
    )


def give_to_plain(root: Path) -> None:
    """``root`` and all below it to the plain user, apart from what goes meanwhile."""
    own(root)
    for place, directories, names in os.walk(root):
        for name in (*directories, *names):
            with suppress(FileNotFoundError):
                own(Path(place, name))


def iter_command_lines() -> Iterator[bytes]:
    """What every process was started with, as the kernel keeps it."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            yield Path(f"/proc/{pid}/cmdline").read_bytes()
