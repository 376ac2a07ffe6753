"""A place where commands are tried as users type them: a server, a configuration, a directory for the rest.

The one idea: everything goes through the real command line, started by the path of an installed program, so that
what is tested is what people get, from the first ``init`` on.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import TIMEOUT_SECONDS, Ended, clean_environment
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.places import own

NAME = "main"


class Site:
    """``place`` belongs to the server's user. There is no configuration and no repository before ``init``."""

    def __init__(self, cluster: TestCluster, command: PghavenCommand, place: Path) -> None:
        self.cluster = cluster
        self.place = place
        self.command = command
        self.config = place / "pghaven.toml"
        self.repository = place / "repository"
        self.url = f"file://{self.repository}"
        # A restored server must not want its original's socket, which may still be in use.
        self.sockets = place / "restored-sockets"
        self.sockets.mkdir()
        own(self.sockets)
        cluster.append_conf(unix_socket_directories=str(self.sockets))

    def run(self, *words: str, environment: Mapping[str, str] | None = None) -> Ended:
        """``pghaven --config … WORDS`` as this process's user."""
        return self.start(["--config", str(self.config), *words], environment)

    def start(self, words: list[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ended:
        kept = {name: value for name, value in clean_environment(environment).items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [*self.command.words, *words],
            cwd=cwd or self.place,
            env=kept,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        return Ended(status=done.returncode, out=done.stdout, err=done.stderr)

    def ok(self, *words: str, environment: Mapping[str, str] | None = None) -> str:
        """Standard output of a command that must succeed without warnings."""
        ended = self.run(*words, environment=environment)
        assert ended.status == 0, f"{words}: {ended}"
        return ended.out

    def json(self, *words: str, status: int = 0) -> dict[str, Any]:
        """The object a command shows with --json."""
        ended = self.run("--json", *words)
        assert ended.status == status, f"{words}: {ended}"
        body = json.loads(ended.out)
        assert isinstance(body, dict)
        return body

    def error(self, *words: str, status: int) -> dict[str, str]:
        """The error a command fails with."""
        body = self.json(*words, status=status)
        assert body["schema"] == "pghaven/error/1", body
        assert body["error"]["exit_status"] == status
        return {name: body["error"][name] or "" for name in ("code", "message", "detail", "hint")}

    def write_config(self, **cluster: str) -> None:
        """A configuration as people write it; keyword values join the cluster's section."""
        options = {"data_directory": str(self.cluster.data_directory), "conninfo": self.cluster.conninfo, **cluster}
        lines = [f"[repository.main]\nurl = {json.dumps(self.url)}\n\n[cluster.{NAME}]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in options.items()]
        self.config.write_text("\n".join(lines) + "\n")
        own(self.config)

    def set_up(self) -> None:
        """``init --apply`` and the restart it asks for."""
        if not self.config.exists():
            self.write_config()
        self.ok("init", NAME, "--apply")
        self.cluster.restart()

    def archive_all(self) -> None:
        """Until everything written so far is in the repository."""
        self.cluster.wait_archived(self.cluster.switch_wal())

    @property
    def target(self) -> Path:
        return self.place / "restored"


@pytest.fixture
def site(pg_cluster: TestCluster, pghaven_command: PghavenCommand, server_path: Path) -> Iterator[Site]:
    """A running server that pghaven knows nothing of yet."""
    yield Site(pg_cluster, pghaven_command, server_path)
