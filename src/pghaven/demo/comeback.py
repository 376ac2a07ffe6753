"""What `pghaven restore --start` does, done for the demonstration, and a stop-watch beside it."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pghaven.clock import Clock
from pghaven.demo.protection import CLUSTER, Protected
from pghaven.demo.results import RestoreNumbers
from pghaven.demo.servers import DemoServer
from pghaven.errors import ServerUnsuitable
from pghaven.events import Listener, Step
from pghaven.postgres.datadir import RESTORE_PLAN_FILE
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.repository.backups import BackupCatalog
from pghaven.restore.execute import RestoreSettings, find_owner_ids, run_restore
from pghaven.restore.plan import plan_restore
from pghaven.restore.recover import run_recovery
from pghaven.restore.request import RestoreRequest
from pghaven.setup.program import find_program
from pghaven.wal.commands import render_restore_command

_ACTION: Final = "promote"


def come_back(
    protected: Protected, server: DemoServer, moment: datetime, clock: Clock, listener: Listener
) -> RestoreNumbers:
    """Restore the cluster as it was at ``moment`` into ``server``'s data directory, and have it recover and open.

    Raises what ``restore`` raises.
    """
    began = clock.monotonic()
    cluster = protected.cluster
    listener(Step(text="planning"))
    target = RecoveryTarget(kind=TargetKind.TIME, time=moment, action=_ACTION)
    # It is to run beside the original, so it must listen elsewhere.
    request = RestoreRequest(cluster=CLUSTER, target_dir=server.data_directory, target=target, port=server.port)
    plan = plan_restore(protected.repository, request)
    planned = clock.monotonic()
    program = find_program(cluster.program)
    settings = RestoreSettings(
        place=BackupCatalog(protected.repository, CLUSTER).pack_place,
        processes=protected.processes,
        restore_command=render_restore_command(program, protected.config.source, CLUSTER, RESTORE_PLAN_FILE),
        owner=find_owner_ids(plan.manifest),
    )
    restored = run_restore(plan, settings, listener, clock=clock)
    copied = clock.monotonic()
    recovery = run_recovery(plan, cluster.pg_bin, listener, clock=clock)
    if recovery.conninfo is None:
        raise ServerUnsuitable("the restored server recovered, but does not run with its own settings")
    opened = clock.monotonic()
    return RestoreNumbers(
        planning_seconds=planned - began,
        files_seconds=copied - planned,
        files_bytes=restored.written_bytes,
        replay_seconds=recovery.seconds,
        replay_bytes=recovery.reached_lsn - plan.manifest.facts.start_lsn,
        opening_seconds=opened - copied - recovery.seconds,
        total_seconds=opened - began,
    )
