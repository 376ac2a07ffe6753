"""Runs tests with a mistake planted, each mistake in a process of its own.

    python -m tests.rules.driver exact NAME…     which tests of the whole suite fail, for each rule
    python -m tests.rules.driver named NAME…     of those that are to find it only
    python -m tests.rules.driver servers NAME…   of those on real servers

The one idea: what all need is imported once, and each mistake gets a copy of the process in which nothing of pghaven
has been imported yet; so a mistake costs little more than the tests that find it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

import blake3  # noqa: F401
import hypothesis  # noqa: F401
import numpy as np  # noqa: F401
import pytest

from tests.rules.planting import Plant, plant
from tests.rules.rules import PLANTS
from tests.rules.suite import PASSED_OVER, find_tests

_OPTIONS = ("-q", "-n", "0", "--assert=plain", "-m", "not slow", "--no-header", "-rN")


class _Listener:
    """Names of tests that failed, and of those that could not be run at all."""

    def __init__(self) -> None:
        self.failed: set[str] = set()
        self.broken: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            (self.failed if report.when == "call" else self.broken).add(_name(report.nodeid))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.broken.add(report.nodeid)


def _name(nodeid: str) -> str:
    """The function alone: names are unique in the suite."""
    return nodeid.rpartition("::")[2].partition("[")[0]


def run(one: Plant, kind: str) -> dict[str, list[str]]:
    """In a child: {"failed": names, "broken": names}."""
    with tempfile.TemporaryFile("w+") as answer:
        pid = os.fork()
        if not pid:
            try:
                found = _run_here(one, kind)
            except BaseException:
                found = {"failed": [], "broken": [traceback.format_exc()]}
            json.dump(found, answer)
            answer.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        answer.seek(0)
        return json.load(answer)


def _run_here(one: Plant, kind: str) -> dict[str, list[str]]:
    plant(one)
    listener = _Listener()
    chosen = " or ".join(one.found_by) if kind == "named" else " and ".join(f"not {name}" for name in PASSED_OVER)
    output = os.open(os.devnull, os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    tests = ["--pg", str(one.version), *one.servers] if kind == "servers" else ["-k", chosen, *find_tests(one.module)]
    pytest.main([*_OPTIONS, *tests], plugins=[listener])
    return {"failed": sorted(listener.failed), "broken": sorted(listener.broken)}


def main(kind: str, names: list[str]) -> None:
    os.chdir(Path(__file__).parents[2])
    for one in PLANTS:
        if not names or one.rule in names:
            print(json.dumps({"rule": one.rule, **run(one, kind)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
