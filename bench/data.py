"""The clusters that are measured: made of several kinds of data, with page checksums, the same for every tool.

    python -m bench.data [--shape mixed|files] [--major 15] [--quick] [--scratch DIRECTORY]      make one and keep it

The one idea: no single kind of data is fair. pgbench's tables compress tenfold and are a few big files; random text
hardly compresses; thousands of small tables, each with a primary key, free-space and visibility map and a TOAST table
with its index, are what a real catalogue of tenants looks like and cost a backup per file.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.common import (
    DEFAULT_SCRATCH,
    MIB,
    BenchError,
    bench_user,
    count_tree,
    make_directory,
    make_temporary_file,
    remove,
    run,
    scratch_directory,
    warm,
)
from pghaven.server.instance import Instance
from pghaven.server.programs import Programs, inspect_programs

_SETTINGS = """
# --- written by the bench ---
listen_addresses = ''
shared_buffers = 256MB
max_connections = 30
max_wal_size = 8GB
min_wal_size = 80MB
maintenance_work_mem = 256MB
max_locks_per_transaction = 1000
wal_level = replica
archive_mode = on
archive_command = '/bin/true'
autovacuum = off
checkpoint_timeout = 1h
"""
_TABLES_PER_TRANSACTION = 250


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is in a cluster. A small table is six to eight files."""

    name: str
    pgbench_scale: int
    text_mib: int
    small_tables: int


SHAPES = {
    "mixed": Shape(name="mixed", pgbench_scale=200, text_mib=500, small_tables=5000),
    "files": Shape(name="files", pgbench_scale=0, text_mib=0, small_tables=4500),
    "dump": Shape(name="dump", pgbench_scale=100, text_mib=500, small_tables=0),
}
QUICK_SHAPES = {
    "mixed": Shape(name="mixed-quick", pgbench_scale=15, text_mib=40, small_tables=400),
    "files": Shape(name="files-quick", pgbench_scale=0, text_mib=0, small_tables=600),
    "dump": Shape(name="dump-quick", pgbench_scale=5, text_mib=10, small_tables=0),
}


class BenchServer:
    """One cluster of the bench and its server."""

    def __init__(self, directory: Path, programs: Programs) -> None:
        self.directory = directory
        self.programs = programs
        self.data = directory / "data"
        self.sockets = directory / "s"
        self._instance = Instance(
            str(self.data), programs, log_path=str(directory / "server.log"), os_user=bench_user().name
        )

    @property
    def conninfo(self) -> str:
        return f"host={self.sockets} user=postgres dbname=postgres"

    @property
    def pid(self) -> int:
        running = self._instance.is_running()
        if running is None:
            raise BenchError("the server has ended; its log is in " + str(self.directory))
        return running.pid

    @contextmanager
    def running(self, **settings: str) -> Iterator[None]:
        make_directory(self.sockets)
        self._instance.start({"unix_socket_directories": str(self.sockets), **settings})
        try:
            yield
        finally:
            self._instance.stop("fast", timeout_seconds=300)

    def sql(self, text: str, database: str = "postgres") -> str:
        psql = self.programs.path("psql")
        options = ("-XqAt", "-v", "ON_ERROR_STOP=1", "-h", str(self.sockets), "-U", "postgres", "-d", database)
        return run([psql, *options, "-f", "-"], stdin=text).strip()

    def initdb(self) -> None:
        self._instance.initdb(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--data-checksums"])
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS)

    def archive_with(self, command: str) -> None:
        """Have the server archive by this command, and let go what is to be archived still."""
        quoted = command.replace("'", "''")
        self.sql(f"ALTER SYSTEM SET archive_command = '{quoted}'")
        self.sql("SELECT pg_reload_conf()")


def find_bench_programs(major: int, bin_dir: str | None = None) -> Programs:
    """The programs of this version: Debian's where there are, else what the tests use."""
    debian = f"/usr/lib/postgresql/{major}/bin"
    found = inspect_programs(bin_dir or debian)
    if isinstance(found, Programs):
        return found
    if bin_dir:
        raise BenchError(f"{bin_dir}: {found}")
    from tests.support.binaries import find_binaries

    binaries = find_binaries(major)
    if isinstance(binaries, Programs):
        return binaries
    raise BenchError(f"{debian}: {found}; {binaries.reason}")


def get_cluster(scratch: Path, shape: Shape, programs: Programs) -> BenchServer:
    """The cluster of this shape below ``scratch``, made if it is not there yet. Its server does not run."""
    server = BenchServer(make_directory(scratch / f"{shape.name}-{programs.major}"), programs)
    mark = server.directory / "shape.json"
    wanted = asdict(shape)
    if mark.exists() and json.loads(mark.read_text()) == wanted:
        return server
    remove(server.directory)
    make_directory(server.directory)
    print(f"making cluster {shape.name} of PostgreSQL {programs.version}", flush=True)
    server.initdb()
    with server.running(fsync="off", autovacuum="off"):
        _fill(server, shape)
    with server.running():  # a clean start, so that no tool finds WAL of the making
        server.sql("SELECT pg_switch_wal(); CHECKPOINT")
    make_temporary_file(server.directory, json.dumps(wanted), "shape.json")
    return server


def _fill(server: BenchServer, shape: Shape) -> None:
    if shape.pgbench_scale:
        server.sql("CREATE DATABASE shop")
        options = ("-h", str(server.sockets), "-U", "postgres")
        pgbench = server.programs.path("pgbench")
        run([pgbench, *options, "-i", "-I", "dtGvp", "-q", "-s", str(shape.pgbench_scale), "shop"])
        run([pgbench, *options, "-n", "-c", "4", "-t", "2500", "shop"])
    if shape.text_mib:
        server.sql("CREATE DATABASE texts")
        rows = shape.text_mib * MIB // 1072
        parts = " || ".join(["md5(random()::text)"] * 32)
        server.sql(f"CREATE TABLE pages AS SELECT n, {parts} AS body FROM generate_series(1, {rows}) n", "texts")
        server.sql("ALTER TABLE pages ADD PRIMARY KEY (n)", "texts")
    if shape.small_tables:
        server.sql("CREATE DATABASE tenants")
        for first in range(0, shape.small_tables, _TABLES_PER_TRANSACTION):
            numbers = range(first, min(first + _TABLES_PER_TRANSACTION, shape.small_tables))
            server.sql("BEGIN;\n" + "".join(map(_render_small_table, numbers)) + "COMMIT;\n", "tenants")
    run([server.programs.path("vacuumdb"), "-h", str(server.sockets), "-U", "postgres", "-a", "-q"])
    server.sql("CHECKPOINT")


def _render_small_table(number: int) -> str:
    """Rows of several sizes; each fourth table has one value long enough for its TOAST table."""
    rows = 5 + number % 60
    body = f"repeat(md5((n + {number})::text), 1 + n % 7)"
    long = (
        f"INSERT INTO t{number} SELECT 0, string_agg(md5((x + {number})::text), '') FROM generate_series(1, 200) x;\n"
        if number % 4 == 0
        else ""
    )
    return (
        f"CREATE TABLE t{number} (id int PRIMARY KEY, body text);\n"
        f"INSERT INTO t{number} SELECT n, {body} FROM generate_series(1, {rows}) n;\n{long}"
    )


def describe_cluster(server: BenchServer) -> dict[str, int | str]:
    """What there is to copy: the files below base, global and the like, without WAL."""
    files, size = count_tree(server.data)
    wal_files, wal_bytes = count_tree(server.data / "pg_wal")
    return {
        "postgresql": server.programs.version,
        "files": files - wal_files,
        "bytes": size - wal_bytes,
    }


def prepare(server: BenchServer) -> None:
    """Warm the page cache before the rounds."""
    warm(server.data / "base")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a cluster to measure with, and keep it.")
    parser.add_argument("--scratch", type=Path, default=DEFAULT_SCRATCH)
    parser.add_argument("--shape", choices=SHAPES, default="mixed")
    parser.add_argument("--major", type=int, default=15)
    parser.add_argument("--pg-bin")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    shape = (QUICK_SHAPES if options.quick else SHAPES)[options.shape]
    with scratch_directory(options.scratch, keep=True) as scratch:
        server = get_cluster(scratch, shape, find_bench_programs(options.major, options.pg_bin))
        print(server.directory, describe_cluster(server))


if __name__ == "__main__":
    os.umask(0o022)
    main()
