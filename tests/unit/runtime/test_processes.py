"""Child programs: their ends are values, their time is limited, nothing of them stays."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import pytest

from pghaven.errors import Cancelled, NotFound, NotPermitted
from pghaven.runtime.durable import OwnerOf
from pghaven.runtime.processes import run_program
from tests.support.waiting import wait_until
from tests.unit.runtime.crew_jobs import is_alive


def test_status_and_output_are_values() -> None:
    code = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.stderr.write('so so\\n'); sys.exit(3)"
    result = run_program([sys.executable, "-c", code], timeout_seconds=30, stdin=b"said")
    assert (result.status, result.stdout, result.stderr) == (3, b"SAID", b"so so\n")
    assert result.complaint == "so so"


def test_a_silent_end_is_told_by_status_or_signal() -> None:
    assert run_program(["false"], timeout_seconds=30).complaint == "exit status 1"
    killed = run_program(["sh", "-c", "kill -9 $$"], timeout_seconds=30)
    assert (killed.status, killed.complaint) == (-9, "terminated by signal 9: Killed")


def test_a_program_over_its_time_is_ended_with_what_it_started(tmp_path: Path) -> None:
    script = f"sleep 600 & echo $! > {tmp_path}/pid; echo waiting >&2; wait"
    for seconds in (0.5, 5.0, 50.0):  # half a second may be over before the script has begun
        with pytest.raises(Cancelled, match=rf'"sh" did not end within {seconds} s'):
            run_program(["sh", "-c", script], timeout_seconds=seconds)
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
    # It was killed with its parent; that init has not taken note of it yet says nothing.
    wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())), "its end")


def test_a_program_that_cannot_be_started_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no-such-program"):
        run_program([str(tmp_path / "no-such-program")], timeout_seconds=30)
    (tmp_path / "text").write_text("x")
    with pytest.raises(NotPermitted):
        run_program([str(tmp_path / "text")], timeout_seconds=30)


def test_environment_and_directory_are_what_was_asked_for(tmp_path: Path) -> None:
    result = run_program(
        ["/bin/sh", "-c", "pwd; echo $A$HOME"], timeout_seconds=30, environment={"A": "b"}, directory=str(tmp_path)
    )
    assert result.stdout.decode() == f"{tmp_path}\nb\n"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")
def test_root_can_run_it_as_another_user_without_its_own_groups() -> None:
    nobody = pwd.getpwnam("nobody")
    result = run_program(
        ["sh", "-c", "id -u; id -G"], timeout_seconds=30, run_as=OwnerOf(uid=nobody.pw_uid, gid=nobody.pw_gid)
    )
    assert result.stdout.decode().split() == [str(nobody.pw_uid), str(nobody.pw_gid)]
