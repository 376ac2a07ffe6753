"""The units that the guide shows, and the one that the agent prints: systemd itself finds nothing wrong with them.

It passes over what it does not know with a line on standard error, so that there must be none.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pghaven.agent.unit import UNIT_NAME, render_unit
from tests.tidy.source import ROOT

_BLOCK = re.compile(r"^```ini\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEAD = re.compile(r"^# /etc/systemd/system/(\S+)$", re.MULTILINE)
_INSTALLED, _THERE = "/opt/pghaven/bin/pghaven", "/bin/true"


def verify(directory: Path, units: dict[str, str]) -> tuple[int, str]:
    """The status of ``systemd-analyze verify``, and what it says of these units."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze")
    paths = []
    for name, text in units.items():
        paths.append(directory / name)
        paths[-1].write_text(text.replace(_INSTALLED, _THERE))
    words = [analyze, "--man=no", "verify", *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def read_units() -> dict[str, str]:
    """By their names, all that stand in the guide."""
    found: dict[str, str] = {}
    for page in sorted((ROOT / "docs" / "guide").glob("*.md")):
        for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
            _, *parts = _HEAD.split(block)
            found |= dict(zip(parts[::2], parts[1::2], strict=True))
    return found


def test_systemd_finds_nothing_wrong_with_the_units_of_the_guide(tmp_path: Path) -> None:
    units = read_units()
    assert {"pghaven-drill.service", "pghaven-drill.timer"} <= set(units)
    assert verify(tmp_path, units) == (0, "")


def test_systemd_finds_nothing_wrong_with_the_agent_s_unit(tmp_path: Path) -> None:
    program = tmp_path / "p g haven"
    program.symlink_to(_THERE)
    unit = render_unit([str(program), "agent", "--config", "/etc/100%/$x.toml"], "postgres")
    assert verify(tmp_path, {UNIT_NAME: unit}) == (0, "")


def test_what_is_wrong_with_a_unit_is_found(tmp_path: Path) -> None:
    status, said = verify(tmp_path, {"wrong.timer": "[Timer]\nOnCalendar=weakly\n"})
    assert status != 0
    assert "weakly" in said
    _, said = verify(tmp_path, {"wrong.service": "[Service]\nExecStart=/bin/true\nRestarts=always\n"})
    assert "Restarts" in said
