"""A cluster's backups in the repository: intents, manifests and the decision key.

The one idea: a backup exists if and only if its decision says "commit", and exactly one of "commit" and "abandon" can
ever be written, because the decision is created by put-if-absent. Clocks, pauses, retries and lost answers cannot make
two of it. Everything else here (who seems alive, who waits) saves work and carries no safety.

    intent → packs → manifest → decision            written in this order, read in the reverse one

What comes after a commit (retiring, holding, condemning) is written by ``removal``, and read here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any

from pghaven.errors import Ambiguous, Cancelled, Damaged, NotFound, ObjectExists, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.container import Container, FinishedContainer, Index, Kind
from pghaven.repository.entry import (
    COLLECT,
    KEEP,
    BackupEntry,
    BackupState,
    Hold,
    Intent,
    ManifestPlace,
    Purpose,
    find_last,
    parse_generation,
    parse_intent,
    pick_entries,
    render_intent,
)
from pghaven.repository.manifest import BackupFacts, Manifest, parse_manifest, parse_pack_table, render_manifest
from pghaven.repository.notes import read_hold, read_retirement
from pghaven.repository.pack import PackPlace
from pghaven.repository.packtable import PackTable
from pghaven.repository.repository import Repository
from pghaven.store.api import Store
from pghaven.store.metered import find_server_store
from pghaven.units import parse_time_utc, render_time_utc

_READERS = 16  # over a network: a backup's two small documents cost the distance, and nearly nothing else


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
        self._repository.create_document(self._name(label, "intent"), render_intent(intent))

    def sign_of_life(self, label: str, number: int) -> None:
        """Say once more that the writer lives; ``number`` counts up from 1."""
        self._repository.create_document(self._name(label, f"alive/{number:08d}"), {"number": number})

    def commit(self, label: str, manifest: Manifest, summary: Mapping[str, Any]) -> int:
        """Make the backup exist: manifest, then decision; returns the manifest's stored size in bytes.

        Raises Cancelled when a collector has abandoned it.
        """
        manifest_hash, size_bytes = self.store_manifest(label, "manifest", manifest)
        body = {
            "decision": "commit",
            "manifest": manifest_hash,
            "manifest_bytes": size_bytes,
            "summary": dict(summary),
        }
        self.decide(label, body)
        return size_bytes

    def store_manifest(self, label: str, part: str, manifest: Manifest) -> tuple[str, int]:
        """Store a manifest of a backup, which counts once a decision gives its hash; returns that and its stored bytes.

        The same manifest again is success. Raises ObjectExists when another one has the name.
        """
        repository = self._repository
        name = self._name(label, part)
        context = repository.context(name).encode()
        finished = render_manifest(manifest, context=context, keyring=repository.keyring)
        try:
            repository.create_container(name, finished)
        except ObjectExists:
            if (there := _find_same(repository, name, finished)) is None:
                raise
            repository.store.confirm(name)
            return there
        return finished.hash.hex(), finished.size_bytes

    def abandon(self, label: str, reason: str) -> bool:
        """Decide that this backup will never be. False when it was committed first."""
        body = {"decision": "abandon", "reason": reason}
        try:
            self._repository.create_document(self._name(label, "decision"), body)
        except ObjectExists:
            return bool(self.read_decision(label)["decision"] == "abandon")
        return True

    def decide(self, label: str, body: Mapping[str, Any]) -> None:
        """Write the decision to commit. Raises Cancelled when a collector was first.

        An intent that is gone by then means the same: it was abandoned so long ago that all of it was removed, and with
        it the decision that would have told.
        """
        reason = "its intent was removed"
        try:
            self._repository.create_document(self._name(label, "decision"), body)
            if self._repository.store.find(self._name(label, "intent")) is not None:
                return
        except ObjectExists:
            reason = str(self.read_decision(label).get("reason"))
        message = f'backup "{label}" was given up by another process before it was finished: {reason}'
        raise Cancelled(message, hint="Run the backup again.")

    # -- reading ----------------------------------------------------------------------------------------------------

    def list_entries(self, purpose: Purpose = Purpose.BACKUP) -> tuple[BackupEntry, ...]:
        """Every backup, or dump, ever begun here that has not been collected, oldest first by when it was started.

        One whose intent or decision is damaged is DAMAGED with the reason: it is told, it may still be somebody's last
        backup, and it does not stand in the way of the others.
        """
        return pick_entries(self.list_labels(), purpose)

    def list_labels(self) -> tuple[BackupEntry, ...]:
        """Everything that has a label, compactions and what is being removed too, oldest first."""
        found = self._list_parts()
        entries = _map_over(self._repository.store, self._read_whole, found)
        return tuple(sorted(entries, key=_started))

    def _read_whole(self, label: str, parts: Mapping[str, datetime]) -> BackupEntry:
        """An entry; DAMAGED with the reason where it cannot be read, GONE where it went while we looked."""
        try:
            return self._read_entry(label, parts)
        except Damaged as error:
            state, reason = BackupState.DAMAGED, error.message
        except ObjectMissing:
            state, reason = BackupState.GONE, "it was removed meanwhile"
        sign = max(parts.values(), default=None)
        return BackupEntry(label=label, state=state, intent=None, last_sign=sign, parts=parts, reason=reason)

    def _list_parts(self, label: str | None = None) -> dict[str, dict[str, datetime]]:
        """For each label its objects and their times."""
        parts: dict[str, dict[str, datetime]] = {}
        prefix = layout.backups_prefix(self.cluster)
        for info in self._repository.store.list(prefix if label is None else f"{prefix}{label}/"):
            found, _, part = info.name.removeprefix(prefix).partition("/")
            parts.setdefault(found, {})[part] = info.modified
        return parts

    def list_committed(self, purpose: Purpose = Purpose.BACKUP) -> tuple[BackupEntry, ...]:
        """The backups, or dumps, there are, oldest first; what is retired is not among them."""
        return tuple(entry for entry in self.list_entries(purpose) if entry.state is BackupState.COMMITTED)

    def read_entry(self, label: str) -> BackupEntry:
        """One label's state now. Never raises for a label that is not there: that is GONE."""
        return self._read_whole(label, self._list_parts(label).get(label, {}))

    def _read_entry(self, label: str, parts: Mapping[str, datetime]) -> BackupEntry:
        sign = max(parts.values(), default=None)
        if "intent" not in parts:
            return BackupEntry(label=label, state=BackupState.GONE, intent=None, last_sign=sign, parts=parts)
        entry = BackupEntry(
            label=label, state=BackupState.UNDECIDED, intent=self._read_intent(label), last_sign=sign, parts=parts
        )
        if "decision" not in parts:
            return entry
        decision = self.read_decision(label)
        retired = find_last(parts, "retire")
        fate = self.read_fate(label, retired) if retired and f"fate/{retired:08d}" in parts else None
        if decision["decision"] == "abandon":
            state = BackupState.CONDEMNED if fate == COLLECT else BackupState.ABANDONED
            return replace(entry, state=state, reason=str(decision.get("reason")))
        state = BackupState.COMMITTED
        retirement = None
        if retired and fate != KEEP:
            name = self._name(label, f"retire/{retired:08d}")
            retirement = read_retirement(self._repository, name, retired)
            state = BackupState.CONDEMNED if fate == COLLECT else BackupState.RETIRED
        return replace(
            entry,
            state=state,
            summary=decision["summary"],
            manifest_hash=decision["manifest"],
            generations=decision.get("generations", {}),
            reason=retirement.reason if retirement else None,
            retirement=retirement,
            hold=self._find_hold(label, parts),
        )

    def read_fate(self, label: str, number: int) -> str:
        """What became of a retirement, "collect" or "keep". Raises ObjectMissing when that is open, Damaged."""
        name = self._name(label, f"fate/{number:08d}")
        fate = self._repository.read_document(name).get("fate")
        if fate not in (COLLECT, KEEP):
            raise Damaged(f'"{name}" is damaged: it is no fate')
        return str(fate)

    def _find_hold(self, label: str, parts: Mapping[str, datetime]) -> Hold | None:
        number = find_last(parts, "hold")
        if not number or f"release/{number:08d}" in parts:
            return None
        part = f"hold/{number:08d}"
        return read_hold(self._repository, self._name(label, part), number, parts[part])

    def read_decision(self, label: str) -> dict[str, Any]:
        """Either decision, with what belongs to it. Raises Damaged for anything else, ObjectMissing.

        One that cannot be read is the one that it was mended with, if it was.
        """
        try:
            return _read_decision(self._repository, self._name(label, "decision"))
        except Damaged as error:
            try:
                return _read_decision(self._repository, self._name(label, "mended"))
            except ObjectMissing:
                raise error from None

    def _read_intent(self, label: str) -> Intent:
        name = self._name(label, "intent")
        try:
            return parse_intent(self._repository.read_document(name))
        except KeyError as error:
            raise Damaged(f'"{name}" has no {error}: it is damaged, or of a development version of pghaven') from error
        except (TypeError, ValueError) as error:
            raise Damaged(f'"{name}" is damaged: it is no intent ({error})') from error

    def find_entry(
        self, label: str, *states: BackupState, purposes: Collection[Purpose] = (Purpose.BACKUP,)
    ) -> BackupEntry:
        """The backup of this label or unique beginning of one in one of these states, without any a committed one.

        Raises NotFound saying what there is, Ambiguous where the beginning is that of several.

        Reads nothing of other backups, so that damage to one does not stand in the way of all.
        """
        parts = self._list_parts()
        labels = [label] if label in parts else [one for one in parts if one.startswith(label)]
        entries = [self._read_entry(one, parts[one]) for one in labels]
        wanted = states or (BackupState.COMMITTED,)
        matches = [entry for entry in entries if entry.state in wanted and entry.purpose in purposes]
        if len(matches) == 1:
            return matches[0]
        known = [entry for purpose in purposes for entry in self.list_entries(purpose)]
        there = ", ".join([entry.label for entry in known if entry.state in wanted][-5:]) or "none"
        kind = "dump" if Purpose.BACKUP not in purposes else "backup"
        hint = f"Newest {kind}s: {there}."
        if matches:
            raise Ambiguous(f'more than one {kind} begins with "{label}" of cluster "{self.cluster}"', hint=hint)
        raise NotFound(f'there is no {kind} "{label}" of cluster "{self.cluster}"', hint=hint)

    def load_manifest(self, entry: BackupEntry, place: ManifestPlace | None = None) -> Manifest:
        """The proven manifest of a committed backup, the newest if no other is given. Raises Damaged, ObjectMissing."""
        place = place or next(self.iter_manifests(entry))
        name = self._name(entry.label, place.part)
        container = self._repository.read_container(name, Kind.MANIFEST)
        try:
            _check_hash(container.index, place)
            manifest = parse_manifest(container)
            self._check_whose(manifest.facts, entry)
        except Damaged as error:
            raise Damaged(f'"{name}" is damaged: {error.message}') from error
        return manifest

    def find_manifest(self, entry: BackupEntry) -> tuple[str, str]:
        """The name of a backup's newest manifest that counts, and the hash a decision gives it. Raises Damaged."""
        place = next(self.iter_manifests(entry))
        return self._name(entry.label, place.part), place.hash

    def load_pack_table(self, entry: BackupEntry, place: ManifestPlace) -> PackTable:
        """The packs that a manifest names, proven, without reading the rest of it. Raises Damaged, ObjectMissing."""
        name = self._name(entry.label, place.part)
        index = self._repository.load_index(name, Kind.MANIFEST)
        try:
            _check_hash(index, place)
            facts, packs = parse_pack_table(index.meta, lambda spans: self._repository.load_plain(name, index, spans))
            self._check_whose(facts, entry)
        except Damaged as error:
            raise Damaged(f'"{name}" is damaged: {error.message}') from error
        return packs

    def _check_whose(self, facts: BackupFacts, entry: BackupEntry) -> None:
        if (facts.cluster, facts.label) != (self.cluster, entry.label):
            raise Damaged("it is another backup's manifest")

    def iter_manifests(self, entry: BackupEntry) -> Iterator[ManifestPlace]:
        """A backup's manifests that count, the one to be read first. Raises Damaged.

        A generation counts if its compaction decided to commit and was not given up before: that has an intent.
        """
        superseded_at: datetime | None = None
        found = sorted(((*known, part) for part in entry.parts if (known := parse_generation(part))), reverse=True)
        for _, compaction, part in found:
            try:
                decision = self.read_decision(compaction)
            except ObjectMissing:
                continue  # a compaction that is not decided yet, or was given up and is gone
            except Damaged as error:
                hint = f"To get over it without a loss: pghaven expire {self.cluster} --mend {compaction}"
                raise Damaged(error.message, detail=error.detail, hint=hint) from error
            given = decision.get("generations", {}).get(entry.label)
            if decision["decision"] != "commit" or given is None:
                continue
            if self._repository.store.find(self._name(compaction, "intent")) is None:
                continue
            yield ManifestPlace(part=part, hash=str(given), compaction=compaction, superseded_at=superseded_at)
            try:
                decided_at = parse_time_utc(decision["written_at"])
            except (KeyError, TypeError, ValueError) as error:
                raise Damaged(f'the decision of compaction "{compaction}" is damaged ({error!r})') from error
            superseded_at = decided_at if superseded_at is None else min(superseded_at, decided_at)
        if "manifest" in entry.parts or superseded_at is None:
            own = str(entry.manifest_hash)
            yield ManifestPlace(part="manifest", hash=own, compaction=None, superseded_at=superseded_at)


def _read_decision(repository: Repository, name: str) -> dict[str, Any]:
    body = repository.read_document(name)
    is_commit = body.get("decision") == "commit"
    of_backup = isinstance(body.get("summary"), dict) and isinstance(body.get("manifest"), str)
    if is_commit and of_backup and isinstance(body.get("generations", {}), dict):
        return body
    if body.get("decision") != "abandon":
        raise Damaged(f'"{name}" is damaged: it is no decision')
    return body


def _find_same(repository: Repository, name: str, finished: FinishedContainer) -> tuple[str, int] | None:
    """The hash and the size of the manifest that is there, from an answer that was lost; None when it is another one.

    What is sealed twice is compared by what it says, and by its bytes where the key only writes.
    """
    data = finished.to_bytes()
    if repository.store.read(name) == data:
        return finished.hash.hex(), len(data)
    context = repository.context(name).encode()
    ours = Container(data, kind=Kind.MANIFEST, context=context, keyring=repository.keyring)
    there = repository.read_container(name, Kind.MANIFEST)
    if there.meta != ours.meta or there.read_all() != ours.read_all():
        return None
    return there.index.hash.hex(), there.size_bytes


def _map_over(
    store: Store,
    read: Callable[[str, Mapping[str, datetime]], BackupEntry],
    found: Mapping[str, Mapping[str, datetime]],
) -> list[BackupEntry]:
    if len(found) < 2 or find_server_store(store) is None:
        return [read(label, parts) for label, parts in found.items()]
    with ThreadPoolExecutor(_READERS, "entries") as readers:
        return list(readers.map(read, found, found.values()))


def _check_hash(index: Index, place: ManifestPlace) -> None:
    if index.hash.hex() != place.hash:
        raise Damaged("it is not the manifest that the decision names")


def _started(entry: BackupEntry) -> tuple[str, str]:
    moment = entry.intent.started_at if entry.intent else entry.last_sign
    return (render_time_utc(moment) if moment else "", entry.label)
