"""SQL dumps and loads, side by side with pg_dump and pg_restore: time, processor time, bytes; then a second dump.

    python -m bench.dump --major 17 [--rounds 3] [--quick] …

Two databases, each by itself: "shop" is pgbench's, whose rows are next to nothing once they are compressed, and "texts"
has one table of long random ones. Both tools have two jobs and zstd at the same level, which pg_dump knows since 16;
before, it compresses with gzip. Each first dump begins with nothing stored. Before each second one, one row in a
hundred of the largest table is updated. Whoever reads a table next after that has the server prune its pages, which
costs more than a second and 600 MB of WAL; so it is read before either tool does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.common import MIB, Measurement, count_tree, make_directory, make_ratio, measure, median, remove, render_table
from bench.data import BenchServer
from bench.rounds import run_stand_alone
from bench.tools import LEVEL, PROCESSES, Pghaven, Tool

NAME = "dump"
_DATABASES = {
    "shop": ("pgbench_accounts", "abalance = abalance + 1"),
    "texts": ("pages", "body = body || 'x'"),
}
_COPY = "loaded"


class PgDump:
    """PostgreSQL's own, in its directory format."""

    name = "pg_dump"

    def __init__(self, server: BenchServer) -> None:
        self._server = server
        self.directory = make_directory(server.directory / self.name)
        self.log = self.directory / "log"
        self.version = server.programs.version

    def dump_command(self, database: str, number: int) -> Sequence[str]:
        compress = f"zstd:{LEVEL}" if self._server.programs.major >= 16 else "6"
        return [
            *(self._server.programs.path("pg_dump"), "-h", str(self._server.sockets), "-U", "postgres"),
            *("-Fd", "-j", str(PROCESSES), f"--compress={compress}", "-f", str(self.path(number)), database),
        ]

    def load_command(self, number: int) -> Sequence[str]:
        return [
            *(self._server.programs.path("pg_restore"), "-h", str(self._server.sockets), "-U", "postgres"),
            *("-j", str(PROCESSES), "-d", _COPY, str(self.path(number))),
        ]

    def path(self, number: int) -> Path:
        return self.directory / f"dump{number}"


def run_rounds(server: BenchServer, tools: Sequence[Tool], rounds: int) -> tuple[dict[str, Any], ...]:
    """First dumps, second dumps and loads of pghaven and pg_dump, in turns; three results a database."""
    ours = next(tool for tool in tools if isinstance(tool, Pghaven))
    theirs = PgDump(server)
    return tuple(result for name in _DATABASES for result in _Rounds(server, ours, theirs, name).run(rounds))


class _Rounds:
    """The measurements of one database."""

    def __init__(self, server: BenchServer, ours: Pghaven, theirs: PgDump, database: str) -> None:
        self._server, self._ours, self._theirs, self._database = server, ours, theirs, database
        self._versions = {ours.name: ours.version, theirs.name: theirs.version}
        steps = ("first", "second", "load")
        self._taken: dict[str, dict[str, list[Measurement]]] = {
            step: {name: [] for name in self._versions} for step in steps
        }
        self._stored: dict[str, dict[str, list[int]]] = {
            step: {name: [] for name in self._versions} for step in steps[:2]
        }

    def run(self, rounds: int) -> tuple[dict[str, Any], ...]:
        for number in range(rounds):
            self._dump_twice()
            self._load()
            print(f"  {self._database}: round {number + 1}/{rounds}", flush=True)
        return tuple(
            {
                name: median(measurements[name])
                | {"version": version}
                | ({"stored_bytes": sorted(self._stored[step][name])[rounds // 2]} if step in self._stored else {})
                for name, version in self._versions.items()
            }
            for step, measurements in self._taken.items()
        )

    def _note(self, step: str, name: str, command: Sequence[str], log: Path) -> None:
        self._server.sql("CHECKPOINT")
        self._taken[step][name].append(measure(command, log=log, server_pid=self._server.pid))
        print(f"  {step} {name}: {self._taken[step][name][-1].wall_seconds:.1f} s", flush=True)

    def _dump_twice(self) -> None:
        ours, theirs, database = self._ours, self._theirs, self._database
        ours.reset()
        for path in theirs.directory.glob("dump*"):
            remove(path)
        before = 0
        for number, step in enumerate(self._stored):
            if number:
                table, change = _DATABASES[database]
                self._server.sql(f"UPDATE {table} SET {change} WHERE random() < 0.01", database)
                self._server.sql(f"COPY {table} TO '/dev/null'", database)
            self._note(step, ours.name, ours.dump_command(database), ours.log)
            size = ours.count_repository()[1]
            self._stored[step][ours.name].append(size - before)
            before = size
            self._note(step, theirs.name, theirs.dump_command(database, number), theirs.log)
            self._stored[step][theirs.name].append(count_tree(theirs.path(number))[1])

    def _load(self) -> None:
        ours, theirs = self._ours, self._theirs
        for name, command, log in (
            (ours.name, ours.load_command(self._database, _COPY), ours.log),
            (theirs.name, theirs.load_command(1), theirs.log),
        ):
            self._server.sql(f"DROP DATABASE IF EXISTS {_COPY}")
            self._server.sql(f"CREATE DATABASE {_COPY} TEMPLATE template0")
            self._note("load", name, command, log)
        self._server.sql(f"DROP DATABASE {_COPY}")


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


def _make_renders() -> tuple[Callable[[Mapping[str, Any], str], str], ...]:
    """In the order of ``run_rounds``."""
    steps = ("first dump", "second dump, 1 % of the largest table's rows updated", "load")
    return tuple(partial(_render, f"{database}, {step}") for database in _DATABASES for step in steps)


def main() -> None:
    run_stand_alone(NAME, run_rounds, _make_renders(), ("dump",))


if __name__ == "__main__":
    main()
