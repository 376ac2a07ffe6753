"""SQL dumps and loads, side by side with pg_dump and pg_restore: time, processor time, bytes; then a second dump.

    python -m bench.dump --major 17 [--rounds 3] [--quick] …

Both have two jobs and zstd at the same level, which pg_dump knows since 16; before, it compresses with gzip. Each
first dump begins with nothing stored. Before each second one, one row in a hundred of the largest table is updated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.common import MIB, Measurement, count_tree, make_directory, make_ratio, measure, median, remove, render_table
from bench.data import BenchServer
from bench.rounds import run_stand_alone
from bench.tools import LEVEL, PROCESSES, Pghaven, Tool

NAME = "dump"
_DATABASE = "shop"
_TABLE = "pgbench_accounts"
_COPY = "loaded"


class PgDump:
    """PostgreSQL's own, in its directory format."""

    name = "pg_dump"

    def __init__(self, server: BenchServer) -> None:
        self._server = server
        self.directory = make_directory(server.directory / self.name)
        self.log = self.directory / "log"
        self.version = server.programs.version

    def dump_command(self, number: int) -> Sequence[str]:
        compress = f"zstd:{LEVEL}" if self._server.programs.major >= 16 else "6"
        return [
            *(self._server.programs.path("pg_dump"), "-h", str(self._server.sockets), "-U", "postgres"),
            *("-Fd", "-j", str(PROCESSES), f"--compress={compress}", "-f", str(self.path(number)), _DATABASE),
        ]

    def load_command(self, number: int) -> Sequence[str]:
        return [
            *(self._server.programs.path("pg_restore"), "-h", str(self._server.sockets), "-U", "postgres"),
            *("-j", str(PROCESSES), "-d", _COPY, str(self.path(number))),
        ]

    def path(self, number: int) -> Path:
        return self.directory / f"dump{number}"


def run_rounds(server: BenchServer, tools: Sequence[Tool], rounds: int) -> tuple[dict[str, Any], ...]:
    """First dumps, second dumps and loads of pghaven and pg_dump, in turns."""
    ours = next(tool for tool in tools if isinstance(tool, Pghaven))
    theirs = PgDump(server)
    names = {ours.name: ours.version, theirs.name: theirs.version}
    taken: dict[str, dict[str, list[Measurement]]] = {
        step: {name: [] for name in names} for step in ("first", "second", "load")
    }
    stored: dict[str, dict[str, list[int]]] = {step: {name: [] for name in names} for step in ("first", "second")}

    def note(step: str, name: str, command: Sequence[str], log: Path) -> None:
        taken[step][name].append(measure(command, log=log, server_pid=server.pid))
        print(f"  {step} {name}: {taken[step][name][-1].wall_seconds:.1f} s", flush=True)

    for number in range(rounds):
        ours.reset()
        for path in theirs.directory.glob("dump*"):
            remove(path)
        before = 0
        for at, step in enumerate(("first", "second")):
            if step == "second":
                server.sql(f"UPDATE {_TABLE} SET abalance = abalance + 1 WHERE random() < 0.01", _DATABASE)
                server.sql("CHECKPOINT")
            note(step, ours.name, ours.dump_command(_DATABASE), ours.log)
            size = ours.count_repository()[1]
            stored[step][ours.name].append(size - before)
            before = size
            note(step, theirs.name, theirs.dump_command(at), theirs.log)
            stored[step][theirs.name].append(count_tree(theirs.path(at))[1])
        for name, command, log in (
            (ours.name, ours.load_command(_DATABASE, _COPY), ours.log),
            (theirs.name, theirs.load_command(1), theirs.log),
        ):
            server.sql(f"DROP DATABASE IF EXISTS {_COPY}")
            server.sql(f"CREATE DATABASE {_COPY} TEMPLATE template0")
            server.sql("CHECKPOINT")
            note("load", name, command, log)
        server.sql(f"DROP DATABASE {_COPY}")
        print(f"  round {number + 1}/{rounds}", flush=True)
    return tuple(
        {
            name: median(measurements[name])
            | {"version": version}
            | ({"stored_bytes": sorted(stored[step][name])[rounds // 2]} if step in stored else {})
            for name, version in names.items()
        }
        for step, measurements in taken.items()
    )


def _render(step: str, results: Mapping[str, Any], title: str) -> str:
    rows = [
        [
            f"{name} {row['version']}",
            f"{row['wall_seconds']:.2f} ({row['wall_best_seconds']:.2f})",
            f"{row['cpu_seconds']:.2f}",
            f"{row['server_seconds']:.2f}",
            f"{row['memory_bytes'] / MIB:.0f}",
            f"{row['stored_bytes'] / 1e6:.1f}" if "stored_bytes" in row else "",
            make_ratio(results, name),
        ]
        for name, row in results.items()
    ]
    header = ["tool", "wall s (best)", "CPU s", "server CPU s", "memory MiB", "stored MB", "wall, pghaven = 1"]
    return f"### {step}: {title}\n\n" + render_table(header, rows)


def render_first(results: Mapping[str, Any], title: str) -> str:
    return _render("First dump", results, title)


def render_second(results: Mapping[str, Any], title: str) -> str:
    return _render("Second dump, 1 % of the largest table's rows updated", results, title)


def render_load(results: Mapping[str, Any], title: str) -> str:
    return _render("Load", results, title)


def main() -> None:
    run_stand_alone(NAME, run_rounds, (render_first, render_second, render_load))


if __name__ == "__main__":
    main()
