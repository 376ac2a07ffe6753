"""How a run ends: its exit status, and what is said on which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pghaven.cli.main import find_failure_status
from tests.cli.running import TIMEOUT_SECONDS, clean_environment, run_pghaven, run_probe


def test_an_error_is_one_line_with_detail_and_hint_on_standard_error() -> None:
    ended = run_probe("probe", "get", "not-found")
    assert ended.status == 10
    assert ended.out == ""
    assert ended.err == (
        'pghaven: error: no backup "x"\nDETAIL:  There are two.\n         Neither is it.\nHINT:  Try: pghaven list\n'
    )


def test_all_problems_of_a_configuration_are_shown() -> None:
    ended = run_probe("probe", "get", "config")
    assert ended.status == 2
    assert "DETAIL:  a.toml:1: one\n         a.toml:2: two\n" in ended.err


def test_an_error_in_json_is_one_object_on_standard_output() -> None:
    ended = run_probe("--json", "probe", "get", "not-found")
    assert ended.status == 10
    assert ended.err == ""
    assert json.loads(ended.out) == {
        "schema": "pghaven/error/1",
        "error": {
            "code": "not_found",
            "message": 'no backup "x"',
            "detail": "There are two.\nNeither is it.",
            "hint": "Try: pghaven list",
            "exit_status": 10,
        },
    }


@pytest.mark.parametrize(
    ("how", "status", "text"),
    [
        ("missing", 10, "no such object"),
        ("memory", 18, "out of memory"),
        ("abort", 18, "interrupted"),
        ("usage", 2, "error: wrong\nHINT:  Try: pghaven probe get --help"),
        ("exit", 7, ""),
        ("exit-text", 1, "good bye"),
        ("3", 3, ""),
    ],
)
def test_every_ending_has_its_status(how: str, status: int, text: str) -> None:
    ended = run_probe("probe", "get", how)
    assert ended.status == status
    assert text in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("how", ["bug", "broken-pipe", "end-of-file"])
def test_what_nobody_expected_is_a_bug_with_its_trace(how: str) -> None:
    ended = run_probe("probe", "get", how)
    assert ended.status == 1
    assert "Traceback" in ended.err
    assert "This is a bug in pghaven" in ended.err


def test_a_bug_in_json_is_an_object_and_its_trace_stays_on_standard_error() -> None:
    ended = run_probe("probe", "get", "bug", "--json")
    assert ended.status == 1
    assert json.loads(ended.out)["error"]["code"] == "bug"
    assert "Traceback" in ended.err


def test_names_from_outside_cannot_drive_the_terminal() -> None:
    ended = run_probe("probe", "get", "damaged")
    assert ended.err == "pghaven: error: pack \\x1b[31mred\\x07 is not what was stored\n"


@pytest.mark.parametrize(
    "words",
    [
        ("wal", "get", "not-found"),
        ("wal", "get", "missing"),
        ("wal", "get", "bug"),
        ("wal", "get", "broken-pipe"),
        ("wal", "get", "memory"),
        ("wal", "get", "exit"),
        ("wal", "get", "exit-text"),
        ("wal", "get", "3"),
        ("wal", "get"),
        ("wal", "get", "--no-such-option", "x"),
        ("--no-such-option", "wal", "get", "x"),
        ("wal", "--json", "get", "config"),
        ("absent", "wal", "get"),
    ],
)
def test_wal_get_never_ends_with_what_postgresql_takes_for_the_end_of_the_archive(words: tuple[str, ...]) -> None:
    assert run_probe(*words).status == 255


@pytest.mark.parametrize("status", [0, 1])
def test_wal_get_itself_says_found_or_proven_absent(status: int) -> None:
    assert run_probe("wal", "get", str(status)).status == status


def test_wal_get_stops_recovery_when_the_program_cannot_even_be_imported(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('half an upgrade')\n")
    # With -v: what PostgreSQL itself runs does not need that library at all.
    ended = run_pghaven("wal", "get", "-v", "a", "b", environment={"PYTHONPATH": str(tmp_path)})
    assert ended.status == 255
    assert "half an upgrade" in ended.err


def test_other_commands_keep_the_statuses_of_their_errors() -> None:
    assert find_failure_status(["wal", "push", "x"]) is None
    assert find_failure_status(["backup"]) is None
    assert find_failure_status(["get", "wal"]) is None
    assert find_failure_status(["--config", "x", "wal", "-v", "get"]) == 255


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_lets_every_block_clean_up_and_a_second_one_changes_nothing(name: str) -> None:
    ended = run_probe("probe", "signal", name)
    assert ended.status == 18
    assert ended.err == f"cleaned up\npghaven: error: ended by {name}\n"


def test_an_interrupt_ends_as_cancelled() -> None:
    ended = run_probe("probe", "signal", "SIGINT")
    assert ended.status == 18
    assert ended.err == "cleaned up\npghaven: error: interrupted\n"


def test_a_command_whose_module_is_missing_fails_only_when_used() -> None:
    assert run_probe("--help").status == 0
    ended = run_probe("absent")
    assert ended.status == 1
    assert "ModuleNotFoundError" in ended.err


def test_a_reader_that_goes_away_ends_the_run_in_silence() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cli.probe_command", "probe", "much"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == b"0123456789"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT_SECONDS) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_result_that_cannot_be_written_is_a_failure() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tests.cli.probe_command", "probe", "show"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=clean_environment(),
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    assert done.returncode == 18
    assert done.stderr == b"pghaven: error: could not write to standard output: no space left on device\n"


def test_closed_streams_do_no_harm() -> None:
    program = f'exec "{sys.executable}" -m tests.cli.probe_command probe show --warn >&- 2>&-'
    done = subprocess.run(["/bin/sh", "-c", program], env=clean_environment(), timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 3
