"""Work with a hard limit on its time. Each case is a process of its own, because the work is done in a fork."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.waiting import PATIENCE_SECONDS

_PROGRAM = """
import os, signal, sys, time
from pghaven.wal import limit
from pghaven.wal.limit import run_within

if sys.argv[1] == "interrupted":
    limit._GRACE_SECONDS = 60.0  # it is given its moment to clean up, however slow the machine

def report(error):
    print("reported", type(error).__name__, flush=True)
    return 77

def interrupt(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, interrupt)

def hang():
    signal.pause()

def interrupted():
    try:
        os.kill(os.getppid(), signal.SIGTERM)
        signal.pause()
    finally:
        print("cleaned up", flush=True)

def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(os.getppid(), signal.SIGTERM)
    while True:
        signal.pause()

def mute():
    os.closerange(3, 64)  # as a child whose last descriptor does not close: it has ended for us, and goes on
    signal.pause()

def fail():
    raise ValueError

work = {
    "done": lambda: 5,
    "hang": hang,
    "mute": mute,
    "fail": fail,
    "exit": lambda: sys.exit(3),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "asked": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "interrupted": interrupted,
    "stubborn": stubborn,
}[sys.argv[1]]
try:
    print("status", run_within(float(sys.argv[2]), work, report))
except KeyboardInterrupt:
    print("interrupted")
"""


def run(what: str, seconds: float = 5 * PATIENCE_SECONDS) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, what, str(seconds)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("done", ["status 5"]),
        ("fail", ["reported ValueError", "status 77"]),
        ("exit", ["reported SystemExit", "status 77"]),
        ("killed", ["status -9"]),
        ("asked", ["status 18"]),
        ("interrupted", ["cleaned up", "interrupted"]),
        ("stubborn", ["interrupted"]),
    ],
)
def test_how_work_ends(what: str, said: list[str]) -> None:
    assert run(what) == said


@pytest.mark.parametrize("what", ["hang", "mute"])
def test_work_that_hangs_is_left_when_time_is_up(what: str) -> None:
    assert run(what, 0.05) == ["status None"]
