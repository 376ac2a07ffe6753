"""Running the program as users do: a process of its own, its output and its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = PATIENCE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    status: int
    out: str
    err: str


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The tests' own environment without anything that configures pghaven or colours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PGHAVEN_") and k not in ("NO_COLOR", "TERM")}
    return {**kept, "PYTHONPATH": str(ROOT), **(extra or {})}


def run_pghaven(*words: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> Ended:
    return _run("pghaven.cli.main", words, cwd, environment)


def run_probe(*words: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> Ended:
    return _run("tests.cli.probe_command", words, cwd, environment)


def _run(module: str, words: tuple[str, ...], cwd: Path | None, environment: Mapping[str, str] | None) -> Ended:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=cwd,
        env=clean_environment(environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    return Ended(status=done.returncode, out=done.stdout, err=done.stderr)
