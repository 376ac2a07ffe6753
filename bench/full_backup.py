"""Full backups, side by side: time, processor time, memory, what is stored.

    python -m bench.full_backup [--shape mixed|files] [--rounds 3] [--quick] …

Order A B C A B C …; before each run the tool's repository is emptied, the page cache warmed and the disk quiet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.common import MIB, Measurement, make_ratio, measure, median, render_table
from bench.data import BenchServer, prepare
from bench.rounds import run_stand_alone
from bench.tools import Tool

NAME = "full_backup"


def run_rounds(server: BenchServer, tools: Sequence[Tool], rounds: int) -> dict[str, Any]:
    """Measures every tool; leaves each with one backup in its repository. The server runs."""
    taken: dict[str, list[Measurement]] = {tool.name: [] for tool in tools}
    stored: dict[str, tuple[int, int]] = {}
    for number in range(rounds):
        for tool in tools:
            server.archive_with(tool.reset())
            prepare(server)
            taken[tool.name].append(measure(tool.backup_command(), log=tool.log, server_pid=server.pid))
            stored[tool.name] = tool.count_repository()
            print(f"  backup {number + 1}/{rounds} {tool.name}: {taken[tool.name][-1].wall_seconds:.1f} s", flush=True)
    return {
        tool.name: median(taken[tool.name])
        | {"version": tool.version, "objects": stored[tool.name][0], "stored_bytes": stored[tool.name][1]}
        for tool in tools
    }


def render(results: Mapping[str, Any], title: str) -> str:
    rows = [
        [
            f"{name} {row['version']}",
            f"{row['wall_seconds']:.2f} ({row['wall_best_seconds']:.2f})",
            f"{row['cpu_seconds']:.2f}",
            f"{row['server_seconds']:.2f}",
            f"{row['memory_bytes'] / MIB:.0f}",
            f"{row['stored_bytes'] / 1e6:.1f}",
            f"{row['objects']}",
            make_ratio(results, name),
        ]
        for name, row in results.items()
    ]
    header = [
        "tool",
        "wall s (best)",
        "CPU s",
        "server CPU s",
        "memory MiB",
        "stored MB",
        "objects",
        "wall, pghaven = 1",
    ]
    return f"### Full backup: {title}\n\n{render_table(header, rows)}"


def main() -> None:
    run_stand_alone(NAME, lambda server, tools, rounds: (run_rounds(server, tools, rounds),), (render,))


if __name__ == "__main__":
    main()
