"""Where tests keep files, and as which user they run servers.

The one idea: PostgreSQL refuses to run as root, so under root everything a server touches must be open to another user,
and the project itself may lie where that user cannot read. Whether it can is tried, never concluded from mode bits.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pghaven.server.identity import OsUser, child_identity, get_os_user
from pghaven.server.postmaster import is_alive, list_server_processes
from tests.support.waiting import wait_until

PROJECT = Path(__file__).resolve().parents[2]
SCRATCH_VARIABLE = "PGHAVEN_TEST_SCRATCH"
_PREFIX = "pghaven-tests-"
_MEMORY = "/dev/shm"
_MEMORY_NEEDED = 2 << 30


@functools.cache
def plain_user() -> OsUser:
    """The user servers run as: ourselves, or under root ``postgres``, or ``nobody`` where that is missing."""
    if os.geteuid() != 0:
        return get_os_user(pwd.getpwuid(os.geteuid()).pw_name)
    names = {entry.pw_name for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in ("postgres", "nobody"):
        if name in names:
            return get_os_user(name)
    raise RuntimeError('tests run as root need a user "postgres" or "nobody" for their servers: useradd -r postgres')


def run_as_plain(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` as the plain user, output captured as text. A program it cannot reach gives status 126."""
    arguments = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, **child_identity(plain_user())}
    try:
        return subprocess.run(list(command), **{**arguments, **options})
    except OSError as error:
        return subprocess.CompletedProcess(list(command), 126, "", str(error))


def is_open_to_plain(path: Path) -> bool:
    """Whether the plain user can read this file or directory, tried by a process of that user."""
    return run_as_plain(["test", "-r", str(path)]).returncode == 0


def own(path: Path) -> None:
    """Give a file or directory of ours to the plain user."""
    if os.geteuid() == 0:
        os.chown(path, plain_user().uid, plain_user().gid)


def scratch() -> Path:
    """This test run's directory, the same in all its processes: in memory where there is room, open to every user."""
    path = os.environ.get(SCRATCH_VARIABLE)
    if path is None:
        path = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_scratch_root())
        os.chmod(path, 0o755)
        os.environ[SCRATCH_VARIABLE] = path
    return Path(path)


def remove_scratch() -> None:
    """Remove this run's directories; only for the process that made them, at its very end."""
    path = os.environ.pop(SCRATCH_VARIABLE, None)
    if path is not None:
        _remove_run(Path(path))


def sweep_scratch() -> None:
    """Remove the directories of runs that were killed: their process is gone."""
    for path in Path(_scratch_root()).glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not os.path.exists(f"/proc/{pid}") and path.stat().st_uid == os.geteuid():
            _remove_run(path)


def _remove_run(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree((path / "programs").resolve(strict=True), ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)


def _scratch_root() -> str:
    try:
        room = os.statvfs(_MEMORY)
    except OSError:
        return tempfile.gettempdir()
    enough = room.f_bavail * room.f_frsize >= _MEMORY_NEEDED and os.access(_MEMORY, os.W_OK)
    return _MEMORY if enough else tempfile.gettempdir()


def programs_directory() -> Path:
    """A directory of this run for copies of programs: not in ``/dev/shm``, which may forbid to run them."""
    link = scratch() / "programs"
    with lock("programs"):
        if not link.is_symlink():
            target = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-programs-")
            os.chmod(target, 0o755)
            link.symlink_to(target)
    return link.resolve()


@contextlib.contextmanager
def lock(name: str, directory: Path | None = None) -> Iterator[None]:
    """One process of this run at a time (or, with ``directory``, of all that use that directory)."""
    place = directory or scratch()
    place.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(place / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def copy_tree(source: Path, target: Path) -> None:
    """``cp -a``, sharing blocks where the file system can."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)


def make_directory() -> Path:
    """A new directory below ``scratch`` that belongs to the plain user."""
    path = Path(tempfile.mkdtemp(prefix="d", dir=scratch()))
    path.chmod(0o755)
    own(path)
    return path


def remove_directory(path: Path) -> None:
    """End the servers that run below a directory, and remove it.

    An ``archive_command`` of a server elsewhere may still be writing into it, so it takes as many tries as it takes.
    """
    end_servers_below(path)

    def is_gone() -> bool:
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()

    wait_until(is_gone, f"the removal of {path}")


def end_servers_below(path: Path) -> None:
    """End every process of the servers whose data directories lie below ``path``, whoever has started them.

    Those that run come and go with directories of their own (a spool), which ``os.walk`` passes over and ``rglob`` not.
    """
    walked = os.walk(path)
    directories = {Path(top) for top, below, names in walked if "PG_VERSION" in names and "global" in below}
    pids = {pid for directory in directories for pid in list_server_processes(str(directory))}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
    wait_until(lambda: not any(map(is_alive, pids)), f"the end of {pids}")
