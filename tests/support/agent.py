"""The agent as a process of its own, beside whatever archives through it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pghaven.wal.asking import PING, SOCKET_PATH, ask
from tests.support.waiting import PATIENCE_SECONDS, wait_until

PROGRAM = (sys.executable, "-m", "pghaven.cli.main")


class RunningAgent:
    """``log`` is where it writes."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


def ping(data_directory: Path) -> int | None:
    """The process that serves this data directory; None when none does."""
    # A socket's address has no room for the paths of tests.
    directory = os.open(data_directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        answer = ask(f"/proc/self/fd/{directory}/{SOCKET_PATH}", (PING,))
    finally:
        os.close(directory)
    return None if answer is None else int(answer[1])


@contextmanager
def running_agent(config: Path, *data_directories: Path, program: Sequence[str] = PROGRAM) -> Iterator[RunningAgent]:
    """It serves these data directories when the block begins, and has ended after it."""
    log = config.with_suffix(".agent-log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*program, "agent", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={name: value for name, value in os.environ.items() if not name.startswith("PGHAVEN_")},
        )
    agent = RunningAgent(process, log)
    try:
        for directory in data_directories:
            wait_until(partial(ping, directory), f"the agent in {directory}")
        yield agent
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE_SECONDS)
