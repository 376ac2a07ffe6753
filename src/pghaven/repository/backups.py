"""A cluster's backups in the repository: intents, manifests and the decision key.

The one idea: a backup exists if and only if its decision says "commit", and exactly one of "commit" and "abandon" can
ever be written, because the decision is created by put-if-absent. Clocks, pauses, retries and lost answers cannot make
two of it. Everything else here (who seems alive, who waits) saves work and carries no safety.

    intent → packs → manifest → decision            written in this order, read in the reverse one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from pghaven.errors import Cancelled, Damaged, NotFound, ObjectExists, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.container import Container, Kind
from pghaven.repository.manifest import BackupFacts, Manifest, parse_manifest, render_manifest
from pghaven.repository.pack import PackPlace
from pghaven.repository.repository import Repository
from pghaven.units import parse_time_utc, render_time_utc


class BackupState(StrEnum):
    UNDECIDED = "undecided"
    COMMITTED = "committed"
    ABANDONED = "abandoned"
    RETIRED = "retired"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """Who is making a backup. ``boot_id`` and ``process_start`` tell a process from a later one with its number."""

    host: str
    boot_id: str
    process: int
    process_start: str
    started_at: datetime
    system_identifier: int
    timeline: int
    start_lsn: str
    parent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupEntry:
    """One backup as the catalog knows it. ``summary`` is what the decision carries: ``list`` needs no manifest."""

    label: str
    state: BackupState
    intent: Intent | None
    last_sign: datetime | None
    summary: Mapping[str, Any] = field(default_factory=dict)
    manifest_hash: str | None = None
    reason: str | None = None


class BackupCatalog:
    """The backups of one cluster name in one repository."""

    def __init__(self, repository: Repository, cluster: str) -> None:
        self._repository = repository
        self.cluster = cluster

    @property
    def repository(self) -> Repository:
        return self._repository

    @property
    def pack_place(self) -> PackPlace:
        repository = self._repository
        return PackPlace(
            store=repository.store, repository_id=repository.id, cluster=self.cluster, keyring=repository.keyring
        )

    def _name(self, label: str, part: str) -> str:
        return layout.backup_object_name(self.cluster, label, part)

    # -- writing ----------------------------------------------------------------------------------------------------

    def announce(self, label: str, intent: Intent) -> None:
        """Write the intent. Raises ObjectExists when the label is taken."""
        body = {
            "host": intent.host,
            "boot_id": intent.boot_id,
            "process": intent.process,
            "process_start": intent.process_start,
            "started_at": render_time_utc(intent.started_at),
            "system_identifier": str(intent.system_identifier),
            "timeline": intent.timeline,
            "start_lsn": intent.start_lsn,
            "parent": intent.parent,
        }
        self._repository.create_document(self._name(label, "intent"), body)

    def sign_of_life(self, label: str, number: int) -> None:
        """Say once more that the writer lives; ``number`` counts up from 1."""
        self._repository.create_document(self._name(label, f"alive/{number:08d}"), {"number": number})

    def commit(self, label: str, manifest: Manifest, summary: Mapping[str, Any]) -> int:
        """Make the backup exist: manifest, then decision; returns the manifest's stored size in bytes.

        Raises Cancelled when a collector has abandoned it.
        """
        repository = self._repository
        name = self._name(label, "manifest")
        context = repository.context(name).encode()
        finished = render_manifest(manifest, context=context, keyring=repository.keyring)
        manifest_hash, size_bytes = finished.hash, finished.size_bytes
        try:
            repository.create_container(name, finished)
        except ObjectExists:
            # From an answer that was lost. What is sealed twice is compared by what it says, not by its bytes.
            ours = Container(finished.to_bytes(), kind=Kind.MANIFEST, context=context, keyring=repository.keyring)
            there = repository.read_container(name, Kind.MANIFEST)
            if there.meta != ours.meta or there.read_all() != ours.read_all():
                raise
            repository.store.confirm(name)
            manifest_hash, size_bytes = there.index.hash, there.size_bytes
        body = {
            "decision": "commit",
            "manifest": manifest_hash.hex(),
            "manifest_bytes": size_bytes,
            "summary": dict(summary),
        }
        self._decide(label, body)
        return size_bytes

    def abandon(self, label: str, reason: str) -> bool:
        """Decide that this backup will never be. False when it was committed first."""
        body = {"decision": "abandon", "reason": reason}
        try:
            self._repository.create_document(self._name(label, "decision"), body)
        except ObjectExists:
            return bool(self._read_decision(label)["decision"] == "abandon")
        return True

    def _decide(self, label: str, body: Mapping[str, Any]) -> None:
        try:
            self._repository.create_document(self._name(label, "decision"), body)
        except ObjectExists:
            other = self._read_decision(label)
            raise Cancelled(
                f'backup "{label}" was given up by another process before it was finished: {other.get("reason")}',
                hint="Run the backup again.",
            ) from None

    # -- reading ----------------------------------------------------------------------------------------------------

    def list_entries(self) -> tuple[BackupEntry, ...]:
        """Every backup ever begun here that has not been collected, oldest first by when it was started.

        One whose intent or decision is damaged is DAMAGED with the reason: it is told, it may still be somebody's last
        backup, and it does not stand in the way of the others.
        """
        entries = []
        for label, found in self._list_parts().items():
            try:
                entries.append(self._read_entry(label, found))
            except Damaged as error:
                entries.append(
                    BackupEntry(
                        label=label,
                        state=BackupState.DAMAGED,
                        intent=None,
                        last_sign=max(found.values(), default=None),
                        reason=error.message,
                    )
                )
        return tuple(sorted(entries, key=_started))

    def _list_parts(self) -> dict[str, dict[str, datetime]]:
        """For each label its objects and their times."""
        parts: dict[str, dict[str, datetime]] = {}
        prefix = layout.backups_prefix(self.cluster)
        for info in self._repository.store.list(prefix):
            label, _, part = info.name.removeprefix(prefix).partition("/")
            parts.setdefault(label, {})[part] = info.modified
        return parts

    def list_committed(self) -> tuple[BackupEntry, ...]:
        """The backups there are, oldest first."""
        return tuple(entry for entry in self.list_entries() if entry.state is BackupState.COMMITTED)

    def _read_entry(self, label: str, parts: Mapping[str, datetime]) -> BackupEntry:
        intent = self._read_intent(label) if "intent" in parts else None
        entry = BackupEntry(
            label=label, state=BackupState.UNDECIDED, intent=intent, last_sign=max(parts.values(), default=None)
        )
        if "decision" not in parts:
            return entry
        decision = self._read_decision(label)
        if decision["decision"] == "abandon":
            return replace(entry, state=BackupState.ABANDONED, reason=str(decision.get("reason")))
        return replace(
            entry,
            state=BackupState.RETIRED if "retire" in parts else BackupState.COMMITTED,
            summary=decision["summary"],
            manifest_hash=decision["manifest"],
        )

    def _read_decision(self, label: str) -> dict[str, Any]:
        """Either decision, with what belongs to it. Raises Damaged for anything else, ObjectMissing."""
        name = self._name(label, "decision")
        body = self._repository.read_document(name)
        is_commit = body.get("decision") == "commit"
        if is_commit and isinstance(body.get("summary"), dict) and isinstance(body.get("manifest"), str):
            return body
        if body.get("decision") != "abandon":
            raise Damaged(f'"{name}" is damaged: it is no decision')
        return body

    def _read_intent(self, label: str) -> Intent | None:
        name = self._name(label, "intent")
        try:
            body = self._repository.read_document(name)
            known = {field.name: body[field.name] for field in fields(Intent)}
            known["system_identifier"] = int(known["system_identifier"])
            known["started_at"] = parse_time_utc(known["started_at"])
        except ObjectMissing:
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f'"{name}" is damaged: it is no intent ({error!r})') from error
        return Intent(**known)

    def find_entry(self, label: str) -> BackupEntry:
        """The committed backup of this label or unique beginning of one. Raises NotFound saying what there is.

        Reads nothing of other backups, so that damage to one does not stand in the way of all.
        """
        parts = self._list_parts()
        labels = [label] if label in parts else [one for one in parts if one.startswith(label)]
        entries = [self._read_entry(one, parts[one]) for one in labels]
        matches = [entry for entry in entries if entry.state is BackupState.COMMITTED]
        if len(matches) == 1:
            return matches[0]
        there = ", ".join(entry.label for entry in self.list_committed()[-5:]) or "none"
        what = "more than one backup begins with" if matches else "there is no backup"
        raise NotFound(f'{what} "{label}" of cluster "{self.cluster}"', hint=f"Newest backups: {there}.")

    def load_manifest(self, entry: BackupEntry) -> Manifest:
        """The proven manifest of a committed backup. Raises Damaged naming it, ObjectMissing."""
        name = self._name(entry.label, "manifest")
        container = self._repository.read_container(name, Kind.MANIFEST)
        try:
            if container.index.hash.hex() != entry.manifest_hash:
                raise Damaged("it is not the manifest that the backup's decision names")  # noqa: TRY301
            manifest = parse_manifest(container)
            if (manifest.facts.cluster, manifest.facts.label) != (self.cluster, entry.label):
                raise Damaged("it is another backup's manifest")  # noqa: TRY301
        except Damaged as error:
            raise Damaged(f'"{name}" is damaged: {error.message}') from error
        return manifest


def _started(entry: BackupEntry) -> tuple[str, str]:
    moment = entry.intent.started_at if entry.intent else entry.last_sign
    return (render_time_utc(moment) if moment else "", entry.label)


def summarize(facts: BackupFacts, first_segment: str, last_segment: str) -> dict[str, Any]:
    """What the decision carries of a backup, so that listing and choosing one need no manifest."""
    return {
        "system_identifier": str(facts.system_identifier),
        "server_version_num": facts.server_version_num,
        "wal_segment_size": facts.wal_segment_size,
        "timeline": int(facts.timeline),
        "start_lsn": str(facts.start_lsn),
        "stop_lsn": str(facts.stop_lsn),
        "started_at": render_time_utc(facts.started_at),
        "stopped_at": render_time_utc(facts.stopped_at),
        "from_standby": facts.from_standby,
        "method": facts.method,
        "changes": facts.changes,
        "parent": facts.parent,
        "host": facts.host,
        "first_segment": first_segment,
        "last_segment": last_segment,
        "file_count": facts.file_count,
        "total_bytes": facts.total_bytes,
        "stored_bytes": facts.stored_bytes,
        "bad_pages": len(facts.bad_pages),
    }
