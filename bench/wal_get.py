"""WAL replayed through each tool's restore_command, side by side: how much longer than from plain local files.

    python -m bench.wal_get [--segments 200] [--rounds 3] [--quick] [--keep] …     --rounds 0 --keep records only

One server writes the WAL (16 MiB segments; inserts, updates, deletes and an index over random text), and one
archive_command gives every segment to all tools and to ``cp``. Then a copy of one base backup recovers with each
tool's restore_command, as its documentation writes it. What counts is what the server itself says: the time between
"redo starts" and "redo done". A run that did not come to the end of the WAL ends the bench. Order A B C A B C ….
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench.common import (
    DEFAULT_SCRATCH,
    RESULTS,
    BenchError,
    bench_user,
    describe_machine,
    give,
    make_directory,
    remove,
    render_table,
    run,
    save,
    scratch_directory,
    sync,
    warm,
)
from bench.data import BenchServer, Shape, find_bench_programs, get_cluster
from bench.tools import PgBackRest, Pghaven, Tool, open_tools
from pghaven.postgres.datadir import RESTORE_PLAN_FILE
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import quote_setting
from pghaven.server.instance import Instance
from pghaven.server.postmaster import STATUS_READY
from pghaven.wal.commands import render_restore_command

NAME = "wal_get"
SEGMENTS, QUICK_SEGMENTS = 200, 16
_SEGMENT_BYTES = 16 << 20
_RECOVERY_SECONDS = 1800
_RECORDED = "recorded.json"
_DONE = re.compile(r"redo done at ([0-9A-F]+/[0-9A-F]+) .*elapsed: ([0-9.]+) s")
_TABLE = "CREATE TABLE bench (id bigint PRIMARY KEY, told text, n int); CREATE INDEX ON bench (n)"
# Some 32 MiB of WAL each.
_WORK = (
    "INSERT INTO bench SELECT i, md5(i::text) || repeat(md5(random()::text), 4), random() * 1e6 "
    "FROM generate_series({0} * 50000 + 1, {0} * 50000 + 50000) i;"
    "UPDATE bench SET n = n + 1 WHERE id > {0} * 50000 + 25000 AND id % 2 = 0;"
    "DELETE FROM bench WHERE id > {0} * 50000 - 50000 AND id <= {0} * 50000 AND id % 3 = 0"
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """``restore_command`` is given the directory that recovers."""

    name: str
    restore_command: Callable[[Path], str]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The WAL of the server, in every archive, from ``base`` on up to ``end_lsn``."""

    server: BenchServer
    ways: tuple[Way, ...]
    base: Path
    end_lsn: Lsn


def record(server: BenchServer, tools: Sequence[Tool], segments: int) -> Recorded:
    """Take a base backup, and have as many segments archived by all as are wanted."""
    copies, base = server.directory / "copies", server.directory / "base"
    for path in (copies, base):
        remove(path)
    make_directory(copies)
    commands = [f"cp %p {copies}/%f", *(tool.reset() for tool in tools)]
    # Each in a shell of its own: one of ours ends the shell it is in.
    server.archive_with(" && ".join(f"sh -c {shlex.quote(command)}" for command in commands))
    basebackup = server.programs.path("pg_basebackup")
    run([basebackup, "-h", str(server.sockets), "-U", "postgres", "-D", str(base), "-X", "none", "-c", "fast"])
    server.sql(f"DROP TABLE IF EXISTS bench; {_TABLE}")
    began = _count(copies)
    done = 0
    while _count(copies) + _count_ready(server) - began < segments:
        server.sql(_WORK.format(done))
        done += 1
    server.sql("SELECT pg_logical_emit_message(true, 'bench', 'last'); SELECT pg_switch_wal()")
    end = Lsn.parse(server.sql("SELECT pg_current_wal_lsn()"))
    print(f"  {done} rounds of work; waiting for the archives", flush=True)
    while _count_ready(server):
        server.sql("SELECT pg_sleep(0.2)")
    return Recorded(server=server, ways=tuple(_list_ways(copies, tools, end)), base=base, end_lsn=end)


def _find_recorded(server: BenchServer, tools: Sequence[Tool], segments: int) -> Recorded | None:
    path = server.directory / _RECORDED
    if not path.exists():
        return None
    kept, end = json.loads(path.read_text())
    if kept != segments:
        return None
    ways = _list_ways(server.directory / "copies", tools, Lsn.parse(end))
    return Recorded(server=server, ways=tuple(ways), base=server.directory / "base", end_lsn=Lsn.parse(end))


def _count(copies: Path) -> int:
    return sum(len(name) == 24 for name in os.listdir(copies))


def _count_ready(server: BenchServer) -> int:
    return sum(name.endswith(".ready") for name in os.listdir(server.data / "pg_wal" / "archive_status"))


def _list_ways(copies: Path, tools: Sequence[Tool], end: Lsn) -> list[Way]:
    ways = [Way(name="cp", restore_command=lambda _: f"cp {copies}/%f %p")]
    for tool in tools:
        if isinstance(tool, Pghaven):
            ways.append(Way(name="pghaven", restore_command=_pghaven(tool, end)))
        elif isinstance(tool, PgBackRest):
            for name, options in (("", ""), (", async", " --archive-async")):
                ways.append(Way(name=f"pgBackRest {tool.version}{name}", restore_command=_pgbackrest(tool, options)))
    return ways


def _pghaven(tool: Pghaven, end: Lsn) -> Callable[[Path], str]:
    def restore_command(target: Path) -> str:
        plan = {"format": 1, "timeline_path": [[1, "0/0", None]], "expected_end_lsn": str(end), "archiving": "off"}
        (target / RESTORE_PLAN_FILE).write_text(json.dumps(plan))
        give(target / RESTORE_PLAN_FILE)
        return render_restore_command(tool.program, str(tool.config), "main", RESTORE_PLAN_FILE)

    return restore_command


def _pgbackrest(tool: PgBackRest, options: str) -> Callable[[Path], str]:
    return lambda target: f'{shlex.join(tool.archive_get(target))}{options} %f "%p"'


def replay(recorded: Recorded, way: Way) -> float:
    """Seconds between the start and the end of redo."""
    server = recorded.server
    target = server.directory / "recovered"
    remove(target)
    run(["cp", "-a", str(recorded.base), str(target)])
    settings = {
        "restore_command": way.restore_command(target),
        "archive_mode": "off",
        "hot_standby": "off",
        "unix_socket_directories": str(server.sockets),
        "port": "5433",
    }
    with (target / "postgresql.auto.conf").open("a") as file:
        file.writelines(f"{name} = {quote_setting(value)}\n" for name, value in settings.items())
    (target / "recovery.signal").touch()
    give(target / "recovery.signal")
    log = target / "bench.log"
    sync()
    instance = Instance(str(target), server.programs, log_path=str(log), os_user=bench_user().name)
    try:
        instance.start({}, timeout_seconds=_RECOVERY_SECONDS)
        while instance.wait_ready(timeout_seconds=_RECOVERY_SECONDS).status != STATUS_READY:
            time.sleep(0.05)
    finally:
        with suppress(Exception):
            instance.stop("immediate")
    found = _DONE.search(log.read_text())
    if found is None or Lsn.parse(found[1]) < recorded.end_lsn - _SEGMENT_BYTES:
        raise BenchError(f"{way.name} did not recover up to {recorded.end_lsn}:\n{log.read_text()[-2000:]}")
    remove(target)
    return float(found[2])


def run_rounds(recorded: Recorded, rounds: int) -> dict[str, Any]:
    """Seconds of redo for each way: the median, and all."""
    taken: dict[str, list[float]] = {}
    for number in range(rounds):
        for way in recorded.ways:
            seconds = replay(recorded, way)
            taken.setdefault(way.name, []).append(seconds)
            print(f"  replay {number + 1}/{rounds} {way.name}: {seconds:.2f} s", flush=True)
    return {name: {"seconds": median(runs), "runs": runs} for name, runs in taken.items()}


def render(results: Mapping[str, Any], title: str) -> str:
    floor = results["cp"]["seconds"]
    rows = [
        [name, f"{row['seconds']:.2f}", f"{row['seconds'] / floor:.2f}", " ".join(f"{one:.2f}" for one in row["runs"])]
        for name, row in results.items()
    ]
    return f"### Replay of WAL: {title}\n\n" + render_table(
        ["restore_command", "seconds of redo", "cp = 1", "each run"], rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure: replay of WAL through each tool.")
    parser.add_argument("--segments", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--major", type=int, default=15)
    parser.add_argument("--pg-bin", metavar="DIR")
    parser.add_argument("--tool", choices=["pghaven", "pgBackRest"], action="append", help="default: both")
    parser.add_argument("--scratch", type=Path, default=DEFAULT_SCRATCH)
    parser.add_argument("--keep", action="store_true", help="leave the WAL for the next time")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    os.umask(0o022)
    segments = given.segments or (QUICK_SEGMENTS if given.quick else SEGMENTS)
    rounds = (1 if given.quick else 3) if given.rounds is None else given.rounds
    try:
        with scratch_directory(given.scratch, keep=given.keep) as scratch:
            shape = Shape(name="replay", pgbench_scale=0, text_mib=0, small_tables=0)
            server = get_cluster(scratch, shape, find_bench_programs(given.major, given.pg_bin))
            tools = open_tools(server, given.tool or ["pghaven", "pgBackRest"])
            recorded = _find_recorded(server, tools, segments)
            if recorded is None:
                with server.running():
                    recorded = record(server, tools, segments)
                (server.directory / _RECORDED).write_text(json.dumps([segments, str(recorded.end_lsn)]))
            warm(server.directory)
            results = run_rounds(recorded, rounds)
            version = server.programs.version
    except BenchError as error:
        sys.exit(f"bench: {error}")
    if not rounds:
        return
    title = f"{segments} segments, PostgreSQL {version}"
    machine = describe_machine()
    facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine, "segments": segments, "rounds": rounds}
    note = (
        f"{facts['date']}, {machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}; medians of {rounds} rounds\n\n"
    )
    where = given.scratch / "results" if given.quick else RESULTS
    save(f"{NAME}-{given.major}", facts | {"results": results}, note + render(results, title), where)


if __name__ == "__main__":
    main()
