"""A backlog of WAL cleared by the server's own archiver, side by side: what each tool takes for a segment.

    WAYS="pghaven, agent;cp" WAL=load SEGMENTS=50 python -m bench.wal_push [--rounds 3] [--quick] …

The WAL is of two kinds: "text", messages of which half repeats itself and half does not, and "load", what a bulk load
and its index write (``pgbench -i``), as most backlogs are. The server archives with ``false`` until so many segments of
16 MiB wait; then it is given a tool's archive_command, and
the time until the last one is archived is taken. Processor time is that of the server's tree with all that its archiver
started, and of the agent where there is one. ``cp``, a shell that does nothing, and two processes that do no more than
compress, write and flush, with and without the hash that our format has of each byte, are the floor. Order A B A
B ….
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.common import BenchError, become_reaper, make_directory, read_tree_seconds, remove, render_table, start
from bench.data import BenchServer
from bench.rounds import run_stand_alone
from bench.tools import PgBackRest, Pghaven, Tool
from pghaven.wal.marks import Marks

NAME = "wal_push"
SEGMENTS = 200
QUICK_SEGMENTS = 12
_LIMIT_SECONDS = 600
# pgBackRest's own default for zstd, and what costs it least at hardly another size. Ours has no level to be chosen.
_LEVELS = (3, 1)
# What lies beside the segments in an archive: who it belongs to; the last segment, which is nearly empty.
_SMALL_BYTES = 64 << 10
_TEXT = (
    "SELECT count(pg_logical_emit_message(false, 'bench', repeat(md5(random()::text), 64) || "
    "(SELECT string_agg(md5(random()::text || n || x), '') FROM generate_series(1, 64) x))) "
    "FROM generate_series(1, 3900) n"
)


# What no tool can do without, on the two processes that each has.
_ALONE = """
import multiprocessing, os, sys
import blake3
from pghaven.repository.codec import WalCompressor
is_hashing = sys.argv[3] == "hashing"
def work(names):
    compressor = WalCompressor()
    memory = memoryview(bytearray(1 << 20))
    for name in names:
        packed = []
        with open(os.path.join(sys.argv[1], name), "rb", buffering=0) as file:
            while got := file.readinto(memory):
                if is_hashing:
                    blake3.blake3(memory[:got]).digest()
                packed.append(compressor.compress(memory[:got])[1])
        descriptor = os.open(os.path.join(sys.argv[2], name), os.O_WRONLY | os.O_CREAT, 0o600)
        os.writev(descriptor, packed)
        os.fsync(descriptor)
        os.close(descriptor)
names = sys.argv[4:]
halves = [multiprocessing.get_context("fork").Process(target=work, args=(names[n::2],)) for n in (0, 1)]
[half.start() for half in halves]
[half.join() for half in halves]
"""


@dataclass(frozen=True, kw_only=True)
class Way:
    """``reset`` leaves an empty archive and says what archives into it; ``beside`` is what runs meanwhile, whose
    tree is counted too. ``alone`` does it without the server's archiver, given the files that wait. ``archive`` is
    where the segments lie in the end."""

    name: str
    reset: Callable[[], str]
    beside: Callable[[], AbstractContextManager[int | None]] = nullcontext
    alone: Callable[[Sequence[str]], object] | None = None
    archive: Path | None = None


def list_ways(server: BenchServer, tools: Sequence[Tool]) -> list[Way]:
    """The floor, and each tool that is installed in the ways its documentation offers."""
    copies = server.directory / "copies"

    def reset_copies() -> str:
        remove(copies)
        make_directory(copies)
        return f"cp %p {copies}/%f"

    def compress_alone(hashing: str, names: Sequence[str]) -> None:
        command = [sys.executable, "-c", _ALONE, str(server.data / "pg_wal"), str(copies), hashing, *names]
        subprocess.run(command, check=True)

    ways = [
        Way(name="a shell that does nothing", reset=lambda: ":"),
        Way(name="cp", reset=reset_copies, archive=copies),
        *(
            Way(name=name, reset=reset_copies, alone=partial(compress_alone, hashing), archive=copies)
            for name, hashing in (
                ("reading, zstd, writing and fsync alone", ""),
                ("reading, a hash, zstd, writing and fsync alone", "hashing"),
            )
        ),
    ]
    for tool in tools:
        if isinstance(tool, Pghaven):
            agent, archive = _agent(tool, server), tool.archive
            ways.append(Way(name="pghaven, agent", reset=tool.reset, beside=agent, archive=archive))
            ways.append(Way(name="pghaven", reset=tool.reset, archive=archive))
            ways.append(Way(name="pghaven, one at a time", reset=_one_at_a_time(tool), archive=archive))
            ways.append(Way(name="pghaven, marks are there", reset=tool.reset, beside=_marked(server)))
        elif isinstance(tool, PgBackRest):
            for mode, options in (("", ""), (", async", " --archive-async")):
                for level in _LEVELS:
                    name = f"pgBackRest {tool.version}{mode}, level {level}"
                    ways.append(Way(name=name, reset=_pgbackrest(tool, options, level), archive=tool.archive))
    return ways


def _agent(tool: Pghaven, server: BenchServer) -> Callable[[], AbstractContextManager[int | None]]:
    @contextmanager
    def beside() -> Iterator[int | None]:
        door = server.data / "pg_wal" / "pghaven" / "agent"
        process = start(tool.agent_command(), log=tool.log)
        try:
            _wait(door.exists, "the agent")
            yield process.pid
        finally:
            process.terminate()
            process.wait()

    return beside


def _marked(server: BenchServer) -> Callable[[], AbstractContextManager[int | None]]:
    """What the archiver pays where all was pushed ahead: the marks are left, and nothing is pushed but the last."""

    @contextmanager
    def beside() -> Iterator[int | None]:
        wal_directory = server.data / "pg_wal"
        marks = Marks(str(wal_directory))
        for name in marks.list_waiting():
            marks.mark(name, (wal_directory / name).stat().st_mtime_ns)
        yield None

    return beside


def _one_at_a_time(tool: Pghaven) -> Callable[[], str]:
    def reset() -> str:
        command = tool.reset()
        with tool.config.open("a") as file:
            file.write("wal_look_ahead = 0\n")
        return command

    return reset


def _pgbackrest(tool: PgBackRest, options: str, level: int) -> Callable[[], str]:
    return lambda: tool.reset().replace(" %p", f"{options} --compress-level={level} %p")


def run_rounds(server: BenchServer, ways: Sequence[Way], rounds: int, wanted: tuple[str, int]) -> dict[str, Any]:
    """Milliseconds of wall and processor time for each segment, medians, and the bytes that are stored of it; of so
    many segments at least of a kind of WAL."""
    become_reaper()
    taken: dict[str, list[tuple[float, float]]] = {}
    stored: dict[str, float] = {}
    for number in range(rounds):
        for way in ways:
            wall, cpu, segments = clear_backlog(server, way, wanted)
            taken.setdefault(way.name, []).append((wall * 1000 / segments, cpu * 1000 / segments))
            if way.archive is not None:
                files = [file.stat().st_size for file in way.archive.rglob("*") if file.is_file()]
                stored[way.name] = sum(size for size in files if size > _SMALL_BYTES) / segments
            print(f"  push {number + 1}/{rounds} {way.name}: {wall * 1000 / segments:.1f} ms a segment", flush=True)
    return {
        name: {
            "wall_ms": median(wall for wall, _ in runs),
            "cpu_ms": median(cpu for _, cpu in runs),
            **({"stored_bytes": stored[name]} if name in stored else {}),
        }
        for name, runs in taken.items()
    }


def _write_text(server: BenchServer, segments: int) -> None:
    for _ in range(segments):
        server.sql(f"{_TEXT}; SELECT pg_switch_wal()")


def _write_load(server: BenchServer, segments: int) -> None:
    """Never more than ``_LOAD_SCALE`` segments beyond what is wanted."""
    while (lacking := segments - len(_list_waiting(server))) > 0:
        command = [str(server.programs.path("pgbench")), "-h", str(server.sockets), "-U", "postgres", "-i"]
        subprocess.run([*command, "-s", str(min(_LOAD_SCALE, lacking)), "postgres"], check=True, capture_output=True)


# A scale is a little less than a segment of WAL.
_LOAD_SCALE = 20
_WRITES: dict[str, Callable[[BenchServer, int], None]] = {"text": _write_text, "load": _write_load}


def clear_backlog(server: BenchServer, way: Way, wanted: tuple[str, int]) -> tuple[float, float, int]:
    """Wall and processor seconds until the last of so many segments at least is archived, and how many these were."""
    server.archive_with(":")
    _wait(lambda: not _list_waiting(server), "the archiver to come to rest")
    command = way.reset()
    server.archive_with("false")
    wal, segments = wanted
    _WRITES[wal](server, segments)
    os.sync()
    segments = len(_list_waiting(server))
    if way.alone is not None:
        names = [name.removesuffix(".ready") for name in _list_waiting(server)]
        before, began = read_tree_seconds(os.getpid()), time.perf_counter()
        way.alone(names)
        return time.perf_counter() - began, read_tree_seconds(os.getpid()) - before, segments
    with way.beside() as beside:
        pids = [server.pid, *([] if beside is None else [beside])]
        before, began = sum(map(read_tree_seconds, pids)), time.perf_counter()
        server.archive_with(command)
        server.sql("SELECT pg_logical_emit_message(true, 'bench', 'last'); SELECT pg_switch_wal()")
        _wait(lambda: len(_list_waiting(server)) == 0, f"{way.name} to archive")
        return time.perf_counter() - began, sum(map(read_tree_seconds, pids)) - before, segments


def _list_waiting(server: BenchServer) -> list[str]:
    return [name for name in os.listdir(server.data / "pg_wal" / "archive_status") if name.endswith(".ready")]


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.perf_counter() + _LIMIT_SECONDS
    while not condition():
        if time.perf_counter() > deadline:
            raise BenchError(f"waited {_LIMIT_SECONDS} s in vain for {what}")
        time.sleep(0.005)


def render(wal: str, results: Mapping[str, Any], title: str) -> str:
    ours = results.get("pghaven, agent", {}).get("wall_ms")
    rows = [
        [
            name,
            f"{row['wall_ms']:.1f}",
            f"{row['cpu_ms']:.1f}",
            f"{row['wall_ms'] / ours:.2f}" if ours else "–",
            f"{row['stored_bytes'] / 1e6:.2f}" if "stored_bytes" in row else "–",
        ]
        for name, row in results.items()
    ]
    return f"### A backlog of WAL of a {wal}: {title}\n\n" + render_table(
        ["archive_command", "wall ms a segment", "CPU ms a segment", "wall, agent = 1", "MB stored of one"], rows
    )


def main() -> None:
    only = os.environ.get("WAYS", "")
    segments = int(os.environ.get("SEGMENTS", "0"))
    kinds = os.environ.get("WAL", ";".join(_WRITES)).split(";")

    def run(server: BenchServer, tools: Sequence[Tool], rounds: int) -> tuple[dict[str, Any], ...]:
        quick = "quick" in server.directory.name
        ways = [way for way in list_ways(server, tools) if only in ("", way.name) or way.name in only.split(";")]
        count = segments or (QUICK_SEGMENTS if quick else SEGMENTS)
        return tuple(run_rounds(server, ways, rounds, (wal, count)) for wal in kinds)

    run_stand_alone(NAME, run, tuple(partial(render, wal) for wal in kinds), shapes=("files",))


if __name__ == "__main__":
    main()
