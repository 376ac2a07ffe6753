"""Servers that are only for trying something: closed to everybody else, and gone afterwards, whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pghaven.errors import ServerUnsuitable
from pghaven.server.connection import connect, fetch_one
from pghaven.server.identity import OsUser
from pghaven.server.postmaster import is_alive, list_server_processes
from pghaven.server.scratch import open_scratch_place, run_scratch_cluster
from tests.support.fixtures import require_programs, wanted_versions
from tests.support.places import plain_user
from tests.support.waiting import wait_until


def other_user() -> OsUser | None:
    return plain_user() if os.geteuid() == 0 else None


@pytest.fixture
def newest(request: pytest.FixtureRequest) -> int:
    return wanted_versions(request.config)[-1]


@pytest.mark.pg
def test_it_is_closed_while_it_runs_and_gone_afterwards(pg_version: int, server_path: Path) -> None:
    """Also where the path is too long for a socket."""
    above = server_path / ("long" * 30)
    above.mkdir()
    with open_scratch_place(str(above), other_user()) as place:
        with run_scratch_cluster(place, require_programs(pg_version)) as instance:
            pid = instance.child_pid
            assert pid is not None
            with connect(place.conninfo()) as connection:
                assert fetch_one(connection, "SHOW listen_addresses") == ("",)
                assert fetch_one(connection, "SHOW archive_mode") == ("off",)
            for path in (place.sockets, instance.data_directory):
                assert os.stat(path).st_mode & 0o077 == 0, path
                assert os.stat(path).st_uid == plain_user().uid
        assert not is_alive(pid)
        sockets = place.sockets
    assert list(above.iterdir()) == []
    assert not os.path.exists(sockets)


@pytest.mark.pg
def test_nothing_is_left_when_it_does_not_start(server_path: Path, newest: int) -> None:
    with (
        pytest.raises(ServerUnsuitable, match="no_such_setting"),
        open_scratch_place(str(server_path), other_user()) as place,
        run_scratch_cluster(place, require_programs(newest), {"no_such_setting": "1"}),
    ):
        pass
    assert list(server_path.iterdir()) == []


_KILLED = """
import sys, time
from pghaven.server.identity import get_os_user
from pghaven.server.programs import inspect_programs
from pghaven.server.scratch import open_scratch_place, run_scratch_cluster
above, bin_dir, user = sys.argv[1:]
with open_scratch_place(above, get_os_user(user) if user else None) as place:
    with run_scratch_cluster(place, inspect_programs(bin_dir)) as instance:
        print(instance.data_directory, flush=True)
        sys.stdin.read()
"""


@pytest.mark.pg
def test_what_a_killed_process_left_is_removed_by_the_next(server_path: Path, newest: int) -> None:
    user = other_user()
    command = [sys.executable, "-c", _KILLED, str(server_path), require_programs(newest).bin_dir]
    with subprocess.Popen(
        [*command, user.name if user else ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        data_directory = process.stdout.readline().strip()
        with open_scratch_place(str(server_path), user):
            assert os.path.isdir(data_directory), "that of a living process stays"
        process.kill()
    wait_until(lambda: not list_server_processes(data_directory), "the server to end")
    with open_scratch_place(str(server_path), user):
        assert not os.path.exists(data_directory)
    assert list(server_path.iterdir()) == []
