"""What is freed and needed again is not fetched anew from the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
from pghaven.runtime.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    parts = [b"x" * (300 << 10) for _ in range(16)]
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_what_was_freed_costs_no_new_pages() -> None:
    pages = {}
    for what in ("kept", "given back"):
        ended = subprocess.run([sys.executable, "-c", COUNT, what], capture_output=True, text=True, check=True)
        pages[what] = int(ended.stdout)
    assert pages["kept"] * 5 < pages["given back"]
