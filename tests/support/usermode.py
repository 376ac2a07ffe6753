"""A Linux in user mode (UML, Debian's ``user-mode-linux``), for what the kernel of this machine may not have: NFS.

The one idea: it is an ordinary program of an ordinary user, to which the files of this machine are a read-only root, so
tests run in it with the same interpreter and the same sources.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
_UNPACKED = PROJECT / ".cache" / "uml"
_KERNEL = _UNPACKED / "usr" / "bin" / "linux.uml"
_MODULES = _UNPACKED / "usr" / "lib" / "uml" / "modules"


def run_on_nfs(place: Path, command: list[str], timeout_seconds: float) -> tuple[int, str]:
    """Run a command with one export mounted at /mnt/nfs and, as if by another host, at /mnt/other.

    Its status and all that was printed. Skips where that cannot be.
    """
    if not _KERNEL.exists():
        pytest.skip("there is no Linux in user mode (.ci/set-up test unpacks Debian's into .cache)")
    init = place / "init"
    words = [sys.executable, str(PROJECT / "tests" / "support" / "nfsguest.py"), str(_MODULES), str(PROJECT)]
    init.write_text(f"#!/bin/sh\nexec {shlex.join([*words, *command])}\n")
    init.chmod(0o755)
    options = ["mem=1G", "root=none", "rootfstype=hostfs", "hostfs=/", "ro", f"init={init}", "quiet"]
    console = ["con=null", "con0=fd:0,fd:1", "ssl=null"]
    log = place / "console"
    with log.open("wb") as output:
        machine = subprocess.Popen(
            [str(_KERNEL), *options, *console],
            env={**os.environ, "HOME": str(place), "TMPDIR": str(place)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                machine.wait(timeout_seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()
    printed = log.read_text(errors="replace")
    if "guest: ready" not in printed:
        pytest.skip(f"a Linux in user mode does not start here: {printed.strip()[-500:]}")
    _, found, rest = printed.rpartition("guest: status ")
    assert found, f"not done after {timeout_seconds:g} s:\n{printed[-3000:]}"
    return int(rest.split()[0]), printed
