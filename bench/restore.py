"""Full restores into an empty directory, side by side: time, processor time, memory.

    python -m bench.restore [--shape mixed|files] [--rounds 3] [--quick] …

Each tool restores the backup it has made itself, and what it restored is compared with the original once. Order
A B C A B C …; the repositories are in the page cache, and everything restored is on disk when a tool is done. Nothing
that was restored is deleted before the last round: ext4 searches past each recently deleted inode when it makes files,
and would charge one tool with the deletion of another's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    ways = [Way(name=tool.name, tool=tool) for tool in tools]
    taken = restore_in_turns(server, ways, rounds, lambda way, target: _compare(server, target, way.name))
    return {tool.name: median(taken[tool.name]) | {"version": tool.version} for tool in tools}


@dataclass(frozen=True, kw_only=True)
class Way:
    """A restore to measure: what a tool has, and more words for its command."""

    name: str
    tool: Tool
    words: Sequence[str] = ()


def restore_in_turns(
    server: BenchServer, ways: Sequence[Way], rounds: int, look: Callable[[Way, Path], None] | None = None
) -> dict[str, list[Measurement]]:
    """Every way's measurements. ``look`` is called with what the first round has restored."""
    taken: dict[str, list[Measurement]] = {way.name: [] for way in ways}
    place = server.directory / "restored"
    remove(place)
    make_directory(place)
    for number in range(rounds):
        for way in ways:
            target = make_directory(place / f"{way.name}-{number + 1}")
            target.chmod(0o700)
            way.tool.warm()
            command = [*way.tool.restore_command(target), *way.words]
            taken[way.name].append(measure(command, log=way.tool.log, server_pid=server.pid))
            print(f"  restore {number + 1}/{rounds} {way.name}: {taken[way.name][-1].wall_seconds:.1f} s", flush=True)
            if number == 0 and look is not None:
                look(way, target)
            empty_files(target)
    remove(place)
    return taken


def _compare(server: BenchServer, target: Path, name: str) -> None:
    original, restored = server.data / "base", target / "base"
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
