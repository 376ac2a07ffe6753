"""What one cluster under Patroni is: its nodes, its promises, and where things are on this host.

The one idea: everything that is generated is a pure function of these values, so a plan can be shown, compared and
tested without a host it is for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pghaven.errors import NotFound

Durability = Literal["async", "sync", "quorum", "strict"]
Fencing = Literal["watchdog-required", "watchdog", "none"]

NAMESPACE: Final = "/pghaven/"
REST_USER: Final = "pghaven"
RETRY_SECONDS_MIN: Final = 3
# etcd looks for ended leases twice a second; Patroni waits 2 s for what the others answer; the hook before a promotion
# has 2 s, and as many to start and end in.
_EXPIRY_SECONDS, _ASK_SECONDS, _HOOK_SECONDS = 1, 2, 4
# An etcd that has lost its leader elects another within 2 s, which counts all leases anew, and a second on top.
_ELECTION_SECONDS: Final = 3
_CHECK_SECONDS_MAX: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class HaNode:
    name: str
    address: str
    port: int = 5432
    rest_port: int = 8008
    etcd: bool = True
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    witness: bool = False
    priority: int = 1
    sync: bool = True
    balance: bool = True
    delay_seconds: float | None = None

    @property
    def may_lead(self) -> bool:
        return not self.witness and self.priority > 0 and self.delay_seconds is None

    @property
    def may_be_sync(self) -> bool:
        return not self.witness and self.sync and self.delay_seconds is None

    @property
    def rest_url(self) -> str:
        return f"http://{render_host(self.address)}:{self.rest_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    superuser: str
    replication: str
    rest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Patroni's three times, in whole seconds; ``loop + 2 * retry <= ttl``."""

    ttl: int
    loop: int
    retry: int

    @property
    def takeover_seconds(self) -> int:
        """At most so long after a primary died another one is promoted: the lease ends, is seen to have ended at the
        next look at the latest, the others are asked, the lead is taken with retries, the hook is called."""
        return self.ttl + _EXPIRY_SECONDS + self.loop + _ASK_SECONDS + self.retry + _HOOK_SECONDS

    @property
    def takeover_of_cut_off_seconds(self) -> int:
        """The same where it was cut off, or etcd's leader was on its host: what it renews may still come in until it
        has given up, or an etcd that elects counts its lease anew."""
        return self.takeover_seconds + self.loop + self.retry + _ELECTION_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """The cluster in the repository that a second site follows, and by how much it stays behind."""

    cluster: str
    delay_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HaSpec:
    """One cluster, the same on every node. ``dcs``: HOST:PORT of an etcd that is there; empty: it runs on the nodes."""

    cluster: str
    nodes: tuple[HaNode, ...]
    durability: Durability = "quorum"
    synchronous_nodes: int = 1
    timing: Timing
    survive_dcs_loss: bool = True
    max_lag_on_failover: int = 1 << 20
    fencing: Fencing = "watchdog"
    dcs: tuple[str, ...] = ()
    superuser: str = "postgres"
    replication_user: str = "replicator"
    replica_sources: tuple[str, ...] = ("repository", "basebackup")
    hba: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    proxy: bool = False
    proxy_write_port: int = 5000
    proxy_read_port: int = 5001
    proxy_max_lag: int = 16 << 20
    followed: Followed | None = None

    @property
    def servers(self) -> tuple[HaNode, ...]:
        """The nodes that have a server."""
        return tuple(node for node in self.nodes if not node.witness)

    @property
    def dcs_members(self) -> tuple[HaNode, ...]:
        """The nodes that run a member of the cluster's own etcd; none where an etcd is given."""
        return () if self.dcs else tuple(node for node in self.nodes if node.etcd)

    @property
    def dcs_hosts(self) -> tuple[str, ...]:
        return self.dcs or tuple(f"{render_host(node.address)}:{node.etcd_port}" for node in self.dcs_members)

    def get_node(self, name: str) -> HaNode:
        """Raises NotFound."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(f'"{node.name}"' for node in self.nodes)
        raise NotFound(f'cluster "{self.cluster}" has no node "{name}"', hint=f"There are: {known}.")

    def get_server(self, name: str) -> HaNode:
        """Raises NotFound, for a witness too."""
        node = self.get_node(name)
        if node.witness:
            raise NotFound(f'node "{name}" is a witness: it has no server')
        return node


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlaces:
    """Where things are on the host of one node.

    ``program`` are the words that start pghaven; ``engine`` those that start Patroni, without its file. ``archive`` and
    ``restore`` are the commands that the server calls. ``hooks``: whether pghaven's hooks are called.
    """

    directory: str
    unit_directory: str
    data_directory: str
    bin_directory: str
    major: int
    socket_directory: str
    secrets: Secrets
    service_user: str
    program: tuple[str, ...]
    engine: tuple[str, ...]
    config_path: str
    archive_command: str
    restore_command: str
    hooks: bool = True

    def path(self, node: HaNode, name: str) -> str:
        return f"{self.directory}/{node.name}/{name}"


def derive_timing(failover_after_seconds: float, check_every_seconds: float | None) -> Timing:
    """What "how soon to fail over" means for Patroni. Pure."""
    ttl = round(failover_after_seconds)
    loop = min(_CHECK_SECONDS_MAX, ttl // 4) if check_every_seconds is None else max(1, round(check_every_seconds))
    return Timing(ttl=ttl, loop=loop, retry=max(RETRY_SECONDS_MIN, loop))


def parse_parameters(texts: tuple[str, ...]) -> dict[str, str]:
    """``name = value``, the value with or without PostgreSQL's quotes."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        value = value.strip()
        quoted = re.fullmatch(r"'(.*)'", value)
        found[name.strip()] = quoted[1].replace("''", "'") if quoted else value
    return found


def render_host(address: str) -> str:
    """An address as it stands before a port."""
    return f"[{address}]" if ":" in address else address


def render_mask(address: str) -> str:
    """An address as it stands in ``pg_hba.conf``: alone, without its network; a host name as it is."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return f"{address}/{found.max_prefixlen}"
