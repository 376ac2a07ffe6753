"""Which repository a restore takes its backup from, and from which it goes on when that one fails.

The one idea: WAL is taken from wherever it is, so repositories differ by the backup they have. What leads furthest
wins, then the backup that needs the least WAL, then the order of the configuration, where the nearest comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pghaven.errors import Damaged, NotFound, PghavenError, StoreUnreachable, TargetFailed
from pghaven.events import Listener, Notice
from pghaven.postgres.recovery import TargetKind
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.repository import Repository
from pghaven.restore.execute import RestoreResult, RestoreSettings, run_restore
from pghaven.restore.plan import plan_restore, survey_restore
from pghaven.restore.request import RestorePlan, RestoreRequest, Survey

# These are found by reading WAL, so only one repository at a time is asked.
_SEARCHED = (TargetKind.XID, TargetKind.NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceVerdict:
    """One repository and why it was taken, or not."""

    name: str
    is_chosen: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedPlan:
    """A plan and the repository it takes the backup from. ``others`` are those that give WAL besides."""

    name: str
    repository: Repository
    others: tuple[Repository, ...]
    plan: RestorePlan
    verdicts: tuple[SourceVerdict, ...]


@dataclass(slots=True)
class _Source:
    name: str
    repository: Repository | None = None
    error: PghavenError | None = None
    survey: Survey | None = None


@dataclass(slots=True)
class Sources:
    """The repositories of a cluster that a restore may take from, in the order of the configuration."""

    places: Sequence[RepositoryPlace]
    open: Callable[[RepositoryPlace], Repository] = open_place
    _failed: dict[str, PghavenError] = field(default_factory=dict)

    def plan(self, request: RestoreRequest) -> SourcedPlan:
        """The plan that leads furthest. When there is none, raises what ``plan_restore`` raises of the first."""
        sources = [self._open(place) for place in self.places]
        if len(sources) > 1 and request.target.kind not in _SEARCHED:
            for source in sources:
                self._survey(source, sources, request)
        usable = [one for one in sources if one.error is None]
        order = sorted(usable, key=_rank, reverse=True)  # stable: what is equal stays in its order
        for source in order:
            assert source.repository is not None
            others = _others(source, sources)
            try:
                plan = plan_restore(source.repository, request, others)
            except PghavenError as error:
                source.error = error
                continue
            verdicts = tuple(self._judge(one, source, plan) for one in sources)
            rest = (one.name for one in sources if one.repository is not None and one is not source)
            reached = (source.name, *rest)  # recovery asks in this order, as the plan was made
            silent = [one for one in sources if one.repository is None and one.name not in self._failed]
            notices = (*plan.notices, *map(_warn_of_silence, silent))
            plan = replace(plan, repositories=reached, notices=notices)
            return SourcedPlan(
                name=source.name, repository=source.repository, others=others, plan=plan, verdicts=verdicts
            )
        raise _join([one for one in sources if one.error is not None])

    def plan_again(self, failed: SourcedPlan, error: PghavenError, listener: Listener) -> SourcedPlan:
        """How to go on when a restore broke off: from another repository, over what is in place by now.

        Raises the error itself when it is not the repository's, or when there is no other.
        """
        if isinstance(error, TargetFailed) or not isinstance(error, Damaged | StoreUnreachable | NotFound):
            raise error
        self._failed[failed.name] = error
        if len(self._failed) >= len(self.places):
            raise error
        try:
            found = self.plan(replace(failed.plan.request, delta=True))
        except PghavenError as reason:
            error.detail = "\n".join(filter(None, (error.detail, f"No other repository helps: {reason.message}")))
            raise error from reason
        text = f'repository "{failed.name}" failed ({error.message}): the restore goes on from "{found.name}"'
        hint = f"Look into it: pghaven verify {failed.plan.request.cluster}"
        listener(Notice(level="warning", code="other_repository", text=text, hint=hint))
        if found.plan.wal.end_lsn < failed.plan.wal.end_lsn:
            there = found.plan.wal.end_lsn
            text = f"the WAL that is left leads to {there} only, not to {failed.plan.wal.end_lsn} as planned"
            listener(Notice(level="warning", code="comes_short", text=text))
        return found

    def _open(self, place: RepositoryPlace) -> _Source:
        source = _Source(name=place.name)
        try:
            source.repository = self.open(place)
            source.error = self._failed.get(place.name)  # its WAL may be good all the same
        except PghavenError as error:
            source.error = error
            if isinstance(error, StoreUnreachable) and error.hint is None:
                error.hint = "Is its file system mounted?"
        return source

    def _survey(self, source: _Source, sources: Sequence[_Source], request: RestoreRequest) -> None:
        if source.repository is None or source.error is not None:
            return
        try:
            source.survey = survey_restore(source.repository, request, _others(source, sources))
        except PghavenError as error:
            source.error = error

    def _judge(self, source: _Source, chosen: _Source, plan: RestorePlan) -> SourceVerdict:
        if source is chosen:
            reason = f"has backup {plan.backup.label}, and is the first that leads there"
            return SourceVerdict(name=source.name, is_chosen=True, reason=reason)
        if source.error is not None:
            return SourceVerdict(name=source.name, is_chosen=False, reason=source.error.message)
        if source.survey is None:
            return SourceVerdict(name=source.name, is_chosen=False, reason="was not asked")
        entry = source.survey.backup
        if entry.original == plan.backup.original:
            reason = f"has that backup too, as {entry.label}, and comes later in the configuration"
        else:
            reason = f"has backup {entry.label} for it, which needs more WAL or leads less far"
        return SourceVerdict(name=source.name, is_chosen=False, reason=reason)


def run_sourced(
    sources: Sources, sourced: SourcedPlan, make_settings: Callable[[SourcedPlan], RestoreSettings], listener: Listener
) -> tuple[SourcedPlan, RestoreResult]:
    """Carry a plan out, from one repository after another as they fail; also returns the plan that was completed.

    Raises what ``run_restore`` raises, when there is none left.
    """
    while True:
        try:
            return sourced, run_restore(sourced.plan, make_settings(sourced), listener)
        except PghavenError as error:
            sourced = sources.plan_again(sourced, error, listener)


def _warn_of_silence(source: _Source) -> Notice:
    assert source.error is not None
    text = f'repository "{source.name}" is left out, also for WAL: {source.error.message}'
    hint = "If it has a later timeline than the others, the restored server may take that one's number again."
    return Notice(level="warning", code="repository_failed", text=text, hint=hint)


def _others(source: _Source, sources: Sequence[_Source]) -> tuple[Repository, ...]:
    return tuple(one.repository for one in sources if one is not source and one.repository is not None)


def _rank(source: _Source) -> tuple[int, int, int]:
    survey = source.survey
    return (0, 0, 0) if survey is None else (survey.timeline, survey.end_lsn, survey.start_lsn)


def _join(failed: Sequence[_Source]) -> PghavenError:
    """The first one's error, with what the others say."""
    first = failed[0].error
    assert first is not None
    if len(failed) > 1:
        said = [f'Repository "{one.name}": {one.error.message}.' for one in failed if one.error is not None]
        first.detail = "\n".join(filter(None, (first.detail, *said)))
    return first
