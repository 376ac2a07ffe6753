"""``pghaven demo``: the whole story, as users run it, and what is left of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

import pghaven
from pghaven.errors import Cancelled, Refused, UsageError
from pghaven.server.identity import OsUser, child_identity
from tests.cli.running import Ended, clean_environment
from tests.support.commands import PghavenCommand
from tests.support.places import plain_user
from tests.support.waiting import wait_until

SMALL = ("--size", "4MiB")
SECONDS = 120
# What somebody's shell says about other servers must not matter.
ELSEWHERE = {"PGHAVEN_CONFIG": "/no/such", "PGHAVEN_CLUSTER__OTHER__PROCESSES": "x", "PGHOST": "no.such.host.invalid"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as somebody else")


class Stage:
    """``place`` is empty and every user's; whatever a demonstration leaves outside its directory would be in it."""

    def __init__(self, command: PghavenCommand, place: Path) -> None:
        self.words = command.words
        self.temporary = place / "tmp"
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        self.directory = self.temporary / "demo"

    def start(self, *words: str, user: OsUser | None = None, program: Sequence[str] = ()) -> subprocess.Popen[str]:
        environment = {name: value for name, value in clean_environment().items() if name != "PYTHONPATH"}
        return subprocess.Popen(
            [*(program or self.words), "demo", *words],
            env={**environment, **ELSEWHERE, "TMPDIR": str(self.temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **child_identity(user),
        )

    def run(self, *words: str, user: OsUser | None = None, program: Sequence[str] = ()) -> Ended:
        with self.start(*words, user=user, program=program) as process:
            out, err = process.communicate(timeout=SECONDS)
        return Ended(status=process.returncode, out=out, err=err)

    def json(self, *words: str, user: OsUser | None = None) -> dict[str, Any]:
        ended = self.run("--json", *SMALL, *words, user=user)
        assert ended.status == 0, ended
        body = json.loads(ended.out)
        assert body["schema"] == "pghaven/demo/1"
        assert isinstance(body, dict)
        return body

    def require_clean(self) -> None:
        """No file and no process is left."""
        assert list(self.temporary.iterdir()) == []
        wait_until(lambda: not list_processes(self.temporary), f"the end of {list_processes(self.temporary)}")


@pytest.fixture
def stage(pghaven_command: PghavenCommand, server_path: Path) -> Iterator[Stage]:
    made = Stage(pghaven_command, server_path)
    yield made
    for pid in list_processes(made.temporary):
        os.kill(pid, signal.SIGKILL)


def list_processes(place: Path) -> list[int]:
    """Processes whose command line names something below a directory, or that work there."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
            here = os.readlink(f"/proc/{name}/cwd")
        except OSError:
            continue
        if os.fsencode(place) in words or here.startswith(str(place)):
            found.append(int(name))
    return found


def require_story(body: dict[str, Any]) -> None:
    """What must be true of every run, however small and on whatever machine."""
    assert body["missing_rows"] == 0
    assert {table["name"]: table["same"] for table in body["tables"]} == dict.fromkeys(
        ("customer", "product", "orders", "order_line", "release"), True
    )
    assert body["lost_rows"] == next(table["rows"] for table in body["tables"] if table["name"] == body["lost_table"])
    restore = body["restore"]
    parts = [restore[f"{part}_seconds"] for part in ("planning", "files", "replay", "opening")]
    assert all(part > 0 for part in parts)
    assert restore["total_seconds"] == pytest.approx(sum(parts), abs=0.001)
    assert restore["files_bytes"] == body["backup"]["total_bytes"]
    assert restore["replay_bytes"] > 0
    assert body["would_be_lost"]["seconds"] >= 0
    assert body["would_be_lost"]["wal_bytes"] > 0
    assert body["window"]["begin"] < body["accident_at"] < body["window"]["end"]
    assert body["total_seconds"] > restore["total_seconds"]


def test_the_story_is_told_in_lines_and_ends_with_three_numbers(stage: Stage) -> None:
    ended = stage.run(*SMALL)
    assert ended.status == 0, ended
    assert ended.err == ""
    assert "\x1b" not in ended.out
    assert re.findall(r"^([1-7])/7  ", ended.out, re.MULTILINE) == list("1234567")
    assert re.search(r"^How much would have been lost\? +\S", ended.out, re.MULTILINE)
    assert re.search(r"rows dropped, 0 are missing", ended.out)
    assert re.search(r"^How long until it was back\? +[0-9.]+ m?s", ended.out, re.MULTILINE)
    assert re.search(r"^How far back could one go\? +[0-9.]+ m?s", ended.out, re.MULTILINE)
    assert "docs/guide/protect-a-server.md" in ended.out
    stage.require_clean()


def test_an_ordinary_user_gets_the_numbers_for_programs(stage: Stage) -> None:
    body = stage.json(user=plain_user())
    require_story(body)
    assert body["kept"] is None
    stage.require_clean()


def test_an_empty_directory_that_was_there_stays_however_long_its_path(stage: Stage) -> None:
    directory = stage.temporary / ("d" * 100)
    directory.mkdir()
    directory.chmod(0o755)
    ended = stage.run("--quiet", *SMALL, "--directory", str(directory))
    assert ended.status == 0, ended
    assert "1/7" not in ended.out
    assert "How long until it was back?" in ended.out
    assert list(directory.iterdir()) == []
    directory.rmdir()
    stage.require_clean()


# -- interrupted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("making a cluster", signal.SIGINT),
        ("making indexes", signal.SIGTERM),
        ("restarting the server", signal.SIGINT),
        ("starting backup", signal.SIGINT),
        ("replaying WAL", signal.SIGINT),
        ("replaying WAL", signal.SIGHUP),
    ],
)
def test_nothing_is_left_of_one_that_is_interrupted(stage: Stage, step: str, number: signal.Signals) -> None:
    with stage.start("--verbose", *SMALL, "--directory", str(stage.directory)) as process:
        assert process.stderr is not None
        read_until(process.stderr, step)
        process.send_signal(number)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == Cancelled.exit_status, err
    stage.require_clean()


def read_until(stream: IO[str], words: str) -> None:
    for line in stream:
        if words in line:
            return
    pytest.fail(f'it ended before "{words}"')


# -- kept ------------------------------------------------------------------------------------------------------------


def test_one_that_is_kept_says_how_to_look_around_and_how_to_end_it(stage: Stage) -> None:
    ended = stage.run("--keep", *SMALL, "--directory", str(stage.directory))
    assert ended.status == 0, ended
    ways = dict(re.findall(r"^  ([a-z ]+):\n    (.+)$", ended.out, re.MULTILINE))
    assert list(ways) == [
        "the shop after the accident",
        "the shop as restored",
        "the repository",
        "another restore",
        "stop and remove all of it",
    ]
    count = "SELECT count(*) FROM order_line"
    assert 'relation "order_line" does not exist' in follow(ways["the shop after the accident"], "-c", count).stderr
    assert int(follow(ways["the shop as restored"], "-At", "-c", count).stdout) > 1000
    assert "all is well" in follow(ways["the repository"]).stdout
    assert follow(ways["another restore"]).returncode == 0
    assert follow(ways["stop and remove all of it"]).returncode == 0
    stage.require_clean()


def follow(command: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = [*shlex.split(command), *more]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS, cwd="/")


# -- refused ---------------------------------------------------------------------------------------------------------


def test_a_directory_that_holds_something_is_left_alone(stage: Stage) -> None:
    (stage.temporary / "mine").write_text("x")
    ended = stage.run("--directory", str(stage.temporary))
    assert ended.status == Refused.exit_status
    assert "not an empty directory" in ended.err
    assert [path.name for path in stage.temporary.iterdir()] == ["mine"]


def test_only_the_directory_of_a_demonstration_is_removed(stage: Stage) -> None:
    (stage.temporary / "mine").write_text("x")
    ended = stage.run("--remove", str(stage.temporary))
    assert ended.status == Refused.exit_status
    assert [path.name for path in stage.temporary.iterdir()] == ["mine"]


def test_more_data_than_there_is_room_for_is_refused(stage: Stage) -> None:
    ended = stage.run("--size", "1000TiB")
    assert ended.status == Refused.exit_status
    assert "--size" in ended.err
    stage.require_clean()


def test_a_size_without_a_unit_is_wrong_usage(stage: Stage) -> None:
    ended = stage.run("--size", "5")
    assert ended.status == UsageError.exit_status
    assert "64MiB" in ended.err


@as_root
def test_a_directory_closed_to_the_servers_user_is_refused(stage: Stage) -> None:
    closed = stage.temporary / "closed"
    closed.mkdir(mode=0o700)
    ended = stage.run("--directory", str(closed / "demo"))
    assert ended.status == 13
    assert "cannot enter" in ended.err
    assert list(closed.iterdir()) == []


@as_root
def test_an_installation_closed_to_the_servers_user_is_copied(stage: Stage, tmp_path: Path) -> None:
    program = install_closed(tmp_path / "closed")
    ended = stage.run("--verbose", *SMALL, program=program)
    assert ended.status == 0, ended
    assert "copying pghaven to where the servers' user can run it" in ended.err
    assert "0 are missing" in ended.out
    stage.require_clean()


def install_closed(directory: Path) -> tuple[str, ...]:
    """pghaven as below /root: its sources, and a virtual environment with the packages of this one."""
    directory.mkdir(mode=0o700)
    subprocess.run(["cp", "-a", str(Path(pghaven.__file__).parent), f"{directory}/pghaven"], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", f"{directory}/venv"], check=True)
    (packages,) = directory.glob("venv/lib/python*/site-packages")
    (packages / "closed.pth").write_text(f"{directory}\n{sysconfig.get_path('purelib')}\n")
    script = directory / "venv" / "bin" / "pghaven"
    script.write_text(
        f"#!{directory}/venv/bin/python\nimport sys\nfrom pghaven.cli.main import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    return (str(script),)
