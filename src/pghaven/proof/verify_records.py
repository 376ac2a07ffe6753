"""The records of a cluster, each read and proven: lineages, what is written about each label, manifests.

The one idea: everything a restore goes by is read the way it reads it, but each object for itself, so that one damaged
document does not hide what else is damaged. What comes of it is which backups there are, and all packs they need.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from pghaven.errors import Damaged, NotFound, ServerUnsuitable
from pghaven.postgres.control import parse_control
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.proof.findings import Finding, damage, info, warning
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import (
    COLLECT,
    BackupEntry,
    BackupState,
    Purpose,
    find_last,
    parse_generation,
    summarize,
)
from pghaven.repository.liveness import seems_dead
from pghaven.repository.manifest import BackupFacts, Manifest
from pghaven.repository.pack import PackRef
from pghaven.repository.packcheck import try_read
from pghaven.repository.packtable import PackNumbers, PackRows
from pghaven.repository.repository import Lineage, Repository
from pghaven.runtime.columns import Column
from pghaven.units import render_size, render_time

_DOCUMENT = re.compile(r"intent|decision|(?:alive|retire|fate|hold|release)/[0-9]{8}")
_LINEAGE = re.compile(r"(0|[1-9][0-9]*)\.json")
# What a decision's summary and a manifest's facts both say, and a restore is planned by.
_COMPARED = ("system_identifier", "timeline", "start_lsn", "stop_lsn", "started_at", "stopped_at", "server_version_num")
_NOT_OFFERED = "the backup cannot be restored, and is not offered"
_NOT_READ = "no restore reads it"
_HOLDS = "it holds the backup all the same; whoever reads it does not learn why"


@dataclass(frozen=True, slots=True, kw_only=True)
class WalNeed:
    """The WAL a backup cannot do without, from its start to its stop."""

    label: str
    system_identifier: int
    timeline: Timeline
    start_lsn: Lsn
    stop_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A backup or dump that is verified. ``entry`` is committed or retired, or would be but for damage. ``need`` is
    None for a dump, and when it could not be read; ``manifest_hash`` when it is not known what its manifest is."""

    entry: BackupEntry
    manifest_hash: str | None
    need: WalNeed | None

    @property
    def label(self) -> str:
        return self.entry.label


class PackNeeds:
    """Which packs each subject needs: 4 bytes for each, not in memory where these are many."""

    def __init__(self) -> None:
        self._numbers = Column("I")
        self._parts: list[tuple[str, int, int]] = []

    def add(self, label: str, numbers: npt.NDArray[np.int64]) -> None:
        begin = len(self._numbers)
        self._numbers.extend(numbers.astype(np.uint32).tobytes())
        self._parts.append((label, begin, len(self._numbers)))

    def list_users(self, number: int) -> tuple[str, ...]:
        """The labels that need this pack. Nothing may be added after it."""
        numbers = self._numbers.to_array()
        return tuple(label for label, begin, end in self._parts if np.any(numbers[begin:end] == number))


@dataclass(slots=True, kw_only=True)
class Records:
    """``packs`` are those that are needed, ``needs`` their numbers subject by subject. ``stored_packs`` are those in
    the store, of which their sizes are known. ``is_complete`` is False when it is not known what some backup needs."""

    lineages: list[Lineage] = field(default_factory=list)
    damaged_lineages: dict[int, str] = field(default_factory=dict)
    subjects: list[Subject] = field(default_factory=list)
    packs: PackNumbers = field(default_factory=PackNumbers)
    needs: PackNeeds = field(default_factory=PackNeeds)
    stored_packs: PackNumbers = field(default_factory=PackNumbers)
    findings: list[Finding] = field(default_factory=list)
    documents: int = 0
    manifests: int = 0
    is_complete: bool = True


def read_records(repository: Repository, cluster: str, only: str | None, known: Mapping[str, datetime]) -> Records:
    """Read them all, or with ``only`` those of the one backup with this label or beginning of one.

    ``known`` are backups that were verified before, and when. Raises NotFound without such a cluster or backup,
    StoreUnreachable, NotPermitted.
    """
    reader = _Reader(repository, cluster, known)
    reader.read_lineages()
    entries = reader.catalog.list_labels()
    records = reader.records
    if not entries and not records.lineages and not records.damaged_lineages:
        there = ", ".join(repository.list_clusters()) or "none"
        raise NotFound(
            f'there is no cluster "{cluster}" in repository {repository.store.url}', hint=f"Clusters there: {there}."
        )
    reader.compactions = {found[1] for one in entries for part in one.parts if (found := parse_generation(part))}
    reader.list_packs()
    chosen = entries if only is None else [_choose(entries, cluster, only)]
    for entry in chosen:
        reader.take_label(entry)
    if only is None:
        reader.note_unneeded_packs(entries)
    return records


def _choose(entries: Sequence[BackupEntry], cluster: str, label: str) -> BackupEntry:
    mine = [one for one in entries if one.has_files and "decision" in one.parts]
    matches = [one for one in mine if one.label == label] or [one for one in mine if one.label.startswith(label)]
    if len(matches) == 1:
        return matches[0]
    what = "more than one backup begins with" if matches else "there is no backup"
    there = ", ".join(one.label for one in mine[-5:]) or "none"
    raise NotFound(f'{what} "{label}" of cluster "{cluster}"', hint=f"Newest backups: {there}.")


class _Reader:
    def __init__(self, repository: Repository, cluster: str, known: Mapping[str, datetime]) -> None:
        self._repository = repository
        self._cluster = cluster
        self._known = known
        self.catalog = BackupCatalog(repository, cluster)
        self.records = Records()
        self.compactions: set[str] = set()  # those of which some backup has a manifest
        self._others: defaultdict[str, list[int]] = defaultdict(list)  # sizes of what is no pack among the packs

    # -- lineages ---------------------------------------------------------------------------------------------------

    def read_lineages(self) -> None:
        repository, records = self._repository, self.records
        for child in repository.store.list_children(layout.lineages_prefix(self._cluster)):
            match = _LINEAGE.fullmatch(child)
            if match is None:
                continue
            identifier = int(match[1])
            records.documents += 1
            found = try_read(repository.store, lambda: self._get_lineage(identifier))  # noqa: B023 called at once
            if isinstance(found, Lineage):
                records.lineages.append(found)
                continue
            records.damaged_lineages[identifier] = str(found)
        records.lineages.sort(key=lambda lineage: lineage.registered_at)

    def _get_lineage(self, identifier: int) -> Lineage | str:
        lineage = self._repository.find_lineage(self._cluster, identifier)
        if lineage is None:
            return "it was removed meanwhile"
        if lineage.system_identifier != identifier:
            raise Damaged(f"it is the lineage of system identifier {lineage.system_identifier}")
        return lineage

    # -- labels -----------------------------------------------------------------------------------------------------

    def take_label(self, entry: BackupEntry) -> None:
        documents, flaws = self._read_documents(entry)
        decision = documents.get("decision", {})
        is_compaction = entry.purpose is Purpose.COMPACTION or "generations" in decision
        self._tell_flaws(entry, flaws, decision, is_compaction=is_compaction)
        is_headless = entry.state is BackupState.GONE and _is_committed(entry, documents)
        if is_compaction:
            if not (is_headless and self._miss_compaction(entry)):
                self._note_state(entry, "compaction")
        elif entry.state in (BackupState.COMMITTED, BackupState.RETIRED):
            self._take_backup(entry)
        elif entry.state is BackupState.DAMAGED:
            self._take_damaged(entry, decision)
        elif not (is_headless and self._take_headless(entry, decision)):
            self._note_state(entry, "backup")

    def _read_documents(self, entry: BackupEntry) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Every document of a label, and what is wrong with those that cannot be read."""
        documents: dict[str, dict[str, Any]] = {}
        flaws: dict[str, str] = {}
        for part in filter(_DOCUMENT.fullmatch, entry.parts):
            name = self._name(entry.label, part)
            self.records.documents += 1
            found = try_read(self._repository.store, lambda: self._repository.read_document(name))  # noqa: B023
            if isinstance(found, str):
                flaws[part] = found
            else:
                documents[part] = found
        return documents, flaws

    def _tell_flaws(
        self, entry: BackupEntry, flaws: Mapping[str, str], decision: Mapping[str, Any], *, is_compaction: bool
    ) -> None:
        tell = self.records.findings.append
        label = entry.label
        needed = (
            entry.state is BackupState.DAMAGED and decision.get("decision") != "abandon" and "decision" in entry.parts
        )
        is_told = False
        for part, reason in flaws.items():
            name = self._name(label, part)
            if is_compaction and part == "decision":
                tell(damage(name, reason, "the backups that this compaction moved cannot be restored"))
            elif needed and not is_compaction and not part.startswith("alive/"):
                tell(damage(name, reason, _NOT_OFFERED, (label,)))
                is_told = True
            else:
                tell(warning(name, reason, _HOLDS if part.startswith("hold/") else _NOT_READ))
        if entry.state is BackupState.DAMAGED and not flaws and not is_told:
            names = [self._name(label, part) for part in entry.parts]
            name = next((one for one in names if one in str(entry.reason)), self._name(label, "decision"))
            tell(damage(name, str(entry.reason), _NOT_OFFERED, (label,)))

    def _take_damaged(self, entry: BackupEntry, decision: Mapping[str, Any]) -> None:
        """A backup that is not offered; what else of it is damaged is told all the same."""
        if decision.get("decision") == "commit":
            self._take_backup(_with_decision(entry, decision))
        elif "decision" in entry.parts and decision.get("decision") != "abandon":
            self.records.is_complete = False
            self.records.subjects.append(Subject(entry=entry, manifest_hash=None, need=None))

    def _miss_compaction(self, entry: BackupEntry) -> bool:
        """Without its intent a compaction does not count; if it is being removed no backup has a manifest of it."""
        if entry.label not in self.compactions:
            return False
        meaning = "the backups that this compaction moved may not be restored any more"
        name = self._name(entry.label, "intent")
        self.records.findings.append(damage(name, "it is missing, and its manifests are there", meaning))
        return True

    def _take_headless(self, entry: BackupEntry, decision: Mapping[str, Any]) -> bool:
        """A label without an intent is being removed, or it was lost: then everything else is there."""
        restored = _with_decision(entry, decision)
        manifest = try_read(self._repository.store, lambda: self.catalog.load_manifest(restored))
        if isinstance(manifest, str) or np.any(self.records.stored_packs.find_all(manifest.packs) < 0):
            return False
        name = self._name(entry.label, "intent")
        self.records.findings.append(damage(name, "it is missing, and all else is there", _NOT_OFFERED, (entry.label,)))
        self._take_backup(restored)
        return True

    def _take_backup(self, entry: BackupEntry) -> None:
        records, store = self.records, self._repository.store
        records.manifests += 1
        place = try_read(store, lambda: self.catalog.find_manifest(entry))
        manifest = place if isinstance(place, str) else try_read(store, lambda: self.catalog.load_manifest(entry))
        manifest_hash = None if isinstance(place, str) else place[1]
        if isinstance(manifest, str):
            name = self._name(entry.label, "manifest") if isinstance(place, str) else place[0]
            records.is_complete = False
            records.subjects.append(Subject(entry=entry, manifest_hash=manifest_hash, need=_need_of_summary(entry)))
            records.findings.append(damage(name, manifest, "the backup cannot be restored", (entry.label,)))
            return
        need = _need_of_facts(manifest.facts) if entry.purpose is not Purpose.DUMP else None
        records.subjects.append(Subject(entry=entry, manifest_hash=manifest_hash, need=need))
        assert not isinstance(place, str)
        self._check_facts(entry, manifest, place[0])
        records.needs.add(entry.label, records.packs.add(manifest.packs))

    def _check_facts(self, entry: BackupEntry, manifest: Manifest, name: str) -> None:
        """What a manifest says besides where bytes lie: by the decision's summary, and the control file's CRC."""
        tell, label = self.records.findings.append, entry.label
        facts = summarize(manifest.facts, "", "")
        differing = [key for key in _COMPARED if entry.summary.get(key) != facts[key]]
        if differing:
            reason = f"its summary and its manifest differ in {', '.join(differing)}"
            tell(damage(self._name(label, "decision"), reason, "a restore is planned by wrong facts", (label,)))
        if entry.purpose is Purpose.DUMP:
            return
        try:
            identifier = parse_control(manifest.control).system_identifier
            if identifier != manifest.facts.system_identifier:
                raise Damaged(f"its global/pg_control is of system identifier {identifier}")  # noqa: TRY301
        except (Damaged, ServerUnsuitable) as error:
            tell(damage(name, error.message, "the backup cannot be started", (label,)))

    def _note_state(self, entry: BackupEntry, what: str) -> None:
        tell, label = self.records.findings.append, entry.label
        place = self._name(label, "intent")
        if label in self._known and entry.state in (BackupState.UNDECIDED, BackupState.ABANDONED):
            reason = f"it is not what it was when the backup was verified, {render_time(self._known[label])}"
            tell(damage(self._name(label, "decision"), reason, _NOT_OFFERED, (label,)))
        elif entry.state is BackupState.ABANDONED:
            tell(info(place, f"{what} {label} was given up: {entry.reason}"))
        elif entry.state is BackupState.GONE and "intent" not in entry.parts and "decision" in entry.parts:
            tell(info(self._name(label, "decision"), f"a decision without an intent: {what} {label} is being removed"))
        elif entry.state in (BackupState.CONDEMNED, BackupState.GONE):
            tell(info(place, f"{what} {label} is being removed"))
        elif entry.state is BackupState.UNDECIDED and not seems_dead(entry, self._repository.clock.now()):
            tell(info(place, f"{what} {label} is running"))
        elif entry.state is BackupState.UNDECIDED and "manifest" in entry.parts:
            reason = "it is missing: the manifest is there, and who wrote it is gone"
            tell(warning(self._name(label, "decision"), reason, "the backup was never completed, or this was lost"))
        elif entry.state is BackupState.UNDECIDED:
            tell(info(place, f"{what} {label} was never finished: who made it is gone"))

    # -- packs ------------------------------------------------------------------------------------------------------

    def list_packs(self) -> None:
        """What is stored, known or not."""
        prefix = layout.packs_prefix(self._cluster)
        rows = PackRows()
        for info_ in self._repository.store.list(prefix):
            rest = info_.name.removeprefix(prefix)
            if (key := layout.parse_pack_name(rest)) is not None:
                rows.add(PackRef(label=key[0], id=key[1], size_bytes=info_.size_bytes, tail_bytes=0, plain_length=0))
            else:
                self._others[rest.partition("/")[0]].append(info_.size_bytes)
        self.records.stored_packs.add(rows.finish())

    def note_unneeded_packs(self, entries: Sequence[BackupEntry]) -> None:
        """Packs that no backup refers to, by the label that wrote them; those of one at work may yet be needed."""
        records = self.records
        if not records.is_complete:
            return
        at_work = {one.label for one in entries if one.state is BackupState.UNDECIDED}
        stored = records.stored_packs.table
        is_needed = np.zeros(len(stored) + 1, bool)  # the last is for those that are not stored
        is_needed[records.stored_packs.find_all(records.packs.table)] = True
        sizes = {label: self._others[label].copy() for label in self._others}
        for number, label in enumerate(stored.labels):
            mine = (stored.writer == number) & ~is_needed[:-1]
            sizes.setdefault(label, []).extend(stored.size_bytes[mine].tolist())
        for label in sorted(sizes):
            count, total = len(sizes[label]), sum(sizes[label])
            if not count or label in at_work:
                continue
            what = "1 pack" if count == 1 else f"{count} packs"
            text = f"{what} ({render_size(total)}) that no backup refers to"
            records.findings.append(info(layout.packs_prefix(self._cluster, label), text))

    def _name(self, label: str, part: str) -> str:
        return layout.backup_object_name(self._cluster, label, part)


def _is_committed(entry: BackupEntry, documents: Mapping[str, dict[str, Any]]) -> bool:
    """Whether a label without an intent was committed, and nobody has decided to remove it."""
    fate = documents.get(f"fate/{find_last(entry.parts, 'retire'):08d}", {}).get("fate")
    return documents.get("decision", {}).get("decision") == "commit" and fate != COLLECT


def _with_decision(entry: BackupEntry, decision: Mapping[str, Any]) -> BackupEntry:
    """The entry as it would be but for damage to other documents."""
    summary = decision.get("summary")
    return replace(
        entry, summary=summary if isinstance(summary, dict) else {}, manifest_hash=str(decision.get("manifest"))
    )


def _need_of_facts(facts: BackupFacts) -> WalNeed:
    return WalNeed(
        label=facts.label,
        system_identifier=facts.system_identifier,
        timeline=facts.timeline,
        start_lsn=facts.start_lsn,
        stop_lsn=facts.stop_lsn,
    )


def _need_of_summary(entry: BackupEntry) -> WalNeed | None:
    summary = entry.summary
    if entry.purpose is Purpose.DUMP:
        return None
    try:
        return WalNeed(
            label=entry.label,
            system_identifier=int(summary["system_identifier"]),
            timeline=Timeline(int(summary["timeline"])),
            start_lsn=Lsn.parse(summary["start_lsn"]),
            stop_lsn=Lsn.parse(summary["stop_lsn"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
