"""Restores from kept snapshots: ``pghaven restore --from-snapshot`` and ``pghaven snapshot clone``.

The one idea: what is shown, tried and started is as in any restore; only the plan and the files come from elsewhere.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pghaven.cli.restore_command import RestoreJob
from pghaven.errors import PghavenError, StoreUnreachable, UsageError
from pghaven.events import Notice

if TYPE_CHECKING:
    from pghaven.repository.kept import KeptSnapshot
    from pghaven.repository.repository import Repository
    from pghaven.restore.execute import RestoreResult, RestoreSettings
    from pghaven.restore.request import RestorePlan, RestoreRequest
    from pghaven.restore.sources import SourcedPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSnapshot:
    """A usable snapshot, the repository that knows it, by its name, and the others that can be reached."""

    name: str
    repository: Repository
    others: tuple[Repository, ...]
    kept: KeptSnapshot


class SnapshotJob(RestoreJob):
    """A restore whose files are copied out of a kept snapshot."""

    def __init__(self, job: RestoreJob, label: str) -> None:
        super().__init__(job.invocation, job.cluster, job.limits, job.repository)
        self.label = label
        self.kept: KeptSnapshot | None = None
        self._found: FoundSnapshot | None = None

    def plan(self, request: RestoreRequest) -> SourcedPlan:
        from pghaven.restore.sources import SourcedPlan

        found = self.find()
        self.kept = found.kept
        plan = self.plan_from(found.repository, request, found.kept, found.others)
        names = (found.name, *(one for one in self.cluster.repositories if one != found.name))
        plan = replace(plan, repositories=names)
        return SourcedPlan(name=found.name, repository=found.repository, others=found.others, plan=plan, verdicts=())

    def plan_from(
        self, repository: Repository, request: RestoreRequest, kept: KeptSnapshot, others: tuple[Repository, ...]
    ) -> RestorePlan:
        from pghaven.instant.bring import plan_from_snapshot, refuse_little_space

        if request.backup_label is not None:
            raise UsageError(
                "--from-snapshot and --backup name two places to take the files from", hint="Leave one of them out."
            )
        plan = plan_from_snapshot(repository, request, kept, others)
        refuse_little_space(plan, kept)
        return plan

    def carry_out(self, sourced: SourcedPlan) -> tuple[SourcedPlan, RestoreResult]:
        from pghaven.restore.execute import run_restore

        return sourced, run_restore(sourced.plan, self.make_settings(sourced), self.tell)

    def make_settings(self, sourced: SourcedPlan) -> RestoreSettings:
        from pghaven.instant.files import SnapshotCopy

        assert self.kept is not None
        return replace(super().make_settings(sourced), source=SnapshotCopy(self.kept))

    def find(self) -> FoundSnapshot:
        """In the first repository that knows it, looked for once. Raises NotFound, Refused for one that is no good."""
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> FoundSnapshot:
        from pghaven.instant.bring import require_usable
        from pghaven.instant.points import find_point

        opened: dict[str, Repository] = {}
        failure: PghavenError | None = None
        for place in self.sources.places:
            try:
                opened[place.name] = self.sources.open(place)
            except StoreUnreachable as error:
                failure = failure or error
                text = f'repository "{place.name}" is left out, also for WAL: {error.message}'
                self.invocation.reporter(Notice(level="warning", code="repository_failed", text=text))
        for name, repository in opened.items():
            others = tuple(one for other, one in opened.items() if other != name)
            try:
                point = find_point(repository, self.cluster.name, self.cluster.data_directory, self.label, others)
            except PghavenError as error:
                failure = failure or error
                continue
            return FoundSnapshot(name=name, repository=repository, others=others, kept=require_usable(point))
        assert failure is not None
        raise failure


class CloneJob(SnapshotJob):
    """A server on writable clones of a kept snapshot's volumes."""

    def plan_from(
        self, repository: Repository, request: RestoreRequest, kept: KeptSnapshot, others: tuple[Repository, ...]
    ) -> RestorePlan:
        from pghaven.instant.bring import plan_clone
        from pghaven.restore.port import find_free_port, is_server_beside

        if request.port is None and is_server_beside(kept.facts):
            request = replace(request, port=find_free_port(kept.facts))
        return plan_clone(repository, request, kept, others)

    def carry_out(self, sourced: SourcedPlan) -> tuple[SourcedPlan, RestoreResult]:
        from pghaven.instant.bring import put_clone_in_place
        from pghaven.instant.files import SnapshotClone, make_clones, remove_clones
        from pghaven.restore.execute import run_restore

        assert self.kept is not None
        target = sourced.plan.request.target_dir
        parts = make_clones(self.kept, target)
        try:
            sourced = replace(sourced, plan=put_clone_in_place(sourced.plan, self.kept, parts))
            settings = replace(super().make_settings(sourced), source=SnapshotClone(self.kept, parts))
            return sourced, run_restore(sourced.plan, settings, self.tell)
        except BaseException:
            with suppress(PghavenError):
                remove_clones(self.kept, target)
            raise
