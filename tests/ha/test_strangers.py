"""Who does not belong into a cluster as it runs: a Patroni of another version, and a second member of one name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pghaven.server.identity import child_identity
from tests.ha.engine import Engine, EngineFactory, take_ports
from tests.ha.test_commands import check
from tests.support.places import own
from tests.support.waiting import PATIENCE_SECONDS, wait_until

OTHER_VERSION = "4.0.6"
OTHER = Path(sys.prefix) / f"patroni-{OTHER_VERSION}" / "bin" / "patroni"
"""The set-up of the tests installs it there."""


def find_lines(engine: Engine, on: str, name: str) -> list[tuple[str, str, str]]:
    return [line for line in check(engine, on).get(name, []) if line[0] == "FAILED"]


def test_a_member_that_another_patroni_runs_is_named(make_engine: EngineFactory) -> None:
    if not OTHER.exists():
        pytest.skip(f"Patroni {OTHER_VERSION} is not installed beside ours: .ci/set-up test")
    engine = make_engine(nodes=2)
    leader = engine.wait_leader()
    other = next(name for name in engine.names if name != leader)
    assert find_lines(engine, leader, "patroni") == []
    engine.stop(other)
    engine.local.places = {**engine.local.places, other: replace(engine.local.places[other], engine=(str(OTHER),))}
    engine.start_node(other)
    engine.wait_healthy()  # they do run beside one another
    (line,) = find_lines(engine, leader, "patroni")
    assert line[1] == f'node "{other}" runs Patroni {OTHER_VERSION}; pghaven is tested with 4.1.x'
    assert "pip install" in line[2]


def start_namesake(engine: Engine, name: str) -> subprocess.Popen[bytes]:
    """Another host's Patroni that was given the name of a member: its file, with other addresses and another place."""
    place = engine.place / "namesake"
    place.mkdir(mode=0o755)
    own(place)
    file = place / "patroni.yml"
    text = Path(engine.local.places[name].path(engine.local.spec.get_node(name), "patroni.yml")).read_text()
    text = text.replace(str(engine.place / name), str(place))
    for was, now in zip(engine.ports[name][:2], take_ports(2), strict=True):
        text = text.replace(f"127.0.0.1:{was}", f"127.0.0.1:{now}")
    file.write_text(text)
    own(file)
    file.chmod(0o600)
    with (engine.place / "namesake-patroni.log").open("ab") as log:
        return subprocess.Popen(
            [*engine.local.places[name].engine, str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=engine.local.environment(engine.local.places[name]),
            start_new_session=True,
            **child_identity(engine.user),
        )


def test_a_second_member_of_one_name_is_found_in_etcd(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2)
    leader = engine.wait_leader()
    other = next(name for name in engine.names if name != leader)
    assert find_lines(engine, leader, "names") == []
    engine.stop(other)
    namesake = start_namesake(engine, other)
    try:
        wait_until(lambda: find_lines(engine, leader, "names"), "the second one in etcd")
        (line,) = find_lines(engine, leader, "names")
        address = f"127.0.0.1:{engine.ports[other][0]}"
        assert line[1].startswith(f'the member "{other}" is at 127.0.0.1:')
        assert line[1].endswith(f", and in the configuration at {address}")
        assert line[2] == "Two nodes may have one name; give each its own."
    finally:
        namesake.terminate()
        namesake.wait(PATIENCE_SECONDS)
        shutil.rmtree(engine.place / "namesake", ignore_errors=True)
