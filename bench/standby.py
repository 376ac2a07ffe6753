"""A standby that fell behind is made anew: by pg_basebackup, and by a restore over what it has, side by side.

    python -m bench.standby [--shape mixed] [--rounds 3] [--quick] …

Before each round one row in a hundred of the largest table changes on the primary, and a backup is taken, which is not
measured. Then the standby is made: copied from the primary into an empty directory, or restored from the repository
over its old one. The server's processor time beside each is what the primary paid for it; ``mixed`` has 4 GB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.common import (
    MIB,
    BenchError,
    Measurement,
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
from bench.tools import Pghaven, Tool

NAME = "standby"
# Rows that lie together, so that a hundredth of the rows is about a hundredth of the pages.
_CHANGE = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 100000 / 1000 = {}"


def run_rounds(server: BenchServer, tools: Sequence[Tool], rounds: int) -> dict[str, Any]:
    """The server runs, and does nothing else."""
    pghaven = next((tool for tool in tools if isinstance(tool, Pghaven)), None)
    if pghaven is None:
        raise BenchError("this measures pghaven beside pg_basebackup: leave out --tool")
    server.archive_with(pghaven.reset())
    run(pghaven.backup_command(), log=pghaven.log)
    place = server.directory / "standbys"
    remove(place)
    make_directory(place)
    seeded = place / "restored"
    run(_create(pghaven, seeded), log=pghaven.log)
    taken: dict[str, list[Measurement]] = {"pghaven": [], "pg_basebackup": []}
    for number in range(rounds):
        server.sql(_CHANGE.format(number % 100), "shop")
        run(pghaven.backup_command(), log=pghaven.log)
        for name, found in taken.items():
            warm(server.data)
            pghaven.warm()
            if name == "pghaven":
                warm(seeded)
                command = [*_create(pghaven, seeded), "--delta"]
            else:
                remove(place / "copied")
                command = _copy(server, place / "copied")
            found.append(measure(command, log=pghaven.log, server_pid=server.pid))
            print(f"  standby {number + 1}/{rounds} {name}: {found[-1].wall_seconds:.1f} s", flush=True)
    remove(place)
    versions = {"pghaven": pghaven.version, "pg_basebackup": server.programs.version}
    return {name: median(found) | {"version": versions[name]} for name, found in taken.items()}


def _create(pghaven: Pghaven, target: Path) -> list[str]:
    return [*pghaven.words("standby", "create", "main", "--data", str(target), "--archive-only")]


def _copy(server: BenchServer, target: Path) -> list[str]:
    program = server.programs.path("pg_basebackup")
    return [program, "-h", str(server.sockets), "-U", "postgres", "-D", str(target), "-X", "stream", "-c", "fast", "-R"]


def render(results: Mapping[str, Any], title: str) -> str:
    rows = [
        [
            f"{name} {row['version']}",
            f"{row['wall_seconds']:.2f} ({row['wall_best_seconds']:.2f})",
            f"{row['cpu_seconds']:.2f}",
            f"{row['server_seconds']:.2f}",
            f"{row['memory_bytes'] / MIB:.0f}",
            make_ratio(results, name),
        ]
        for name, row in results.items()
    ]
    return f"### A standby made anew: {title}\n\n" + render_table(
        ["tool", "wall s (best)", "CPU s", "primary's CPU s", "memory MiB", "wall, pghaven = 1"], rows
    )


def main() -> None:
    def run_all(server: BenchServer, tools: Sequence[Tool], rounds: int) -> tuple[dict[str, Any], ...]:
        return (run_rounds(server, tools, rounds),)

    run_stand_alone(NAME, run_all, (render,))


if __name__ == "__main__":
    main()
