"""One copying from beginning to end.

    which backups and dumps → lineages, histories → for each: intent → packs, its own WAL → manifest → decision
    → all other WAL → what lies beside

The one idea: in the target a copying is a writer like a backup, with the same order and the same rules
(``docs/design/removal.md``), so it may stop anywhere and be run again beside whatever else goes on there. In the source
it writes nothing: what a collector removes under it is found to be gone, and looked for once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from pghaven.errors import Damaged, NotFound, ObjectMissing, Refused
from pghaven.events import Listener, Notice, Step
from pghaven.postgres.segment import WalFileKind, classify
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState, Purpose, find_last
from pghaven.repository.horizon import Horizon, read_horizon
from pghaven.repository.removal import Removal
from pghaven.repository.repository import Lineage, Repository
from pghaven.runtime.crew import Crew
from pghaven.runtime.whoami import read_own_identity
from pghaven.transfer.beside import BesideOutcome, carry_beside
from pghaven.transfer.carrier import Carried, CarrierSettings, CarryResult, WalJob, open_carrier
from pghaven.transfer.choose import choose_neighbours, find_begins, find_system, judge
from pghaven.transfer.known import list_held, match_packs
from pghaven.transfer.one import BackupCopy, Meter, NotCopied, Scene, order_of
from pghaven.transfer.request import (
    BackupFate,
    BackupOutcome,
    CopyPlan,
    CopyRequest,
    CopyResult,
    WalOutcome,
)
from pghaven.transfer.walfiles import WalFound, WalWish, list_missing
from pghaven.units import render_size

# A compaction of the source in every one of these.
_ATTEMPTS_MAX = 3
# What is, or will be, in the target.
_IN_TARGET = (BackupFate.COPY, BackupFate.COPIED, BackupFate.PRESENT)
# Below this it is done before worker processes have started.
_FILES_MIN = 4
_KEPT = (Purpose.BACKUP, Purpose.DUMP)


def run_copy(
    source: Repository, target: Repository, request: CopyRequest, listener: Listener, *, dry_run: bool = False
) -> CopyResult:
    """Copy backups and their WAL; each that is told to be copied is complete in the target when this returns.

    Raises NotFound for what the source does not have, Refused where the target keeps another cluster under this name,
    StoreUnreachable, NotPermitted, Damaged when records of the target are. What one backup lacks is in the result.
    """
    clock = target.clock
    began = clock.monotonic()
    copying = _Copying(source, target, request, listener)
    plan = copying.plan()
    if dry_run:
        backups = plan.outcomes
        wal = WalOutcome(copied=len(plan.files), copied_bytes=plan.wal_bytes, present=plan.present, failed=plan.apart)
    else:
        backups, wal = copying.run(plan)
    beside = copying.carry_beside(backups, dry_run=dry_run)
    return CopyResult(
        cluster=request.cluster,
        source=source.store.url,
        target=target.store.url,
        is_done=not dry_run,
        backups=backups,
        wal=wal,
        beside=beside,
        total_seconds=clock.monotonic() - began,
    )


class _Copying:
    def __init__(self, source: Repository, target: Repository, request: CopyRequest, listener: Listener) -> None:
        if source.id == target.id:
            raise Refused(
                f"{source.store.url} and {target.store.url} are one repository",
                detail="They have the same identifier: one is the other by another name, or a copy of its files.",
                hint="Copy into an empty place, or into a repository that was made by itself.",
            )
        self._source = BackupCatalog(source, request.cluster)
        self._target = BackupCatalog(target, request.cluster)
        self._request = request
        self._tell = listener
        self._lineages = self._check_lineages()
        self._there = sorted((one for kind in _KEPT for one in self._target.list_entries(kind)), key=order_of)
        self._chosen = self._choose()

    # -- what there is ----------------------------------------------------------------------------------------------

    def _check_lineages(self) -> dict[int, Lineage]:
        cluster = self._request.cluster
        lineages = self._source.repository.list_lineages(cluster)
        if not lineages:
            raise NotFound(
                f'there is no cluster "{cluster}" in repository {self._source.repository.store.url}',
                hint=f"Clusters there: {', '.join(self._source.repository.list_clusters()) or 'none'}.",
            )
        ours = {one.system_identifier: one for one in lineages}
        theirs = [one.system_identifier for one in self._target.repository.list_lineages(cluster)]
        if theirs and not ours.keys() & set(theirs):
            raise Refused(
                f'"{cluster}" is another cluster in {self._target.repository.store.url}: its system identifier there '
                f"is {', '.join(map(str, theirs))}, not {', '.join(map(str, ours))}",
                hint="Copy into another repository.",
            )
        return ours

    def _choose(self) -> list[BackupEntry]:
        if self._request.labels:
            found = (self._source.find_entry(label, purposes=_KEPT) for label in self._request.labels)
            entries = {entry.label: entry for entry in found}
            return sorted(entries.values(), key=lambda entry: (entry.summary["started_at"], entry.label))
        dumps = (one for one in self._source.list_entries(Purpose.DUMP) if one.state is BackupState.COMMITTED)
        return sorted((*self._source.list_committed(), *dumps), key=order_of)

    def plan(self) -> CopyPlan:
        """What is to be done, with sizes. Raises Damaged, ObjectMissing."""
        now = self._target.repository.clock.now()
        horizons = {system: self._read_horizon(system) for system in self._lineages}
        judged = [(entry, judge(entry, self._there, horizons, now)) for entry in self._chosen]
        wanted = [entry for entry, outcome in judged if outcome is None]
        known = self._find_known(wanted)
        backups: list[BackupEntry] = []
        outcomes: list[BackupOutcome] = []
        for entry, outcome in judged:
            found = outcome or self._preview(entry, known)
            outcomes.append(found)
            if found.fate is BackupFate.COPY:
                backups.append(entry)
        found_wal = self._list_files(outcomes)
        return CopyPlan(
            backups=tuple(backups),
            outcomes=tuple(outcomes),
            files=tuple(found_wal.jobs),
            present=found_wal.present,
            apart=found_wal.apart,
        )

    def _preview(self, entry: BackupEntry, known: set[bytes]) -> BackupOutcome:
        """A backup that is to be copied, as far as its records can be read; its packs are known from then on."""
        try:
            packs = self._source.load_pack_table(entry, next(self._source.iter_manifests(entry)))
        except (Damaged, ObjectMissing) as error:
            return BackupOutcome(label=entry.label, fate=BackupFate.FAILED, reason=error.message)
        missing = {pack.id: pack.size_bytes for pack in packs if pack.id not in known}
        known.update(missing)
        return BackupOutcome(
            label=entry.label,
            fate=BackupFate.COPY,
            total_bytes=int(entry.summary["total_bytes"]),
            copied_packs=len(missing),
            copied_bytes=sum(missing.values()),
            present_packs=len(packs) - len(missing),
        )

    def _read_horizon(self, system_identifier: int) -> Horizon:
        return read_horizon(self._target.repository, self._request.cluster, system_identifier)

    def _find_known(self, entries: Sequence[BackupEntry]) -> set[bytes]:
        """The source's packs that backups in the target are known to have copies of."""
        neighbours = {one.label: one for entry in entries for one in choose_neighbours(entry, self._there)}
        known: set[bytes] = set()
        for one in neighbours.values():
            with suppress(Damaged, ObjectMissing):
                known.update(match_packs(self._source, self._target, one)[0])
        return known

    def _list_files(self, outcomes: Sequence[BackupOutcome]) -> WalFound:
        """The WAL of the backups that are in the target or come to be there."""
        has = {one.label for one in outcomes if one.fate in _IN_TARGET}
        all_found = []
        backups = (one for one in self._chosen if one.label in has and one.purpose is Purpose.BACKUP)
        for system, begin in find_begins(backups).items():
            wish = WalWish(lineage=self._lineages[system], begin_lsn=begin)
            all_found.append(
                list_missing(self._source.repository, self._target.repository, self._request.cluster, wish)
            )
        return WalFound(
            jobs=[job for found in all_found for job in found.jobs],
            present=sum(found.present for found in all_found),
            apart=tuple(one for found in all_found for one in found.apart),
        )

    # -- doing it ---------------------------------------------------------------------------------------------------

    def run(self, plan: CopyPlan) -> tuple[tuple[BackupOutcome, ...], WalOutcome]:
        """Raises what ``run_copy`` raises."""
        size = render_size(plan.pack_bytes + plan.wal_bytes)
        self._tell(Step(text=f"copying {len(plan.backups)} backups and {len(plan.files)} WAL files, {size}"))
        meter = Meter(self._tell, plan.pack_bytes + plan.wal_bytes)
        self._register(plan)
        histories = [job for job in plan.files if classify(job.file_name) is WalFileKind.HISTORY]
        first = self._carry_files(histories, meter)
        scene = Scene(
            source=self._source,
            target=self._target,
            processes=self._request.processes,
            meter=meter,
            listener=self._tell,
            there=self._there,
            held=list_held(self._target.pack_place),
            who=self._request.who or read_own_identity(),
        )
        results = {entry.label: self._copy_backup(scene, entry) for entry in plan.backups}
        outcomes = tuple(results.get(one.label, one) for one in plan.outcomes)
        self._carry_holds(outcomes)
        rest = self._list_files(outcomes)  # anew: more may have been archived, or removed, meanwhile
        self._tell(Step(text=f"copying {len(rest.jobs)} WAL files"))
        second = self._carry_files(rest.jobs, meter)
        wal = WalOutcome(
            copied=first.copied + scene.wal_count + second.copied,
            copied_bytes=first.copied_bytes + scene.wal_bytes + second.copied_bytes,
            present=plan.present,
            failed=(*rest.apart, *second.failed),  # of all that are missing, what failed before among them
        )
        return outcomes, wal

    def carry_beside(self, outcomes: Sequence[BackupOutcome], *, dry_run: bool) -> BesideOutcome:
        """What goes with the lineages of what is, or comes to be, in the target; not with single backups."""
        if self._request.labels:
            return BesideOutcome()
        has = {one.label for one in outcomes if one.fate in _IN_TARGET}
        systems = {find_system(entry) for entry in self._chosen if entry.label in has}
        source, target = self._source.repository, self._target.repository
        return carry_beside(source, target, self._request.cluster, systems, dry_run=dry_run)

    def _register(self, plan: CopyPlan) -> None:
        """Claim the name for the lineages that something is copied of, oldest first."""
        systems = {find_system(entry) for entry in plan.backups}
        for system, lineage in self._lineages.items():
            if system in systems:
                self._target.repository.register_lineage(self._request.cluster, lineage, new_lineage=True)

    def _carry_holds(self, outcomes: Sequence[BackupOutcome]) -> None:
        """What is held in the source is held in the target, too, but for what was held there before and released."""
        held = {entry.label: entry.hold for entry in self._chosen if entry.hold is not None}
        for one in outcomes:
            if one.label in held and one.copy is not None and one.fate in (BackupFate.COPIED, BackupFate.PRESENT):
                there = self._target.read_entry(one.copy)
                if there.state is BackupState.COMMITTED and not find_last(there.parts, "hold"):
                    Removal(self._target).hold(one.copy, held[one.label].reason)

    def _copy_backup(self, scene: Scene, entry: BackupEntry) -> BackupOutcome:
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            try:
                return BackupCopy(scene, entry).run()
            except NotCopied as flaw:
                fate, reason = flaw.fate, flaw.reason
            except Damaged as error:
                fate, reason = BackupFate.FAILED, error.message
            if fate is BackupFate.GONE:
                # A compaction has moved it to other packs, or a policy has expired it, or something of it is lost.
                entry = self._source.read_entry(entry.label)
                if entry.state is BackupState.COMMITTED:
                    if attempt < _ATTEMPTS_MAX:
                        continue
                    fate = BackupFate.FAILED
            break
        level: Literal["info", "warning"] = "warning" if fate is BackupFate.FAILED else "info"
        text = f'backup "{entry.label}" is not copied: {reason}'
        self._tell(Notice(level=level, code="not_copied", text=text))
        return BackupOutcome(label=entry.label, fate=fate, reason=reason)

    def _carry_files(self, jobs: Sequence[WalJob], meter: Meter) -> WalOutcome:
        """Copy these files. One that the source's collector has removed meanwhile is not missed."""
        copied = copied_bytes = present = 0
        failed: list[tuple[str, str]] = []

        def take(result: CarryResult) -> None:
            nonlocal copied, copied_bytes, present
            assert isinstance(result.job, WalJob)
            meter.add(result.job.size_bytes)
            if result.outcome is Carried.STORED:
                copied += 1
                copied_bytes += result.stored_bytes
            elif result.outcome is Carried.PRESENT:
                present += 1
            elif result.outcome is not Carried.GONE:
                failed.append((result.job.file_name, result.reason or ""))

        settings = CarrierSettings(
            source=self._source.repository, target=self._target.repository, cluster=self._request.cluster, label=""
        )
        processes = self._request.processes if len(jobs) >= _FILES_MIN else 0
        with Crew(size=processes, setup=open_carrier, settings=settings) as crew:
            crew.run(iter(jobs), take, meter.tell)
        return WalOutcome(copied=copied, copied_bytes=copied_bytes, present=present, failed=tuple(failed))
