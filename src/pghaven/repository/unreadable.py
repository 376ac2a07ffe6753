"""Labels whose intent or decision cannot be read: what can still be known of them, and giving them up.

The one idea: such a label holds back what it may need, and nothing else. What its decision says is enough without the
intent; where the decision cannot be read, a manifest that proves itself says what the backup would need; and a writer
whose intent cannot be read is given up like any other when it has been silent for long.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from pghaven.errors import Damaged, NotFound, ObjectMissing, Refused
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.container import Kind
from pghaven.repository.entry import COLLECT, BackupEntry, BackupState, ManifestPlace, find_last, parse_generation
from pghaven.units import render_time_utc


def interpret(catalog: BackupCatalog, entry: BackupEntry) -> BackupEntry:
    """A label as those who remove things must take it. Others than damaged ones are returned as they are.

    COMMITTED without retirement if it is, or may be, a backup; UNDECIDED without an intent if somebody may be at work;
    GONE if it was given up, since nobody can go on from what has no readable intent. It stays DAMAGED where it is not
    known what it needs.
    """
    if entry.state is not BackupState.DAMAGED:
        return entry
    if "decision" not in entry.parts:
        return replace(entry, state=BackupState.UNDECIDED)
    try:
        decision = catalog.read_decision(entry.label)
    except Damaged:
        return _by_its_manifest(catalog, entry)
    except ObjectMissing:
        return replace(entry, state=BackupState.GONE)
    if decision["decision"] == "abandon":
        return replace(entry, state=BackupState.GONE)
    return replace(
        entry,
        state=BackupState.CONDEMNED if _is_condemned(catalog, entry) else BackupState.COMMITTED,
        summary=decision["summary"],
        manifest_hash=decision["manifest"],
        generations=decision.get("generations", {}),
    )


def _is_condemned(catalog: BackupCatalog, entry: BackupEntry) -> bool:
    with suppress(Damaged, ObjectMissing):
        return catalog.read_fate(entry.label, find_last(entry.parts, "retire")) == COLLECT
    return False


def _by_its_manifest(catalog: BackupCatalog, entry: BackupEntry) -> BackupEntry:
    """A label whose decision cannot be read, as if it had committed on the manifest that is there."""
    name = layout.backup_object_name(catalog.cluster, entry.label, "manifest")
    with suppress(Damaged, ObjectMissing):
        manifest_hash = catalog.repository.load_index(name, Kind.MANIFEST).hash.hex()
        committed = replace(entry, state=BackupState.COMMITTED, manifest_hash=manifest_hash)
        facts = catalog.load_manifest(committed).facts
        summary = {
            "system_identifier": str(facts.system_identifier),
            "start_lsn": str(facts.start_lsn),
            "stop_lsn": str(facts.stop_lsn),
        }
        return replace(committed, summary=summary)
    return entry


def advise(catalog: BackupCatalog, label: str) -> str:
    """What to do about a label whose records cannot be read."""
    wanted = "Bring the object back from a copy of the repository, or"
    with suppress(Damaged, ObjectMissing):
        if _list_written(catalog, label):
            return f"{wanted} get over it without a loss: pghaven expire {catalog.cluster} --mend {label}"
    return f"{wanted} give that backup up for good: pghaven expire {catalog.cluster} --give-up {label}"


def mend(catalog: BackupCatalog, label: str) -> tuple[str, ...]:
    """Decide once more what a compaction of which the decision cannot be read has decided: the backups it serves.

    What it wrote describes the same files as what it replaces. So if all of it is there and proves itself, it may count
    whatever the decision said; and if it counts, nothing that a backup may stand on is taken for garbage. Raises
    NotFound, Refused for what can be read, and Damaged where not all of it is there.
    """
    written = _list_written(catalog, label)
    if not written:
        raise NotFound(
            f'there is no compaction "{label}" of cluster "{catalog.cluster}" that wrote the map of a backup',
            hint="A backup that cannot be read is given up with --give-up.",
        )
    try:
        decision = catalog.read_decision(label)
    except Damaged:
        pass
    except ObjectMissing:
        raise Refused(f'compaction "{label}" has not decided, so nothing counts that it wrote') from None
    else:
        raise Refused(f'the decision of "{label}" can be read: it is {decision["decision"]}')
    repository = catalog.repository
    generations = {entry.label: _prove_generation(catalog, entry, part) for entry, part in written}
    body = {
        "decision": "commit",
        "manifest": "",
        "manifest_bytes": 0,
        "summary": {},
        "generations": generations,
        "written_at": render_time_utc(repository.clock.now()),
    }
    repository.create_document(layout.backup_object_name(catalog.cluster, label, "mended"), body)
    return tuple(sorted(generations))


def _list_written(catalog: BackupCatalog, label: str) -> list[tuple[BackupEntry, str]]:
    """The backups of which there is a manifest that this compaction wrote, and the names of these below them."""
    return [
        (entry, part)
        for entry in catalog.list_labels()
        for part in entry.parts
        if (parse_generation(part) or ("", ""))[1] == label
    ]


def _prove_generation(catalog: BackupCatalog, entry: BackupEntry, part: str) -> str:
    """The hash of a manifest that is whole, and all of whose packs are there. Raises Damaged."""
    name = layout.backup_object_name(catalog.cluster, entry.label, part)
    try:
        manifest_hash = catalog.repository.load_index(name, Kind.MANIFEST).hash.hex()
        place = ManifestPlace(part=part, hash=manifest_hash, compaction=None, superseded_at=None)
        packs = catalog.load_manifest(entry, place).packs
    except ObjectMissing as error:
        raise Damaged(f"nothing was mended: {error.message}") from error
    for pack in packs:
        pack_name = layout.pack_name(catalog.cluster, pack.label, pack.id)
        found = catalog.repository.store.find(pack_name)
        if found is None or found.size_bytes != pack.size_bytes:
            raise Damaged(
                f'nothing was mended: "{pack_name}", which "{name}" names, is not there as it was',
                hint="Bring it back, or the decision, from a copy of the repository.",
            )
    return manifest_hash


def give_up(catalog: BackupCatalog, label: str) -> str:
    """End a backup that can never be restored, so that it holds nothing back any more; why it cannot be.

    The next collection removes what is left of it. Raises NotFound, Refused for one that can be read, for a compaction,
    and while another backup that is being made has named it.
    """
    entry = catalog.read_entry(label)
    if entry.state is BackupState.GONE:
        raise NotFound(f'there is no backup "{label}" of cluster "{catalog.cluster}"', hint="Give the whole label.")
    entries = catalog.list_labels()
    if written := _list_written(catalog, label):
        raise Refused(
            f'"{label}" is a compaction, and the manifests it wrote may be the only ones of {len(written)} backups',
            hint=f"To get over it without a loss: pghaven expire {catalog.cluster} --mend {label}",
        )
    reason = entry.reason if entry.state is BackupState.DAMAGED else _find_damage(catalog, entry)
    if reason is None:
        raise Refused(
            f'backup "{label}" can be read: it is {entry.state}',
            hint="Backups that are whole go when the retention policy no longer keeps them.",
        )
    for one in entries:
        if one.state is BackupState.UNDECIDED and one.intent is not None and label in one.intent.sources:
            raise Refused(f'"{one.label}", which is not finished, goes on from it', hint="Wait until it has ended.")
    catalog.repository.store.delete(layout.backup_object_name(catalog.cluster, label, "intent"))
    return reason


def _find_damage(catalog: BackupCatalog, entry: BackupEntry) -> str | None:
    if entry.state not in (BackupState.COMMITTED, BackupState.RETIRED):
        return None
    try:
        catalog.load_manifest(entry)
    except (Damaged, ObjectMissing) as error:
        return error.message
    return None
