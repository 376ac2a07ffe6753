"""What each part of some work takes: seconds, and the peak of memory.

The one idea: the peak (VmHWM) is set back before each part, so a part answers for its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.common import MIB


class Rows:
    """What each part took: name, seconds, peak memory beyond the interpreter's own, and a remark."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._base = read_memory("VmRSS")

    @contextmanager
    def part(self, name: str) -> Iterator[list[str]]:
        reset_peak()
        remarks: list[str] = []
        began = time.perf_counter()
        yield remarks
        row = {
            "part": name,
            "seconds": round(time.perf_counter() - began, 2),
            "peak_mib": round((read_memory("VmHWM") - self._base) / MIB),
            "held_mib": round((read_memory("VmRSS") - self._base) / MIB),
            "process_mib": round(read_memory("VmHWM") / MIB),
            "remark": ", ".join(remarks),
        }
        self.rows.append(row)


def read_memory(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    raise KeyError(name)


def reset_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
