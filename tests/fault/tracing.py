"""Programs under strace: what they asked of the kernel, and what happens when one call fails or is the last.

The one idea: strace sees and tampers with the real system calls of a real process, so nothing in the program under
test knows that it is being tested.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE_SECONDS

PROJECT = Path(__file__).resolve().parents[2]

# The calls that change a directory tree. Opening with O_CREAT is not among them: a process killed just before it
# leaves what one killed just after the call before it leaves.
MUTATING = ("mkdirat", "writev", "fchmod", "fchown", "fsync", "linkat", "renameat2", "unlinkat")

_CALL = re.compile(r"(?:\[pid +\d+\] )?(\w+)\((.*)\) += (-?\d+)(?:<[^>]*>)?(?: (E\w+))?.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call; descriptors in its arguments are followed by their path (``3</some/path>``)."""

    name: str
    arguments: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    status: int
    out: str
    err: str
    calls: tuple[Call, ...]


@functools.cache
def _why_not() -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"strace does not work here: {tried.stderr.strip()}"


needs_strace = pytest.mark.skipif(_why_not() is not None, reason=str(_why_not()))


def run_traced(
    code: str, arguments: Sequence[str], log: Path, *, inject: str | None = None, trace: Sequence[str] = MUTATING
) -> Traced:
    """Run Python ``code`` under strace. ``inject`` as strace has it: "fsync:error=EIO:when=1"."""
    command = ["strace", "-f", "-qq", "-y", "-s", "64", "-o", str(log), "-e", f"trace={','.join(trace)}"]
    if inject is not None:
        command += ["-e", f"inject={inject}"]
    environment = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{PROJECT / 'src'}:{PROJECT}",
        "PATH": "/usr/bin:/bin",
    }
    ended = subprocess.run(
        [*command, sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return Traced(status=ended.returncode, out=ended.stdout, err=ended.stderr, calls=read_calls(log))


def read_calls(log: Path) -> tuple[Call, ...]:
    """The calls in a log of strace."""
    calls = [match for line in log.read_text().splitlines() if (match := _CALL.search(line))]
    return tuple(Call(name=m[1], arguments=m[2], error=m[4]) for m in calls)


def kills(calls: Sequence[Call]) -> Iterator[str]:
    """For each of these calls, the injection that kills a process just before it, given that it repeats them."""
    seen: Counter[str] = Counter()
    for call in calls:
        seen[call.name] += 1
        yield f"{call.name}:signal=SIGKILL:when={seen[call.name]}"
