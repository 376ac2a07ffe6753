"""What runs beside Patroni, and how it is all started: etcd's command, HAProxy's file, the units of systemd.

The one idea: each service is one command line, made here once; the unit, the demonstration and the tests start the very
same.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from pghaven.ha.patroni_file import FILE_NAME
from pghaven.ha.spec import HaNode, HaSpec, LocalPlaces, render_host

PROXY_FILE: Final = "haproxy.cfg"
_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+", re.ASCII)
# A password in the environment goes before Patroni's own file of passwords, and every login of a standby fails.
_MISLEADING: Final = (
    "PGPASSWORD",
    *("PGPASSFILE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE", "PGOPTIONS", "PGSERVICE"),
    *("PGSERVICEFILE", "PGSYSCONFDIR", "PGREQUIREAUTH", "PGCHANNELBINDING", "PGAPPNAME", "PGCLIENTENCODING"),
    *("PGSSLMODE", "PGSSLNEGOTIATION", "PGSSLCOMPRESSION", "PGSSLCERT", "PGSSLKEY", "PGSSLCERTMODE", "PGSSLROOTCERT"),
    *("PGSSLCRL", "PGSSLCRLDIR", "PGSSLSNI", "PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION", "PGREQUIRESSL"),
    *("PGREQUIREPEER", "PGGSSENCMODE", "PGKRBSRVNAME", "PGGSSLIB", "PGGSSDELEGATION", "PGCONNECT_TIMEOUT"),
    *("PGTARGETSESSIONATTRS", "PGLOADBALANCEHOSTS", "PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION"),
    *("PGDATESTYLE", "PGTZ", "PGGEQO"),
)
_STOP_SECONDS: Final = 100
"""Less than the unit's own limit."""


def render_etcd_command(spec: HaSpec, node: HaNode, data_directory: str, program: str = "/usr/bin/etcd") -> list[str]:
    """The words that start a node's member of etcd. Pure."""

    def peer(one: HaNode) -> str:
        return f"http://{render_host(one.address)}:{one.etcd_peer_port}"

    client = f"http://{render_host(node.address)}:{node.etcd_port}"
    options = {
        "name": node.name,
        "data-dir": data_directory,
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer(node),
        "initial-advertise-peer-urls": peer(node),
        "initial-cluster": ",".join(f"{one.name}={peer(one)}" for one in spec.dcs_members),
        "initial-cluster-token": f"pghaven-{spec.cluster}",
        "initial-cluster-state": "new",
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
    }
    return [program, *(word for name, value in options.items() for word in (f"--{name}", value))]


def render_patroni_command(places: LocalPlaces, node: HaNode) -> list[str]:
    return [*places.engine, places.path(node, FILE_NAME)]


def render_proxy_command(places: LocalPlaces, node: HaNode, program: str = "/usr/sbin/haproxy") -> list[str]:
    return [program, "-db", "-f", places.path(node, PROXY_FILE)]


def render_proxy_file(spec: HaSpec, node: HaNode) -> str:
    """HAProxy's configuration: one port to the primary, one to the standbys. Pure.

    Which is which it asks Patroni every second. Two lost answers make a server unusable, not one; its sessions end
    then, because a client must not go on talking to a primary that is none any more.
    """
    lag = f"{spec.proxy_max_lag >> 10}kB"
    lines = [
        "# Written by: pghaven ha apply. Changes are lost; change the configuration of pghaven and apply it.",
        "defaults",
        "    mode tcp",
        "    retries 2",
        "    option redispatch",
        "    timeout connect 4s",
        "    timeout client 12h",
        "    timeout server 12h",
        "    timeout check 3s",
    ]
    lines += _render_listen("primary", spec.proxy_write_port, "/primary", spec.servers, node)
    readers = [one for one in spec.servers if one.balance and one.delay_seconds is None]
    lines += _render_listen("standbys", spec.proxy_read_port, f"/replica?lag={lag}", readers, node)
    return "\n".join(lines) + "\n"


def _render_listen(name: str, port: int, question: str, servers: Sequence[HaNode], node: HaNode) -> list[str]:
    return [
        f"listen {name}",
        f"    bind {node.address}:{port}",
        f"    option httpchk OPTIONS {question}",
        "    http-check expect status 200",
        "    default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions",
        *(f"    server {one.name} {render_host(one.address)}:{one.port} check port {one.rest_port}" for one in servers),
    ]


# -- units -----------------------------------------------------------------------------------------------------------


def unit_name(service: str, spec: HaSpec, node: HaNode) -> str:
    return f"pghaven-{service}-{spec.cluster}-{node.name}.service"


def render_patroni_unit(spec: HaSpec, node: HaNode, places: LocalPlaces) -> str:
    """Patroni's unit. When it ends without having been told to, its server runs on and is taken over at the restart."""
    lines = {
        "Type": "simple",
        "User": places.service_user,
        "ExecStart": _join(render_patroni_command(places, node)),
        "ExecReload": "/bin/kill -HUP $MAINPID",
        "UnsetEnvironment": " ".join(_MISLEADING),
        "ExecStopPost": f"-/bin/sh -c {_quote(_render_stop(places))}",
        "KillMode": "process",
        "Restart": "on-failure",
        "RestartSec": "2",
        "TimeoutStopSec": "120",
        "LimitNOFILE": "65536",
        "UMask": "0077",
    }
    before = []
    if spec.fencing != "none":
        # The watchdog's device is root's; without a module for one there is none, which `ha check` tells.
        device = f"modprobe softdog; chown {places.service_user} /dev/watchdog"
        before = [f"ExecStartPre=-+/bin/sh -c {_quote(device)}"]
    # Patroni waits five seconds each time that it finds no etcd that answers.
    after = (unit_name("etcd", spec, node),) if node in spec.dcs_members else ()
    return _render_unit(f"Patroni of the PostgreSQL cluster {spec.cluster}, node {node.name}", lines, before, after)


def _render_stop(places: LocalPlaces) -> str:
    """What ends the server of a Patroni that hung when it was to stop, and was killed for it: nobody would look after
    that server any more, and it would go on taking writes. A Patroni that ended otherwise has done what it should."""
    words = [
        f"{places.bin_directory}/pg_ctl",
        "stop",
        "-D",
        places.data_directory,
        "-m",
        "fast",
        "-t",
        f"{_STOP_SECONDS}",
    ]
    return f'[ "$SERVICE_RESULT" != timeout ] || exec {shlex.join(words)}'


def render_etcd_unit(spec: HaSpec, node: HaNode, places: LocalPlaces) -> str:
    directory = f"/var/lib/pghaven-etcd/{spec.cluster}-{node.name}"
    lines = {
        "Type": "notify",
        "User": places.service_user,
        "StateDirectory": f"pghaven-etcd/{spec.cluster}-{node.name}",
        "ExecStart": _join(render_etcd_command(spec, node, directory)),
        "Restart": "always",
        "RestartSec": "2",
        "LimitNOFILE": "65536",
        "UMask": "0077",
    }
    return _render_unit(f"etcd of the PostgreSQL cluster {spec.cluster}, node {node.name}", lines, [])


def render_proxy_unit(spec: HaSpec, node: HaNode, places: LocalPlaces) -> str:
    lines = {
        "Type": "simple",
        "DynamicUser": "yes",
        "LimitNOFILE": "65536",
        "ExecStart": _join(render_proxy_command(places, node)),
        "Restart": "always",
        "RestartSec": "1",
    }
    return _render_unit(f"The way to the primary of the PostgreSQL cluster {spec.cluster}", lines, [])


def _render_unit(description: str, lines: Mapping[str, str], before: Sequence[str], after: Sequence[str] = ()) -> str:
    return "\n".join(
        [
            "# Written by: pghaven ha apply. Changes are lost.",
            "[Unit]",
            f"Description={description}",
            "Wants=network-online.target",
            " ".join(["After=network-online.target local-fs.target", *after]),
            "",
            "[Service]",
            *before,
            *(f"{name}={value}" for name, value in lines.items()),
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )


def _join(words: Sequence[str]) -> str:
    return " ".join(_quote(word) for word in words)


def _quote(word: str) -> str:
    """A word as systemd.service(5) has it."""
    doubled = word.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(word):
        return doubled
    return '"' + doubled.replace("\\", "\\\\").replace('"', '\\"') + '"'
