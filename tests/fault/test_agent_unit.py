"""The agent's unit as systemd runs it: ready, begun again, found hanging, reloaded, ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pghaven.agent.unit import UNIT_NAME
from pghaven.wal.agentstate import AgentState, find_agent
from pghaven.wal.asking import SOCKET_PATH
from tests.support.agent import ping
from tests.support.systemd import Booted, booted, find_obstacle
from tests.support.waiting import wait_until
from tests.support.walfile import WalSite
from tests.tidy.source import ROOT

# As by `systemctl edit`. What does not hang is not ended as if it did, however long the machine stands still; what
# does is found by a watchdog that barks early.
_PATIENT = "\n[Service]\nWatchdogSec=600\nTimeoutStopSec=60\n"
_SOON = "[Service]\nWatchdogSec=5\n"


@pytest.fixture
def site(tmp_path: Path) -> WalSite:
    made = WalSite(tmp_path / "site")
    (made.data_directory / "pg_wal" / "archive_status").mkdir()
    return made


@pytest.fixture
def systemd(site: WalSite) -> Iterator[Booted]:
    if (obstacle := find_obstacle()) is not None:
        pytest.skip(obstacle)
    words = [sys.executable, "-m", "pghaven.cli.main", "agent", "--print-unit", "--config", str(site.config_path)]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    place = Path(tempfile.mkdtemp(prefix="pghaven-systemd-"))
    try:
        with booted(place, {UNIT_NAME: printed + _PATIENT}, [site.root, ROOT, Path(sys.prefix)]) as running:
            yield running
    finally:
        shutil.rmtree(place)


def get_main(systemd: Booted) -> int:
    (pid,) = systemd.show(UNIT_NAME, "MainPID")
    return int(pid)


def test_systemd_keeps_the_agent_going(systemd: Booted, site: WalSite) -> None:
    data = str(site.data_directory)
    systemd.control("enable", "--now", UNIT_NAME)
    assert systemd.show(UNIT_NAME, "ActiveState", "SubState") == ["active", "running"], "it has said that it is ready"
    wait_until(lambda: ping(site.data_directory) is not None, "the agent at its socket")

    first = get_main(systemd)
    assert systemd.run("kill", "-KILL", str(first)).returncode == 0
    wait_until(lambda: get_main(systemd) not in (0, first), "another one in the place of the killed one")
    wait_until(lambda: find_agent(data) is AgentState.RUNNING, "that one at the socket")

    systemd.control("reload", UNIT_NAME)
    wait_until(
        lambda: "the configuration was read anew" in systemd.read_journal(UNIT_NAME), "what it says in the journal"
    )

    systemd.control("stop", UNIT_NAME)
    assert systemd.show(UNIT_NAME, "ActiveState") == ["inactive"], systemd.read_journal(UNIT_NAME)
    assert "error" not in systemd.read_journal(UNIT_NAME)
    assert find_agent(data) is AgentState.NONE
    assert not os.path.lexists(site.data_directory / SOCKET_PATH)
    left = systemd.run("ps", "-eo", "args").stdout
    assert "agent" not in left, left


def test_systemd_ends_an_agent_that_hangs(systemd: Booted, site: WalSite) -> None:
    place = f"/run/systemd/system/{UNIT_NAME}.d"
    assert systemd.run("mkdir", "-p", place).returncode == 0
    assert systemd.run("sh", "-c", 'printf "%s" "$1" >"$2"', "sh", _SOON, f"{place}/soon.conf").returncode == 0
    systemd.control("daemon-reload")
    systemd.control("start", UNIT_NAME)
    wait_until(lambda: ping(site.data_directory) is not None, "the agent at its socket")
    first = get_main(systemd)
    assert systemd.run("kill", "-STOP", str(first)).returncode == 0
    wait_until(lambda: get_main(systemd) not in (0, first), "another one in the place of the one that hangs")
    assert "Watchdog timeout" in systemd.read_journal(UNIT_NAME)
    wait_until(lambda: find_agent(str(site.data_directory)) is AgentState.RUNNING, "that one at the socket")
