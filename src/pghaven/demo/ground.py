"""Where a demonstration happens: a directory, a user for its servers, and programs that this user can run.

The one idea: PostgreSQL refuses to run as root, and what root has installed for itself (below /root, say) is closed to
everybody else. Whether the servers' user can run a program is tried; one that it cannot is copied into the directory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pghaven.clock import Clock
from pghaven.demo.copying import copy_pghaven
from pghaven.errors import Damaged, NotFound, NotPermitted, PghavenError, Refused, UsageError
from pghaven.events import Listener, Step
from pghaven.postgres.version import SUPPORTED
from pghaven.runtime.durable import OwnerOf
from pghaven.server.identity import OsUser, child_identity
from pghaven.server.postmaster import is_alive, is_running, list_server_processes
from pghaven.server.programs import Programs, can_run, copy_programs, find_embedded, find_programs, inspect_programs
from pghaven.setup.program import find_program
from pghaven.units import render_size

MARK: Final = "pghaven.demo.json"
"""What says that a directory is a demonstration's, and what else belongs to it."""
ORIGINAL: Final = "original"
RESTORED: Final = "restored"
"""Names of the two data directories."""

_PREFIX: Final = "pghaven-demo-"
_SOCKET_PATH_MAX: Final = 107
_TRY_SECONDS: Final = 60
_END_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02
# Original, restored copy, repository and WAL, by the data's size; and what does not depend on it.
_ROOM_FACTOR: Final = 4
_ROOM_FIXED_BYTES: Final = 400 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """``user`` runs the servers; None when we do ourselves. ``program`` are the words by which it starts pghaven."""

    directory: str
    sockets: str
    user: OsUser | None
    programs: Programs
    program: tuple[str, ...]

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def make_directory(self, name: str) -> str:
        """A directory for the servers' user alone."""
        path = self.path(name)
        os.mkdir(path, 0o700)
        give(path, self.user)
        return path


def give(path: str, user: OsUser | None) -> None:
    """Make this user, if it is another, the owner of a file or directory of ours."""
    if user is not None:
        OwnerOf(uid=user.uid, gid=user.gid).give(path)


# -- directory -------------------------------------------------------------------------------------------------------


def make_directory(wanted: str | None, user: OsUser | None, size_bytes: int) -> tuple[str, bool]:
    """The demonstration's directory, empty; and whether it was made now.

    Raises Refused for one that is not empty or too small, NotPermitted for one the servers' user cannot enter.
    """
    if wanted is None:
        path, is_new = tempfile.mkdtemp(prefix=_PREFIX), True
    else:
        path = os.path.abspath(wanted)
        is_new = _make_wanted(path)
    try:
        if is_new and user is not None:
            os.chmod(path, 0o711)  # noqa: S103  the servers' user must get through; what is inside is closed
        _require_entry(path, user)
        _require_room(path, size_bytes)
    except BaseException:
        if is_new:
            os.rmdir(path)
        raise
    return path, is_new


def _make_wanted(path: str) -> bool:
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path) or os.listdir(path):
            raise Refused(
                f'"{path}" exists and is not an empty directory', hint="Name a directory that does not exist yet."
            ) from None
        return False
    except FileNotFoundError:
        raise NotFound(f'"{os.path.dirname(path)}" does not exist') from None
    except OSError as error:
        raise NotPermitted(f'could not make "{path}": {error.strerror}') from error
    return True


def _require_entry(path: str, user: OsUser | None) -> None:
    if user is not None and _run_as(user, ["test", "-x", path]) != 0:
        raise NotPermitted(
            f'operating-system user "{user.name}", whom the servers run as, cannot enter "{path}"',
            hint="Name another place with --directory, such as /var/tmp/demo.",
        )


def _require_room(path: str, size_bytes: int) -> None:
    found = os.statvfs(path)
    free, needed = found.f_bavail * found.f_frsize, _ROOM_FACTOR * size_bytes + _ROOM_FIXED_BYTES
    if free < needed:
        raise Refused(
            f'not enough space in "{path}": {render_size(needed)} are needed, {render_size(free)} are free',
            hint="Name another place with --directory, or have less data with --size.",
        )


def make_sockets(directory: str, user: OsUser | None) -> str:
    """A directory for sockets that only the servers' user (and root) can enter; elsewhere if the path is too long."""
    path = os.path.join(directory, "sockets")
    if len(os.fsencode(f"{path}/.s.PGSQL.65535")) > _SOCKET_PATH_MAX:
        path = tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp")
    else:
        os.mkdir(path, 0o700)
    give(path, user)
    return path


def write_mark(directory: str, sockets: str, *, is_new: bool) -> None:
    """Claim the directory, so that it can be cleared later, by another process too."""
    with open(os.path.join(directory, MARK), "x", encoding="utf-8") as file:
        json.dump({"format": 1, "sockets": sockets, "directory_made": is_new}, file)


def clear(directory: str, clock: Clock) -> None:
    """End the servers of a demonstration and remove all its files, with the directory if it was made for it.

    Raises Refused for a directory that is not a demonstration's, NotPermitted when servers or files are another user's.
    """
    sockets, is_new = _read_mark(directory)
    inside = [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    outside = {sockets, *_list_sockets(inside)}
    _end_processes(inside, clock)
    for path in outside:
        _remove_sockets(path)
    deadline = clock.monotonic() + _END_SECONDS
    while os.listdir(directory) != [MARK]:
        if clock.monotonic() > deadline:
            raise NotPermitted(
                f'could not remove everything in "{directory}"',
                hint="Run this as root or as the user who ran the demonstration.",
            )
        # Again and again: what a server had started may still be ending, and writing.
        for entry in os.scandir(directory):
            _remove(entry)
        clock.sleep(_POLL_SECONDS)
    # Last, so that a removal that was cut short can be done again.
    os.unlink(os.path.join(directory, MARK))
    if is_new:
        os.rmdir(directory)


def _list_sockets(data_directories: list[str]) -> list[str]:
    """Where the servers in these directories listen: a recovery that was interrupted leaves a place of its own."""
    found = [is_running(path) for path in data_directories]
    return [server.socket_directory for server in found if server is not None and server.socket_directory]


def _remove_sockets(path: str) -> None:
    """A directory of sockets, once nobody listens there; one that holds anything else stays."""
    with suppress(OSError):
        for name in os.listdir(path):
            if name.startswith(".s.PGSQL."):
                os.unlink(os.path.join(path, name))
        os.rmdir(path)


def _read_mark(directory: str) -> tuple[str, bool]:
    try:
        with open(os.path.join(directory, MARK), encoding="utf-8") as file:
            mark = json.load(file)
        return str(mark["sockets"]), bool(mark["directory_made"])
    except (FileNotFoundError, NotADirectoryError):
        raise Refused(f'"{directory}" is not the directory of a demonstration: it has no {MARK}') from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f'"{directory}/{MARK}" cannot be read: {error}') from error


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.name == MARK:
        return
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(entry.path)


def _end_processes(data_directories: list[str], clock: Clock) -> None:
    """End every server process in these directories, and one of ours that has not got that far yet."""
    deadline = clock.monotonic() + _END_SECONDS
    while True:
        pids = set(_list_starting(data_directories))
        for path in data_directories:
            if os.path.isdir(path):
                pids.update(list_server_processes(path))
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGQUIT)
            except ProcessLookupError:
                continue
            except PermissionError:
                raise NotPermitted(
                    f"could not end the server with process {pid}: it is another user's",
                    hint="Run this as the user who ran the demonstration.",
                ) from None
        if clock.monotonic() > deadline:
            raise Refused(f"servers do not end: processes {', '.join(map(str, sorted(pids)))}")
        clock.sleep(_POLL_SECONDS)


def _list_starting(data_directories: list[str]) -> list[int]:
    """Our own children that were given one of these directories: a server (or initdb) just started has not changed
    into it yet."""
    wanted = {os.fsencode(path) for path in data_directories}
    found = []
    for pid in _list_children():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if wanted.intersection(words) and is_alive(pid):
            found.append(pid)
    return found


def _list_children() -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parent = file.read().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue
        if int(parent) == os.getpid():
            found.append(int(name))
    return found


# -- programs --------------------------------------------------------------------------------------------------------


def find_postgresql(directory: str, user: OsUser | None, listener: Listener) -> Programs:
    """PostgreSQL's programs, the embedded ones if they are installed, else the newest of this host; in a copy below
    ``directory`` if ``user`` cannot reach them. Raises NotFound, NotPermitted."""
    found = _find_postgresql()
    if can_run(found, user):
        return found
    listener(Step(text="copying PostgreSQL's programs to where the servers' user can run them"))
    place = os.path.join(directory, "programs")
    os.mkdir(place, 0o755)
    copied = copy_programs(found, place)
    if not can_run(copied, user):
        raise NotPermitted(
            f'PostgreSQL\'s programs cannot be run from "{place}"' + ("" if user is None else f' by "{user.name}"'),
            hint="Name another place with --directory; this one's file system may forbid to run programs.",
        )
    return copied


def _find_postgresql() -> Programs:
    embedded = find_embedded()
    if embedded is not None:
        found = inspect_programs(embedded)
        if isinstance(found, Programs):
            return found
    for version in reversed(SUPPORTED):
        try:
            return find_programs(version.major)
        except NotFound:
            continue
    raise NotFound(
        "there is no PostgreSQL for the demonstration",
        hint="In a checkout run: make demo. Otherwise install pghaven with its extra: pip install 'pghaven[demo]'",
    )


def find_pghaven(directory: str, user: OsUser | None, listener: Listener) -> tuple[str, ...]:
    """The words by which the servers' user starts pghaven; a copy below ``directory`` if it cannot reach ours.

    Raises NotPermitted.
    """
    words = find_program(None)
    if _can_start(words, user):
        return words
    listener(Step(text="copying pghaven to where the servers' user can run it"))
    try:
        copied = copy_pghaven(os.path.join(directory, "pghaven"))
    except OSError as error:
        raise UsageError(f"could not copy pghaven for the servers' user: {error}") from error
    if not _can_start(copied, user):
        who = "this user" if user is None else f'operating-system user "{user.name}"'
        raise NotPermitted(
            f"{who}, whom the servers run as, cannot run pghaven",
            hint="Install pghaven where everybody can run it, such as in /opt/pghaven.",
        )
    return copied


def _can_start(words: tuple[str, ...], user: OsUser | None) -> bool:
    return _run_as(user, [*words, "wal", "--help"]) == 0


def _run_as(user: OsUser | None, command: list[str]) -> int | None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRY_SECONDS,
            check=False,
            **child_identity(user),
        )
    except (OSError, subprocess.TimeoutExpired, PghavenError):
        return None
    return done.returncode
