"""Reading postmaster.pid and recognising processes."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Damaged
from pghaven.server.postmaster import PidFile, is_alive, is_running, list_server_processes, read_pid_file
from tests.support.waiting import wait_until

COMPLETE = """4711
/var/lib/postgresql/17/main
1795400000
5433
/var/run/postgresql
localhost
 14686      65536
ready\x20\x20\x20
"""


def is_named(pid: int, name: str) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == f"{name}\n"


def write(directory: Path, text: str) -> str:
    (directory / "postmaster.pid").write_text(text)
    return str(directory)


def test_complete_file_is_read(tmp_path: Path) -> None:
    assert read_pid_file(write(tmp_path, COMPLETE)) == PidFile(
        pid=4711,
        data_directory="/var/lib/postgresql/17/main",
        started=datetime(2026, 11, 23, 2, 13, 20, tzinfo=UTC),
        port=5433,
        socket_directory="/var/run/postgresql",
        listen_address="localhost",
        status="ready",
    )


def test_file_of_a_server_just_starting_is_read(tmp_path: Path) -> None:
    found = read_pid_file(write(tmp_path, "4711\n/data\n1795400000\n5432\n"))
    assert found is not None
    assert (found.port, found.socket_directory, found.status) == (5432, None, None)


def test_single_user_server_counts_by_its_process(tmp_path: Path) -> None:
    found = read_pid_file(write(tmp_path, "-4711\n/data\n"))
    assert found is not None
    assert found.pid == 4711


def test_no_file_is_no_server(tmp_path: Path) -> None:
    assert read_pid_file(str(tmp_path)) is None
    assert is_running(str(tmp_path)) is None
    assert list_server_processes(str(tmp_path)) == ()


class _ServerThatWritesLate(ManualClock):
    """While somebody waits, the server gets to fill the file it has made."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        write(self._directory, COMPLETE)


def test_file_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    found = read_pid_file(write(tmp_path, ""), clock=_ServerThatWritesLate(tmp_path))
    assert found is not None
    assert found.pid == 4711


def test_file_that_stays_empty_is_damage(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="does not begin with a process id"):
        read_pid_file(write(tmp_path, ""), clock=ManualClock())


@pytest.mark.parametrize("text", ["x\n", "\n4711\n"])
def test_file_nobody_of_postgresql_wrote_is_damage(tmp_path: Path, text: str) -> None:
    with pytest.raises(Damaged, match="does not begin with a process id"):
        is_running(write(tmp_path, text))


def test_process_of_that_name_elsewhere_is_no_server(tmp_path: Path) -> None:
    """A program called postgres is one only in the data directory."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    data.mkdir()
    elsewhere.mkdir()
    impostor = tmp_path / "postgres"
    impostor.symlink_to("/bin/sleep")
    for directory, expected in ((elsewhere, False), (data, True)):
        with subprocess.Popen([str(impostor), "60"], cwd=directory) as process:
            try:
                # The new program begins a moment before the kernel gives the process its name.
                wait_until(partial(is_named, process.pid, "postgres"), "the program's name")
                write(data, f"{process.pid}\n{data}\n")
                assert (is_running(str(data)) is not None) == expected
                assert (process.pid in list_server_processes(str(data))) == expected
            finally:
                process.kill()


def test_process_that_ended_is_not_alive_though_nobody_waited(tmp_path: Path) -> None:
    assert is_alive(os.getpid())
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert os.path.exists(f"/proc/{process.pid}")
    assert not is_alive(process.pid)
    process.wait()
    assert not is_alive(process.pid)
