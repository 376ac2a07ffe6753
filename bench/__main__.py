"""``make bench``: everything, side by side. ``make bench-quick``: the same on small clusters, in two minutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import full_backup, restore
from bench.data import BenchServer
from bench.rounds import run_stand_alone
from bench.tools import Tool


def run(server: BenchServer, tools: Sequence[Tool], rounds: int) -> tuple[dict[str, Any], ...]:
    return full_backup.run_rounds(server, tools, rounds), restore.run_rounds(server, tools, rounds)


if __name__ == "__main__":
    run_stand_alone("bench", run, (full_backup.render, restore.render), shapes=("mixed", "files"))
