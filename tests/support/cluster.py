"""Throw-away PostgreSQL clusters.

The one idea: ``initdb`` runs once a version and kind in a test run; each cluster is a copy of that template, with
sockets only, nothing synced, and small WAL segments, and it dies with the test process even when that is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from pghaven.postgres.recovery import quote_setting
from pghaven.server.instance import Instance, StopMode
from pghaven.server.postmaster import is_alive, list_server_processes
from pghaven.server.programs import Programs
from pghaven.server.walcontrol import switch_wal
from pghaven.wal.spool import is_spool_used
from tests.support.places import copy_tree, lock, own, plain_user, run_as_plain, scratch
from tests.support.waiting import PATIENCE_SECONDS, wait_until

_CONFIGURATION = """
# --- written by the tests ---
listen_addresses = ''
fsync = off
# It comes when a server is a minute old, which those of a slow machine are, and writes what a test does not expect.
autovacuum = off
shared_buffers = 16MB
max_connections = 20
jit = off
huge_pages = off
dynamic_shared_memory_type = mmap
log_line_prefix = '%m [%p] %q%a '
"""
_SOCKET_PATH_LIMIT = 107
_START_SECONDS = 120.0
_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What ``initdb`` decides for good. Clusters of one kind are copies of one template."""

    wal_segment_size_mib: int = 1
    checksums: bool = True
    encoding: str = "UTF8"
    locale: str = "C"
    initdb_options: tuple[str, ...] = ()
    variant: int = 0
    """Copies of a template have its system identifier; another number makes another template, so another one."""

    def render(self, major: int) -> list[str]:
        checksums = ["--data-checksums"] if self.checksums else ["--no-data-checksums"] if major >= 18 else []
        return [
            *("-U", "postgres", "-A", "trust", "--no-sync", "--no-instructions"),
            *("-E", self.encoding, f"--locale={self.locale}", f"--wal-segsize={self.wal_segment_size_mib}"),
            *checksums,
            *self.initdb_options,
        ]


class TestCluster:
    """One cluster and its server. ``stop_and_remove`` ends it; fixtures call that."""

    __test__ = False

    def __init__(self, directory: Path, programs: Programs, data_directory: Path | None = None) -> None:
        self.directory = directory
        self.data_directory = data_directory or directory / "data"
        self.programs = programs
        self.socket_directory = directory / "s"
        self.log_path = directory / "log"
        self.settings: dict[str, str] = {}
        """Given on the server's command line at the next start."""
        for path in (self.directory, self.socket_directory):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            own(path)
        assert len(str(self.socket_directory / ".s.PGSQL.5432")) <= _SOCKET_PATH_LIMIT, self.socket_directory
        self.instance = Instance(
            str(self.data_directory),
            programs,
            log_path=str(self.log_path),
            os_user=plain_user().name,
            launcher=_launcher(programs),
        )

    @property
    def version(self) -> int:
        """The major version."""
        return self.programs.major

    @property
    def bin_dir(self) -> Path:
        return Path(self.programs.bin_dir)

    @property
    def conninfo(self) -> str:
        return f"host={self.socket_directory} port=5432 user=postgres dbname=postgres"

    def start(self, settings: Mapping[str, str] | None = None, *, wait: bool = True) -> None:
        """Start the server; ``settings`` join those of earlier starts on its command line."""
        self.settings.update(settings or {})
        fixed = {"unix_socket_directories": str(self.socket_directory), "listen_addresses": "", "port": "5432"}
        self.instance.start({**fixed, **self.settings}, timeout_seconds=_START_SECONDS if wait else None)

    def stop(self, mode: StopMode = "fast") -> None:
        self.instance.stop(mode)

    def restart(self, settings: Mapping[str, str] | None = None) -> None:
        self.stop()
        self.start(settings)

    def crash(self) -> None:
        """End the server without a shutdown checkpoint; its next start begins with crash recovery."""
        self.stop("immediate")

    def is_running(self) -> bool:
        return self.instance.is_running() is not None

    def connect(self, dbname: str = "postgres", **parameters: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A plain autocommit connection as superuser, for ``with``."""
        return psycopg.connect(self.conninfo, dbname=dbname, autocommit=True, **parameters)

    def sql(self, query: str, *parameters: object, dbname: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of a query; of several statements (without parameters) those of the last."""
        with self.connect(dbname) as connection, connection.cursor() as cursor:
            cursor.execute(query.encode(), parameters or None)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description is not None else []

    def value(self, query: str, *parameters: object, dbname: str = "postgres") -> Any:
        """The first column of a query's first row."""
        return self.sql(query, *parameters, dbname=dbname)[0][0]

    def wait_for(self, query: str, *parameters: object, timeout_seconds: float = PATIENCE_SECONDS) -> Any:
        """Ask until the first column is true, and give it."""
        return wait_until(lambda: self.value(query, *parameters), query, timeout_seconds)

    def append_conf(self, text: str = "", **settings: str) -> None:
        """Append to ``postgresql.conf``; keyword values are quoted here. A running server is not told: ``reload``."""
        lines = [f"{name} = {quote_setting(value)}" for name, value in settings.items()]
        with open(self.data_directory / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write("\n".join([text, *lines]) + "\n")

    def reload(self) -> None:
        """Have the files read again, and wait until the server has."""
        before = self.value("SELECT pg_conf_load_time()")
        self.instance.reload()
        self.wait_for("SELECT pg_conf_load_time() > %s", before)

    def reload_without_asking(self) -> None:
        """``reload`` for a ``pg_hba.conf`` that lets nobody in: waits for the server's word in its log."""
        before = self.log().count("received SIGHUP")
        self.instance.reload()
        wait_until(lambda: self.log().count("received SIGHUP") > before, "the reload")

    def switch_wal(self) -> str:
        """Finish the current WAL segment, which has something in it then, and give its name."""
        with self.connect() as connection:
            connection.execute("SELECT pg_logical_emit_message(false, 'tests', 'x')")
            return str(switch_wal(connection).segment)

    def wait_archived(self, segment_name: str, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        """Until the archiver has reported this segment or a later one of the same timeline."""
        self.wait_for(
            "SELECT coalesce(last_archived_wal >= %s, false) FROM pg_stat_archiver",
            segment_name,
            timeout_seconds=timeout_seconds,
        )

    def pass_moment(self) -> datetime:
        """A moment that whatever is written from now on is later than, also by the time of a file, which is that of
        the kernel's last tick."""
        moment = self.value("SELECT clock_timestamp()")
        assert isinstance(moment, datetime)
        self.wait_for("SELECT clock_timestamp() > %s + interval '50 ms'", moment)
        return moment

    def log(self) -> str:
        """All the server has printed."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One of PostgreSQL's programs as the plain user, connected to this server by its environment."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
            "HOME": plain_user().home,
            "PGHOST": str(self.socket_directory),
            "PGPORT": "5432",
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
        }
        done = run_as_plain([self.programs.path(program), *arguments], env=environment)
        assert not check or done.returncode == 0, f"{program}: {done.stderr}"
        return done

    def stop_and_remove(self) -> None:
        """End every process of the server, even ones a test has orphaned, and remove the files; again is fine."""
        pids: set[int] = set()
        if self.data_directory.exists():
            pids.update(list_server_processes(str(self.data_directory)))
        if self.instance.child_pid is not None:
            pids.add(self.instance.child_pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: self.instance.child_pid is None and not any(map(is_alive, pids)), f"the end of {pids}")
        # What fetches ahead ends with the server, and removes what it made there.
        wait_until(lambda: not is_spool_used(str(self.data_directory)), "the end of what fetched ahead")
        if self.directory.exists():
            shutil.rmtree(self.directory)


def make_cluster(
    programs: Programs, kind: Kind, *, start: bool = True, conf: Mapping[str, str] | None = None
) -> TestCluster:
    """A fresh cluster, running unless told otherwise; ``conf`` goes into its ``postgresql.conf``."""
    template = _get_template(programs, kind)
    cluster = TestCluster(_new_directory(), programs)
    copy_tree(template, cluster.data_directory)
    if conf:
        cluster.append_conf(**conf)
    if start:
        cluster.start()
    return cluster


def make_standby(primary: TestCluster, *, start: bool = True) -> TestCluster:
    """A streaming standby of a running cluster."""
    standby = TestCluster(_new_directory(), primary.programs)
    primary.run("pg_basebackup", "-D", str(standby.data_directory), "-R", "-c", "fast", "-X", "stream", "--no-sync")
    if start:
        standby.start()
        standby.wait_for("SELECT coalesce((SELECT status = 'streaming' FROM pg_stat_wal_receiver), false)")
    return standby


def adopt(data_directory: Path, programs: Programs) -> TestCluster:
    """A data directory made by somebody else, such as a restored one; sockets and log are ours, nothing is started."""
    return TestCluster(_new_directory(), programs, data_directory)


def _new_directory() -> Path:
    return scratch() / f"c{os.getpid()}-{next(_numbers)}"


def _get_template(programs: Programs, kind: Kind) -> Path:
    options = kind.render(programs.major)
    key = hashlib.sha256(repr((programs.bin_dir, kind)).encode()).hexdigest()[:12]
    home = scratch() / "templates"
    template = home / f"{programs.major}-{key}"
    with lock("templates"):
        home.mkdir(exist_ok=True)
        own(home)
    with lock(f"template-{template.name}"):
        if not template.exists():
            unfinished = template.with_name(f"{template.name}.tmp")
            Instance(str(unfinished), programs, log_path="", os_user=plain_user().name).initdb(options)
            with open(unfinished / "postgresql.conf", "a", encoding="utf-8") as file:
                file.write(_CONFIGURATION)
            unfinished.rename(template)
    return template


def _launcher(programs: Programs) -> Sequence[str]:
    """What becomes the server: told to stop at once when the process that started it is gone, however it went.

    Modules of the wheels, such as the WAL receiver, would take the system's libpq, of another version or missing.
    """
    libraries = Path(programs.bin_dir).parent / "lib"
    words = ["env", f"LD_LIBRARY_PATH={libraries}"] if (libraries / "libpq.so.5").exists() else []
    setpriv = shutil.which("setpriv")
    return (*words, setpriv, "--pdeathsig", "QUIT", "--") if setpriv else tuple(words)
