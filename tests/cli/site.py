"""A place where commands are tried as users type them: a server, a configuration, a directory for the rest.

The one idea: everything goes through the real command line, started by the path of an installed program, so that
what is tested is what people get, from the first ``init`` on.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cli.running import TIMEOUT_SECONDS, Ended, clean_environment
from tests.support import commands, places
from tests.support.cluster import Kind, TestCluster, adopt, make_cluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import require_programs, wanted_versions
from tests.support.moving import list_files
from tests.support.places import own

NAME = "main"
CHECK_LINE = re.compile(r"(?P<name>[^:]+): (?P<text>.+): (?P<verdict>OK|WARNING|FAILED|skipped)")


class Site:
    """``place`` belongs to the server's user. There is no configuration and no repository before ``init``."""

    def __init__(self, cluster: TestCluster, command: PghavenCommand, place: Path) -> None:
        self.cluster = cluster
        self.place = place
        self.command = command
        self.config = place / "pghaven.toml"
        self.repository = place / "repository"
        self.url = f"file://{self.repository}"
        self.target = place / "restored"
        # A restored server must not want its original's socket, which may still be in use.
        self.sockets = place / "s"
        self.sockets.mkdir()
        own(self.sockets)
        cluster.append_conf(unix_socket_directories=str(self.sockets))

    # -- running ----------------------------------------------------------------------------------------------------

    def run(self, *words: str, environment: Mapping[str, str] | None = None) -> Ended:
        """``pghaven --config … WORDS`` as this process's user."""
        return self.run_words("--config", str(self.config), *words, environment=environment)

    def run_words(self, *words: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ended:
        with self.start_words(*words, environment=environment, cwd=cwd) as process:
            try:
                out, err = process.communicate(timeout=TIMEOUT_SECONDS)
            finally:
                process.kill()
        return Ended(status=process.returncode, out=out, err=err)

    def start_words(
        self, *words: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        kept = {name: value for name, value in clean_environment(environment).items() if name != "PYTHONPATH"}
        return subprocess.Popen(
            [*self.command.words, *words],
            cwd=cwd or self.place,
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ok(self, *words: str, environment: Mapping[str, str] | None = None) -> str:
        """Standard output of a command that must succeed without warnings."""
        ended = self.run(*words, environment=environment)
        assert ended.status == 0, f"{words}: {ended}"
        return ended.out

    def json(self, *words: str, status: int = 0, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The object a command shows with --json."""
        ended = self.run("--json", *words, environment=environment)
        assert ended.status == status, f"{words}: {ended}"
        body = json.loads(ended.out)
        assert isinstance(body, dict)
        return body

    def error(self, *words: str, status: int, environment: Mapping[str, str] | None = None) -> dict[str, str]:
        """The error a command fails with; missing parts are empty."""
        body = self.json(*words, status=status, environment=environment)
        assert body["schema"] == "pghaven/error/1", body
        assert body["error"]["exit_status"] == status
        return {name: body["error"][name] or "" for name in ("code", "message", "detail", "hint")}

    def check(self, *words: str, status: int) -> dict[str, tuple[str, str]]:
        """What ``check`` says: name -> (verdict, text). Of several lines of one name the worst counts."""
        ended = self.run("check", *words)
        assert ended.status == status, ended
        found: dict[str, tuple[str, str]] = {}
        for line in ended.out.splitlines():
            match = CHECK_LINE.fullmatch(line)
            if match is None:
                assert line.startswith("    HINT:  "), line
                continue
            if found.get(match["name"], ("OK", ""))[0] == "OK":
                found[match["name"]] = (match["verdict"], match["text"])
        return found

    # -- the way to a protected cluster -----------------------------------------------------------------------------

    def write_config(self, text: str = "", **cluster: str | list[str]) -> None:
        """A configuration as people write it; keyword values join the cluster's section, ``text`` comes after."""
        options: dict[str, str | list[str]] = {
            "data_directory": str(self.cluster.data_directory),
            "conninfo": self.cluster.conninfo,
            "pg_bin": str(self.cluster.bin_dir),
            "state_directory": str(self.place / "state"),
            **cluster,
        }
        lines = [f"[repository.main]\nurl = {json.dumps(self.url)}\n\n[cluster.{NAME}]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in options.items()]
        self.config.write_text("\n".join([*lines, text]) + "\n")
        own(self.config)

    def set_up(self) -> None:
        """``init --apply`` and the restart it asks for."""
        if not self.config.exists():
            self.write_config()
        self.ok("init", NAME, "--apply", "--no-encryption")
        self.cluster.restart()

    def archive_all(self) -> str:
        """Until everything written so far is in the repository; gives the last segment's name."""
        segment = self.cluster.switch_wal()
        self.cluster.wait_archived(segment)
        return segment

    def find_segment(self, name: str) -> Path:
        """The object of a segment in the repository's directory."""
        (found,) = list_files(self.repository, name)
        return found

    # -- restored servers -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def started(self, *options: str, **environment: str) -> Iterator[dict[str, Any]]:
        """``restore --start`` with these options; what it showed, with its server running until the block ends."""
        try:
            yield self.json(
                "restore", NAME, "--target-dir", str(self.target), "--start", *options, environment=environment
            )
        finally:
            self.remove_target()

    def remove_target(self) -> None:
        """End the restored server, if one runs, and remove its files."""
        if self.target.exists():
            adopt(self.target, self.cluster.programs).stop_and_remove()
            shutil.rmtree(self.target)

    def ask_restored(self, query: str) -> Any:
        """The first column of a query's first row, from the restored server."""
        conninfo = f"host={self.sockets} port=5432 user=postgres dbname=postgres"
        with psycopg.connect(conninfo, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


@pytest.fixture
def site(pg_cluster: TestCluster, pghaven_command: PghavenCommand, server_path: Path) -> Site:
    """A running server that pghaven knows nothing of yet."""
    return Site(pg_cluster, pghaven_command, server_path)


@pytest.fixture(scope="module")
def protected(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A cluster that is set up and has one backup, shared by the tests of a module: they must leave it as it is."""
    with shared_site(request.config) as made:
        made.set_up()
        made.ok("backup")
        yield made


@contextlib.contextmanager
def shared_site(config: pytest.Config) -> Iterator[Site]:
    """As ``site``, for fixtures that live longer than a test."""
    try:
        command = commands.pghaven_command()
    except commands.Unreachable as error:
        pytest.skip(f"the server's user cannot run pghaven: {error}")
    cluster = make_cluster(require_programs(wanted_versions(config)[-1]), Kind())
    place = places.make_directory()
    try:
        yield Site(cluster, command, place)
    finally:
        cluster.stop_and_remove()
        places.remove_directory(place)
