"""The settings come through PostgreSQL and sh as they were meant."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.errors import UsageError
from pghaven.wal.commands import ABSENT_STATUS, render_archive_command, render_restore_command
from tests.support.waiting import PATIENCE_SECONDS

_TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20)


def replace_percent(command: str, **values: str) -> str:
    """replace_percent_placeholders in src/common/percentrepl.c of PostgreSQL 16; what it does not know is an error."""
    result, at = "", 0
    while at < len(command):
        if command[at] != "%":
            result += command[at]
            at += 1
            continue
        assert at + 1 < len(command), "a percent sign at the end"
        result += "%" if command[at + 1] == "%" else values[command[at + 1]]
        at += 2
    return result


def run(command: str, **values: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        ["/bin/sh", "-c", replace_percent(command, **values)],
        capture_output=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    return done.returncode, done.stdout.decode().split("\0")[:-1]


SHOW_WORDS = ["/bin/sh", "-c", 'for word; do printf "%s\\0" "$word"; done', "name"]


@given(config=_TEXT, cluster=_TEXT)
def test_every_word_of_the_archive_command_arrives(config: str, cluster: str) -> None:
    status, words = run(render_archive_command(SHOW_WORDS, config, cluster), p="pg_wal/1", f="1")
    assert status == 0
    assert words == ["wal", "push", "--config", config, "--cluster", cluster, "pg_wal/1"]


@given(config=_TEXT, plan=_TEXT)
def test_every_word_of_the_restore_command_arrives(config: str, plan: str) -> None:
    status, words = run(render_restore_command(SHOW_WORDS, config, "main", plan), p="pg_wal/R", f="1")
    assert status == 0
    assert words == [
        *("wal", "get", "--config", config, "--cluster", "main", "--plan", plan),
        *("--absent-status", str(ABSENT_STATUS), "1", "pg_wal/R"),
    ]


def test_the_restore_command_needs_no_plan() -> None:
    assert "--plan" not in render_restore_command("pghaven", "/c", "main", None)


@pytest.mark.parametrize("status", range(256))
def test_only_success_and_proven_absence_get_through(status: int) -> None:
    command = render_restore_command(["/bin/sh", "-c", f"exit {status}"], "/c", "main", None)
    expected = {0: 0, ABSENT_STATUS: 1}.get(status, 255)
    assert run(command, p="pg_wal/R", f="1")[0] == expected


@pytest.mark.parametrize("signal", ["KILL", "TERM", "SEGV"])
def test_a_program_that_is_killed_stops_recovery(signal: str) -> None:
    command = render_restore_command(["/bin/sh", "-c", f"kill -{signal} $$"], "/c", "main", None)
    assert run(command, p="pg_wal/R", f="1")[0] == 255


def test_a_program_that_is_not_there_stops_recovery(tmp_path: Path) -> None:
    command = render_restore_command(str(tmp_path / "pghaven"), "/c", "main", None)
    assert run(command, p="pg_wal/R", f="1")[0] == 255
    (tmp_path / "pghaven").write_text("no program")
    assert run(command, p="pg_wal/R", f="1")[0] == 255


def test_a_usual_command_ends_readably() -> None:
    assert render_archive_command("/usr/bin/pghaven", "/etc/pghaven/pghaven.toml", "main").endswith(
        " || exec /usr/bin/pghaven wal push --config /etc/pghaven/pghaven.toml --cluster main %p"
    )


def test_an_archive_command_that_postgresql_15_would_cut_off_is_refused() -> None:
    assert len(render_archive_command("pghaven", "/" + "x" * 500, "main")) < 1023
    with pytest.raises(UsageError, match="too long"):
        render_archive_command("pghaven", "/" + "x" * 1000, "main")


def test_a_zero_byte_cannot_be_in_a_command() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        render_archive_command("a\0b", "/c", "main")
