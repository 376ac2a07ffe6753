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
from pghaven.repository.entry import COLLECT, BackupEntry, BackupState, Purpose, find_last, parse_generation


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
    return (
        "Bring the object back from a copy of the repository, or give that backup up for good: "
        f"pghaven expire {catalog.cluster} --give-up {label}"
    )


def give_up(catalog: BackupCatalog, label: str) -> str:
    """End a backup that can never be restored, so that it holds nothing back any more; why it cannot be.

    The next collection removes what is left of it. Raises NotFound, Refused for one that can be read, for a compaction,
    and while another backup that is being made has named it.
    """
    entry = catalog.read_entry(label)
    if entry.state is BackupState.GONE:
        raise NotFound(f'there is no backup "{label}" of cluster "{catalog.cluster}"', hint="Give the whole label.")
    entries = catalog.list_labels()
    written = [one for one in entries for part in one.parts if (parse_generation(part) or ("", ""))[1] == label]
    if written or entry.purpose is Purpose.COMPACTION:
        raise Refused(
            f'"{label}" is a compaction, and the manifests it wrote may be the only ones of {len(written)} backups',
            hint="Bring its objects back from a copy of the repository.",
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
