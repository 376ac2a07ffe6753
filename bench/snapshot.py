"""What a snapshot costs a server at work: pgbench's latency around a checkpoint, a snapshot, and backups.

    python -m bench.snapshot [--scratch DIR] [--major 17] [--scale 20] [--quick]

The cluster lies on a Btrfs of its own, in a file on the scratch disk, so this takes root. pgbench runs all the time
with four connections; each thing is done once, some seconds after the one before has ended. A window of 100 ms counts
as raised when its transactions took three times as long, in the mean, as in the median window before anything. Some
windows do so while nothing is done; as many are to be expected in any span of that length.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.common import (
    DEFAULT_SCRATCH,
    RESULTS,
    BenchError,
    describe_machine,
    give,
    make_directory,
    render_table,
    run,
    save,
    scratch_directory,
)
from bench.data import BenchServer, find_bench_programs
from bench.tools import Pghaven

_CONNECTIONS = 4
_WINDOW_SECONDS = 0.1
_RAISED = 3.0
_QUIET_SECONDS = 8.0
_TAIL_SECONDS = 1.0  # what a thing leaves to be done is still its own


@contextmanager
def btrfs(image: Path, size_gib: int) -> Iterator[Path]:
    """A Btrfs in a file, mounted."""
    if os.geteuid() != 0:
        raise BenchError("only root can mount file systems")
    place = image.parent / "mounted"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size_gib << 30)
    _run_as_root("mkfs.btrfs", "-q", str(image))
    _run_as_root("mount", "-o", "loop", str(image), str(place))
    try:
        _run_as_root("btrfs", "subvolume", "create", str(place / "pg"))
        give(place / "pg")
        yield place / "pg"
    finally:
        _run_as_root("umount", str(place))


def _run_as_root(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}")


def measure_events(server: BenchServer, seconds: float) -> list[dict[str, Any]]:
    """pgbench all the while, and one thing after another."""
    ours = Pghaven(server)
    server.archive_with(ours.reset())
    events: tuple[tuple[str, Callable[[], object]], ...] = (
        ("checkpoint", lambda: server.sql("CHECKPOINT")),
        ("snapshot create", lambda: _run_as_root(*ours.words("snapshot", "create"))),
        ("backup --method snapshot", lambda: _run_as_root(*ours.words("backup", "--method", "snapshot"))),
        ("backup --full", lambda: run(ours.words("backup", "--full"), log=ours.log)),
    )
    with working(server) as logs:
        time.sleep(seconds)
        spans = [("nothing", time.time() - seconds, time.time())]
        for name, do in events:
            began = time.time()
            do()
            spans.append((name, began, time.time()))
            time.sleep(seconds)
    return judge(read_latencies(logs), spans)


@contextmanager
def working(server: BenchServer) -> Iterator[Path]:
    """pgbench at work; the directory with its logs of transactions."""
    logs = make_directory(server.directory / "pgbench")
    words = ["-n", "-c", str(_CONNECTIONS), "-j", "1", "-T", "3600", "-l", "-h", str(server.sockets), "-U", "postgres"]
    command = [server.programs.path("pgbench"), *words, "--log-prefix", str(logs / "log"), "postgres"]
    pgbench = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield logs
    finally:
        pgbench.terminate()
        pgbench.wait()


def read_latencies(logs: Path) -> list[tuple[float, float]]:
    """(when it ended, seconds it took) of every transaction, in order."""
    found = []
    for log in logs.iterdir():
        for line in log.read_text().splitlines():
            fields = line.split()
            if len(fields) >= 6:
                found.append((int(fields[4]) + int(fields[5]) / 1e6, int(fields[2]) / 1e6))
    return sorted(found)


def judge(latencies: Sequence[tuple[float, float]], spans: Sequence[tuple[str, float, float]]) -> list[dict[str, Any]]:
    """For each span: its length, the longest transaction, and for how long latency was raised."""
    _, began, ended = spans[0]
    usual = statistics.median(_means(latencies, began, ended))
    rows: list[dict[str, Any]] = []
    for name, start, ended in spans:
        end = ended + (_TAIL_SECONDS if rows else 0.0)
        means = _means(latencies, start, end)
        rows.append(
            {
                "what": name,
                "seconds": ended - start,
                "mean_milliseconds": 1e3 * statistics.fmean(means),
                "longest_milliseconds": 1e3 * max(took for at, took in latencies if start <= at <= end),
                "raised_seconds": _WINDOW_SECONDS * sum(mean > _RAISED * usual for mean in means),
            }
        )
    return rows


def _means(latencies: Sequence[tuple[float, float]], start: float, end: float) -> list[float]:
    """The mean latency in each window; one in which nothing ended took as long as itself."""
    windows: list[list[float]] = [[] for _ in range(max(1, int((end - start) / _WINDOW_SECONDS)))]
    for at, took in latencies:
        number = int((at - start) / _WINDOW_SECONDS)
        if 0 <= number < len(windows):
            windows[number].append(took)
    return [statistics.fmean(one) if one else _WINDOW_SECONDS for one in windows]


def render(rows: Sequence[dict[str, Any]], title: str) -> str:
    nothing = rows[0]["raised_seconds"] / rows[0]["seconds"]
    cells = [
        [
            row["what"],
            f"{row['seconds']:.2f}",
            f"{row['mean_milliseconds']:.1f}",
            f"{row['longest_milliseconds']:.0f}",
            f"{row['raised_seconds']:.1f}",
            f"{nothing * (row['seconds'] + (_TAIL_SECONDS if number else 0.0)):.1f}",
        ]
        for number, row in enumerate(rows)
    ]
    header = ["what was done", "took s", "mean latency ms", "longest ms", "latency raised for s", "with nothing done s"]
    return f"### {title}\n\n" + render_table(header, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a snapshot costs a server at work.")
    parser.add_argument("--scratch", type=Path, default=DEFAULT_SCRATCH)
    parser.add_argument("--major", type=int, default=15)
    parser.add_argument("--pg-bin", metavar="DIR")
    parser.add_argument("--scale", type=int, default=20, help="of pgbench: 15 MB each; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="whether it works, not what it costs; not kept")
    given = parser.parse_args()
    os.umask(0o022)
    try:
        with scratch_directory(given.scratch, keep=False) as scratch, btrfs(scratch / "image", 8) as place:
            server = BenchServer(place, find_bench_programs(given.major, given.pg_bin))
            server.initdb()
            with server.running():
                scale = str(2 if given.quick else given.scale)
                options = ("-i", "-q", "-s", scale, "-h", str(server.sockets), "-U", "postgres", "postgres")
                run([server.programs.path("pgbench"), *options])
                rows = measure_events(server, 2.0 if given.quick else _QUIET_SECONDS)
            title = f"pgbench at scale {given.scale} on Btrfs, PostgreSQL {server.programs.version}"
            table = render(rows, title)
            print(table)
            if not given.quick:
                machine = describe_machine()
                facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine, "results": rows}
                note = f"{facts['date']}, {machine['cores']} cores, Linux {machine['kernel']}; one run\n\n"
                save(f"snapshot-{given.major}", json.loads(json.dumps(facts)), note + table, RESULTS)
    except BenchError as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
