"""Calling a file system's own programs, and saying what went wrong in the words of somebody who has to mend it.

The one idea: a program's complaint is sorted once, here, by what it means; its own words always come along.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from pghaven.errors import Busy, NotFound, NotPermitted, ObjectExists, PghavenError, Refused, StoreFull

_SECONDS_MAX = 300
_PLACES = os.pathsep.join(("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"))
_PACKAGES = {"zfs": "zfsutils-linux", "btrfs": "btrfs-progs", "lvs": "lvm2", "lvcreate": "lvm2", "lvremove": "lvm2"}


# What the words of the three families mean; the first that fits is it.
_MEANINGS: tuple[tuple[type[PghavenError], re.Pattern[str]], ...] = (
    (
        NotPermitted,
        re.compile(
            r"permission denied|operation not permitted|must be superuser|cannot open /dev/zfs|run as root|"
            r"must be (root|run as)|only root|failed to initialize ZFS|permission to",
            re.IGNORECASE,
        ),
    ),
    (
        StoreFull,
        re.compile(
            r"no space left|out of space|insufficient free|disk quota exceeded|quota exceeded|"
            r"reached threshold|exceeds .*threshold|no free|insufficient suitable",
            re.IGNORECASE,
        ),
    ),
    (ObjectExists, re.compile(r"already exists|file exists|already (used|in use by)", re.IGNORECASE)),
    (
        NotFound,
        re.compile(
            r"does not exist|no such file|could not find|failed to find|not found|no such|could not statfs",
            re.IGNORECASE,
        ),
    ),
    (Busy, re.compile(r"is busy|in use|target is busy|filesystem is used", re.IGNORECASE)),
    (Refused, re.compile(r"dependent clones|has children", re.IGNORECASE)),
)
_HINTS: dict[type[PghavenError], str] = {
    NotPermitted: "Run this as root, or give the user the right (docs/guide/snapshots.md says how for each kind).",
    StoreFull: "Make room on it, or remove snapshots that are not needed: pghaven snapshot list, snapshot remove.",
    ObjectExists: "Choose another name, or remove what has it.",
    NotFound: "See what there is: pghaven snapshot list.",
    Busy: "Stop what uses it first, then try again.",
    Refused: "Remove what depends on it first, then try again.",
}


def run(what: str, *command: str) -> str:
    """Run a program and return its output. ``what`` is what could not be done if it fails, after "could not ".

    Raises Refused for a program that is not installed, which says nothing of what there is, and what ``explain`` says
    when it complains.
    """
    program = shutil.which(command[0], path=_PLACES) or shutil.which(command[0])
    if program is None:
        package = _PACKAGES.get(command[0])
        raise Refused(
            f'could not {what}: there is no program "{command[0]}"',
            hint=f"Debian's package is called {package}." if package else None,
        )
    environment = {**os.environ, "LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1"}
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_SECONDS_MAX,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Refused(f'could not {what}: "{" ".join(command)}" did not end within {_SECONDS_MAX} s') from None
    if done.returncode:
        raise explain(what, command, done.stderr or done.stdout)
    return done.stdout


def explain(what: str, command: tuple[str, ...], complaint: str) -> PghavenError:
    """The error that a program's complaint means; Refused for one that nobody has met before."""
    said = " ".join(complaint.split()) or "it said nothing"
    kind = next((kind for kind, pattern in _MEANINGS if pattern.search(complaint)), Refused)
    return kind(f"could not {what}: {said}", detail=f"The command was: {' '.join(command)}", hint=_HINTS[kind])
