"""Starting the process that fetches WAL ahead of a recovery, after ``wal get`` has served the first file.

The one idea: this can only help. Whatever fails here is not told: recovery asks for each file in its turn.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from pghaven.cli.opening import count_processes, list_places
from pghaven.errors import PghavenError
from pghaven.runtime.detached import start_detached

if TYPE_CHECKING:
    from pghaven.cli.wal_run import GetCall
    from pghaven.wal.spool import Spool


def fetch_ahead(call: GetCall, spool: Spool) -> None:
    """Have a process fetch what follows the file that was just put in place. Called in the data directory."""
    with suppress(OSError, PghavenError):
        segment_size = os.stat(call.target_path).st_size
        data_directory = os.path.abspath(os.curdir)
        # Taken while the process is certainly there: it waits for us.
        startup_process = os.pidfd_open(spool.startup_pid)
        try:
            start_detached(lambda: _run(call, spool, data_directory, segment_size, startup_process), [startup_process])
        finally:
            os.close(startup_process)


def _run(call: GetCall, spool: Spool, data_directory: str, segment_size: int, startup_process: int) -> None:
    import gc

    gc.enable()  # a call of the server goes without; this one lives for as long as the recovery does
    from pghaven.wal.directory import read_system_identifier
    from pghaven.wal.prefetch import PrefetchOrder, run_prefetch

    cluster = call.cluster
    order = PrefetchOrder(
        cluster=cluster.name,
        repositories=list_places(call.config, cluster),
        system_identifier=read_system_identifier(data_directory),
        config_path=call.config.source,
        plan_path=None if call.plan_path is None else os.path.join(data_directory, call.plan_path),
        data_directory=data_directory,
        spool=spool,
        first=call.file_name,
        segment_size=segment_size,
        limit_bytes=cluster.wal_prefetch,
        processes=count_processes(cluster),
        limit_seconds=cluster.wal_timeout_seconds,
    )
    run_prefetch(order, startup_process)
