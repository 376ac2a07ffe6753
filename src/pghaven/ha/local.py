"""A whole cluster on this host: for the demonstration, and for tests of what is generated.

The one idea: each service is started with exactly the command that its unit has, in an environment as empty as a
unit's, as the servers' user; and everything that was started is ended by its process id.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Literal, TypeVar

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import Cancelled, ServerUnsuitable
from pghaven.ha.etcd import Etcd
from pghaven.ha.rest import RestApi
from pghaven.ha.services import render_etcd_command, render_patroni_command, render_proxy_command
from pghaven.ha.spec import HaNode, HaSpec, LocalPlaces
from pghaven.server.identity import OsUser, child_identity
from pghaven.server.postmaster import is_alive, list_server_processes

Service = Literal["etcd", "patroni", "proxy"]
Result = TypeVar("Result")

_POLL_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 60.0
_PROGRAMS: Final = ("etcd", "haproxy")


def find_missing_programs() -> list[str]:
    """What is needed of the distribution and is not here."""
    return [name for name in _PROGRAMS if find_system_program(name) is None]


def find_system_program(name: str) -> str | None:
    """A program of the distribution, where administrators' programs are too."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class LocalCluster:
    """The processes of a cluster's nodes. ``places`` has an entry for each node; ``directory`` takes etcd's data and
    the logs, and belongs to ``user``."""

    def __init__(
        self,
        spec: HaSpec,
        places: Mapping[str, LocalPlaces],
        directory: str,
        *,
        user: OsUser | None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.spec = spec
        self.places = places
        self.directory = directory
        self.user = user
        self.clock = clock
        self.api = RestApi(next(iter(places.values())).secrets.rest, timeout_seconds=3.0)
        self._processes: dict[tuple[str, Service], subprocess.Popen[bytes]] = {}

    # -- starting ----------------------------------------------------------------------------------------------------

    def start_all(self, *, proxy: bool = False) -> None:
        """Start every service of every node; waits for etcd alone, as the units do: Patroni would wait longer."""
        for node in self.spec.dcs_members:
            self.start(node, "etcd")
        etcd = Etcd(self.spec.dcs_hosts, self.spec.cluster)
        self.wait_for(lambda: not etcd.find_silent(), "etcd")
        for node in self.spec.servers:
            self.start(node, "patroni")
        if proxy:
            self.start(self.spec.servers[0], "proxy")

    def start(self, node: HaNode, service: Service, more_environment: Mapping[str, str] | None = None) -> None:
        """Start one service of a node; its output goes to ``log_path``."""
        places = self.places[node.name]
        if service == "etcd":
            data = f"{self.directory}/etcd-{node.name}"
            words = render_etcd_command(self.spec, node, data, find_system_program("etcd") or "etcd")
        elif service == "patroni":
            words = render_patroni_command(places, node)
        else:
            words = render_proxy_command(places, node, find_system_program("haproxy") or "haproxy")
        setpriv = shutil.which("setpriv")
        launcher = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
        with open(self.log_path(node, service), "ab") as log:
            self._processes[node.name, service] = subprocess.Popen(
                [*launcher, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment(places), **(more_environment or {})},
                start_new_session=True,
                **child_identity(self.user),
            )

    def environment(self, places: LocalPlaces) -> dict[str, str]:
        """What a service is started with: as little as a unit gives."""
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
        if self.user is not None:
            environment |= {"HOME": self.user.home, "USER": self.user.name, "LOGNAME": self.user.name}
        libraries = os.path.join(os.path.dirname(places.bin_directory), "lib")
        if os.path.exists(os.path.join(libraries, "libpq.so.5")):
            # Of programs that are in no system directory, such as those of a wheel.
            environment["LD_LIBRARY_PATH"] = libraries
        return environment

    # -- ending ------------------------------------------------------------------------------------------------------

    def stop(self, node: HaNode, service: Service = "patroni") -> None:
        """Have a service end as its unit would, and wait for it; Patroni stops its server. Nothing running is fine."""
        process = self._processes.pop((node.name, service), None)
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
            process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self, node: HaNode, *, server: bool = True, service: Service = "patroni") -> None:
        """End a service at once, as a crash would; of Patroni also the server's processes, unless told otherwise."""
        process = self._processes.pop((node.name, service), None)
        if process is not None:
            process.kill()
            process.wait()
        if service == "patroni" and server:
            self.kill_server(node)

    def kill_server(self, node: HaNode) -> None:
        """End the server's processes at once, as a crash would."""
        for pid in self.list_server_pids(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait_for(lambda: not self.list_server_pids(node), f"the end of {node.name}'s server", 10.0)

    def freeze(self, node: HaNode) -> None:
        """Stop all processes of a node in their tracks; ``thaw`` lets them go on."""
        self._signal_all(node, signal.SIGSTOP)

    def thaw(self, node: HaNode) -> None:
        self._signal_all(node, signal.SIGCONT)

    def _signal_all(self, node: HaNode, number: signal.Signals) -> None:
        patroni = self.pid_of(node, "patroni")
        for pid in [*([] if patroni is None else [patroni]), *self.list_server_pids(node)]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        """End everything that was started here, servers too."""
        for name, service in sorted(self._processes, key=lambda one: one[1] != "patroni"):
            node = self.spec.get_node(name)
            if service == "patroni":
                self.thaw(node)
            self.kill(node, service=service)
        for node in self.spec.servers:
            self.kill_server(node)

    # -- asking ------------------------------------------------------------------------------------------------------

    def pid_of(self, node: HaNode, service: Service) -> int | None:
        process = self._processes.get((node.name, service))
        return None if process is None or process.poll() is not None else process.pid

    def list_server_pids(self, node: HaNode) -> list[int]:
        data = self.places[node.name].data_directory
        return [pid for pid in list_server_processes(data) if is_alive(pid)] if os.path.isdir(data) else []

    def log_path(self, node: HaNode, service: Service) -> str:
        return f"{self.directory}/{node.name}-{service}.log"

    def members(self) -> list[dict[str, object]]:
        """What Patroni says of the members; empty while nobody answers."""
        try:
            found = self.api.ask(self.spec.servers, "/cluster").get("members", [])
        except ServerUnsuitable:
            return []
        return found if isinstance(found, list) else []

    def answers(self, node: HaNode) -> bool:
        """Whether Patroni of a node can be asked."""
        try:
            self.api.call(node, "GET", "/liveness")
        except ServerUnsuitable:
            return False
        return True

    def leader(self) -> HaNode | None:
        """The node that leads and accepts writes, by its own word."""
        for node in self.spec.servers:
            try:
                answer = self.api.call(node, "GET", "/primary")
            except ServerUnsuitable:
                continue
            if answer.status == 200 and "location" in (answer.body.get("xlog") or {}):
                return node
        return None

    def is_healthy(self, count: int | None = None) -> bool:
        """Whether there is a leader and everybody else streams; ``count`` members, by default all.

        Where commits wait for a standby, one is noted to be waited for too: until then none takes over by itself.
        """
        members = self.members()
        leaders = [one for one in members if one.get("role") in ("leader", "standby_leader")]
        states = [one.get("state") for one in members if one not in leaders]
        if self.spec.followed is None and any(one.get("state") != "running" for one in leaders):
            return False
        wanted = len(self.spec.servers) if count is None else count
        following = "streaming" if self.spec.followed is None else "in archive recovery"
        standbys = states.count("streaming") + (states.count(following) if following != "streaming" else 0)
        waits = self.spec.durability != "async" and self.spec.followed is None and wanted > 1
        if waits and not any(one.get("role") in ("sync_standby", "quorum_standby") for one in members):
            return False
        return len(leaders) == 1 and len(members) == wanted and standbys >= wanted - 1

    def wait_for(self, condition: Callable[[], Result], what: str, timeout_seconds: float = 60.0) -> Result:
        """The first true result. Raises Cancelled when it does not come."""
        deadline = self.clock.monotonic() + timeout_seconds
        while not (result := condition()):
            if self.clock.monotonic() > deadline:
                raise Cancelled(f"waited {timeout_seconds:g} s in vain for {what}")
            self.clock.sleep(_POLL_SECONDS)
        return result

    def wait_healthy(self, count: int | None = None, timeout_seconds: float = 60.0) -> float:
        """Seconds it took."""
        began = self.clock.monotonic()
        self.wait_for(lambda: self.is_healthy(count), "a healthy cluster", timeout_seconds)
        return self.clock.monotonic() - began
