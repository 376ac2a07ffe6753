"""A recovery without a server: what asks for WAL as the startup process does, one file after the other.

The one idea: to ``wal get`` a server in recovery is a process that descends from the one in ``postmaster.pid`` and runs
its command by ``sh`` in the data directory; here the test is the postmaster, and a shell the startup process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pghaven.runtime.whoami import find_parent
from pghaven.wal.spool import SPOOLS
from tests.support.moving import list_names
from tests.support.waiting import wait_until
from tests.support.walfile import WalSite

NO_PROGRAM = ("/nonexistent/pghaven",)
# What fetches ahead vouches for its spool two seconds at a time, and gives up where it was too late to. That decides
# only the tests that are of it: all others shall find the spool also where a disk stands still for longer.
PATIENCE = "from pghaven.wal import prefetch; prefetch._LEASE_SECONDS = prefetch._WATCH_MAX_SECONDS = 600.0"
PATIENT = (sys.executable, "-c", f"{PATIENCE}; from pghaven.cli.main import main; main()")


class Recovery:
    """``with Recovery(site) as recovery: recovery.get(name)`` is the status of the rendered ``restore_command``."""

    def __init__(self, site: WalSite, plan: str | None = None) -> None:
        self.site = site
        self.plan = plan
        self.program: Sequence[str] = PATIENT
        self.spools = site.data_directory / SPOOLS
        (site.data_directory / "postmaster.pid").write_text(f"{os.getpid()}\n")
        self._startup = subprocess.Popen(
            ["/bin/sh", "-c", 'while read -r line; do /bin/sh -c "$line" </dev/null; echo $?; done'],
            cwd=site.data_directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def get(self, name: object) -> int:
        return self.run(self.site.restore_command(name, self.program, self.plan))

    def take(self, name: object) -> int:
        """As ``get``, where nothing but the shell can serve: 0 or 255."""
        return self.run(self.site.restore_command(name, NO_PROGRAM, self.plan))

    def run(self, command: str) -> int:
        assert self._startup.stdin is not None
        assert self._startup.stdout is not None
        self._startup.stdin.write(command + "\n")
        self._startup.stdin.flush()
        return int(self._startup.stdout.readline())

    @property
    def ready(self) -> set[str]:
        """What is spooled."""
        return {name for name in list_names(self.spools) if len(name) == 24}

    def wait_ready(self, *names: object) -> None:
        wait_until(lambda: self.ready >= {str(name) for name in names}, f"{names} in the spool")

    def wait_removed(self) -> None:
        wait_until(lambda: not self.spools.exists(), "the removal of the spool")

    def list_processes(self) -> list[int]:
        """Those that fill the spool, the one that started the others first."""
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal() and self._holds_spool(entry)]
        return sorted(pids, key=lambda pid: find_parent(pid) in pids)

    def _holds_spool(self, pid: str) -> bool:
        with suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):  # one that was closed meanwhile
                    if os.readlink(f"/proc/{pid}/fd/{number}") == str(self.spools):
                        return True
        return False

    def end(self) -> None:
        """The startup process ends, as at the end of recovery."""
        self._startup.kill()
        self._startup.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.end()
        assert self._startup.stdin is not None
        assert self._startup.stdout is not None
        self._startup.stdin.close()
        self._startup.stdout.close()
        for pid in self.list_processes():
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not self.list_processes(), "the end of what fetched ahead")


def read_served(site: WalSite) -> bytes:
    return (Path(site.data_directory) / "pg_wal" / "RECOVERYXLOG").read_bytes()
