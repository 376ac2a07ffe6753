"""Which program a server is told to run, and whether it can."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pghaven.errors import UsageError
from pghaven.setup.program import find_closed_directory, find_program, try_program
from tests.support.places import plain_user


def make_script(path: Path, body: str) -> tuple[str, ...]:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return ("/bin/sh", str(path))


def test_a_configured_program_is_split_as_a_shell_would() -> None:
    assert find_program("/opt/my\\ tools/pghaven --quiet") == ("/opt/my tools/pghaven", "--quiet")


@pytest.mark.parametrize("text", ["", "  ", "'open"])
def test_a_configured_program_without_words_is_wrong(text: str) -> None:
    with pytest.raises(UsageError, match='"program"'):
        find_program(text)


def test_an_installed_script_is_named_by_the_path_it_was_called_by(tmp_path: Path) -> None:
    make_script(tmp_path / "real", "")
    link = tmp_path / "pghaven"
    link.symlink_to(tmp_path / "real")
    assert find_program(None, str(link)) == (str(link),)


@pytest.mark.parametrize("argv0", ["-c", "/no/such/pghaven", sys.executable])
def test_without_a_script_the_interpreter_runs_the_module(argv0: str) -> None:
    assert find_program(None, argv0) == (sys.executable, "-m", "pghaven.cli.main")


@pytest.mark.parametrize("status", [0, 3])
def test_a_program_that_lists_backups_is_fine_with_or_without_warnings(tmp_path: Path, status: int) -> None:
    program = make_script(tmp_path / "p", f'[ "$*" = "--config /c --json list main" ] && exit {status}')
    assert try_program(program, "/c", "main", None) is None


def test_what_it_says_itself_is_the_reason_and_the_hint(tmp_path: Path) -> None:
    error = '{"schema": "pghaven/error/1", "error": {"message": "no way", "hint": "Go round."}}'
    failure = try_program(make_script(tmp_path / "p", f"echo '{error}'; exit 14"), "/c", "main", None)
    assert failure is not None
    assert (failure.reason, failure.hint) == ("as this user, pghaven fails: no way", "Go round.")


def test_a_program_that_breaks_is_told_by_its_last_words(tmp_path: Path) -> None:
    failure = try_program(make_script(tmp_path / "p", "echo one >&2; echo two >&2; exit 1"), "/c", "main", None)
    assert failure is not None
    assert failure.reason.endswith("p cannot be run: two")


def test_a_program_that_is_not_there_is_told() -> None:
    failure = try_program(("/no/such/program",), "/c", "main", None)
    assert failure is not None
    assert failure.reason == "as this user, /no/such/program cannot be run: no such file or directory"


def test_our_own_environment_does_not_help_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHAVEN_CLUSTER__MAIN__PROCESSES", "1")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    program = make_script(tmp_path / "p", "env | grep -E 'PGHAVEN|PYTHONPATH' >&2 && exit 1; exit 0")
    assert try_program(program, "/c", "main", None) is None


def test_directories_that_are_not_made_yet_are_open(tmp_path: Path) -> None:
    assert find_closed_directory(str(tmp_path / "a" / "b"), None) is None


def test_a_closed_directory_is_named(server_path: Path) -> None:
    user = None if os.geteuid() != 0 else plain_user()
    closed = server_path / "closed"
    (closed / "below").mkdir(parents=True)
    closed.chmod(0)
    found = find_closed_directory(str(closed / "below"), user)
    closed.chmod(0o700)
    assert found == str(closed)
