"""Patroni's configuration file of one node.

The one idea: it holds what differs from node to node, and names our commands at each place where Patroni hands over:
archiving, fetching WAL, making a standby, and the moments before and after a promotion.
"""

from __future__ import annotations

import ipaddress
import shlex
from typing import Final

from pghaven.ha.dynamic import list_parameters, render_dynamic
from pghaven.ha.spec import NAMESPACE, REST_USER, HaNode, HaSpec, LocalPlaces, render_host, render_mask
from pghaven.ha.yamltext import render_yaml

FILE_NAME: Final = "patroni.yml"
_PRE_PROMOTE_SECONDS: Final = 15
_SUMMARIES_SINCE: Final = 17
_IDENT_MAP: Final = "pghaven"
_HEAD: Final = "# Written by: pghaven ha apply. Changes are lost; change the configuration of pghaven and apply it.\n"
_WATCHDOG_MODES: Final = {"watchdog-required": "required", "watchdog": "automatic", "none": "off"}


def render_patroni_file(spec: HaSpec, node: HaNode, places: LocalPlaces) -> str:
    """The whole file. Pure."""
    return _HEAD + render_yaml(describe_patroni(spec, node, places))


def describe_patroni(spec: HaSpec, node: HaNode, places: LocalPlaces) -> dict[str, object]:
    """The file as values."""
    return {
        "scope": spec.cluster,
        "namespace": NAMESPACE,
        "name": node.name,
        "restapi": {
            "listen": f"{render_host(node.address)}:{node.rest_port}",
            "connect_address": f"{render_host(node.address)}:{node.rest_port}",
            "authentication": {"username": REST_USER, "password": places.secrets.rest},
        },
        "etcd3": {"hosts": list(spec.dcs_hosts)},
        "bootstrap": _describe_bootstrap(spec, places),
        "postgresql": _describe_postgresql(spec, node, places),
        "watchdog": {"mode": _WATCHDOG_MODES[spec.fencing]},
        "tags": _describe_tags(node),
    }


def _describe_bootstrap(spec: HaSpec, places: LocalPlaces) -> dict[str, object]:
    return {
        "dcs": render_dynamic(spec, places),
        "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
    }


def _describe_postgresql(spec: HaSpec, node: HaNode, places: LocalPlaces) -> dict[str, object]:
    described: dict[str, object] = {
        "listen": f"{_listen(node.address)}:{node.port}",
        "connect_address": f"{render_host(node.address)}:{node.port}",
        "data_dir": places.data_directory,
        "bin_dir": places.bin_directory,
        "pgpass": places.path(node, "pgpass"),
        "use_unix_socket": True,
        "authentication": {
            "superuser": {"username": spec.superuser, "password": places.secrets.superuser},
            "replication": {"username": spec.replication_user, "password": places.secrets.replication},
        },
        "parameters": describe_parameters(spec, places),
        "pg_hba": list(render_hba(spec)),
        "pg_ident": [
            f"{_IDENT_MAP} {places.service_user} {spec.superuser}",
            f"{_IDENT_MAP} root {spec.superuser}",
            f"{_IDENT_MAP} /^(.*)$ \\1",
        ],
        "recovery_conf": _describe_recovery(node, places),
    }
    described.update(_describe_sources(spec, node, places))
    if places.hooks:
        described["pre_promote"] = _harmless(_hook(places, "pre-promote", spec.cluster, node))
        changed = _hook(places, "role-change", spec.cluster, node)
        # The first call makes a member of it: from then on a promotion without pre_promote is somebody's mistake.
        described["callbacks"] = {"on_role_change": changed, "on_start": changed}
    return described


def describe_parameters(spec: HaSpec, places: LocalPlaces) -> dict[str, str]:
    """The settings that this node's file gives its server, beside the shared ones. Pure."""
    return {
        "unix_socket_directories": places.socket_directory,
        "archive_command": places.archive_command,
        **_describe_summaries(spec, places),
    }


def list_wanted_settings(spec: HaSpec, places: LocalPlaces) -> dict[str, str]:
    """Every setting of this node's server that the configuration decides, shared ones and its own. Pure."""
    return {**list_parameters(render_dynamic(spec, places)), **describe_parameters(spec, places)}


def _describe_summaries(spec: HaSpec, places: LocalPlaces) -> dict[str, str]:
    """A server that is promoted lets nobody write before the WAL summarizer has reached the end (xlog.c,
    CleanupAfterArchiveRecovery), and an idle one sleeps for up to half a minute (walsummarizer.c)."""
    is_chosen = places.major < _SUMMARIES_SINCE or "summarize_wal" in spec.parameters
    return {} if is_chosen else {"summarize_wal": "off"}


def _describe_recovery(node: HaNode, places: LocalPlaces) -> dict[str, object]:
    recovery: dict[str, object] = {"restore_command": places.restore_command}
    if node.delay_seconds is not None:
        recovery["recovery_min_apply_delay"] = f"{node.delay_seconds:g}s"
    return recovery


def _describe_sources(spec: HaSpec, node: HaNode, places: LocalPlaces) -> dict[str, object]:
    """Where a standby comes from. Patroni removes what a failed method leaves, so ours keeps and retries itself."""
    names = {"repository": "pghaven", "basebackup": "basebackup"}
    methods = [names[one] for one in spec.replica_sources if one != "repository" or places.hooks] or ["basebackup"]
    found: dict[str, object] = {"create_replica_methods": methods, "basebackup": [{"checkpoint": "fast"}]}
    if places.hooks:
        command = _hook(places, "replica", spec.cluster, node)
        found["pghaven"] = {"command": command, "keep_data": True, "no_leader": 1}
    return found


def _harmless(command: str) -> str:
    """A command that always ends well and in time. Patroni gives up a promotion when it fails, again and again, and
    waits for it without limit: a broken installation of pghaven would keep the cluster without a primary."""
    return shlex.join(["/bin/sh", "-c", f"timeout -k 1 {_PRE_PROMOTE_SECONDS} {command} || true"])


def _hook(places: LocalPlaces, name: str, cluster: str, node: HaNode) -> str:
    words = [*places.program, "--config", places.config_path, "ha", "hook", name, cluster, "--node", node.name]
    return shlex.join(words)


def _describe_tags(node: HaNode) -> dict[str, object]:
    tags: dict[str, object] = {"failover_priority": node.priority} if node.may_lead else {"nofailover": True}
    if not node.may_be_sync:
        tags["nosync"] = True
    if not node.balance or node.delay_seconds is not None:
        tags["noloadbalance"] = True
    return tags


def render_hba(spec: HaSpec) -> tuple[str, ...]:
    """The lines of ``pg_hba.conf``: for this host's users, for the nodes, then those for clients. Pure."""
    lines = [f"local all all peer map={_IDENT_MAP}", f"local replication all peer map={_IDENT_MAP}"]
    for mask in dict.fromkeys(render_mask(node.address) for node in spec.servers):
        lines.append(f"host replication {spec.replication_user} {mask} scram-sha-256")
        lines.append(f"host all {spec.superuser} {mask} scram-sha-256")
    lines.append("host all all 127.0.0.1/32 scram-sha-256")
    return (*lines, *spec.hba)


def _listen(address: str) -> str:
    try:
        if ipaddress.ip_address(address).is_loopback:
            return address
    except ValueError:
        pass
    return f"{address},127.0.0.1"
