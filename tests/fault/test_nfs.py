"""A directory on NFS as a store: the contract, on the NFS client and server of a real kernel.

On NFS a directory that somebody else removes is stale under an open descriptor, where a local one is only empty.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.usermode import run_on_nfs

# Where directories come and go under other callers' hands, and who wins.
SHARP = "constant_change or disturb or racing_threads or vanish_and_appear or taken_once or makes_absent"


def run_contract(tmp_path: Path, chosen: str, timeout_seconds: float) -> str:
    words = ["-m", "pytest", "-q", "-n", "0", "--basetemp=/mnt/nfs/tests", "--timeout=200", "-k", chosen]
    status, printed = run_on_nfs(tmp_path, [sys.executable, *words, "tests/contract/test_store.py"], timeout_seconds)
    assert status == 0, printed[-6000:]
    return printed


def test_the_sharp_parts_of_the_contract_are_kept_on_nfs(tmp_path: Path) -> None:
    assert "6 passed" in run_contract(tmp_path, f"posix and ({SHARP})", 200.0)


@pytest.mark.slow
def test_the_whole_contract_is_kept_on_nfs(tmp_path: Path) -> None:
    run_contract(tmp_path, "posix", 280.0)


TWO_HOSTS = """
import os
from pghaven.errors import ObjectExists
from pghaven.store.open import open_store

os.mkdir("/mnt/nfs/shared")
here, there = open_store("file:///mnt/nfs/shared"), open_store("file:///mnt/other/shared")
for number in range(30):
    name = f"wal/{number % 3}/{number}"
    for one, other in ((here, there), (there, here)):
        assert one.find(name) is None
        assert name not in [info.name for info in one.list("")]
        other.create(name, [name.encode()])
        assert one.find(name) is not None, f"{name} is not seen"
        assert one.read(name) == name.encode()
        assert name in [info.name for info in one.list("")], f"{name} is not listed"
        try:
            one.create(name, [b"other"])
        except ObjectExists:
            pass
        else:
            raise AssertionError(f"{name} was made twice")
        one.confirm(name)
        other.delete(name)
        assert one.find(name) is None, f"{name} is still seen"
        assert name not in [info.name for info in one.list("")]
print("all is seen at once")
"""


def test_what_one_host_has_done_another_sees_at_once(tmp_path: Path) -> None:
    """Also where it had looked before and found nothing."""
    status, printed = run_on_nfs(tmp_path, [sys.executable, "-c", TWO_HOSTS], 100.0)
    assert status == 0, printed[-3000:]
    assert "all is seen at once" in printed
