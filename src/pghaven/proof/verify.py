"""Verifying a repository: every read a restore would do, done now, and everything that is wrong told at once.

    records (here) → packs and WAL (workers) → what the damage means → evidence

The one idea: each object is read once, however many backups need it, and damage never ends the work. Memory: parts of
the columns of manifests and packs, one stored manifest, some 70 bytes for each WAL segment there is, and what
``verify_worker`` says in each worker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.events import Listener, Progress, Step
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.proof.findings import Finding, Gravity, damage, list_labels, warning
from pghaven.proof.verify_meaning import judge_packs
from pghaven.proof.verify_records import Records, Subject, read_records
from pghaven.proof.verify_rest import judge_rest
from pghaven.proof.verify_result import VerifyCounts, VerifyResult, keep_result
from pghaven.proof.verify_wal import (
    LineageWal,
    find_archive_ends,
    iter_wal_jobs,
    judge_ends,
    judge_wal,
    list_wal,
    note_quarantine,
)
from pghaven.proof.verify_worker import VerifyJob, WorkerSettings, WorkResult, open_verifier
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState
from pghaven.repository.evidence import (
    ArchiveEnd,
    BackupProof,
    EvidenceLog,
    Scope,
    load_evidence,
)
from pghaven.repository.horizon import read_horizon
from pghaven.repository.manifest import Manifest
from pghaven.repository.pack import PackRef
from pghaven.repository.packcheck import PackFlaw, try_read
from pghaven.repository.repository import Repository
from pghaven.runtime.crew import Crew
from pghaven.units import render_size, render_time

_JOB_BYTES = 32 << 20
_LSN_MAX = Lsn((1 << 64) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySettings:
    """``only`` limits it to one backup (its label or the beginning of one). With 0 ``processes`` this one works."""

    cluster: str
    processes: int
    scope: Scope = Scope.FULL
    only: str | None = None


def run_verify(
    repository: Repository, settings: VerifySettings, listener: Listener, *, clock: Clock = SYSTEM_CLOCK
) -> VerifyResult:
    """Verify a cluster's part of a repository, and keep the result there.

    Raises NotFound without such a cluster or backup, StoreUnreachable when the store itself fails, NotPermitted.
    Whatever is damaged is in the result.
    """
    began_at, began = repository.clock.now(), clock.monotonic()
    verifier = _Verifier(repository, settings, listener)
    worker = WorkerSettings(repository=repository, cluster=settings.cluster, contents=settings.scope is Scope.FULL)
    crew: Crew[VerifyJob, WorkResult]
    with Crew(size=settings.processes, setup=open_verifier, settings=worker) as crew:
        verifier.read_records()  # while the workers start
        verifier.read_contents(crew)
    findings = verifier.judge()
    result = VerifyResult(
        cluster=settings.cluster,
        scope=settings.scope,
        only=verifier.only,
        began_at=began_at,
        total_seconds=clock.monotonic() - began,
        backups=verifier.list_proofs(findings),
        archive_ends=verifier.list_ends(),
        counts=verifier.count(),
        findings=tuple(findings),
        evidence=None,
    )
    return replace(result, evidence=keep_result(repository, result, listener))


class _Verifier:
    def __init__(self, repository: Repository, settings: VerifySettings, listener: Listener) -> None:
        self._repository = repository
        self._settings = settings
        self._tell = listener
        self._catalog = BackupCatalog(repository, settings.cluster)
        self._records = Records()
        self._log = EvidenceLog(results=(), unreadable=())
        self._pack_flaws: dict[PackRef, list[PackFlaw]] = defaultdict(list)
        self._frames = self._wal_files = self._read_bytes = self._proven_bytes = 0
        self.archives: list[LineageWal] = []

    @property
    def only(self) -> str | None:
        """The whole label of the one backup that is verified."""
        return self._records.subjects[0].label if self._settings.only is not None and self._records.subjects else None

    # -- reading ----------------------------------------------------------------------------------------------------

    def read_records(self) -> None:
        repository, cluster = self._repository, self._settings.cluster
        self._tell(Step(text=f"reading what is recorded of {cluster}"))
        self._log = load_evidence(repository, cluster)
        known: dict[str, datetime] = {}
        for result in self._log.results:
            for proof in result.backups:
                if proof.manifest_hash is not None:
                    known.setdefault(proof.label, result.began_at)
        self._records = read_records(repository, cluster, self._settings.only, known)
        needs = [one.need for one in self._records.subjects if one.need is not None]
        for lineage in self._records.lineages:
            self.archives.append(list_wal(repository, cluster, lineage, needs))

    def read_contents(self, crew: Crew[VerifyJob, WorkResult]) -> None:
        """All packs and WAL, in the workers."""
        total = self._records.packs.table.total_bytes
        if self._settings.only is None:
            total += sum(wal.total_bytes for wal in self.archives)
        self._tell(Step(text=f"verifying {render_size(total)} in {len(self._records.packs)} packs and the WAL archive"))
        done = 0

        def take(result: WorkResult) -> None:
            nonlocal done
            done += result.done_bytes
            self._take(result)
            tell_progress()

        def tell_progress() -> None:
            self._tell(Progress(phase="verifying", done_bytes=done, total_bytes=total))

        crew.run(self._iter_jobs(), take, tell_progress)

    def _iter_jobs(self) -> Iterator[VerifyJob]:
        batch: list[PackRef] = []
        size_bytes = 0
        for ref in self._records.packs.table:
            batch.append(ref)
            size_bytes += ref.size_bytes
            if size_bytes >= _JOB_BYTES:
                yield VerifyJob(packs=tuple(batch))
                batch, size_bytes = [], 0
        if batch:
            yield VerifyJob(packs=tuple(batch))
        for wal in self.archives:
            for job in iter_wal_jobs(wal, only_needed=self._settings.only is not None):
                self._wal_files += len(job.files)
                yield job

    def _take(self, result: WorkResult) -> None:
        for ref, flaw in result.pack_flaws:
            self._pack_flaws[ref].append(flaw)
        for name, reason in result.wal_flaws:
            wal = next(one for one in self.archives if f"/{one.lineage.system_identifier}/" in name)
            wal.flaws[name] = reason
        self._frames += result.frames
        self._read_bytes += result.read_bytes
        self._proven_bytes += result.proven_bytes

    # -- judging ----------------------------------------------------------------------------------------------------

    def judge(self) -> list[Finding]:
        """Everything that was found, the gravest first."""
        records = self._records
        found = [*self._judge_lineages(), *records.findings, *self._judge_packs()]
        for wal in self.archives:
            horizon = self._read_horizon(wal, found)
            found += judge_wal(wal, horizon)
            if self._settings.only is None:
                found += note_quarantine(wal)
                for result in self._log.results[:1]:
                    found += judge_ends(wal, result.archive_ends, render_time(result.began_at), horizon)
        for name, reason in self._log.unreadable:
            found.append(warning(name, reason, "no result of a verification older than it counts any more"))
        if self._settings.only is None:
            told = [name for name, _ in self._log.unreadable]
            documents, rest = judge_rest(self._repository, self._settings.cluster, told)
            self._records.documents += documents
            found += rest
        gone = self._find_removed(found)
        found = [one for one in found if not one.backups or not gone.issuperset(one.backups)]
        order = list(Gravity)
        return sorted(found, key=lambda one: order.index(one.gravity))

    def _read_horizon(self, wal: LineageWal, found: list[Finding]) -> Mapping[Timeline, Lsn]:
        """Before which positions WAL may be missing on purpose; where that cannot be read, anywhere."""
        identifier = wal.lineage.system_identifier
        horizon = try_read(
            self._repository.store, lambda: read_horizon(self._repository, self._settings.cluster, identifier)
        )
        if not isinstance(horizon, str):
            return horizon.positions
        prefix = layout.horizons_prefix(self._settings.cluster, identifier)
        names = [prefix + child for child in self._repository.store.list_children(prefix)]
        name = next((one for one in names if one in horizon), prefix)
        meaning = "no backup can be taken, and nobody knows which WAL is missing on purpose"
        found.append(damage(name, horizon, meaning))
        return dict.fromkeys(wal.held, _LSN_MAX)

    def _judge_lineages(self) -> Iterator[Finding]:
        """What of the cluster's lives cannot be used, because it is not known what they were."""
        records, cluster = self._records, self._settings.cluster
        known = {lineage.system_identifier for lineage in records.lineages}
        needed: dict[int, list[str]] = {identifier: [] for identifier in records.damaged_lineages}
        for child in self._repository.store.list_children(f"{layout.cluster_prefix(cluster)}wal/"):
            if child.rstrip("/").isdecimal():
                needed.setdefault(int(child.rstrip("/")), [])
        for subject in records.subjects:
            if subject.need is not None:
                needed.setdefault(subject.need.system_identifier, []).append(subject.label)
        for identifier in sorted(needed.keys() - known):
            labels = tuple(needed[identifier])
            meaning = f"no WAL of system identifier {identifier} can be used"
            if labels:
                meaning += f", and {list_labels(labels)} cannot be restored"
            reason = records.damaged_lineages.get(identifier, "it is missing")
            yield damage(layout.lineage_name(cluster, identifier), reason, meaning, labels)

    def _judge_packs(self) -> list[Finding]:
        records = self._records
        place = self._catalog.pack_place
        found = []
        packs = records.packs.table
        stored = np.append(records.stored_packs.table.size_bytes, np.uint64(0))  # the last is for those that are not
        sizes = stored[records.stored_packs.find_all(packs)]
        for number in np.flatnonzero(sizes > packs.size_bytes).tolist():
            ref = packs[number]
            if ref not in self._pack_flaws:
                reason = f"it has {int(sizes[number])} bytes, {ref.size_bytes} were stored"
                found.append(
                    warning(place.name(ref.label, ref.id), reason, "no restore reads what lies behind its end")
                )
        if not self._pack_flaws:
            return found
        entries = {subject.label: subject.entry for subject in records.subjects}
        users = {ref: records.needs.list_users(records.packs.find(ref.label, ref.id)) for ref in self._pack_flaws}

        def load(label: str) -> Manifest | str:
            return try_read(self._repository.store, lambda: self._catalog.load_manifest(entries[label]))

        return found + judge_packs(self._pack_flaws, users, load, lambda ref: place.name(ref.label, ref.id))

    def _find_removed(self, findings: Sequence[Finding]) -> set[str]:
        """Of the backups that look damaged those that are being removed since, or lie in other packs now."""
        by_label = {subject.label: subject for subject in self._records.subjects}
        gone = set()
        for label in {label for one in findings for label in one.backups}:
            subject = by_label.get(label)
            if subject is None or subject.entry.state is BackupState.GONE:
                continue
            now = self._catalog.read_entry(label)
            if now.state in (BackupState.CONDEMNED, BackupState.GONE) or self._is_moved(subject, now):
                gone.add(label)
        return gone

    def _is_moved(self, before: Subject, now: BackupEntry) -> bool:
        """Whether a compaction has given the backup another manifest since."""
        if before.manifest_hash is None or now.state not in (BackupState.COMMITTED, BackupState.RETIRED):
            return False
        place = try_read(self._repository.store, lambda: self._catalog.find_manifest(now))
        return not isinstance(place, str) and place[1] != before.manifest_hash

    # -- the result -------------------------------------------------------------------------------------------------

    def list_proofs(self, findings: Sequence[Finding]) -> tuple[BackupProof, ...]:
        damaged = {label for one in findings if one.gravity is Gravity.DAMAGE for label in one.backups}
        return tuple(
            BackupProof(label=one.label, manifest_hash=one.manifest_hash, is_whole=one.label not in damaged)
            for one in self._records.subjects
        )

    def list_ends(self) -> tuple[ArchiveEnd, ...]:
        """How far the archive reaches, or reached: what is once missing at its end is told until it goes on."""
        ends = {(one.system_identifier, one.timeline): one for wal in self.archives for one in find_archive_ends(wal)}
        for before in self._log.results[0].archive_ends if self._log.results else ():
            key = before.system_identifier, before.timeline
            if key not in ends or ends[key].end_lsn < before.end_lsn:
                ends[key] = before
        return tuple(ends[key] for key in sorted(ends))

    def count(self) -> VerifyCounts:
        return VerifyCounts(
            documents=self._records.documents,
            manifests=self._records.manifests,
            packs=len(self._records.packs),
            frames=self._frames,
            wal_files=self._wal_files,
            read_bytes=self._read_bytes,
            proven_bytes=self._proven_bytes,
        )
