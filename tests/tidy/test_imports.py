"""What starting the program costs: PostgreSQL starts it for every WAL file."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pghaven.cli.main import COMMANDS, find_failure_status
from tests.tidy.source import list_modules

# CPU milliseconds measured over the bare interpreter: psycopg 133, numpy 80, asyncio 45.
HEAVY = {"psycopg", "numpy", "asyncio", "multiprocessing", "cryptography", "unittest", "hypothesis", "pytest"}
ALWAYS_LIGHT = ["pghaven.cli.main", "pghaven.cli.root", "pghaven.config.loading", "pghaven.cli.progress"]
ON_THE_WAL_PATH = sorted(
    {m.name for m in list_modules() if m.package in ("wal", "store")}
    | {m.name for m in list_modules() if m.name == "pghaven.cli.wal_command"}
)

VERSION_CPU_MS = 60
CONFIG_CPU_MS = 25  # some 11 to 12 by itself, and up to 18 were measured beside other work on both cores
RUNS = 9


def list_imported(module: str) -> set[str]:
    program = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("module", ALWAYS_LIGHT + ON_THE_WAL_PATH)
def test_a_module_on_the_way_of_every_wal_file_imports_nothing_heavy(module: str) -> None:
    assert not list_imported(module) & HEAVY


def test_the_entry_imports_nothing_that_could_be_missing() -> None:
    """An import that fails before ``main`` is entered ends with status 1, which restore_command must not."""
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(len(sys.modules))"], capture_output=True, check=True, timeout=60
    )
    program = "import sys; before = set(sys.modules); import pghaven.cli.main; print(set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert int(bare.stdout) > 0
    assert {name.strip(" '{}\n") for name in done.stdout.split(",")} <= {
        "__future__",
        "pghaven",
        "pghaven.cli",
        "pghaven.cli.main",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists(name: str) -> None:
    module = COMMANDS[name][0].partition(":")[0]
    assert find_spec(module) is not None, f"{module} does not exist"


def test_wal_get_declares_a_status_that_stops_recovery() -> None:
    status = find_failure_status(["wal", "get"])
    assert status is not None
    assert status > 125


def measure_cpu_ms(arguments: list[str], pycache: Path) -> float:
    """The least CPU time of several runs; modules compiled, as an installed program's are."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PGHAVEN_CONFIG")}
    environment["PYTHONPYCACHEPREFIX"] = str(pycache)
    least = float("inf")
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least * 1000


def test_telling_the_version_costs_little_more_than_the_interpreter(tmp_path: Path) -> None:
    bare = measure_cpu_ms(["-c", "pass"], tmp_path)
    version = measure_cpu_ms(["-m", "pghaven.cli.main", "--version"], tmp_path)
    assert version - bare <= VERSION_CPU_MS


def test_reading_the_configuration_costs_little(tmp_path: Path) -> None:
    file = tmp_path / "pghaven.toml"
    file.write_text('[repository.main]\nurl = "file:///r"\n[cluster.main]\ndata_directory = "/d"\n')
    program = f"import click\nfrom pghaven.config.loading import load_config\nload_config({str(file)!r})"
    bare = measure_cpu_ms(["-c", "import click"], tmp_path)
    loaded = measure_cpu_ms(["-c", program], tmp_path)
    assert loaded - bare <= CONFIG_CPU_MS
