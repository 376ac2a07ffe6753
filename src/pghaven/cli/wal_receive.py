"""``pghaven wal receive``: from the configuration to a receiver, and what it says at its end."""

from __future__ import annotations

import os

from pghaven.cli.opening import find_spool
from pghaven.cli.render import render_block
from pghaven.cli.wal_run import make_push
from pghaven.config.values import ClusterConfig, Config
from pghaven.errors import UsageError
from pghaven.events import Listener
from pghaven.postgres.lsn import Lsn
from pghaven.receive.run import ReceiveRequest, ReceiveResult, run_receive
from pghaven.runtime.stopping import stop_on_signals
from pghaven.server.identity import find_owner
from pghaven.wal.directory import refuse_restored_copy


def make_request(
    config: Config, cluster: ClusterConfig, *, once: bool = False, until: str | None = None
) -> ReceiveRequest:
    """How the configuration says that WAL is received. Raises UsageError for an ``until`` that is no position, Refused
    where the server of this host is a restored copy."""
    try:
        until_lsn = None if until is None else Lsn.parse(until)
    except ValueError as error:
        raise UsageError(f"--until: {error}") from error
    owner = None
    if os.path.isdir(cluster.data_directory):
        owner = find_owner(cluster.data_directory)
        if cluster.receive_conninfo is None:
            refuse_restored_copy(cluster.data_directory, cluster.name)
    return ReceiveRequest(
        push=make_push(config, cluster, ""),
        conninfo=cluster.conninfo if cluster.receive_conninfo is None else cluster.receive_conninfo,
        slot=cluster.receive_slot,
        spool_directory=find_spool(cluster),
        spool_limit_bytes=cluster.receive_spool_limit,
        interval_seconds=cluster.receive_interval_seconds,
        is_synchronous=cluster.receive_synchronous,
        os_user=None if owner is None else owner.name,
        once=once,
        until_lsn=until_lsn,
    )


def receive(request: ReceiveRequest, listener: Listener) -> ReceiveResult:
    """Receive until a signal asks to end, or the request says so."""
    with stop_on_signals() as stop:
        return run_receive(request, stop, listener)


def describe_receive(cluster: str, result: ReceiveResult) -> dict[str, object]:
    """Positions are text."""
    return {
        "cluster": cluster,
        "segments": result.segments,
        "received_lsn": None if result.received_lsn is None else str(result.received_lsn),
        "stored_lsn": None if result.stored_lsn is None else str(result.stored_lsn),
    }


def render_receive(result: ReceiveResult) -> str:
    return render_block(
        [
            ("segments archived", result.segments),
            ("received up to", result.received_lsn),
            ("in the repositories up to", result.stored_lsn),
        ]
    )
