"""A marker of one cluster, bound to its part of the configuration: for ``pghaven mark``, ``backup`` and the agent.

The one idea: what writes by itself does so only where the configuration consents, and where it cannot, what it
accompanies goes on: a marker makes a drill say more, and nothing hangs on it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime

from pghaven.cli.opening import each_repository
from pghaven.config.values import ClusterConfig, Config
from pghaven.drill.marking import MarkResult, MarkSettings, write_marker
from pghaven.errors import Cancelled, PghavenError
from pghaven.events import Listener, Notice
from pghaven.repository.evidence import parse_stamp
from pghaven.repository.markers import list_marker_names
from pghaven.repository.repository import Repository
from pghaven.server.connection import connect, fetch_one, server_errors
from pghaven.server.identity import find_owner

_ARRIVAL_SECONDS = 600.0


def mark_cluster(config: Config, cluster: ClusterConfig, databases: Sequence[str], listener: Listener) -> MarkResult:
    """Write one marker into every repository of the cluster. Raises what ``write_marker`` raises."""
    settings = MarkSettings(
        cluster=cluster.name,
        conninfo=cluster.conninfo,
        os_user=_find_os_user(cluster),
        databases=tuple(databases),
        table_bytes_max=cluster.drill.marker_table_limit,
        timeout_seconds=_ARRIVAL_SECONDS,
    )
    opened = each_repository(config, cluster, None, listener, lambda _name, repository: repository)
    return write_marker([repository for _, repository in opened], settings, listener)


def mark_by_itself(config: Config, cluster: ClusterConfig, listener: Listener) -> MarkResult | None:
    """A marker that nobody has asked for in this moment; None, with a warning, where it could not be. On a standby,
    which cannot write one, nothing is said: its primary does. Raises Cancelled."""
    try:
        if _is_standby(cluster):
            return None
        return mark_cluster(config, cluster, (), listener)
    except Cancelled:
        raise
    except PghavenError as error:
        text = f"no marker was written: {error.message}"
        listener(Notice(level="warning", code="marker", text=text, hint=error.hint))
        return None


def find_last_marker(config: Config, cluster: ClusterConfig, listener: Listener) -> datetime | None:
    """When the newest marker in any repository was written; None when there is none. Raises what opening raises."""

    def ask(_name: str, repository: Repository) -> datetime | None:
        stamps = [
            parse_stamp(name)
            for lineage in repository.list_lineages(cluster.name)
            for name in list_marker_names(repository, cluster.name, lineage.system_identifier)[:1]
        ]
        return max((one for one in stamps if one is not None), default=None)

    found = [moment for _, moment in each_repository(config, cluster, None, listener, ask)]
    return max((one for one in found if one is not None), default=None)


def _find_os_user(cluster: ClusterConfig) -> str | None:
    owner = find_owner(cluster.data_directory) if os.path.isdir(cluster.data_directory) else None
    return None if owner is None else owner.name


def _is_standby(cluster: ClusterConfig) -> bool:
    with (
        closing(connect(cluster.conninfo, os_user=_find_os_user(cluster))) as connection,
        server_errors(connection, "ask whether it is a standby"),
    ):
        return bool(fetch_one(connection, "SELECT pg_is_in_recovery()")[0])
