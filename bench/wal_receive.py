"""What is lost when a server burns while its WAL is received, and how far behind the repository is until then.

    python -m bench.wal_receive [--seconds 20] [--rate 1000] [--major 17] [--scratch DIRECTORY]

So many commits a second are made by a few sessions; every 20 ms the server is asked for the end of its WAL, and the
repository is looked at for what it has, so that it is known how old the oldest WAL is that it lacks. Then the server is
killed with SIGKILL under load, its directory is removed, the receiver is ended, and the transactions that were
acknowledged are looked for in the WAL that the repository holds. Once as usual, once with a synchronous receiver.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from bench.common import DEFAULT_SCRATCH, BenchError, describe_machine, render_table, save, scratch_directory
from bench.data import BenchServer, find_bench_programs
from bench.tools import Pghaven
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.postgres.walevent import decode_xact
from pghaven.postgres.walrecord import RM_XACT, iter_records
from pghaven.repository.partials import find_newest_partial, get_or_partial
from pghaven.repository.repository import open_repository
from pghaven.repository.walstore import WalArchive
from pghaven.server.postmaster import list_server_processes
from pghaven.store.open import open_store

NAME = "wal_receive"
SLOT = "pghaven"
SESSIONS = 4
_TIMELINE = Timeline(1)
_TICK_SECONDS = 0.02
_WAIT_SECONDS = 60


@dataclass(kw_only=True)
class Run:
    """What is seen of one run. Times are monotonic seconds, positions as the server and the repository told them."""

    server_times: list[float] = field(default_factory=list)
    server_lsns: list[int] = field(default_factory=list)
    stored: list[tuple[float, int]] = field(default_factory=list)
    acknowledged: dict[int, float] = field(default_factory=dict)
    is_over: bool = False

    def list_lags(self) -> list[float]:
        """For each look at the repository: since when it lacks WAL, in seconds; 0 when it lacks none."""
        lags = []
        for moment, lsn in self.stored:
            at = bisect_right(self.server_lsns, lsn)
            lacked_since = self.server_times[at] if at < len(self.server_times) else moment
            lags.append(max(0.0, moment - lacked_since))
        return lags


def measure(scratch: Path, seconds: float, rate: int, major: int, *, is_synchronous: bool) -> dict[str, Any]:
    """One run: numbers by what they say."""
    server = BenchServer(scratch / ("synchronous" if is_synchronous else "usual"), find_bench_programs(major))
    server.directory.mkdir()
    shutil.chown(server.directory, "postgres")
    server.initdb()
    try:
        with server.running(archive_mode="off", fsync="on"):
            return _run(server, seconds, rate, is_synchronous=is_synchronous)
    except psycopg.Error as error:
        raise BenchError(f"the server failed: {error}") from error


def _run(server: BenchServer, seconds: float, rate: int, *, is_synchronous: bool) -> dict[str, Any]:
    tool = Pghaven(server)
    tool.reset()
    config, repository = server.directory / tool.name / "pghaven.toml", server.directory / tool.name / "repository"
    with config.open("a") as file:
        file.write(f'receive_spool = "{server.directory}/spool"\nreceive_synchronous = {str(is_synchronous).lower()}\n')
    server.sql("CREATE TABLE t (n bigint, body text)")
    run = Run()
    with _receiving(config, server.directory / "receiver.log") as receiver:
        _wait_for(server, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "1")
        if is_synchronous:
            server.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{SLOT}'")
            server.sql("SELECT pg_reload_conf()")
            _wait_for(server, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", "1")
        archive = _open(repository)
        threads = [threading.Thread(target=_commit, args=(server, run, rate / SESSIONS)) for _ in range(SESSIONS)]
        threads += [threading.Thread(target=_watch_server, args=(server, run))]
        for thread in threads:
            thread.start()
        _watch_repository(archive, run, seconds)
        killed_at = time.monotonic()
        for pid in list_server_processes(str(server.data)):
            os.kill(pid, signal.SIGKILL)
        run.is_over = True
        for thread in threads:
            thread.join()
        shutil.rmtree(server.data)
        receiver.send_signal(signal.SIGTERM)
        receiver.wait(_WAIT_SECONDS)
    found = set(_list_committed(archive))
    lost = [moment for xid, moment in run.acknowledged.items() if xid not in found]
    lags = sorted(run.list_lags())
    return {
        "commits_per_second": round(len(run.acknowledged) / seconds),
        "behind_median_seconds": lags[len(lags) // 2],
        "behind_p99_seconds": lags[len(lags) * 99 // 100],
        "behind_max_seconds": lags[-1],
        "acknowledged": len(run.acknowledged),
        "lost": len(lost),
        "lost_seconds": killed_at - min(lost) if lost else 0.0,
    }


@contextmanager
def _receiving(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = str(Path(sys.executable).parent / "pghaven")
    with log.open("wb") as out:
        receiver = subprocess.Popen([program, "--config", str(config), "wal", "receive"], stdout=out, stderr=out)
        try:
            yield receiver
        finally:
            receiver.kill()
            receiver.wait()


def _commit(server: BenchServer, run: Run, rate: float) -> None:
    try:
        with psycopg.connect(server.conninfo, autocommit=True) as connection:
            due = time.monotonic()
            while not run.is_over:
                row = connection.execute(
                    "INSERT INTO t VALUES (1, repeat('x', 200)) RETURNING pg_current_xact_id()::text"
                ).fetchone()
                assert row is not None
                run.acknowledged[int(row[0])] = time.monotonic()
                due = max(due + 1 / rate, time.monotonic() - 0.1)
                time.sleep(max(0.0, due - time.monotonic()))
    except psycopg.Error:
        return


def _watch_server(server: BenchServer, run: Run) -> None:
    try:
        with psycopg.connect(server.conninfo, autocommit=True) as connection:
            while not run.is_over:
                row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
                assert row is not None
                run.server_lsns.append(Lsn.parse(row[0]))
                run.server_times.append(time.monotonic())
                time.sleep(_TICK_SECONDS)
    except psycopg.Error:
        return


def _watch_repository(archive: WalArchive, run: Run, seconds: float) -> None:
    until = time.monotonic() + seconds
    warmed = time.monotonic() + min(3.0, seconds / 4)
    while (now := time.monotonic()) < until:
        partial = find_newest_partial(archive, _TIMELINE)
        whole = max((one.name.end_lsn for one in archive.list_segments(_TIMELINE)), default=Lsn(0))
        if now > warmed:
            run.stored.append((now, max(whole, Lsn(0) if partial is None else partial.end_lsn)))
        time.sleep(_TICK_SECONDS)


def _list_committed(archive: WalArchive) -> Iterator[int]:
    held = [one.name for one in archive.list_segments(_TIMELINE)]
    partial = find_newest_partial(archive, _TIMELINE)
    if partial is not None and partial.segment not in held:
        held.append(partial.segment)
    contents = ((name, get_or_partial(archive, name)) for name in sorted(held))
    for record in iter_records(contents, resource_managers=(RM_XACT,)):
        event = decode_xact(record)
        if event is not None and event.kind == "commit":
            yield event.xid


def _open(path: Path) -> WalArchive:
    repository = open_repository(open_store(f"file://{path}"))
    (lineage,) = repository.list_lineages("main")
    return WalArchive(repository, "main", lineage.system_identifier, lineage.wal_segment_size)


def _wait_for(server: BenchServer, query: str, wanted: str) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while server.sql(query) != wanted:
        if time.monotonic() > deadline:
            raise BenchError(f"waited {_WAIT_SECONDS} s in vain for: {query}")
        time.sleep(0.1)


def render(results: dict[str, dict[str, Any]]) -> str:
    rows = [
        [
            name,
            str(row["commits_per_second"]),
            *(f"{row[f'behind_{what}_seconds']:.2f}" for what in ("median", "p99", "max")),
            f"{row['lost']} of {row['acknowledged']}",
            f"{row['lost_seconds']:.2f}",
        ]
        for name, row in results.items()
    ]
    header = ["receiver", "commits/s", "behind s, median", "p99", "max", "commits lost", "of the last s"]
    return "### WAL received, and a server that burns\n\n" + render_table(header, rows)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--major", type=int, default=17)
    parser.add_argument("--scratch", type=Path, default=DEFAULT_SCRATCH)
    options = parser.parse_args(words)
    results = {}
    with scratch_directory(options.scratch / NAME, keep=False) as scratch:
        for name, is_synchronous in (("usual", False), ("synchronous", True)):
            results[name] = measure(
                scratch, options.seconds, options.rate, options.major, is_synchronous=is_synchronous
            )
            print(f"  {name}: {json.dumps(results[name])}", flush=True)
    table = render(results)
    print(table)
    save(NAME, {"machine": describe_machine(), "results": results}, table)


if __name__ == "__main__":
    main()
