"""From the configuration to what the generated files are made of.

The one idea: this is the only module of the package that knows the configuration; the others get their own values.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Final, cast

from pghaven.errors import NotFound, UsageError
from pghaven.ha.spec import (
    Durability,
    Fencing,
    Followed,
    HaNode,
    HaSpec,
    LocalPlaces,
    derive_timing,
    parse_parameters,
)
from pghaven.postgres.version import SUPPORTED
from pghaven.server.programs import Programs, find_programs
from pghaven.setup.program import find_program
from pghaven.wal.commands import render_archive_command, render_restore_command

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig, Config
    from pghaven.ha.spec import Secrets

_SOCKETS: Final = "/var/run/postgresql"
_HOST: Final = re.compile(r"(?:^|\s)host\s*=\s*(/\S+)")


def describe_cluster(cluster: ClusterConfig) -> HaSpec:
    """Raises UsageError for a cluster without nodes."""
    ha = cluster.ha
    if not ha.is_configured:
        raise UsageError(
            f'cluster "{cluster.name}" has no nodes: it is not run by Patroni',
            hint=f"Write [[cluster.{cluster.name}.ha.node]] for each of its hosts; docs/guide/failover.md shows how.",
        )
    return HaSpec(
        cluster=cluster.name,
        nodes=tuple(
            HaNode(
                name=one.name,
                address=one.address,
                port=one.port,
                rest_port=one.rest_port,
                etcd=one.etcd,
                etcd_port=one.etcd_port,
                etcd_peer_port=one.etcd_peer_port,
                witness=one.witness,
                priority=one.priority,
                sync=one.sync,
                balance=one.balance,
                delay_seconds=one.delay_seconds,
            )
            for one in ha.node
        ),
        durability=cast("Durability", ha.durability),
        synchronous_nodes=ha.synchronous_nodes,
        timing=derive_timing(ha.failover_after_seconds, ha.check_every_seconds),
        survive_dcs_loss=ha.survive_dcs_loss,
        max_lag_on_failover=ha.max_lag_on_failover,
        fencing=cast("Fencing", ha.fencing),
        dcs=ha.dcs,
        superuser=ha.superuser,
        replication_user=ha.replication_user,
        replica_sources=ha.replica_sources,
        hba=ha.hba,
        parameters=parse_parameters(ha.parameters),
        proxy=ha.proxy,
        proxy_write_port=ha.proxy_write_port,
        proxy_read_port=ha.proxy_read_port,
        proxy_max_lag=ha.proxy_max_lag,
        followed=None if ha.follow is None else Followed(cluster=ha.follow, delay_seconds=ha.follow_delay_seconds),
    )


def find_places(config: Config, cluster: ClusterConfig, secrets: Secrets) -> LocalPlaces:
    """Where things are on this host. Raises NotFound when PostgreSQL is not installed here."""
    ha, program = cluster.ha, find_program(cluster.program)
    restore = render_restore_command(program, config.source, ha.follow or cluster.name, None)
    programs = find_server_programs(cluster)
    return LocalPlaces(
        directory=f"{ha.directory}/{cluster.name}",
        unit_directory=ha.unit_directory,
        data_directory=cluster.data_directory,
        bin_directory=programs.bin_dir,
        major=programs.major,
        socket_directory=find_socket_directory(cluster),
        secrets=secrets,
        service_user=ha.service_user,
        program=program,
        engine=(f"{find_engine(cluster)}/patroni",),
        config_path=config.source,
        archive_command=render_archive_command(program, config.source, cluster.name),
        # For a standby a repository that is out of reach is the end of what is archived: it goes on streaming.
        restore_command=f"({restore}) || exit 1",
    )


def find_engine(cluster: ClusterConfig) -> str:
    """The directory of Patroni's programs."""
    return cluster.ha.engine or os.path.dirname(sys.executable)


def find_server_programs(cluster: ClusterConfig) -> Programs:
    """PostgreSQL's programs for the cluster: of the version its data directory has, else the newest there is."""
    try:
        with open(os.path.join(cluster.data_directory, "PG_VERSION"), encoding="ascii") as file:
            return find_programs(int(file.read()), cluster.pg_bin)
    except (OSError, ValueError):
        pass
    for version in reversed(SUPPORTED):
        try:
            return find_programs(version.major, cluster.pg_bin)
        except NotFound:
            continue
    raise NotFound(
        "PostgreSQL is not installed on this host", hint=f'Name its programs\' directory: "pg_bin" in {cluster.name}.'
    )


def find_socket_directory(cluster: ClusterConfig) -> str:
    """Where the server's sockets go: where ``conninfo`` looks for them, if it says so."""
    match = _HOST.search(cluster.conninfo)
    return match[1] if match else _SOCKETS
