"""Whether a server runs in a data directory, as seen from outside without connecting.

The one idea: ``postmaster.pid`` alone proves nothing, because it outlives a crash and its process id may have been
given to somebody else since. A server's processes are recognised by what they are (their name) and where they are
(every PostgreSQL process has the data directory as its working directory, ChangeToDataDir in miscinit.c).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import Damaged
from pghaven.units import since_epoch

PID_FILE_NAME: Final = "postmaster.pid"

STATUS_STARTING: Final = "starting"
STATUS_STOPPING: Final = "stopping"
STATUS_READY: Final = "ready"
STATUS_STANDBY: Final = "standby"

# edb-postgres and the like are postgres too; the kernel cuts names to 15 characters.
_NAMES: Final = ("postgres", "postmaster")
_GONE_STATES: Final = "ZX"
# PostgreSQL makes the file first and writes into it then (CreateLockFile in miscinit.c); on a busy host a reader gets
# between the two. One that stays empty is what a crash left.
_EMPTY_SECONDS: Final = 5.0
_EMPTY_POLL_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class PidFile:
    """``postmaster.pid`` (miscadmin.h, pidfile.h). Fields the server has not written yet are None.

    ``status``: ``starting``, ``stopping``, ``ready`` (accepts connections, as a standby too), ``standby`` (in
    recovery and not accepting any).
    """

    pid: int
    data_directory: str
    started: datetime | None
    port: int | None
    socket_directory: str | None
    listen_address: str | None
    status: str | None


def read_pid_file(data_directory: str, *, clock: Clock = SYSTEM_CLOCK) -> PidFile | None:
    """None when there is no such file. Raises Damaged for one PostgreSQL did not write, and OSError.

    Blocks for some seconds while the file is there but empty, as it is for a moment in every start.
    """
    path = os.path.join(data_directory, PID_FILE_NAME)
    deadline = clock.monotonic() + _EMPTY_SECONDS
    while True:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except FileNotFoundError:
            return None
        if text or clock.monotonic() >= deadline:
            break
        clock.sleep(_EMPTY_POLL_SECONDS)
    lines = [line.strip() for line in text.splitlines()]
    lines += [""] * (8 - len(lines))
    # A standalone backend (postgres --single) writes its process id as a negative number.
    if not lines[0].removeprefix("-").isdecimal():
        raise Damaged(
            f'"{path}" does not begin with a process id', hint="Look whether a server still uses the directory."
        )
    return PidFile(
        pid=abs(int(lines[0])),
        data_directory=lines[1],
        started=since_epoch(int(lines[2])) if lines[2].isdecimal() else None,
        port=int(lines[3]) if lines[3].isdecimal() else None,
        socket_directory=lines[4] or None,
        listen_address=lines[5] or None,
        status=lines[7] or None,
    )


def is_running(data_directory: str) -> PidFile | None:
    """The pid file of the server that runs in this directory; None when none does or the file is a dead server's.

    Where the process may not be looked at (another user's, and we are not root) its name decides, so that doubt says
    "running". Server processes that lost their postmaster are not seen here: see ``list_server_processes``.
    Raises Damaged, OSError.
    """
    found = read_pid_file(data_directory)
    if found is None or not _serves(found.pid, data_directory, doubt=True):
        return None
    return found


def list_server_processes(data_directory: str) -> tuple[int, ...]:
    """Every PostgreSQL process that works in this directory, with or without a pid file, such as backends that
    outlived a killed postmaster and still may write. Of other users' processes only root sees them.
    """
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return tuple(sorted(pid for pid in pids if _serves(pid, data_directory, doubt=False)))


def find_tablespace_user(directory: str) -> str | None:
    """The data directory of a running server that has a tablespace here; of other users' servers only root sees
    them."""
    for pid in (name for name in os.listdir("/proc") if name.isdecimal()):
        try:
            data_directory = os.readlink(f"/proc/{pid}/cwd")
            if not _serves(int(pid), data_directory, doubt=False):
                continue
            links = [f"{data_directory}/pg_tblspc/{name}" for name in os.listdir(f"{data_directory}/pg_tblspc")]
        except OSError:
            continue
        for link in links:
            with suppress(OSError):
                if os.path.samefile(link, directory):
                    return data_directory
    return None


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended; one that ended and was not waited for yet does not count."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name between the brackets may hold anything, even brackets.
            state = file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in _GONE_STATES


def _serves(pid: int, data_directory: str, *, doubt: bool) -> bool:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            name = file.read()
        if not any(known in name for known in _NAMES) or not is_alive(pid):
            return False
        return os.path.samefile(f"/proc/{pid}/cwd", data_directory)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        return doubt
