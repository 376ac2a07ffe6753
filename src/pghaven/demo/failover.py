"""A cluster that loses its primary and goes on, and is taken back in time: on loopback, with every time measured.

The one idea: it is the real thing: three servers under Patroni, etcd, HAProxy and a repository, from the configuration
that ``ha apply`` would write; the lease runs out as it would, and nothing is helped along.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.config.loading import load_config
from pghaven.demo.ground import find_pghaven, find_postgresql, give, make_directory
from pghaven.errors import NotFound, ServerUnsuitable
from pghaven.events import Listener
from pghaven.ha.described import describe_cluster, find_places
from pghaven.ha.files import plan_files, write_file
from pghaven.ha.local import LocalCluster, find_missing_programs
from pghaven.ha.secrets import make_secrets
from pghaven.ha.spec import HaNode
from pghaven.server.identity import OsUser, child_identity, find_server_user

NAME: Final = "shop"
_NODES: Final = ("db1", "db2", "db3")
_ROOM_BYTES: Final = 1 << 30
_UP_SECONDS: Final = 180.0
_COMMAND_SECONDS: Final = 300.0
_BEFORE: Final = 200
_AFTER: Final = 100
_PAUSE_SECONDS: Final = 0.02
_RETRY_SECONDS: Final = 0.05
_CONNECT_SECONDS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverResult:
    """Times in seconds; ``handover_seconds`` and ``gap_seconds`` are the longest without an acknowledged write in a
    switchover and after the primary was killed. ``lost`` counts commits that were acknowledged and are on the new
    primary not found."""

    up_seconds: float
    handover_seconds: float
    first: str
    second: str
    gap_seconds: float
    acknowledged: int
    lost: int
    rejoin_seconds: float
    restore_seconds: float
    rows_wanted: int
    rows: dict[str, int] = field(default_factory=dict)
    total_seconds: float = 0.0


def run_failover_demo(tell: Callable[[str], None], listener: Listener, clock: Clock = SYSTEM_CLOCK) -> FailoverResult:
    """Everything it makes is gone at its end. Raises NotFound, naming what is not installed."""
    missing = find_missing_programs()
    if missing:
        raise NotFound(f"there is no {' and no '.join(missing)}", hint="On Debian: apt-get install etcd-server haproxy")
    if not os.path.exists(os.path.join(os.path.dirname(sys.executable), "patroni")):
        raise NotFound("Patroni is not installed", hint="pip install 'pghaven[ha]'")
    user = find_server_user()
    directory, _ = make_directory(None, user, _ROOM_BYTES // 4)
    with ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
        give(directory, user)
        story = _Story(directory, user, tell, listener, clock)
        cleanup.callback(story.local.end)
        return story.run()


class _Story:
    def __init__(
        self, directory: str, user: OsUser | None, tell: Callable[[str], None], listener: Listener, clock: Clock
    ) -> None:
        self.directory = directory
        self.user = user
        self.tell = tell
        self.clock = clock
        self.programs = find_postgresql(directory, user, listener)
        self.program = find_pghaven(directory, user, listener)
        self.proxy_ports = _take_ports(2)
        self.ports = {name: _take_ports(4) for name in _NODES}
        self.acknowledged: list[int] = []
        self._refusal = ""
        self._last, self._longest = clock.monotonic(), 0.0
        secrets = make_secrets(self.path("secrets.toml"), user)
        self.password = secrets.superuser
        places = {}
        for name in _NODES:
            os.mkdir(self.path(name), 0o755)
            give(self.path(name), user)
            with open(self.path(f"{name}.toml"), "w", encoding="utf-8") as file:
                file.write(self._render_config(name))
            give(self.path(f"{name}.toml"), user)
            config = load_config(self.path(f"{name}.toml"), environment={})
            cluster = config.get_cluster(NAME)
            spec = describe_cluster(cluster)
            places[name] = find_places(config, cluster, secrets)
        self.local = LocalCluster(spec, places, directory, user=user, clock=clock)

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    # -- the story ---------------------------------------------------------------------------------------------------

    def run(self) -> FailoverResult:
        began = self.clock.monotonic()
        up, first = self._come_up()
        handover, first = self._hand_over(first)
        second, gap, lost = self._lose(first)
        rejoin = self._rejoin(first)
        restore, wanted, rows = self._take_back(second)
        return FailoverResult(
            up_seconds=up,
            handover_seconds=handover,
            first=first.name,
            second=second.name,
            gap_seconds=gap,
            acknowledged=len(self.acknowledged),
            lost=lost,
            rejoin_seconds=rejoin,
            restore_seconds=restore,
            rows_wanted=wanted,
            rows=rows,
            total_seconds=self.clock.monotonic() - began,
        )

    def _come_up(self) -> tuple[float, HaNode]:
        self.tell("three servers under Patroni, etcd and a proxy, from nothing")
        began = self.clock.monotonic()
        for name in _NODES:
            for planned in plan_files(self.local.spec, self.local.spec.get_node(name), self.local.places[name]):
                write_file(planned, self.user)
        self.local.start_all(proxy=True)
        self.local.wait_healthy(timeout_seconds=_UP_SECONDS)
        seconds = self.clock.monotonic() - began
        leader = self._leader()
        self.tell(f"{leader.name} leads, the others stream, after {seconds:.1f} s")
        self._command(leader, "init", NAME, "--apply", "--no-encryption")
        self._execute(leader, "CREATE TABLE orders (id bigint PRIMARY KEY)")
        self._command(leader, "backup", NAME)
        self.tell("it has a repository and a backup")
        return seconds, leader

    def _hand_over(self, first: HaNode) -> tuple[float, HaNode]:
        """While a client writes."""
        self._write(1)
        self._longest = 0.0
        with self._begin_command(first, "ha", "switchover", NAME) as process:
            self._write(_BEFORE, until=lambda: process.poll() is not None)
            self._finish_command(process, "switchover")
        self._write(1)
        longest = self._longest
        second = self._leader(other_than=first)
        self.tell(f"{first.name} hands over to {second.name}; the client had to wait {longest:.1f} s at most")
        self.local.wait_healthy(timeout_seconds=_UP_SECONDS)
        return longest, second

    def _lose(self, first: HaNode) -> tuple[HaNode, float, int]:
        self._write(_BEFORE)
        self.tell(
            f"a client has {len(self.acknowledged)} orders acknowledged, through the proxy; {first.name} is killed"
        )
        self.local.kill(first)
        self._longest = 0.0
        self._write(_AFTER)
        gap = self._longest
        second = self._leader(other_than=first)
        there = {row[0] for row in self._execute(second, "SELECT id FROM orders")}
        lost = len(set(self.acknowledged) - there)
        self.tell(f"{second.name} leads; the client went on after {gap:.1f} s, and lost {lost} acknowledged orders")
        return second, gap, lost

    def _rejoin(self, first: HaNode) -> float:
        began = self.clock.monotonic()
        self.local.start(first, "patroni")
        self.local.wait_healthy(timeout_seconds=_UP_SECONDS)
        seconds = self.clock.monotonic() - began
        self.tell(f"{first.name} is started again, and follows after {seconds:.1f} s")
        return seconds

    def _take_back(self, leader: HaNode) -> tuple[float, int, dict[str, int]]:
        wanted = int(self._execute(leader, "SELECT count(*) FROM orders")[0][0])
        lsn = str(self._execute(leader, "SELECT pg_current_wal_insert_lsn()")[0][0])
        self._execute(leader, "DELETE FROM orders")
        self._execute(leader, "SELECT pg_switch_wal()")
        self.tell(f"all {wanted} orders are deleted by mistake; the whole cluster is taken back to before that")
        began = self.clock.monotonic()
        others = [node for node in self.local.spec.servers if node.name != leader.name]
        for node in (*others, leader):
            self.local.stop(node)
        self._command(leader, "ha", "restore", NAME, "--node", leader.name, "--target-lsn", lsn)
        self.local.start(leader, "patroni")
        self._leader()
        for node in others:
            self.local.start(node, "patroni")
        self.local.wait_healthy(timeout_seconds=_UP_SECONDS)
        seconds = self.clock.monotonic() - began
        rows = {
            node.name: int(self._execute(node, "SELECT count(*) FROM orders")[0][0]) for node in self.local.spec.servers
        }
        self.tell(f"after {seconds:.1f} s every node has them again: {rows}")
        return seconds, wanted, rows

    # -- a client ----------------------------------------------------------------------------------------------------

    def _write(self, count: int, until: Callable[[], bool] = lambda: True) -> None:
        """Have orders acknowledged through the proxy, at least ``count`` of them and until something is so, with a new
        connection whenever one is lost."""
        import psycopg

        goal = len(self.acknowledged) + count

        def is_enough() -> bool:
            return len(self.acknowledged) >= goal and until()

        conninfo = f"host=127.0.0.1 port={self.proxy_ports[0]} connect_timeout={_CONNECT_SECONDS} {self._login}"
        number = self.acknowledged[-1] if self.acknowledged else 0
        deadline = self.clock.monotonic() + _UP_SECONDS
        while not is_enough():
            if self.clock.monotonic() > deadline:
                raise ServerUnsuitable(f"the client could not write any more: {self._refusal}", detail=self.read_logs())
            try:
                with psycopg.connect(conninfo, autocommit=True) as connection:
                    while not is_enough():
                        number += 1  # never twice the same: a commit whose answer was lost may be there
                        connection.execute("INSERT INTO orders VALUES (%s)", [number])
                        self.acknowledged.append(number)
                        now = self.clock.monotonic()
                        self._longest, self._last = max(self._longest, now - self._last), now
                        self.clock.sleep(_PAUSE_SECONDS)
            except psycopg.Error as error:
                self._refusal = " ".join(str(error).split())
                self.clock.sleep(_RETRY_SECONDS)

    @property
    def _login(self) -> str:
        return f"user=postgres dbname=postgres password={self.password}"

    def _execute(self, node: HaNode, query: str) -> list[tuple[Any, ...]]:
        import psycopg

        conninfo = f"host={node.address} port={node.port} {self._login}"
        with psycopg.connect(conninfo, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def _leader(self, *, other_than: HaNode | None = None) -> HaNode:
        def find() -> HaNode | None:
            found = self.local.leader()
            return None if found is None or (other_than is not None and found.name == other_than.name) else found

        leader = self.local.wait_for(find, "a primary", _UP_SECONDS)
        assert leader is not None
        return leader

    # -- files and commands ------------------------------------------------------------------------------------------

    def _command(self, node: HaNode, *words: str) -> None:
        with self._begin_command(node, *words) as process:
            self._finish_command(process, shlex.join(words))

    def _begin_command(self, node: HaNode, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.program, "--config", self.path(f"{node.name}.toml"), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "HOME": self.directory},
            **child_identity(self.user),
        )

    @staticmethod
    def _finish_command(process: subprocess.Popen[str], what: str) -> None:
        """Raises ServerUnsuitable when it fails."""
        try:
            _, told = process.communicate(timeout=_COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        if process.returncode not in (0, 3):
            raise ServerUnsuitable(f"{what} failed with status {process.returncode}", detail=told.strip() or None)

    def read_logs(self) -> str:
        """The end of each service's log, for a failure."""
        text = ""
        for path in sorted(entry.path for entry in os.scandir(self.directory) if entry.name.endswith(".log")):
            with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
                text += f"{os.path.basename(path)}: {' '.join(file.read()[-500:].split())}\n"
        return text

    def _render_config(self, name: str) -> str:
        ha = {
            "durability": "quorum",
            "fencing": "none",
            "check_every": "2s",
            "secrets": self.path("secrets.toml"),
            "directory": self.path("ha"),
            "unit_directory": self.path("units"),
            "service_user": self.user.name if self.user is not None else _own_name(),
            "proxy": True,
            "proxy_write_port": self.proxy_ports[0],
            "proxy_read_port": self.proxy_ports[1],
            "parameters": ["shared_buffers = 16MB", "max_connections = 30"],
        }
        cluster = {
            "data_directory": self.path(f"{name}/data"),
            "conninfo": f"host={self.path(name)} port={self.ports[name][0]} user=postgres dbname=postgres",
            "pg_bin": self.programs.bin_dir,
            "program": shlex.join(self.program),
            "state_directory": self.path(f"{name}/state"),
        }
        lines = [f'[repository.main]\nurl = "file://{self.path("repository")}"', f"[cluster.{NAME}]", *_toml(cluster)]
        lines += [f"[cluster.{NAME}.ha]", *_toml(ha)]
        for one, (port, rest, client, peer) in self.ports.items():
            node = {"name": one, "address": "127.0.0.1", "port": port, "rest_port": rest}
            etcd = {"etcd": one == _NODES[0], "etcd_port": client, "etcd_peer_port": peer}
            lines += [f"[[cluster.{NAME}.ha.node]]", *_toml({**node, **etcd})]
        return "\n".join(lines) + "\n"


def _own_name() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _take_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _toml(values: dict[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]
