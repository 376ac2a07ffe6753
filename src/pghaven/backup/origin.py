"""What a new backup goes on from: a parent whose unchanged pages it keeps, and packs that an interrupted one stored.

The one idea: the intent names every label whose packs the backup may come to refer to, and only after it is written is
it asked whether these are still there to stay (``docs/design/removal.md``). What cannot be relied on is left out, with
the reason told; the backup is complete either way and only larger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pghaven.backup.changes import ChangePlan, Ground, plan_changes, plan_full
from pghaven.backup.counterparts import match_files
from pghaven.backup.listing import Listing
from pghaven.backup.ownmap import OwnMaps
from pghaven.backup.parent import ParentNeeds, choose_parent
from pghaven.backup.parentpages import hash_parent_pages
from pghaven.backup.untouched import FileStamps, HostNow, find_distrust, find_untouched
from pghaven.backup.waldip import DipSearch, find_dip, has_run_since
from pghaven.clock import Clock
from pghaven.errors import Cancelled, Damaged, ObjectMissing, PghavenError, Refused, ServerUnsuitable
from pghaven.events import Listener, Notice
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, Timeline, parse_history
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState, Purpose
from pghaven.repository.evidence import Evidence, Verdict, judge_backup, load_evidence
from pghaven.repository.known import KnownFrames, load_known_frames
from pghaven.repository.manifest import Manifest
from pghaven.repository.packtable import find_short_pack
from pghaven.repository.walstore import WalArchive
from pghaven.runtime.spill import in_parts, make_column
from pghaven.runtime.whoami import read_own_identity
from pghaven.server.bracket import OpenBackup
from pghaven.server.changed import ChangedBlocks
from pghaven.server.connection import Connection
from pghaven.server.probe import ServerFacts
from pghaven.server.summaries import (
    SummariesUnusable,
    find_summaries_obstacle,
    read_changed_blocks,
    wait_for_summaries,
)
from pghaven.units import render_size, render_time

METHODS = ("auto", "summaries", "lsn", "full")
_SUMMARIZER_SECONDS = 60.0
_WAL_SECONDS = 30.0
_TRIES_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """Interrupted backups whose packs may hold what is to be stored now."""

    labels: tuple[str, ...]
    known: KnownFrames | None


def find_tries(
    catalog: BackupCatalog, entries: Sequence[BackupEntry], system_identifier: int, listener: Listener
) -> Tries:
    """The packs of the latest backups of this cluster that were given up since the last one that was finished.

    None on a host that only writes: what such packs hold it cannot tell.
    """
    labels: list[str] = []
    if not catalog.repository.keyring.can_read:
        return Tries(labels=(), known=None)
    for entry in reversed(entries):
        intent = entry.intent
        if intent is None or intent.purpose is not Purpose.BACKUP or intent.system_identifier != system_identifier:
            continue
        if entry.state is not BackupState.ABANDONED or len(labels) == _TRIES_MAX:
            break
        labels.append(entry.label)
    known = load_known_frames(catalog.pack_place, labels)
    if known is None:
        return Tries(labels=(), known=None)
    size = render_size(sum(pack.size_bytes for pack in known.packs))
    text = (
        f"going on from what interrupted backups have stored, {size} in {len(known.packs)} packs: {', '.join(labels)}"
    )
    listener(Notice(level="info", code="continued", text=text))
    return Tries(labels=tuple(labels), known=known)


def find_history(archive: WalArchive, data_directory: str, timeline: Timeline) -> History | None:
    """The history of a timeline from the archive, or from the server if it is not archived yet; None without one."""
    try:
        return archive.read_history(timeline)
    except ObjectMissing:
        pass
    try:
        with open(f"{data_directory}/pg_wal/{timeline.history_name}", encoding="utf-8", errors="replace") as file:
            return parse_history(file.read(), timeline)
    except (OSError, PghavenError):
        return None


class Origin:
    """One backup's parent: chosen, announced, confirmed, and then asked what changed since."""

    def __init__(
        self, catalog: BackupCatalog, archive: WalArchive, method: str, listener: Listener, maps: OwnMaps | None = None
    ) -> None:
        """``maps`` are needed where the repository's key only writes."""
        self._catalog = catalog
        self._maps = maps
        self._archive = archive
        self._method = method
        self._tell = listener
        self.parent: BackupEntry | None = None
        self.history: History | None = None

    def choose(
        self, entries: Sequence[BackupEntry], facts: ServerFacts, backup: OpenBackup, data_directory: str
    ) -> None:
        """Raises Refused when a way of finding changes was asked for and there is no backup to go on from."""
        if self._method == "full":
            return
        self.history = find_history(self._archive, data_directory, backup.timeline)
        if self.history is None:
            self._give_up(f"the history file of timeline {backup.timeline} is not in the archive")
            return
        needs = ParentNeeds(
            system_identifier=facts.system_identifier,
            major=facts.major.major,
            wal_segment_size=facts.wal_segment_size,
            data_checksums=facts.data_checksums,
            history=self.history,
            start_lsn=backup.start_lsn,
        )
        self.parent, reasons = self._find_parent(entries, needs)
        for reason in reasons:
            self._inform(f"cannot build on an earlier backup: {reason}")
        if self.parent is None and self._method != "auto":
            raise Refused(
                "there is no backup that this one could build on",
                detail=" ".join(f"{reason}." for reason in reasons) or "It would be the first one.",
                hint="Leave --changes out: the backup will be a full one.",
            )

    def _find_parent(self, entries: Sequence[BackupEntry], needs: ParentNeeds) -> tuple[BackupEntry | None, list[str]]:
        """The newest one that may be built on and was not found damaged, and why newer ones are not it.

        What is damaged of a backup would be damaged of all that build on it.
        """
        results = load_evidence(self._catalog.repository, self._catalog.cluster).results
        candidates = [one for one in entries if one.state is BackupState.COMMITTED]
        reasons: list[str] = []
        while True:
            choice = choose_parent(candidates, needs)
            reasons += choice.reasons
            flaw = self._find_flaw(choice.entry, results) if choice.entry is not None else None
            if choice.entry is None or flaw is None:
                return choice.entry, reasons
            reasons.append(f'backup "{choice.entry.label}" {flaw}')
            candidates = candidates[: candidates.index(choice.entry)]

    def _find_flaw(self, entry: BackupEntry, results: Sequence[Evidence]) -> str | None:
        try:
            if self._maps is not None and entry.label not in self._maps.list_labels():
                return "cannot be built on: the key of this host only writes, and it has no copy of that backup's map"
            found = judge_backup(results, entry.label, self._catalog.find_manifest(entry)[1])
        except Damaged as error:
            return f"cannot be read: {error.message}"
        if found.verdict is not Verdict.DAMAGED or found.at is None:
            return None
        return f"was found damaged at {render_time(found.at)}"

    def confirm(self, tries: Tries) -> None:
        """After the intent is written: whether everything it names is still there to stay.

        Raises Cancelled for packs that workers have been told of and that are being removed.
        """
        for label in tries.labels:
            if self._catalog.read_entry(label).state is not BackupState.ABANDONED:
                raise Cancelled(
                    f'what the interrupted backup "{label}" has stored is being removed', hint="Run the backup again."
                )
        if self.parent is not None:
            entry = self._catalog.read_entry(self.parent.label)
            if entry.state not in (BackupState.COMMITTED, BackupState.RETIRED):
                self._give_up(f'backup "{entry.label}" is being removed')
                return
            # As it is by now: a map that was the newest before we announced ourselves may have been collected since.
            self.parent = entry

    def plan(
        self,
        connection: Connection,
        facts: ServerFacts,
        backup: OpenBackup,
        listing: Listing,
        on_wait: Callable[[], None],
    ) -> tuple[str, ChangePlan]:
        """What is to be read, and which way that was found: "full", "lsn" or "summaries"."""
        manifest = self._load_parent() if self.parent is not None else None
        if manifest is None or self.history is None:
            return "full", plan_full(listing, facts.block_size)
        since = manifest.facts.start_lsn
        changed: ChangedBlocks | None = None
        if self._method != "lsn":
            changed = self._ask_summaries(connection, facts, backup, since, on_wait)
        if changed is None and not self._may_trust_lsns(facts, backup, since, on_wait):
            return "full", plan_full(listing, facts.block_size)
        counterpart = match_files(listing, manifest.files)
        ground = Ground(
            parent=manifest,
            since=since,
            changed=changed,
            counterpart=counterpart,
            untouched=self._find_untouched(listing, manifest, counterpart, self._archive.clock),
            databases={database.oid: database.row for database in facts.databases},
            marks_logged=self._are_hints_logged(facts),
            hash_pages=partial(hash_parent_pages, self._catalog.pack_place, manifest),
        )
        return ("lsn" if changed is None else "summaries"), plan_changes(listing, ground)

    def _load_parent(self) -> Manifest | None:
        """The parent's manifest when it and all packs that it needs are there; None, with the reason told.

        A backup counts for as much as what it keeps of its parent; its packs' contents are for ``verify`` to prove.
        """
        assert self.parent is not None
        label, place = self.parent.label, self._catalog.pack_place
        try:
            if self._maps is not None:
                manifest = self._maps.load(label, self._catalog.find_manifest(self.parent)[1])
            else:
                manifest = self._catalog.load_manifest(self.parent)
        except (Damaged, ObjectMissing) as error:
            if self._maps is not None:
                self._give_up(f'backup "{label}" cannot be built on: {error.message}')
                return None
            self._give_up(f'backup "{label}" cannot be read: {error.message}', is_damage=True)
            return None
        if (short := find_short_pack(place, manifest.packs)) is not None:
            pack, is_there = short
            what = "cut off" if is_there else "missing"
            name = place.name(pack.label, pack.id)
            self._give_up(f'"{name}", which backup "{label}" needs, is {what}', is_damage=True)
            return None
        return manifest

    # -- how changes are found --------------------------------------------------------------------------------------

    def _ask_summaries(
        self, connection: Connection, facts: ServerFacts, backup: OpenBackup, since: Lsn, on_wait: Callable[[], None]
    ) -> ChangedBlocks | None:
        """What WAL summaries say; None, with the reason told, where they cannot tell."""
        assert self.history is not None
        answer: ChangedBlocks | SummariesUnusable | None = find_summaries_obstacle(facts)
        if answer is None:
            answer = wait_for_summaries(
                connection,
                backup.timeline,
                backup.start_lsn,
                timeout_seconds=_SUMMARIZER_SECONDS,
                clock=self._archive.clock,
                on_wait=on_wait,
            )
        if answer is None:
            answer = read_changed_blocks(connection, self.history.legs(since, backup.start_lsn))
        if isinstance(answer, ChangedBlocks):
            return answer
        if self._method == "summaries":
            raise ServerUnsuitable(f"WAL summaries cannot tell what changed: {answer.reason}", hint=answer.hint)
        if facts.major.has_wal_summaries:
            self._inform(f"pages are compared by their LSN: {answer.reason}", answer.hint)
        return None

    def _may_trust_lsns(self, facts: ServerFacts, backup: OpenBackup, since: Lsn, on_wait: Callable[[], None]) -> bool:
        """Whether every change since the parent has moved an LSN; False, with the reason told."""
        assert self.parent is not None
        assert self.history is not None
        if self._has_run(facts):
            return True
        search = DipSearch(
            history=self.history,
            start_lsn=since,
            end_lsn=backup.start_lsn,
            from_standby=backup.from_standby,
            timeout_seconds=_WAL_SECONDS,
            on_wait=on_wait,
        )
        reason = find_dip(self._archive, search)
        if reason is not None:
            self._give_up(reason)
        return reason is None

    def _has_run(self, facts: ServerFacts) -> bool:
        assert self.parent is not None
        return has_run_since(facts, self.parent, read_own_identity().boot_id)

    def _are_hints_logged(self, facts: ServerFacts) -> bool:
        """Whether hints have been in the WAL since the parent, which checksums switched off for a while interrupt."""
        return self._has_run(facts) and (facts.data_checksums or facts.settings.get("wal_log_hints") == "on")

    def _find_untouched(
        self, listing: Listing, manifest: Manifest, counterpart: npt.NDArray[np.int64], clock: Clock
    ) -> npt.NDArray[np.bool_]:
        assert self.parent is not None
        intent = self.parent.intent
        changed_ns = listing.changed_ns.to_array()
        newest_ns = int(changed_ns.max()) if len(changed_ns) else 0
        host = HostNow(boot_id=read_own_identity().boot_id, now=clock.now(), newest_ns=newest_ns)
        distrust = find_distrust(self.parent, host)
        if distrust is not None or intent is None or not len(manifest.files.size):
            if distrust is not None:
                self._inform(f"every file is opened: {distrust}")
            return make_column(len(listing.size), np.bool_)
        size, mtime_ns = listing.size.to_array(), listing.mtime_ns.to_array()
        untouched = make_column(len(size), np.bool_)
        for part in in_parts(len(size)):
            there = np.maximum(counterpart[part], 0)
            untouched[part] = (counterpart[part] >= 0) & find_untouched(
                FileStamps(size=size[part], mtime_ns=mtime_ns[part]),
                changed_ns[part],
                FileStamps(size=manifest.files.size[there], mtime_ns=manifest.files.mtime_ns[there]),
                parent_started=intent.started_at,
            )
        return untouched

    # -- words ------------------------------------------------------------------------------------------------------

    def _give_up(self, reason: str, *, is_damage: bool = False) -> None:
        """Go on without a parent. Raises Refused where the caller insists on one."""
        self.parent = None
        if self._method not in ("auto", "full"):
            raise Refused(
                f"this backup cannot build on an earlier one: {reason}",
                hint="Leave --changes out: the backup will be a full one.",
            )
        text = f"everything is read and stored: {reason}"
        if is_damage:
            hint = f"To see what else is damaged, run: pghaven verify {self._catalog.cluster}"
            self._tell(Notice(level="warning", code="damaged_parent", text=text, hint=hint))
        else:
            self._inform(text)

    def _inform(self, text: str, hint: str | None = None) -> None:
        self._tell(Notice(level="info", code="changes", text=text, hint=hint))
