"""The options of a cluster that fails over by itself: ``[cluster.NAME.ha]`` and its nodes, a part of ``values``.

The one idea: one description of the whole cluster, the same on every node; what Patroni, etcd and the proxy are told is
derived from it, and what cannot work is refused here, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pghaven.config.schema import (
    DIRECTORY,
    DURATION,
    FILE,
    SIZE,
    SWITCH,
    TEXT,
    TEXTS,
    Invalid,
    Kind,
    count,
    option,
    render_value,
)
from pghaven.light import dataclass, pattern

LEASE_SECONDS_MIN: Final = 20
DURABILITIES: Final = ("async", "sync", "quorum", "strict")
FENCINGS: Final = ("watchdog-required", "watchdog", "none")
SOURCES: Final = ("repository", "basebackup")

_PORT: Final = count(1, 65535)
_NAME: Final = pattern(r"[a-z0-9][a-z0-9_-]{0,62}")


def _choice(names: tuple[str, ...]) -> Kind:
    def parse(value: object) -> str:
        if value not in names:
            raise Invalid(f"must be one of {', '.join(names)}, not {render_value(value)}")
        return str(value)

    return Kind(written=f"one of {', '.join(names)}", parse=parse)


def _parse_node_name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Invalid('must be 1 to 63 lower-case letters, digits, "-" and "_", and begin with a letter or digit')
    return value


def _parse_sources(value: object) -> tuple[str, ...]:
    found: tuple[str, ...] = TEXTS.parse(value)
    if not found or len(set(found)) != len(found) or not set(found) <= set(SOURCES):
        raise Invalid(f"must be a list of {' and '.join(SOURCES)}, not {render_value(value)}")
    return found


_SOURCES: Final = Kind(
    written=f"list of {' and '.join(SOURCES)}", parse=_parse_sources, from_text=lambda text: text.split(",")
)
_NODE_NAME: Final = Kind(written='lower-case letters, digits, "-" and "_"', parse=_parse_node_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class HaNodeConfig:
    """One node: a host with a server, Patroni, and often etcd."""

    name: str = option(_NODE_NAME, required=True, doc="The node's name, unique in the cluster.", example='"db1"')
    address: str = option(
        TEXT,
        required=True,
        doc="The address at which the other nodes and the clients reach it, without a port.",
        example='"10.0.0.11"',
    )
    port: int = option(_PORT, default=5432, doc="The server's port.", example="5433")
    rest_port: int = option(_PORT, default=8008, doc="The port of Patroni's REST interface.", example="8009")
    etcd: bool = option(
        SWITCH,
        default=True,
        doc="Whether a member of etcd runs here. Counts only where `dcs` is not given.",
        example="false",
    )
    etcd_port: int = option(_PORT, default=2379, doc="The port of etcd for clients.", example="2479")
    etcd_peer_port: int = option(_PORT, default=2380, doc="The port of etcd for its members.", example="2480")
    witness: bool = option(
        SWITCH,
        default=False,
        doc="Whether the node has no server, only a member of etcd: a third vote for two servers.",
        example="true",
    )
    priority: int = option(
        count(0, 1000),
        default=1,
        doc="Which node is promoted among those that are equally far: the highest. 0 is never promoted.",
        example="2",
    )
    sync: bool = option(
        SWITCH,
        default=True,
        doc="Whether the node may be a synchronous standby and count in a quorum.",
        example="false",
    )
    balance: bool = option(SWITCH, default=True, doc="Whether the proxy sends readers here.", example="false")
    delay_seconds: float | None = option(
        DURATION,
        default_words="no delay",
        doc=(
            "How far this standby's replay is held behind the primary, so that a mistake can be undone from it. Such a "
            "node is never promoted, never synchronous, and gets no readers."
        ),
        example='"4h"',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HaConfig:
    """Without nodes the cluster is not run by Patroni."""

    durability: str = option(
        _choice(DURABILITIES),
        default="quorum",
        doc=(
            "What a commit waits for. `async`: for its own disk; what a failover loses is what no standby had yet. "
            "`sync`: for one standby, chosen by Patroni; without any it goes on alone. `quorum`: for as many of all "
            "standbys as `synchronous_nodes` says; without any it goes on alone. `strict`: as `sync`, and without a "
            "standby nothing is committed. A client that cancels a waiting commit has it all the same, on one node."
        ),
        example='"strict"',
    )
    synchronous_nodes: int = option(
        count(1, 8), default=1, doc="How many standbys a commit waits for, unless `durability` is `async`.", example="2"
    )
    failover_after_seconds: float = option(
        DURATION,
        default="20s",
        doc=(
            "How long the primary's lease holds (Patroni's `ttl`): so long after it was last renewed another node may "
            "take over. At most 7s + `check_every` + `retry_timeout` later it has; where the primary was cut off, or "
            "etcd's leader was on its host, 3s and both of these more. `ha plan` shows the sums. At least 20s."
        ),
        example='"30s"',
    )
    check_every_seconds: float | None = option(
        DURATION,
        default_words="a quarter of `failover_after`, at most 10s",
        doc=(
            "How often each node looks after itself and renews its lease (`loop_wait`). With `retry_timeout`, which is "
            "no shorter than 3s and otherwise the same, `check_every` + 2 * `retry_timeout` stays within "
            "`failover_after`."
        ),
        example='"2s"',
    )
    survive_dcs_loss: bool = option(
        SWITCH,
        default=True,
        doc=(
            "Whether the primary goes on when etcd is lost as long as it reaches every other node (`failsafe_mode`). "
            "Otherwise it becomes read-only."
        ),
        example="false",
    )
    max_lag_on_failover: int = option(
        SIZE,
        default="1MiB",
        doc="A standby that is further behind is not promoted by itself. It bounds the loss with `async` only.",
        example='"16MiB"',
    )
    fencing: str = option(
        _choice(FENCINGS),
        default="watchdog",
        doc=(
            "What stops a primary whose Patroni is dead or hangs. `watchdog-required`: the host's watchdog, without "
            "which the node does not lead. `watchdog`: the watchdog where there is one; `ha check` warns where there "
            "is none. `none`: nothing."
        ),
        example='"watchdog-required"',
    )
    dcs: tuple[str, ...] = option(
        TEXTS,
        unset=(),
        default_words="etcd is set up on the nodes",
        doc="HOST:PORT of each member of an etcd that is there already.",
        example='["10.0.0.11:2379", "10.0.0.12:2379", "10.0.0.13:2379"]',
    )
    secrets: str | None = option(
        FILE,
        default_words="none: the option is required where there are nodes",
        doc=(
            "A TOML file with the passwords `superuser`, `replication` and `rest`, the same on every node, readable "
            "by the service's user alone. `pghaven ha apply --make-secrets` writes one."
        ),
        example='"/etc/pghaven/shop.secrets.toml"',
    )
    directory: str = option(
        DIRECTORY,
        default="/etc/pghaven/ha",
        doc="Where `pghaven ha apply` writes what it generates: in CLUSTER/NODE below it.",
        example='"/srv/pghaven/ha"',
    )
    unit_directory: str = option(
        DIRECTORY,
        default="/etc/systemd/system",
        doc="Where it writes the units of systemd.",
        example='"/usr/local/lib/systemd/system"',
    )
    engine: str | None = option(
        DIRECTORY,
        default_words="beside the interpreter that runs pghaven",
        doc="The directory of the programs `patroni` and `patronictl`.",
        example='"/opt/pghaven/bin"',
    )
    service_user: str = option(
        TEXT, default="postgres", doc="The operating-system user of Patroni and its server.", example='"pg"'
    )
    superuser: str = option(
        TEXT, default="postgres", doc="The role Patroni manages the server with.", example='"admin"'
    )
    replication_user: str = option(
        TEXT, default="replicator", doc="The role the standbys connect as.", example='"standby"'
    )
    replica_sources: tuple[str, ...] = option(
        _SOURCES,
        unset=SOURCES,
        default_words="first the repository, then the primary",
        doc="Where a new standby, or one that cannot be rewound, is made from, in this order.",
        example='["basebackup"]',
    )
    hba: tuple[str, ...] = option(
        TEXTS,
        unset=("host all all samenet scram-sha-256",),
        default_words="`host all all samenet scram-sha-256`",
        doc=(
            "Lines of `pg_hba.conf` for clients. Those that the nodes themselves need come before them and are made "
            "from the nodes' addresses."
        ),
        example='["hostssl all all 10.0.0.0/8 scram-sha-256"]',
    )
    parameters: tuple[str, ...] = option(
        TEXTS,
        unset=(),
        default_words="PostgreSQL's own",
        doc="Settings of the servers beyond those that a failover needs, as `name = value`.",
        example='["shared_buffers = 4GB"]',
    )
    proxy: bool = option(
        SWITCH,
        default=False,
        doc="Whether HAProxy is set up on each node, to lead clients to the primary.",
        example="true",
    )
    proxy_write_port: int = option(_PORT, default=5000, doc="Its port to the primary.", example="6432")
    proxy_read_port: int = option(_PORT, default=5001, doc="Its port to the standbys.", example="6433")
    proxy_max_lag: int = option(
        SIZE, default="16MiB", doc="A standby that is further behind gets no readers.", example='"1MiB"'
    )
    follow: str | None = option(
        TEXT,
        default_words="the cluster is one of its own",
        doc=(
            "Another cluster of this file, whose backups and WAL this one is made from and follows without a "
            "connection to it: for a second site. `pghaven ha promote` makes it a cluster of its own."
        ),
        example='"shop"',
    )
    follow_delay_seconds: float | None = option(
        DURATION, default_words="no delay", doc="How far it stays behind the cluster it follows.", example='"1h"'
    )
    node: tuple[HaNodeConfig, ...] = ()

    @property
    def is_configured(self) -> bool:
        return bool(self.node)


NO_HA = HaConfig()


def find_problems(ha: HaConfig) -> Iterator[tuple[str, str]]:
    """(option, what is wrong with it) for values that are fine by themselves and cannot work together. Pure."""
    if not ha.is_configured:
        return
    if ha.secrets is None:
        yield "node", 'needs "secrets", the file of the passwords that the nodes use'
    yield from _find_timing_problems(ha)
    yield from _find_node_problems(ha)
    for text in ha.parameters:
        if not re.fullmatch(r"[a-z_][a-z0-9_.]*\s*=.*", text):
            yield "parameters", f'"parameters" has "{text}", which is not written as "name = value"'


def _find_timing_problems(ha: HaConfig) -> Iterator[tuple[str, str]]:
    lease, check = ha.failover_after_seconds, ha.check_every_seconds
    if lease is not None and lease < LEASE_SECONDS_MIN:
        yield (
            "failover_after",
            f'"failover_after" is {lease:g} s, but Patroni raises every lease below {LEASE_SECONDS_MIN} s to that: '
            "a shorter one would take a short pause of the host for its death",
        )
    elif lease is not None and check is not None and check + 2 * max(3.0, check) > lease:
        yield (
            "check_every",
            f'"check_every" is {check:g} s, but three of it must fit into "failover_after", which is {lease:g} s: '
            "otherwise a healthy primary could lose its lease",
        )


def _find_node_problems(ha: HaConfig) -> Iterator[tuple[str, str]]:
    names = [node.name for node in ha.node]
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        yield "node", f'two nodes have the name "{name}"'
    taken: dict[tuple[str, int], str] = {}
    slots = {name: name.replace("-", "_") for name in dict.fromkeys(names)}
    for name, slot in slots.items():
        first = next(one for one in slots if slots[one] == slot)
        if first != name:
            yield "node", f'the nodes "{first}" and "{name}" would have one replication slot, "{slot}", between them'
    for node in ha.node:
        ports = [] if node.witness else [node.port, node.rest_port]
        ports += [node.etcd_port, node.etcd_peer_port] if node.etcd and not ha.dcs else []
        for port in ports:
            other = taken.setdefault((node.address, port), node.name)
            if other != node.name or ports.count(port) > 1:
                yield "node", f'port {port} of {node.address} is given to "{other}" and to "{node.name}"'
    servers = [node for node in ha.node if not node.witness]
    if not [node for node in servers if node.priority and node.delay_seconds is None]:
        yield "node", "no node may lead: each is a witness, delayed, or has priority 0"
    members = [node for node in ha.node if node.etcd] if not ha.dcs else []
    if not ha.dcs and not members:
        yield "node", 'there is no etcd: no node has "etcd", and "dcs" is not given'
