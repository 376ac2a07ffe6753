"""Drills whose files come out of a kept snapshot: ``pghaven drill --from-snapshot``.

The one idea: what is proven is that the snapshot, with the repository's WAL, becomes the cluster; how fast the
repository is, it does not tell.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits
from pghaven.cli.restore_command import RestoreJob
from pghaven.cli.snapshot_restore import SnapshotJob
from pghaven.config.values import ClusterConfig
from pghaven.drill.source import DrillSource
from pghaven.events import Listener
from pghaven.instant.files import SnapshotCopy
from pghaven.repository.drills import FROM_SNAPSHOT
from pghaven.restore.execute import RestoreResult, RestoreSettings, run_restore
from pghaven.restore.request import RestoreRequest
from pghaven.restore.sources import SourcedPlan, Sources


def make_snapshot_source(
    invocation: Invocation, cluster: ClusterConfig, limits: Limits, repository: str | None, label: str
) -> DrillSource:
    """The files of the snapshot of this label, or the beginning of it."""
    return _SnapshotSource(SnapshotJob(RestoreJob(invocation, cluster, limits, repository), label))


class _SnapshotSource:
    kind = FROM_SNAPSHOT

    def __init__(self, job: SnapshotJob) -> None:
        self._job = job

    @property
    def sources(self) -> Sources:
        return self._job.sources

    def find_begin(self) -> datetime | None:
        return self._job.find().kept.facts.stopped_at

    def plan(self, request: RestoreRequest) -> SourcedPlan:
        return self._job.plan(request)

    def carry_out(
        self, sourced: SourcedPlan, settings: RestoreSettings, listener: Listener
    ) -> tuple[SourcedPlan, RestoreResult]:
        settings = replace(settings, source=SnapshotCopy(self._job.find().kept))
        return sourced, run_restore(sourced.plan, settings, listener)
