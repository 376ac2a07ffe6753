"""What may be removed from a repository, and why the rest stays. Pure: states and references in, a judgement out.

The one idea: a pack goes only if everything that could refer to it is known and does not. A label that may still
decide, or that somebody may go on from, keeps all its packs; the others keep what the manifests that count name
(``docs/design/removal.md``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pghaven.repository.entry import BackupEntry, BackupState, ManifestPlace, Purpose, parse_generation
from pghaven.repository.removal import is_due
from pghaven.units import render_time

Entries = Mapping[str, BackupEntry]
Packs = Mapping[str, Mapping[bytes, int]]
"""By label, each stored pack's id and size in bytes."""

LIVE = (BackupState.COMMITTED, BackupState.RETIRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReason:
    label: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPack:
    label: str
    id: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLabel:
    """A label of which something stays, and why; the packs are those that it wrote."""

    label: str
    state: BackupState
    reason: str
    pack_count: int
    pack_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestUse:
    """One manifest of a backup; ``is_needed`` if somebody may still read it."""

    label: str
    place: ManifestPlace
    is_needed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the manifests that somebody may read refer to: pack ids and the backups they are of, by the packs' label."""

    ids: Mapping[str, set[bytes]]
    users: Mapping[str, set[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What goes. ``manifests`` are (label, name below it) of backups that stay, ``labels`` go with all they have."""

    packs: tuple[StoredPack, ...]
    manifests: tuple[tuple[str, str], ...]
    labels: tuple[LabelReason, ...]
    kept: tuple[KeptLabel, ...]


def choose_condemned(entries: Entries, now: datetime, grace: timedelta) -> tuple[LabelReason, ...]:
    """The labels that are to be removed for good from now on."""
    found = []
    for entry in entries.values():
        if is_due(entry, now) and entry.retirement is not None:
            found.append(LabelReason(label=entry.label, reason=entry.retirement.reason))
        elif entry.state is BackupState.ABANDONED and (reason := _why_not_continued(entry, entries, now, grace)):
            found.append(LabelReason(label=entry.label, reason=reason))
    return tuple(found)


def _why_not_continued(entry: BackupEntry, entries: Entries, now: datetime, grace: timedelta) -> str | None:
    """Why nobody will go on with what was abandoned; None while somebody may."""
    assert entry.intent is not None
    if entry.purpose is Purpose.COMPACTION:
        return "nobody goes on with a compaction that was given up"
    if entry.intent.copy_of is not None:
        return _why_copy_not_continued(entry, entries, now - grace)
    for other in entries.values():
        if other.state in LIVE and other.purpose is entry.purpose and other.intent is not None:
            same = other.intent.system_identifier == entry.intent.system_identifier
            if same and other.intent.started_at > entry.intent.started_at:
                return f'it was given up, and {other.purpose} "{other.label}" has come after it'
    if entry.intent.started_at + grace <= now:
        return "it was given up, and nobody went on with it in time"
    return None


def _why_copy_not_continued(entry: BackupEntry, entries: Entries, moment: datetime) -> str | None:
    """As above, of a copy: its own moment is that of the backup, and may be long ago when the copying begins."""
    for other in entries.values():
        if other.state in LIVE and other.original == entry.original:
            return f'it was given up, and copied again as "{other.label}"'
    if entry.last_sign is None or entry.last_sign <= moment:
        return "copying it was given up, and nobody went on with it in time"
    return None


def find_sources(entries: Iterable[BackupEntry]) -> dict[str, str]:
    """Every label that an undecided one may use packs of, and the first that does."""
    sources: dict[str, str] = {}
    for entry in entries:
        if entry.state is BackupState.UNDECIDED and entry.intent is not None:
            for source in (*entry.intent.sources, *filter(None, [entry.intent.parent])):
                sources.setdefault(source, entry.label)
    return sources


def list_compactions(entries: Iterable[BackupEntry]) -> frozenset[str]:
    """The compactions that have decided."""
    return frozenset(
        entry.label for entry in entries if entry.purpose is Purpose.COMPACTION and entry.state is BackupState.COMMITTED
    )


def counts(entry: BackupEntry, sources: Mapping[str, str]) -> bool:
    """Whether this backup's manifests must be known before anything is removed."""
    return entry.manifest_hash is not None and (
        (entry.state in LIVE and entry.has_files) or (entry.state is BackupState.CONDEMNED and entry.label in sources)
    )


def judge_manifests(
    entry: BackupEntry,
    places: Iterable[ManifestPlace],
    *,
    is_source: bool,
    moment: datetime,
    trusted: Collection[str],
) -> list[ManifestUse]:
    """Which of a backup's manifests (the newest first) may still be read.

    One that was superseded before ``moment``, by a compaction among the ``trusted``, may not. Trusted are those that
    had decided before the intents were listed: of another one there may be a backup whose intent the listing has
    missed, and which has read this manifest before that decision.
    """
    found = []
    is_certain = False
    for place in places:
        is_over = is_certain and place.superseded_at is not None and place.superseded_at <= moment
        found.append(ManifestUse(label=entry.label, place=place, is_needed=is_source or not is_over))
        is_certain = is_certain or place.compaction in trusted
    return found


def judge(packs: Packs, entries: Entries, uses: Iterable[ManifestUse], needs: Needs) -> Judgement:
    """What goes and why the rest stays."""
    sources = find_sources(entries.values())
    removed: list[StoredPack] = []
    kept: list[KeptLabel] = []
    uses = list(uses)
    labels = _choose_labels(entries, sources, uses)
    going = {one.label for one in labels}
    for label in sorted({*packs, *entries}):
        stored = packs.get(label, {})
        stays = why_all_packs_stay(label, entries.get(label), sources)
        ids = needs.ids.get(label, set())
        gone = [] if stays else [one for one in stored if one not in ids]
        removed.extend(StoredPack(label=label, id=one, size_bytes=stored[one]) for one in gone)
        if len(gone) < len(stored) or (label in entries and label not in going):
            left = [size for one, size in stored.items() if one in ids or stays]
            reason = stays or _why_kept(entries.get(label), needs.users.get(label, set()))
            state = entries[label].state if label in entries else BackupState.GONE
            kept.append(KeptLabel(label=label, state=state, reason=reason, pack_count=len(left), pack_bytes=sum(left)))
    return Judgement(
        packs=tuple(removed),
        manifests=tuple(_choose_manifests(entries, sources, uses)),
        labels=labels,
        kept=tuple(kept),
    )


def why_all_packs_stay(label: str, entry: BackupEntry | None, sources: Mapping[str, str]) -> str | None:
    """Why not one pack of a label goes, whoever refers to it; None if that is not so."""
    if label in sources:
        return f'"{sources[label]}", which is not finished, may use it'
    if entry is None or entry.intent is None:
        return None
    if entry.state is BackupState.UNDECIDED:
        return f'process {entry.intent.who.pid} on host "{entry.intent.who.host}" is at work on it'
    if entry.state is BackupState.ABANDONED:
        return "it was given up, but another backup may go on with it"
    return None


def _why_kept(entry: BackupEntry | None, users: set[str]) -> str:
    if entry is not None and entry.state in LIVE and entry.has_files:
        if entry.hold is not None:
            return f"it is held: {entry.hold.reason}"
        if entry.retirement is not None:
            return f"it can be brought back until {render_time(entry.retirement.not_before)}"
        return f"it is a {entry.purpose}"
    others = sorted(users)
    if not others:
        return "it decided on manifests that are read"
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"packs of it are part of {', '.join(others[:3])}{more}"


def _choose_labels(
    entries: Entries, sources: Mapping[str, str], uses: Iterable[ManifestUse]
) -> tuple[LabelReason, ...]:
    """The labels whose objects all go: what is condemned, what is gone already, compactions nobody reads any more."""
    needed = {use.place.compaction for use in uses if use.is_needed}
    found = []
    for entry in entries.values():
        if entry.label in sources:
            continue
        if entry.state is BackupState.CONDEMNED:
            found.append(LabelReason(label=entry.label, reason=entry.reason or "it is condemned"))
        elif entry.state is BackupState.GONE and entry.parts:
            found.append(LabelReason(label=entry.label, reason="its removal was interrupted, or its writer came late"))
        elif entry.state is BackupState.COMMITTED and entry.purpose is Purpose.COMPACTION and entry.label not in needed:
            found.append(LabelReason(label=entry.label, reason="no manifest of this compaction is read any more"))
    return tuple(found)


def _choose_manifests(
    entries: Entries, sources: Mapping[str, str], uses: Iterable[ManifestUse]
) -> Iterable[tuple[str, str]]:
    """The manifests of live backups that nobody reads any more, or never will."""
    counted: set[tuple[str, str]] = set()
    for use in uses:
        counted.add((use.label, use.place.part))
        if not use.is_needed and entries[use.label].state in LIVE:
            yield use.label, use.place.part
    for entry in entries.values():
        if entry.state not in LIVE or entry.label in sources:
            continue  # a compaction that may still decide on a generation has named the backup
        for part in entry.parts:
            if parse_generation(part) and (entry.label, part) not in counted:
                yield entry.label, part
