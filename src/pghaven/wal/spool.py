"""The spool: WAL that was fetched before recovery asks for it, and needs only to be renamed then.

The one idea: a spooled file is as good as the process that vouches for it, and no longer. That process moves on a
*lease*, a file whose time of modification lies a moment ahead, for as long as everything is as it was when the files
were spooled. Whoever takes one makes another file, *now*, and compares the two times: both are the file system's own.
So what a process left that crashed, was killed or stopped, or a machine that was restarted, is served to nobody.

It lies in ``pg_wal/pghaven``, so that taking is a rename, and is named after the server's startup process and what the
command was told (configuration, cluster, plan): no other recovery, and none by another command, looks into it.

``xlogarchive.c`` of PostgreSQL is what asks; only under its own name for the file it waits for it is answered from
here, since ``pg_rewind`` asks for WAL by other rules.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.light import dataclass
from pghaven.postgres.datadir import PUSH_STATE_DIRECTORY, WAL_DIRECTORY
from pghaven.postgres.segment import WalFileKind, classify
from pghaven.runtime.whoami import find_parent

SPOOLS = f"{WAL_DIRECTORY}/{PUSH_STATE_DIRECTORY}/spool"
RECOVERY_TARGET = f"{WAL_DIRECTORY}/RECOVERYXLOG"
COMING = ".coming"
"""Ends the name of a file that is being fetched."""
LEASE, NOW, ASKED = "lease", "now", "asked"

_POLL_SECONDS = 0.005
_ANCESTORS_MAX = 8


def name_key(config_path: str, cluster: str, plan_path: str | None) -> str:
    """What a spool's name ends with: other for every other command."""
    import hashlib

    told = "\0".join((os.path.abspath(config_path), cluster, plan_path or ""))
    return hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()[:16]


def render_take(key: str) -> str:
    """The beginning of a ``restore_command``: serve a spooled file, which ends the shell, or go on. The shell is the
    child of the startup process, and runs in the data directory."""
    return (
        f'case "%p" in {RECOVERY_TARGET}) d={SPOOLS}/$PPID-{key}; [ -f "$d/%f" ] && echo >"$d/{NOW}" && '
        f'[ "$d/{LEASE}" -nt "$d/{NOW}" ] && mv -f "$d/%f" %p && exit 0;; esac; '
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spool:
    """The spool that the recovery which asks looks into; whether there is one is another matter.

    ``path`` is relative to the data directory, which is the current one. What fails there counts as not spooled.
    """

    startup_pid: int
    key: str

    @property
    def path(self) -> str:
        return f"{SPOOLS}/{self.startup_pid}-{self.key}"

    def take(self, name: str, target_path: str, seconds: float, clock: Clock = SYSTEM_CLOCK) -> bool:
        """Put a spooled file in place. One that is just being fetched is waited for, but not longer than that."""
        path = os.path.join(self.path, name)
        deadline = clock.monotonic() + seconds
        with suppress(OSError):
            while True:
                # In this order: a file that comes changes its name.
                is_coming = os.path.lexists(path + COMING)
                if not self._is_vouched_for():
                    return False
                if os.path.lexists(path):
                    os.rename(path, target_path)
                    return True
                if not is_coming or clock.monotonic() >= deadline:
                    return False
                clock.sleep(_POLL_SECONDS)
        return False

    def tell_asked(self, name: str) -> bool:
        """Tell the process that fills the spool what recovery got without it; whether there is one."""
        with suppress(OSError):
            if self._is_vouched_for():
                _write(os.path.join(self.path, ASKED), name.encode())
                return True
        return False

    def _is_vouched_for(self) -> bool:
        now = os.path.join(self.path, NOW)
        _write(now, b"\n")
        return os.stat(os.path.join(self.path, LEASE)).st_mtime_ns > os.stat(now).st_mtime_ns


def find_spool(file_name: str, target_path: str, config_path: str, cluster: str, plan_path: str | None) -> Spool | None:
    """The spool for this call in the current directory; None where it is not a server's recovery that asks for a
    segment."""
    if target_path != RECOVERY_TARGET or classify(file_name) is not WalFileKind.SEGMENT:
        return None
    startup_pid = _find_startup_process()
    if startup_pid is None:
        return None
    return Spool(startup_pid=startup_pid, key=name_key(config_path, cluster, plan_path))


def _find_startup_process() -> int | None:
    """The child of the postmaster of the current directory from which we descend."""
    try:
        with open("postmaster.pid", encoding="ascii", errors="replace") as file:
            postmaster = int(file.readline())
    except (OSError, ValueError):
        return None
    pid = os.getppid()
    for _ in range(_ANCESTORS_MAX):
        parent = find_parent(pid)
        if parent == postmaster:
            return pid
        if parent is None or parent <= 1:
            break
        pid = parent
    return None


def _write(path: str, content: bytes) -> None:
    """Its time is that of this write in any case, which it would not be of one that only cuts off nothing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


class SpoolKeeper:
    """The spool from the side of the process that fills it, by absolute paths. Raises OSError."""

    def __init__(self, directory: str, lock: int) -> None:
        self._directory = directory
        self._lock = lock

    @property
    def directory(self) -> str:
        return self._directory

    def vouch(self, seconds: float) -> None:
        """Serve what is spooled, for so long from now on."""
        clock, lease = (os.path.join(self._directory, name) for name in (".clock", LEASE))
        _write(clock, b"\n")
        until = os.stat(clock).st_mtime_ns + int(seconds * 1e9)
        os.close(os.open(lease, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        os.utime(lease, ns=(until, until), follow_symlinks=False)

    def list_ready(self) -> set[str]:
        return {name for name in os.listdir(self._directory) if classify(name) is WalFileKind.SEGMENT}

    def announce(self, name: str) -> None:
        """Say that a file is being fetched; it is written under this name."""
        _write(os.path.join(self._directory, name + COMING), b"")

    def drop(self, name: str) -> None:
        """Have neither the file nor one that comes."""
        for path in (name + COMING, name):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._directory, path))

    def read_asked(self) -> str | None:
        """What recovery got by itself since the last time, if anything."""
        path = os.path.join(self._directory, ASKED)
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                name = file.read()
            if classify(name) is not WalFileKind.SEGMENT:
                return None  # it is being written
            os.unlink(path)
        except FileNotFoundError:
            return None
        return name

    def count_free_bytes(self) -> int:
        volume = os.statvfs(self._directory)
        return volume.f_bavail * volume.f_frsize

    def close(self) -> None:
        """Remove it all. Nobody is served any more from the first step on."""
        parent = os.path.dirname(self._directory)
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, LEASE))
        with suppress(OSError):
            _clear(parent)
            os.rmdir(parent)
        os.close(self._lock)


def claim_spool(data_directory: str, spool: Spool) -> SpoolKeeper | None:
    """Become the one process that fills a spool in this data directory, and remove what earlier ones left. None if
    another one is at work. Raises OSError."""
    parent = os.path.join(data_directory, SPOOLS)
    for directory in (os.path.dirname(parent), parent):
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
    lock = _lock(parent)
    if lock is None:
        return None
    try:
        _clear(parent)
        directory = os.path.join(data_directory, spool.path)
        os.mkdir(directory, 0o700)
    except BaseException:
        os.close(lock)
        raise
    return SpoolKeeper(directory, lock)


def sweep_spools(data_directory: str = ".") -> None:
    """Remove what a process left that was killed, when nobody has fetched ahead here since. Raises nothing."""
    parent = os.path.join(data_directory, SPOOLS)
    if not os.path.isdir(parent):
        return
    with suppress(OSError):
        lock = _lock(parent)
        if lock is not None:
            try:
                _clear(parent)
                os.rmdir(parent)
            finally:
                os.close(lock)


def is_spool_used(data_directory: str) -> bool:
    """Whether a process fetches ahead there. Raises OSError."""
    parent = os.path.join(data_directory, SPOOLS)
    if not os.path.isdir(parent):
        return False
    lock = _lock(parent)
    if lock is None:
        return os.path.isdir(parent)
    os.close(lock)
    return False


def _lock(parent: str) -> int | None:
    """Keep others from filling and sweeping; None if somebody does, or has just removed the directory."""
    import fcntl

    try:
        lock = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(parent)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def fill(directory: str, name: str, content: bytes | Sequence[bytes]) -> bool:
    """Spool a file that was announced, durable before it has its name: a server that starts after a crash of the
    machine must not find another one. False if nobody wants it any more. Raises OSError."""
    from pghaven.runtime.durable import write_fully

    path = os.path.join(directory, name)
    try:
        descriptor = os.open(path + COMING, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            write_fully(descriptor, [content] if isinstance(content, bytes) else content)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(path + COMING, path)
    except FileNotFoundError:
        return False
    return True


def _clear(parent: str) -> None:
    """Remove what is in the directory of spools: they hold files only."""
    for entry in os.listdir(parent):
        path = os.path.join(parent, entry)
        for name in os.listdir(path):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(path, name))
        os.rmdir(path)
