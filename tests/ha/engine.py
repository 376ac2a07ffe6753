"""A real cluster under Patroni on loopback: N nodes, etcd, a repository, all from our own generated configuration.

The one idea: a test gets what ``pghaven ha apply`` writes for each node, started with the commands of its units as the
servers' user; logs are shown when the test fails, and every process is ended by its id.

    def test_something(make_engine):
        engine = make_engine(nodes=3, durability="quorum")       # healthy, registered in its repository
        engine.kill("db1"); engine.drop_leader_key()
        assert engine.wait_leader(other_than="db1") in ("db2", "db3")
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pghaven.clock import SYSTEM_CLOCK
from pghaven.config.loading import load_config
from pghaven.errors import StoreUnreachable
from pghaven.ha.described import describe_cluster, find_places
from pghaven.ha.etcd import Etcd
from pghaven.ha.files import plan_files, write_file
from pghaven.ha.local import LocalCluster, find_missing_programs
from pghaven.ha.secrets import make_secrets
from pghaven.server.programs import Programs
from tests.cli.running import Ended, clean_environment
from tests.support import places
from tests.support.commands import PghavenCommand
from tests.support.fixtures import require_programs, wanted_versions
from tests.support.waiting import wait_until

NAME = "shop"
VERSIONS = (18, 17)
_TAIL_BYTES = 6000
# For machines that do much else meanwhile; healthy takes some seconds.
_SECONDS = 150.0
# Times that are protocol and not waiting: the lease stays what Patroni allows at least.
_FAST = {"failover_after": "20s", "check_every": "1s"}
_SERVER = ["shared_buffers = 16MB", "max_connections = 30", "jit = off", "huge_pages = off"]


def take_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has just now, and that no client is given: those begin at 32768."""
    found: list[int] = []
    while len(found) < count:
        port = 10000 + secrets.randbelow(22000)
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


class Engine:
    """``local`` has the processes; everything is named by the node's name."""

    def __init__(
        self,
        place: Path,
        programs: Programs,
        command: PghavenCommand,
        *,
        nodes: int = 3,
        etcd: int = 1,
        name: str = NAME,
        beside: Engine | None = None,
        **ha: Any,
    ) -> None:
        self.name = name
        self._beside = beside
        self.place = place
        self.programs = programs
        self.command = command
        self.names = tuple(f"db{number}" for number in range(1, nodes + 1))
        self.repository: Path = place / "repository" if beside is None else beside.repository
        self.ports = {name: take_ports(4) for name in self.names}
        self.proxy_ports = take_ports(2)
        self._ha = {**_FAST, "durability": "async", "fencing": "none", **ha}
        self._etcd = self.names[:etcd]
        self.user = places.plain_user()
        # Roles are data: those who follow have the passwords of the cluster that they follow.
        self._secrets = str((place if beside is None or "follow" not in ha else beside.place) / "secrets.toml")
        make_secrets(self._secrets, self.user)
        for name in self.names:
            directory = place / name
            directory.mkdir(mode=0o755)
            places.own(directory)
        self._write_configs()
        self.local = self._make_local()
        self.seconds_to_health = 0.0

    # -- set-up ------------------------------------------------------------------------------------------------------

    def config(self, name: str) -> Path:
        """The configuration file of pghaven on a node."""
        return self.place / f"{name}.toml"

    def data_directory(self, name: str) -> Path:
        return self.place / name / "data"

    def _write_configs(self) -> None:
        for name in self.names:
            (self.place / f"{name}.toml").write_text(self._render_config(name))
            places.own(self.place / f"{name}.toml")

    def configure(self, **ha: Any) -> None:
        """Change options of the configuration, None to take one out, while everything runs on."""
        self._ha = {key: value for key, value in {**self._ha, **ha}.items() if value is not None}
        self._write_configs()
        changed = self._make_local()
        self.local.spec, self.local.places = changed.spec, changed.places

    def _render_config(self, name: str) -> str:
        ha = {
            "secrets": self._secrets,
            "directory": str(self.place / "ha"),
            "unit_directory": str(self.place / "units"),
            "service_user": self.user.name,
            "engine": str(Path(sys.executable).parent),
            "proxy": True,
            "proxy_write_port": self.proxy_ports[0],
            "proxy_read_port": self.proxy_ports[1],
            "parameters": [*_SERVER, *self._ha.get("parameters", [])],
            **{key: value for key, value in self._ha.items() if key != "parameters"},
        }
        cluster = {
            "data_directory": str(self.data_directory(name)),
            "conninfo": self.conninfo(name),
            "pg_bin": self.programs.bin_dir,
            "program": " ".join(self.command.words),
            "state_directory": str(self.place / name / "state"),
            "processes": 1,
            "compression_level": 1,
        }
        lines = [f'[repository.main]\nurl = "file://{self.repository}"']
        if self._beside is not None:
            lines += self._beside.describe_source()
        lines += [f"[cluster.{self.name}]", *_toml(cluster), f"[cluster.{self.name}.ha]", *_toml(ha)]
        for one in self.names:
            port, rest, client, peer = self.ports[one]
            node = {
                "name": one,
                "address": "127.0.0.1",
                "port": port,
                "rest_port": rest,
                "etcd": one in self._etcd,
                "etcd_port": client,
                "etcd_peer_port": peer,
            }
            lines += [f"[[cluster.{self.name}.ha.node]]", *_toml(node)]
        return "\n".join(lines) + "\n"

    def describe_source(self) -> list[str]:
        """This cluster as another one's configuration names it: by its name in the repository."""
        cluster = {
            "data_directory": str(self.place / "elsewhere"),
            "conninfo": f"host={self.place} dbname=postgres",
            "pg_bin": self.programs.bin_dir,
            "program": " ".join(self.command.words),
            "state_directory": str(self.place / "elsewhere-state"),
            "processes": 1,
        }
        return [f"[cluster.{self.name}]", *_toml(cluster)]

    def _make_local(self) -> LocalCluster:
        found, passwords = {}, make_secrets(self._secrets, self.user)
        for name in self.names:
            config = load_config(str(self.config(name)), environment={})
            cluster = config.get_cluster(self.name)
            spec = describe_cluster(cluster)
            found[name] = find_places(config, cluster, passwords)
        return LocalCluster(spec, found, str(self.place), user=self.user)

    def apply(self) -> None:
        """Write every node's files, as ``ha apply`` does on each host."""
        for name in self.names:
            for planned in plan_files(self.local.spec, self.local.spec.get_node(name), self.local.places[name]):
                write_file(planned, self.user)

    def start(self, *, proxy: bool = False) -> None:
        """From nothing to healthy, and known to the repository."""
        began = SYSTEM_CLOCK.monotonic()
        self.apply()
        self.local.start_all(proxy=proxy)
        self.local.wait_healthy(timeout_seconds=_SECONDS)
        self.seconds_to_health = SYSTEM_CLOCK.monotonic() - began
        self.register()

    def start_etcd(self) -> None:
        """etcd alone, and wait until it answers."""
        for node in self.local.spec.dcs_members:
            self.local.start(node, "etcd")
        wait_until(lambda: not self.etcd.find_silent(), "etcd", _SECONDS)

    def register(self) -> None:
        """``pghaven init``: the repository is made, the cluster registered, the server's settings are right already."""
        leader = self.wait_leader()
        self.ok(leader, "init", self.name, "--apply", "--no-encryption")

    # -- processes ---------------------------------------------------------------------------------------------------

    def kill(self, name: str, *, server: bool = True) -> None:
        """End Patroni and (unless told otherwise) its server at once."""
        self.local.kill(self.local.spec.get_node(name), server=server)

    def kill_server(self, name: str) -> None:
        self.local.kill_server(self.local.spec.get_node(name))

    def stop(self, name: str) -> None:
        self.local.stop(self.local.spec.get_node(name))

    def start_node(self, name: str) -> None:
        self.local.start(self.local.spec.get_node(name), "patroni")

    def freeze(self, name: str) -> None:
        self.local.freeze(self.local.spec.get_node(name))

    def thaw(self, name: str) -> None:
        self.local.thaw(self.local.spec.get_node(name))

    def drop_leader_key(self) -> bool:
        """Have a dead leader's lease end now; whether it still held."""
        return self.etcd.delete("leader")

    @property
    def etcd(self) -> Etcd:
        return Etcd(self.local.spec.dcs_hosts, self.name)

    # -- asking ------------------------------------------------------------------------------------------------------

    def wait_leader(self, *, other_than: str | None = None, timeout_seconds: float = _SECONDS) -> str:
        """The node that accepts writes; waits until there is one (other than the named one)."""

        def find() -> str | None:
            leader = self.local.leader()
            return None if leader is None or leader.name == other_than else leader.name

        name = wait_until(find, "a leader", timeout_seconds)
        assert name is not None
        # REST may say so a moment before the server does.
        wait_until(lambda: self.value(name, "SELECT NOT pg_is_in_recovery()"), "the end of recovery")
        return name

    def wait_healthy(self, count: int | None = None, timeout_seconds: float = _SECONDS) -> float:
        return self.local.wait_healthy(count, timeout_seconds)

    def conninfo(self, name: str) -> str:
        return f"host={self.place / name} port={self.ports[name][0]} user=postgres dbname=postgres"

    def connect(self, name: str) -> psycopg.Connection[tuple[Any, ...]]:
        """As superuser over the node's socket, with autocommit."""
        return psycopg.connect(self._with_password(self.conninfo(name)), autocommit=True, connect_timeout=5)

    def _with_password(self, conninfo: str) -> str:
        password = self.local.places[self.names[0]].secrets.superuser
        return conninfo if self.user.name != "root" and not password else f"{conninfo} password={password}"

    def proxy_conninfo(self, *, write: bool = True) -> str:
        port = self.proxy_ports[0 if write else 1]
        return self._with_password(f"host=127.0.0.1 port={port} user=postgres dbname=postgres")

    def sql(self, name: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.connect(name) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description is not None else []

    def value(self, name: str, query: str, *parameters: object) -> Any:
        return self.sql(name, query, *parameters)[0][0]

    def run(self, name: str, *words: str, timeout_seconds: float = 120.0, cwd: Path | None = None) -> Ended:
        """``pghaven --config NODE.toml WORDS`` as this process's user."""
        kept = {key: value for key, value in clean_environment().items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [*self.command.words, "--config", str(self.config(name)), *words],
            cwd=cwd or self.place,
            env=kept,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        return Ended(status=done.returncode, out=done.stdout, err=done.stderr)

    def ok(self, name: str, *words: str) -> str:
        ended = self.run(name, *words)
        assert ended.status == 0, f"{words}: {ended}"
        return ended.out

    def json(self, name: str, *words: str, status: int = 0) -> dict[str, Any]:
        ended = self.run(name, "--json", *words)
        assert ended.status == status, f"{words}: {ended}"
        body = json.loads(ended.out)
        assert isinstance(body, dict)
        return body

    def patronictl(self, *words: str) -> str:
        """Patroni's own tool, with the first node's file."""
        file = self.local.places[self.names[0]].path(self.local.spec.get_node(self.names[0]), "patroni.yml")
        done = places.run_as_plain([str(Path(sys.executable).parent / "patronictl"), "-c", file, *words])
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def logs(self) -> str:
        """The end of each service's log."""
        parts = []
        for path in sorted(self.place.glob("*-*.log")):
            parts.append(f"--- {path.name}\n{path.read_bytes()[-_TAIL_BYTES:].decode(errors='replace')}")
        return "\n".join(parts)

    def end(self) -> None:
        self.local.end()


def _toml(values: dict[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]


def find_obstacle() -> str | None:
    """Why there can be no engine here."""
    missing = find_missing_programs()
    if missing:
        return f"there is no {' and no '.join(missing)} (Debian: apt-get install etcd-server haproxy)"
    patroni = Path(sys.executable).parent / "patroni"
    if not patroni.exists():
        return "Patroni is not installed: uv sync --extra ha"
    tried = places.run_as_plain([str(patroni), "--version"])
    if tried.returncode != 0:
        return f"the servers' user cannot run {patroni}: {tried.stderr.strip()}"
    return None


class EngineFactory:
    def __init__(self, request: pytest.FixtureRequest, command: PghavenCommand, cleanup: contextlib.ExitStack) -> None:
        wanted = [major for major in VERSIONS if major in wanted_versions(request.config)]
        if not wanted:
            pytest.skip(f"these tests run on PostgreSQL {' and '.join(map(str, VERSIONS))}")
        self.programs = require_programs(wanted[0])
        self._command = command
        self._cleanup = cleanup

    def __call__(
        self,
        *,
        nodes: int = 3,
        etcd: int = 1,
        start: bool = True,
        with_proxy: bool = False,
        name: str = NAME,
        beside: Engine | None = None,
        **ha: Any,
    ) -> Engine:
        """A cluster of its own; started and healthy unless told otherwise. ``ha`` are options of the configuration.
        One that is made ``beside`` another has that one's repository, and knows it by its name."""
        place = places.make_directory()
        self._cleanup.callback(places.remove_directory, place)
        engine = Engine(place, self.programs, self._command, nodes=nodes, etcd=etcd, name=name, beside=beside, **ha)
        self._cleanup.callback(_end, engine)
        if start:
            engine.start(proxy=with_proxy)
        return engine


def _end(engine: Engine) -> None:
    # Shown by pytest only when the test has failed.
    print(engine.logs())
    with contextlib.suppress(StoreUnreachable):
        engine.end()


@pytest.fixture
def make_engine(request: pytest.FixtureRequest, pghaven_command: PghavenCommand) -> Iterator[EngineFactory]:
    """Makes real clusters that end with the test; skips it where Patroni, etcd or HAProxy is missing."""
    obstacle = find_obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    with contextlib.ExitStack() as cleanup:
        yield EngineFactory(request, pghaven_command, cleanup)
