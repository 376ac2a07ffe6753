"""Children that tell what they have done, and how their end is known. Each case is a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.waiting import PATIENCE_SECONDS

_PROGRAM = """
import os, signal, sys
from pghaven.wal import children
from pghaven.wal.children import explain_end, start_child, wait_for_any
from pghaven.wal.limit import unblock_interrupts

if sys.argv[1] != "mute":
    children._END_SECONDS = 60.0  # who does end is not killed, however slow the machine

def done(tell):
    tell(("told",))

def mute(tell):
    done(tell)
    os.closerange(3, 64)  # as a child whose last descriptor does not close: it has ended for us, and goes on
    signal.pause()

def killed(tell):
    os.kill(os.getpid(), signal.SIGKILL)

def fail(tell):
    raise ValueError

child = start_child({"done": done, "mute": mute, "killed": killed, "fail": fail}[sys.argv[1]])
unblock_interrupts()
told = []
while child.status is None:
    for one in wait_for_any([child], 600):
        told += one.receive()
print(told, child.status, "ValueError" in str(explain_end(child)))
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("done", "[('told',)] 0 False"),
        ("killed", "[] -9 False"),
        ("fail", "[] 1 True"),
        ("mute", "[('told',)] -9 False"),
    ],
)
def test_how_a_child_ends(what: str, said: str) -> None:
    """One that closes all it has and does not end is killed, and not waited for."""
    command = [sys.executable, "-c", _PROGRAM, what]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    assert done.stdout.strip() == said


_WITHOUT_PIPES = """
import resource
from pghaven.errors import Cancelled
from pghaven.repository.place import RepositoryPlace
from pghaven.clock import SYSTEM_CLOCK
from pghaven.store.settings import StoreSettings
from pghaven.wal.ahead import Ahead
from pghaven.wal.children import start_child
from pghaven.wal.marks import Marks

place = RepositoryPlace(name="main", store=StoreSettings(url="file:///nowhere"))
ahead = Ahead(Marks("/nowhere"), "/nowhere", ["000000010000000000000001"], cluster="main", clock=SYSTEM_CLOCK)
resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
try:
    start_child(lambda tell: None)
except Cancelled as error:
    print(error)
ahead.start([place], 2, None)
print(ahead.open_children)
"""


def test_where_no_pipe_can_be_made_nobody_is_started_and_nothing_breaks() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PIPES], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert (ended.stdout, ended.stderr) == ("could not start a process: Too many open files\n[]\n", "")
