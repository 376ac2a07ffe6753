"""What starting the program costs: PostgreSQL starts it for every WAL file."""

from __future__ import annotations

import json
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

# Counted rather than timed, so that a busy machine changes nothing: a module costs a quarter of a millisecond and more.
VERSION_MODULES = 95  # 85 were loaded, most of them for click
CONFIG_MODULES = 32  # 24 were


# What a push has loaded when it begins to work, beyond the bare interpreter: what it costs before it does anything.
PUSH_MODULES = 145  # 133 were


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


def count_imported(program: str) -> int:
    """How many modules an interpreter has loaded after this program, those of ours and of others together."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print(len(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(done.stdout.splitlines()[-1])


def test_telling_the_version_loads_little_more_than_the_interpreter() -> None:
    version = "import contextlib, pghaven.cli.main as m\nwith contextlib.suppress(SystemExit): m.main(['--version'])"
    assert count_imported(version) - count_imported("pass") <= VERSION_MODULES


def test_reading_the_configuration_loads_little(tmp_path: Path) -> None:
    file = tmp_path / "pghaven.toml"
    file.write_text('[repository.main]\nurl = "file:///r"\n[cluster.main]\ndata_directory = "/d"\n')
    program = f"import click\nfrom pghaven.config.loading import load_config\nload_config({str(file)!r})"
    assert count_imported(program) - count_imported("import click") <= CONFIG_MODULES


def test_a_push_loads_little_and_writes_no_classes() -> None:
    """``dataclasses`` compiles source for each class, and with it comes ``inspect``: half of what a push did cost."""
    push = "import pghaven.wal.asking, pghaven.cli.wal_run, pghaven.wal.everywhere, pghaven.store.posix"
    assert count_imported(push) - count_imported("pass") <= PUSH_MODULES
    text = '[repository.main]\\nurl = "file:///r"\\n[cluster.main]\\ndata_directory = "/d"'
    push += f"\nfrom pghaven.config.loading import parse_config; parse_config('{text}', 'x')"
    unwanted = {"dataclasses", "inspect", "threading", "socket", "tomllib"}
    program = f"{push}\nimport sys; assert not {unwanted} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
