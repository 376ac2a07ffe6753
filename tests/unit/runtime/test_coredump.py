"""A process that holds keys leaves no core file, and says so to the kernel in the one way it takes for both kinds."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, resource, signal
from pghaven.runtime.coredump import forbid_core_dumps
_, hard = resource.getrlimit(resource.RLIMIT_CORE)
forbid_core_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE) == ((1, hard) if hard else (0, 0)), flush=True)
os.kill(os.getpid(), signal.SIGABRT)
"""


def test_no_core_dump_is_left() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, check=False)
    assert ended.returncode == -6
    assert ended.stdout == b"True\n"
