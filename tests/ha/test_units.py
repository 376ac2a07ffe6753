"""The generated units as systemd itself runs them: started, killed and stopped; and what PostgreSQL does meanwhile.

The one idea: all of it is seen from outside, at files: the server's socket, its control file. TCP is only spoken where
the units run, since their systemd has a network of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from pghaven.postgres.control import DatabaseState, parse_control
from tests.ha.engine import NAME, Engine, EngineFactory
from tests.ha.test_adopt import TheirPatroni
from tests.support.places import programs_directory
from tests.support.systemd import Booted, booted, find_obstacle
from tests.support.waiting import wait_until
from tests.tidy.source import ROOT

NODE = "db1"
# For machines that do much else meanwhile.
SECONDS = 90.0
_HOLD = """
import ctypes, os, sys
pid, everything = int(sys.argv[1]), 0x40000000
assert ctypes.CDLL(None).ptrace(16, pid, None, None) == 0
os.waitpid(pid, everything)
print("held", flush=True)
while os.WIFSTOPPED(os.waitpid(pid, everything)[1]):
    pass
"""


def unit(service: str) -> str:
    return f"pghaven-{service}-{NAME}-{NODE}.service"


@contextmanager
def running(engine: Engine, others: Mapping[str, str] | None = None) -> Iterator[Booted]:
    """A systemd that has the units of the node as ``ha apply`` writes them, and perhaps others."""
    engine.apply()
    units = {path.name: path.read_text() for path in (engine.place / "units").iterdir()}
    # What is waited for is not two minutes.
    units = {name: text.replace("TimeoutStopSec=120", "TimeoutStopSec=10") for name, text in units.items()}
    units |= others or {}
    servers = Path(os.path.realpath(engine.programs.bin_dir)).parent
    place = Path(tempfile.mkdtemp(prefix="pghaven-systemd-"))
    try:
        with booted(place, units, [ROOT, Path(sys.prefix), servers, programs_directory(), engine.place]) as systemd:
            yield systemd
    finally:
        shutil.rmtree(place)


@pytest.fixture
def engine(make_engine: EngineFactory) -> Engine:
    if (obstacle := find_obstacle()) is not None:
        pytest.skip(obstacle)
    return make_engine(nodes=1, start=False)


def accepts_writes(engine: Engine) -> bool:
    try:
        return not engine.value(NODE, "SELECT pg_is_in_recovery()")
    except psycopg.OperationalError:
        return False


def says_primary(systemd: Booted, engine: Engine) -> bool:
    """Whether the Patroni that runs now answers that it has the lease and its server is primary."""
    url = f"http://127.0.0.1:{engine.ports[NODE][1]}/primary"
    ask = f"import urllib.request; urllib.request.urlopen({url!r}, timeout=5)"
    return systemd.run(sys.executable, "-c", ask).returncode == 0


def counts_through_the_proxy(systemd: Booted, engine: Engine) -> str:
    psql = os.path.realpath(engine.programs.path("psql"))
    return systemd.run(psql, engine.proxy_conninfo(), "-XAtc", "SELECT count(*) FROM kept").stdout.strip()


def kill_and_await_another(systemd: Booted, service: str) -> None:
    (first,) = systemd.show(unit(service), "MainPID")
    assert systemd.run("kill", "-KILL", first).returncode == 0
    wait_until(lambda: systemd.show(unit(service), "NRestarts") != ["0"], f"the restart of {service}", SECONDS)
    wait_until(lambda: systemd.show(unit(service), "ActiveState") == ["active"], f"another {service}", SECONDS)
    assert systemd.show(unit(service), "MainPID") not in (["0"], [first])


def test_systemd_keeps_patroni_and_the_proxy_going_and_stops_postgresql_cleanly(engine: Engine) -> None:
    with running(engine) as systemd:
        systemd.control("start", *map(unit, ("etcd", "patroni", "haproxy")))
        wait_until(lambda: accepts_writes(engine), "a primary", SECONDS)
        engine.sql(NODE, "CREATE TABLE kept AS SELECT 7 AS n")
        wait_until(lambda: counts_through_the_proxy(systemd, engine) == "1", "an answer through the proxy", SECONDS)
        started = engine.value(NODE, "SELECT pg_postmaster_start_time()")

        kill_and_await_another(systemd, "patroni")
        wait_until(lambda: says_primary(systemd, engine), "Patroni to have taken its server over", SECONDS)
        assert engine.value(NODE, "SELECT pg_postmaster_start_time()") == started, "PostgreSQL was restarted"
        engine.sql(NODE, "INSERT INTO kept VALUES (8)")

        kill_and_await_another(systemd, "haproxy")
        wait_until(lambda: counts_through_the_proxy(systemd, engine) == "2", "an answer through the proxy", SECONDS)

        systemd.control("stop", unit("patroni"))
        assert systemd.show(unit("patroni"), "ActiveState", "Result") == ["inactive", "success"]
        control = parse_control((engine.data_directory(NODE) / "global" / "pg_control").read_bytes())
        assert control.state is DatabaseState.SHUT_DOWN
        assert not (engine.data_directory(NODE) / "postmaster.pid").exists()


@contextmanager
def held(pid: int) -> Iterator[None]:
    """The main thread of a process does nothing any more, not even on SIGTERM, until the process is killed.
    (One that a signal has stopped is woken by systemd.)"""
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(pid)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        assert holder.wait(SECONDS) == 0


def find_patroni(engine: Engine) -> int:
    file = os.fsencode(engine.local.places[NODE].path(engine.local.spec.get_node(NODE), "patroni.yml"))
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if file in path.read_bytes().split(b"\0"):
                return int(path.parent.name)
    raise AssertionError("Patroni does not run")


def test_a_patroni_that_hangs_when_it_is_stopped_leaves_no_server_that_takes_writes(engine: Engine) -> None:
    with running(engine) as systemd:
        systemd.control("start", *map(unit, ("etcd", "patroni")))
        wait_until(lambda: accepts_writes(engine), "a primary", SECONDS)
        made = "SELECT count(*) FROM pg_roles WHERE rolname = 'replicator'"
        wait_until(lambda: engine.value(NODE, made), "the end of Patroni's bootstrap", SECONDS)
        engine.sql(NODE, "CREATE TABLE kept AS SELECT 7 AS n")
        with held(find_patroni(engine)):
            systemd.control("stop", unit("patroni"))
        assert systemd.show(unit("patroni"), "Result") == ["timeout"]
        control = parse_control((engine.data_directory(NODE) / "global" / "pg_control").read_bytes())
        assert control.state is DatabaseState.SHUT_DOWN, systemd.read_journal(unit("patroni"))

        systemd.control("start", unit("patroni"))  # and comes back as ever
        wait_until(lambda: accepts_writes(engine), "a primary", SECONDS)
        assert engine.value(NODE, "SELECT n FROM kept") == 7


# Written by hand: systemd's own KillMode is control-group, and its stop waits for a minute and a half.
_THEIRS = """[Unit]
Description=A Patroni of somebody's own

[Service]
User={user}
ExecStart={patroni} {place}/theirs-%i.yml
ExecStopPost=-/bin/sh -c 'kill -INT $(head -1 {data}/postmaster.pid)'

[Install]
WantedBy=multi-user.target
"""


def run_pghaven(systemd: Booted, engine: Engine, *words: str) -> subprocess.CompletedProcess[str]:
    return systemd.run(*engine.command.words, "--config", str(engine.config(NODE)), *words)


def check_units(systemd: Booted, engine: Engine) -> list[tuple[str, str | None]]:
    done = run_pghaven(systemd, engine, "--json", "ha", "check", NAME, "--node", NODE)
    return [(one["verdict"], one["hint"]) for one in json.loads(done.stdout)["results"] if one["name"] == "units"]


def test_a_server_is_taken_over_from_another_unit_s_patroni_as_it_runs(engine: Engine) -> None:
    theirs, name = TheirPatroni(engine), f"theirs@{NODE}.service"
    theirs.write(NODE)
    patroni = Path(sys.executable).parent / "patroni"
    described = {"user": engine.user.name, "patroni": patroni, "place": engine.place}
    text = _THEIRS.format(**described, data=engine.data_directory(NODE))
    adopt = ("--json", "ha", "adopt", NAME, "--node", NODE)
    with running(engine, {"theirs@.service": text}) as systemd:
        systemd.control("start", unit("etcd"))
        systemd.control("enable", "--now", name)
        wait_until(lambda: accepts_writes(engine), "a primary", SECONDS)
        wait_until(lambda: says_primary(systemd, engine), "their Patroni to have the lease", SECONDS)
        started = engine.value(NODE, "SELECT pg_postmaster_start_time()")
        shown = json.loads(run_pghaven(systemd, engine, *adopt).stdout)
        assert [(one["name"], one["is_enabled"], len(one["obstacles"])) for one in shown["units"]] == [(name, True, 2)]
        assert check_units(systemd, engine) == [("FAILED", f"Have ours take its place: {_apply(NODE)} --start")]

        words = (*adopt, "--apply", "--accept-changes", "--start")
        assert run_pghaven(systemd, engine, *words).returncode == 12, "it is not paused"
        assert systemd.show(name, "ActiveState", "UnitFileState") == ["active", "enabled"]
        pause = systemd.run(f"{patroni}ctl", "-c", str(theirs.file(NODE)), "pause", "--wait", "theirs")
        assert pause.returncode == 0, pause
        taken = run_pghaven(systemd, engine, *words)
        assert taken.returncode == 0, (taken, systemd.read_journal(name))

        wait_until(lambda: says_primary(systemd, engine), "our Patroni to have the lease", SECONDS)
        assert engine.value(NODE, "SELECT pg_postmaster_start_time()") == started, "PostgreSQL was restarted"
        assert accepts_writes(engine)
        assert systemd.show(name, "ActiveState", "UnitFileState") == ["inactive", "disabled"]
        assert systemd.show(name, "KillMode") == ["control-group"], "what was put aside is still aside"
        assert systemd.show(unit("patroni"), "ActiveState", "UnitFileState") == ["active", "enabled"]
        assert check_units(systemd, engine) == [("OK", None)]

        systemd.control("enable", name)
        assert check_units(systemd, engine) == [("FAILED", f"Run: systemctl disable {name}")]


def _apply(node: str) -> str:
    return f"pghaven ha apply {NAME} --node {node}"
