"""Where a drill gets its files from: a backup of the repository, or something that lies elsewhere.

The one idea: from the plan on a drill is the same for all of them; what it proves is not, so its result says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pghaven.events import Listener
from pghaven.repository.drills import FROM_BACKUP
from pghaven.restore.execute import RestoreResult, RestoreSettings
from pghaven.restore.request import RestoreRequest
from pghaven.restore.sources import SourcedPlan, Sources, run_sourced


class DrillSource(Protocol):
    """``kind`` is what the evidence calls it; ``sources`` are the repositories that give WAL and take evidence."""

    @property
    def kind(self) -> str:
        """One of those in ``repository.drills``."""

    @property
    def sources(self) -> Sources:
        """The cluster's repositories, in the order of the configuration."""

    def find_begin(self) -> datetime | None:
        """Before when there is nothing to restore; None: the backups tell. Raises what planning raises."""

    def plan(self, request: RestoreRequest) -> SourcedPlan:
        """Raises what ``plan_restore`` raises."""

    def carry_out(
        self, sourced: SourcedPlan, settings: RestoreSettings, listener: Listener
    ) -> tuple[SourcedPlan, RestoreResult]:
        """Put the files in place; also the plan that was completed in the end. Raises what ``run_restore`` raises."""


@dataclass(frozen=True, slots=True)
class BackupSource:
    """Backups of the repositories, the next one where one fails."""

    sources: Sources
    kind: str = FROM_BACKUP

    def find_begin(self) -> datetime | None:
        return None

    def plan(self, request: RestoreRequest) -> SourcedPlan:
        return self.sources.plan(request)

    def carry_out(
        self, sourced: SourcedPlan, settings: RestoreSettings, listener: Listener
    ) -> tuple[SourcedPlan, RestoreResult]:
        return run_sourced(self.sources, sourced, lambda _one: settings, listener)
