"""The guide's timer for drills as systemd runs it: a drill that passed, one that failed, and one that is overdue."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pghaven.errors import CheckFailed
from tests.cli.site import Site
from tests.docs.test_units import read_units
from tests.support.moving import give_to_plain
from tests.support.systemd import Booted, booted, find_obstacle
from tests.support.waiting import wait_until
from tests.tidy.source import ROOT

_SERVICE, _TIMER = "pghaven-drill.service", "pghaven-drill.timer"
# As by `systemctl edit`: what may be hours for a host is a moment here.
_SOON = "\n[Timer]\nRandomizedDelaySec=0\n"
_STAMP = f"/var/lib/systemd/timers/stamp-{_TIMER}"


@pytest.fixture
def protected(site: Site) -> Site:
    site.set_up()
    site.cluster.sql("CREATE TABLE orders AS SELECT generate_series(1, 100) AS id")
    site.ok("backup")
    site.archive_all()
    shutil.chown(site.config, "postgres", "postgres")
    give_to_plain(site.repository)
    return site


@pytest.fixture
def systemd(protected: Site) -> Iterator[Booted]:
    """One with the units as they stand in the guide, and pghaven installed where it says."""
    if (obstacle := find_obstacle()) is not None:
        pytest.skip(obstacle)
    units = read_units()
    place = Path(tempfile.mkdtemp(prefix="pghaven-systemd-"))
    program = Path(protected.command.words[-1]).parent
    seen = [protected.place, protected.cluster.directory, ROOT, Path(sys.prefix), program]
    try:
        with booted(place, {_SERVICE: units[_SERVICE], _TIMER: units[_TIMER] + _SOON}, seen) as running:
            installed = f"""set -e; mkdir -p /opt/pghaven/bin /etc/pghaven /var/lib/systemd/timers
                echo 'exec {shlex.join(protected.command.words)} "$@"' >/opt/pghaven/bin/pghaven
                sed -i '1i #!/bin/sh' /opt/pghaven/bin/pghaven; chmod 755 /opt/pghaven/bin/pghaven
                ln -s {protected.config} /etc/pghaven/pghaven.toml"""
            done = running.run("/bin/sh", "-c", installed)
            assert done.returncode == 0, done.stderr
            yield running
    finally:
        shutil.rmtree(place)


def test_a_drill_runs_when_its_time_has_come(systemd: Booted, protected: Site) -> None:
    systemd.control("start", _SERVICE)
    assert systemd.show(_SERVICE, "Result", "ExecMainStatus") == ["success", "0"], systemd.read_journal(_SERVICE)
    assert "PASSED" in systemd.read_journal(_SERVICE)
    (repository,) = protected.json("status")["clusters"][0]["repositories"]
    assert repository["last_drill"]["passed"] is True

    (pack,) = (protected.repository / "clusters" / "main" / "packs").iterdir()
    shutil.rmtree(pack)
    assert systemd.run("touch", "--date=2 weeks ago", _STAMP).returncode == 0
    systemd.control("enable", "--now", _TIMER)
    wait_until(lambda: systemd.show(_SERVICE, "ActiveState") == ["failed"], "the drill that was missed")
    assert systemd.show(_SERVICE, "Result", "ExecMainStatus") == ["exit-code", str(CheckFailed.exit_status)]
    assert systemd.show(_TIMER, "ActiveState", "SubState") == ["active", "waiting"], "and the next one is waited for"
    problems = protected.json("status", status=3)["clusters"][0]["problems"]
    assert "drill_failed" in {one["code"] for one in problems}
