"""Full restores into an empty directory, side by side: time, processor time, memory.

    python -m bench.restore [--shape mixed|files] [--rounds 3] [--quick] …

Each tool restores the backup it has made itself, and what it restored is compared with the original once. Order
A B C A B C …; the repositories are in the page cache, and everything restored is on disk when a tool is done. Nothing
that was restored is deleted before the last round: ext4 searches past each recently deleted inode when it makes files,
and would charge one tool with the deletion of another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import full_backup
from bench.common import (
    MIB,
    BenchError,
    Measurement,
    empty_files,
    find_differences,
    make_directory,
    make_ratio,
    measure,
    median,
    remove,
    render_table,
)
from bench.data import BenchServer
from bench.rounds import run_stand_alone
from bench.tools import Tool

NAME = "restore"
# The server makes these caches anew; no backup holds them.
_NOT_COMPARED = frozenset({"pg_internal.init", "pgsql_tmp"})


def run_rounds(server: BenchServer, tools: Sequence[Tool], rounds: int) -> dict[str, Any]:
    """Measures every tool; each has a backup. The server runs, and does nothing."""
    taken: dict[str, list[Measurement]] = {tool.name: [] for tool in tools}
    place = server.directory / "restored"
    remove(place)
    make_directory(place)
    for number in range(rounds):
        for tool in tools:
            target = make_directory(place / f"{tool.name}-{number + 1}")
            target.chmod(0o700)
            tool.warm()
            command = tool.restore_command(target)
            taken[tool.name].append(measure(command, log=tool.log, server_pid=server.pid))
            print(f"  restore {number + 1}/{rounds} {tool.name}: {taken[tool.name][-1].wall_seconds:.1f} s", flush=True)
            if number == 0:
                _compare(server.data / "base", target / "base", tool.name)
            empty_files(target)
    remove(place)
    return {tool.name: median(taken[tool.name]) | {"version": tool.version} for tool in tools}


def _compare(original: Path, restored: Path, name: str) -> None:
    differences = find_differences(original, restored, except_names=_NOT_COMPARED)
    if differences:
        raise BenchError(f"{name} did not restore what there was: {', '.join(differences)}")


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
    return f"### Restore: {title}\n\n" + render_table(
        ["tool", "wall s (best)", "CPU s", "memory MiB", "wall, pghaven = 1"], rows
    )


def main() -> None:
    def run(server: BenchServer, tools: Sequence[Tool], rounds: int) -> tuple[dict[str, Any], ...]:
        full_backup.run_rounds(server, tools, 1)
        return (run_rounds(server, tools, rounds),)

    run_stand_alone(NAME, run, (render,))


if __name__ == "__main__":
    main()
