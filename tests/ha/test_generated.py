"""What is generated is what the programs that read it accept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pghaven.ha.local import find_system_program
from tests.ha.engine import NAME, Engine, EngineFactory
from tests.support.places import run_as_plain
from tests.support.waiting import wait_until


def read_file(engine: Engine, name: str, file: str) -> Path:
    return Path(engine.local.places[name].path(engine.local.spec.get_node(name), file))


def test_patroni_finds_nothing_wrong_with_its_file(make_engine: EngineFactory) -> None:
    engine = make_engine(start=False, durability="quorum")
    engine.apply()
    engine.local.start(engine.local.spec.get_node("db1"), "etcd")
    wait_until(lambda: not engine.etcd.find_silent(), "etcd")
    words = [str(Path(sys.executable).parent / "patroni"), "--validate-config"]
    done = run_as_plain([*words, str(read_file(engine, "db1", "patroni.yml"))])
    # Of addresses on loopback it says that other hosts cannot reach them, which is so.
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.endswith('"localhost"')]
    assert said == []
    broken = read_file(engine, "db2", "patroni.yml")
    broken.write_text(broken.read_text().replace('"etcd3"', '"etcd9"').replace("etcd3:", "etcd9:"))
    refused = run_as_plain([*words, str(broken)])
    assert [line for line in (refused.stdout + refused.stderr).splitlines() if "localhost" not in line]


def test_haproxy_finds_nothing_wrong_with_its_file(make_engine: EngineFactory) -> None:
    engine = make_engine(start=False)
    engine.apply()
    haproxy = find_system_program("haproxy")
    assert haproxy is not None
    done = run_as_plain([haproxy, "-c", "-f", str(read_file(engine, "db1", "haproxy.cfg"))])
    assert done.returncode == 0, done.stderr


def test_systemd_finds_nothing_wrong_with_the_units(make_engine: EngineFactory) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze")
    engine = make_engine(start=False)
    engine.apply()
    units = sorted(str(path) for path in (engine.place / "units").glob(f"*-{NAME}-db1.service"))
    assert len(units) == 3
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_passwords_are_in_no_file_that_others_can_read(make_engine: EngineFactory) -> None:
    engine = make_engine(start=False)
    engine.apply()
    secret = engine.local.places["db1"].secrets.superuser
    holding = [path for path in engine.place.rglob("*") if path.is_file() and secret in path.read_text()]
    assert {path.name for path in holding} == {"patroni.yml", "secrets.toml"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in holding)
