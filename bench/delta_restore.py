"""Restores over a directory that is right already, and over one in which some pages are wrong, side by side.

    python -m bench.delta_restore [--shape mixed|files] [--rounds 3] [--quick] …

Each tool restores the backup it has made itself, once into an empty directory and then over it: A B A B … with nothing
wrong, then A B A B … with one page in a hundred spoilt, the same ones for all. What was restored is compared with the
original once each. The repositories and the directories are in the page cache.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import full_backup
from bench.common import (
    MIB,
    BenchError,
    Measurement,
    find_differences,
    make_directory,
    make_ratio,
    measure,
    median,
    remove,
    render_table,
    run,
    warm,
)
from bench.data import BenchServer
from bench.rounds import run_stand_alone
from bench.tools import Tool

NAME = "delta_restore"
SPOILT = {"nothing differs": 0.0, "1 % of the pages differ": 0.01}
_PAGE = 8192
_NOT_COMPARED = frozenset({"pg_internal.init", "pgsql_tmp"})


def run_rounds(server: BenchServer, tools: Sequence[Tool], rounds: int) -> dict[str, Any]:
    """Measures every tool that can; each has a backup. The server runs, and does nothing."""
    place = server.directory / "restored"
    remove(place)
    make_directory(place)
    targets: dict[str, Path] = {}
    for tool in tools:
        if tool.delta_command(place) is not None:
            targets[tool.name] = make_directory(place / tool.name)
            targets[tool.name].chmod(0o700)
            run(tool.restore_command(targets[tool.name]), log=tool.log)
    results = {what: _measure(server, tools, targets, rounds, share) for what, share in SPOILT.items()}
    remove(place)
    return results


def _measure(
    server: BenchServer, tools: Sequence[Tool], targets: Mapping[str, Path], rounds: int, share: float
) -> dict[str, Any]:
    taken: dict[str, list[Measurement]] = {name: [] for name in targets}
    able = [tool for tool in tools if tool.name in targets]
    for number in range(rounds):
        for tool in able:
            target = targets[tool.name]
            spoil(target / "base", share, seed=number)
            tool.warm()
            warm(target)
            command = tool.delta_command(target)
            assert command is not None
            taken[tool.name].append(measure(command, log=tool.log, server_pid=server.pid))
            seconds = taken[tool.name][-1].wall_seconds
            print(f"  delta restore {number + 1}/{rounds} {tool.name}: {seconds:.1f} s", flush=True)
            if number == 0:
                _compare(server.data / "base", target / "base", tool.name)
    return {tool.name: median(taken[tool.name]) | {"version": tool.version} for tool in able}


def spoil(directory: Path, share: float, seed: int) -> None:
    """Change one byte in this share of all pages; the same ones in every copy of a directory."""
    chance = random.Random(seed)
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        pages = path.stat().st_size // _PAGE
        wrong = [page for page in range(pages) if chance.random() < share]
        if not wrong:
            continue
        with path.open("r+b", buffering=0) as file:
            for page in wrong:
                offset = page * _PAGE + chance.randrange(_PAGE)
                byte = os.pread(file.fileno(), 1, offset)
                os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), offset)


def _compare(original: Path, restored: Path, name: str) -> None:
    differences = find_differences(original, restored, except_names=_NOT_COMPARED)
    if differences:
        raise BenchError(f"{name} did not restore what there was: {', '.join(differences)}")


def render(results: Mapping[str, Any], title: str) -> str:
    rows = [
        [
            what,
            f"{name} {row['version']}",
            f"{row['wall_seconds']:.2f} ({row['wall_best_seconds']:.2f})",
            f"{row['cpu_seconds']:.2f}",
            f"{row['memory_bytes'] / MIB:.0f}",
            make_ratio(rows, name),
        ]
        for what, rows in results.items()
        for name, row in rows.items()
    ]
    return f"### Restore over what is there: {title}\n\n" + render_table(
        ["", "tool", "wall s (best)", "CPU s", "memory MiB", "wall, pghaven = 1"], rows
    )


def main() -> None:
    def run_all(server: BenchServer, tools: Sequence[Tool], rounds: int) -> tuple[dict[str, Any], ...]:
        full_backup.run_rounds(server, tools, 1)
        return (run_rounds(server, tools, rounds),)

    run_stand_alone(NAME, run_all, (render,))


if __name__ == "__main__":
    main()
