"""Verifications of a repository with one full backup and its WAL, side by side: time, processor time, memory.

    python -m bench.verify [--shape mixed|files] [--rounds 3] [--quick] …

Only tools that can verify what they have stored take part. The repositories are in the page cache. Order A B A B ….
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench import full_backup
from bench.common import MIB, Measurement, make_ratio, measure, median, render_table
from bench.data import BenchServer
from bench.rounds import run_stand_alone
from bench.tools import PgBackRest, Pghaven, Tool

NAME = "verify"


def run_rounds(server: BenchServer, tools: Sequence[Tool], rounds: int) -> dict[str, Any]:
    """Measures every tool that can; each has a backup."""
    able = [tool for tool in tools if isinstance(tool, Pghaven | PgBackRest)]
    taken: dict[str, list[Measurement]] = {tool.name: [] for tool in able}
    for number in range(rounds):
        for tool in able:
            tool.warm()
            taken[tool.name].append(measure(tool.verify_command(), log=tool.log, server_pid=server.pid))
            print(f"  verify {number + 1}/{rounds} {tool.name}: {taken[tool.name][-1].wall_seconds:.1f} s", flush=True)
    return {tool.name: median(taken[tool.name]) | {"version": tool.version} for tool in able}


def render(results: Mapping[str, Any], title: str) -> str:
    rows = [
        [
            f"{name} {row['version']}",
            f"{row['wall_seconds']:.2f} ({row['wall_best_seconds']:.2f})",
            f"{row['cpu_seconds']:.2f}",
            f"{row['memory_bytes'] / MIB:.0f}",
            make_ratio(results, name),
        ]
        for name, row in results.items()
    ]
    return f"### Verify: {title}\n\n" + render_table(
        ["tool", "wall s (best)", "CPU s", "memory MiB", "wall, pghaven = 1"], rows
    )


def main() -> None:
    def run(server: BenchServer, tools: Sequence[Tool], rounds: int) -> tuple[dict[str, Any], ...]:
        full_backup.run_rounds(server, [tool for tool in tools if isinstance(tool, Pghaven | PgBackRest)], 1)
        return (run_rounds(server, tools, rounds),)

    run_stand_alone(NAME, run, (render,))


if __name__ == "__main__":
    main()
