"""A PostgreSQL server that we drive ourselves: made, started, awaited and stopped.

The one idea: the server is a plain child that outlives us (as under ``pg_ctl``), followed by its process and by the
status it writes into ``postmaster.pid``; no connection is needed to know how far it is. When it fails, its own last
words are in the error.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Literal

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import Cancelled, Refused, ServerUnsuitable
from pghaven.server.identity import OsUser, child_identity, find_owner, get_os_user
from pghaven.server.postmaster import STATUS_READY, STATUS_STANDBY, PidFile, is_alive, is_running
from pghaven.server.programs import Programs

__all__ = ["Instance", "PidFile", "StopMode", "is_running"]

StopMode = Literal["smart", "fast", "immediate"]

_STOP_SIGNALS: Final[dict[str, signal.Signals]] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_POLL_SECONDS: Final = 0.01
_ASK_AGAIN_SECONDS: Final = 1.0
_TAIL_LINES: Final = 20
_TAIL_BYTES: Final = 64 << 10


class Instance:
    """One data directory and the programs for it. Paths are absolute; ``log_path`` receives what the server prints."""

    def __init__(
        self,
        data_directory: str,
        programs: Programs,
        *,
        log_path: str,
        os_user: str | None = None,
        launcher: Sequence[str] = (),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """``os_user`` owns the directory and runs the server; as root its default is the directory's owner.

        ``launcher`` is a program and its arguments that will become the server by exec, such as
        ``setpriv --pdeathsig SIGQUIT --``.
        """
        self.data_directory = data_directory
        self.programs = programs
        self.log_path = log_path
        self._os_user = os_user
        self._launcher = tuple(launcher)
        self._clock = clock
        self._child_pid: int | None = None
        self._child_has_ended = False
        self._log_offset = 0

    @property
    def conninfo(self) -> str:
        """How to reach the running server over its socket, without user and database. ServerUnsuitable if none runs."""
        running = is_running(self.data_directory)
        if running is None or running.socket_directory is None or running.port is None:
            raise ServerUnsuitable(f'no server with a socket runs in "{self.data_directory}"')
        return f"host='{_escape(running.socket_directory)}' port={running.port}"

    def initdb(self, options: Sequence[str] = ()) -> None:
        """Make a new cluster in the directory, which may exist if it is empty. ServerUnsuitable with initdb's words."""
        exists = os.path.exists(self.data_directory)
        user = self._get_user(self.data_directory if exists else os.path.dirname(self.data_directory))
        if user is not None and not exists:
            os.mkdir(self.data_directory, 0o700)
            os.chown(self.data_directory, user.uid, user.gid)
        command = [self.programs.path("initdb"), "-D", self.data_directory, *options]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                check=False,
                env=_environment(user),
                stdin=subprocess.DEVNULL,
                **child_identity(user),
            )
        except OSError as error:
            raise _cannot_run(command[0], user, error) from error
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip()
            raise ServerUnsuitable(
                f'could not make a cluster in "{self.data_directory}": {_last_line(words)}', detail=words or None
            )

    def start(
        self, settings: Mapping[str, str] | None = None, *, timeout_seconds: float | None = 60.0
    ) -> PidFile | None:
        """Start the server with these settings on its command line, where they win over its files.

        Waits for ``ready`` or ``standby``, unless ``timeout_seconds`` is None: then ``wait_ready`` is the caller's.
        Raises Refused when a server runs there already, ServerUnsuitable with the end of the server's log when it
        fails, Cancelled when it takes longer; it goes on running then.
        """
        if is_running(self.data_directory) is not None:
            raise Refused(f'a server already runs in "{self.data_directory}"')
        user = self._get_user(self.data_directory)
        command = [*self._launcher, self.programs.path("postgres"), "-D", self.data_directory]
        for name, value in (settings or {}).items():
            command += ["-c", f"{name}={value}"]
        self._child_pid = self._spawn(command, user)
        self._child_has_ended = False
        return None if timeout_seconds is None else self.wait_ready(timeout_seconds=timeout_seconds)

    def wait_ready(
        self, *, timeout_seconds: float | None, on_wait: Callable[[PidFile | None], None] | None = None
    ) -> PidFile:
        """Block until the server accepts connections, or is a standby that will not (``status`` tells).

        ``on_wait`` is called some times a second meanwhile, and may raise to give up. None waits without limit.
        Raises ServerUnsuitable with the end of the server's log when it ends, Cancelled when the time is over.
        """
        deadline = None if timeout_seconds is None else self._clock.monotonic() + timeout_seconds
        while True:
            # Asked before the file is read: a server that ends between the two is found in the next round.
            alive = self.child_pid is not None
            running = is_running(self.data_directory)
            ours = running is not None and self._child_pid in {None, running.pid}
            if running is not None and ours and running.status in {STATUS_READY, STATUS_STANDBY}:
                return running
            if not alive and (self._child_pid is not None or running is None):
                raise self._failed_to_start()
            if deadline is not None and self._clock.monotonic() > deadline:
                raise Cancelled(
                    f'the server in "{self.data_directory}" was not ready after {timeout_seconds:g} s',
                    detail=self.read_log_tail() or None,
                )
            if on_wait is not None:
                on_wait(running)
            self._clock.sleep(_POLL_SECONDS)

    def stop(self, mode: StopMode = "fast", *, timeout_seconds: float = 60.0) -> None:
        """Stop whatever server runs in the directory, or our own that has just begun, and wait for its end; nothing to
        do is fine.

        ``immediate`` leaves recovery to the next start. Raises Cancelled when it still runs after the time.
        """
        running = is_running(self.data_directory)
        pid = self.child_pid if running is None else running.pid
        if pid is None:
            return
        try:
            os.kill(pid, _STOP_SIGNALS[mode])
        except ProcessLookupError:
            return
        asked = self._clock.monotonic()
        deadline = asked + timeout_seconds
        while self._is_alive(pid):
            now = self._clock.monotonic()
            if now > asked + _ASK_AGAIN_SECONDS:
                # A server that has just begun may have let the first go by: a shell has what it runs in the background
                # ignore SIGINT and SIGQUIT, and so does the server until it takes them over. Asking twice does no harm.
                asked = now
                with suppress(ProcessLookupError):
                    os.kill(pid, _STOP_SIGNALS[mode])
            if now > deadline:
                raise Cancelled(
                    f'the server in "{self.data_directory}" still runs {timeout_seconds:g} s after a {mode} shutdown',
                    hint="Sessions and an archive_command that does not return hold a shutdown up; see the log.",
                )
            self._clock.sleep(_POLL_SECONDS)

    def reload(self) -> None:
        """Have the server read its configuration files again. Does not wait. ServerUnsuitable if none runs."""
        running = is_running(self.data_directory)
        if running is None:
            raise ServerUnsuitable(f'no server runs in "{self.data_directory}"')
        os.kill(running.pid, signal.SIGHUP)

    def is_running(self) -> PidFile | None:
        return is_running(self.data_directory)

    @property
    def child_pid(self) -> int | None:
        """The server this object has started last, as long as it lives; its pid file may be gone already."""
        self._reap()
        return None if self._child_has_ended else self._child_pid

    def read_log_tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines the server printed since its start, with those of its logging collector if it has one."""
        text = _read_end(self.log_path, self._log_offset)
        collected = _find_collected_log(self.data_directory)
        if collected is not None:
            text += _read_end(collected, 0)
        return "\n".join(text.splitlines()[-lines:])

    def _get_user(self, owned: str) -> OsUser | None:
        if self._os_user is not None:
            return get_os_user(self._os_user)
        if os.geteuid() != 0:
            return None
        owner = find_owner(owned)
        if owner is None or owner.uid == 0:
            raise Refused(
                f'PostgreSQL does not run as root, and "{owned}" has no other owner',
                hint="Give the directory to the user the server should run as.",
            )
        return owner

    def _spawn(self, command: Sequence[str], user: OsUser | None) -> int:
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            if user is not None and os.geteuid() == 0:
                os.fchown(log, user.uid, user.gid)
            self._log_offset = os.fstat(log).st_size
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment(user),
                **child_identity(user),
            )
        except OSError as error:
            raise _cannot_run(command[0], user, error) from error
        finally:
            os.close(log)
        # The server may outlive this object and this process; Popen would complain of that. We wait for it ourselves.
        child.returncode = 0
        return child.pid

    def _is_alive(self, pid: int) -> bool:
        self._reap()
        return is_alive(pid)

    def _reap(self) -> None:
        """Let the kernel forget our child if it has ended."""
        if self._child_pid is None or self._child_has_ended:
            return
        try:
            ended, _ = os.waitpid(self._child_pid, os.WNOHANG)
        except ChildProcessError:
            ended = self._child_pid
        self._child_has_ended = ended != 0

    def _failed_to_start(self) -> ServerUnsuitable:
        tail = self.read_log_tail()
        grave = [line for line in tail.splitlines() if "FATAL:" in line or "PANIC:" in line]
        # Without the time, process and whatever else log_line_prefix puts before it.
        reason = re.sub(r"^.*?(?=FATAL:|PANIC:)", "", _last_line("\n".join(grave) or tail)) or "it ended without a word"
        return ServerUnsuitable(f'could not start the server in "{self.data_directory}": {reason}', detail=tail or None)


def _environment(user: OsUser | None) -> dict[str, str]:
    """Ours without libpq's and the server's variables, which would silently change what is started."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("PG") or name.startswith("PGHAVEN")
    }
    if user is not None:
        kept |= {"HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    return kept


def _cannot_run(program: str, user: OsUser | None, error: OSError) -> ServerUnsuitable:
    name = f' as "{user.name}"' if user is not None else ""
    return ServerUnsuitable(
        f'could not run "{program}"{name}: {error.strerror}',
        hint="Every directory above the program must be open to that user." if user is not None else None,
    )


def _find_collected_log(data_directory: str) -> str | None:
    """The file the logging collector writes to, by the server's own note (``current_logfiles``)."""
    try:
        with open(os.path.join(data_directory, "current_logfiles"), encoding="utf-8") as file:
            kinds = dict(line.split(None, 1) for line in file.read().splitlines())
    except (OSError, ValueError):
        return None
    path = kinds.get("stderr") or kinds.get("csvlog") or kinds.get("jsonlog")
    return None if path is None else os.path.join(data_directory, path)


def _read_end(path: str, since: int) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(since, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2].strip()


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
