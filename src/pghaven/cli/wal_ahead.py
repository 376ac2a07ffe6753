"""Starting the process that fetches WAL ahead of a recovery, after ``wal get`` has served the first file.

The one idea: this can only help. Whatever fails here is not told: recovery asks for each file in its turn.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from pghaven.cli.opening import count_processes, list_places
from pghaven.errors import PghavenError
from pghaven.light import dataclass
from pghaven.runtime.detached import start_detached

if TYPE_CHECKING:
    from pghaven.cli.wal_run import GetCall
    from pghaven.config.values import ClusterConfig
    from pghaven.wal.spool import Spool

# So many share what the store gives.
_FILES_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """``without`` so many of the first repositories; ``startup_process`` is a descriptor for it."""

    data_directory: str
    segment_size: int
    without: int
    startup_process: int


def fetch_ahead(call: GetCall, spool: Spool, without: int = 0) -> None:
    """Have a process fetch what follows the file that was just put in place, without so many of the first repositories.
    Called in the data directory."""
    with suppress(OSError, PghavenError):
        start = _Start(
            data_directory=os.path.abspath(os.curdir),
            segment_size=os.stat(call.target_path).st_size,
            without=without,
            # Taken while the process is certainly there: it waits for us.
            startup_process=os.pidfd_open(spool.startup_pid),
        )
        try:
            start_detached(lambda: _run(call, spool, start), [start.startup_process])
        finally:
            os.close(start.startup_process)


def _run(call: GetCall, spool: Spool, start: _Start) -> None:
    import gc

    gc.enable()  # a call of the server goes without; this one lives for as long as the recovery does
    from pghaven.wal.directory import read_system_identifier
    from pghaven.wal.prefetch import PrefetchOrder, run_prefetch

    cluster = call.cluster
    order = PrefetchOrder(
        cluster=cluster.name,
        repositories=list_places(call.config, cluster),
        without=start.without,
        system_identifier=read_system_identifier(start.data_directory),
        config_path=call.config.source,
        plan_path=None if call.plan_path is None else os.path.join(start.data_directory, call.plan_path),
        data_directory=start.data_directory,
        spool=spool,
        first=call.file_name,
        segment_size=start.segment_size,
        limit_bytes=cluster.wal_prefetch,
        processes=count_processes(cluster),
        limit_seconds=_find_limit(cluster, start),
    )
    run_prefetch(order, start.startup_process)


def _find_limit(cluster: ClusterConfig, start: _Start) -> float:
    """How long one file may take. Where another repository may be quicker, ``wal get`` has to find that out soon."""
    if len(cluster.repositories) - start.without < 2:
        return cluster.wal_timeout_seconds
    from pghaven.cli.wal_run import find_patience

    patience = find_patience(cluster, start.segment_size)
    return min(_FILES_AT_ONCE * patience, cluster.wal_timeout_seconds)
