"""Retiring, holding and condemning: everything that may follow a backup's decision, before anything is removed.

The one idea: each step is a numbered document that is put if absent, and whoever writes one then looks at what the
other side may have written meanwhile; ``docs/design/removal.md`` shows that one of the two always sees the other.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pghaven.errors import NotFound, ObjectExists, ObjectMissing, Refused
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import COLLECT, KEEP, BackupEntry, BackupState, Purpose, find_last
from pghaven.units import render_time, render_time_utc

_LEFT_UNTIL_LAST = ("decision", "mended", "fate/")


# How the reason of a retirement begins that no policy has made.
BY_HAND = "by hand: "


@dataclass(frozen=True, slots=True, kw_only=True)
class RetireOrder:
    """Why a backup is expired, and the end of the time in which that can be undone."""

    reason: str
    not_before: datetime


class Removal:
    """What can be written about the backups of one catalog once they are decided."""

    def __init__(self, catalog: BackupCatalog) -> None:
        self._catalog = catalog
        self._repository = catalog.repository

    def retire(self, label: str, order: RetireOrder) -> None:
        """Expire a committed backup: it is whole, but no longer offered, until somebody collects it or undoes this.

        One that is retired already stays as it was. Raises Refused for one that is held or is no backup (any more).
        """
        entry = self._require(label, BackupState.COMMITTED, BackupState.RETIRED)
        if entry.state is BackupState.RETIRED:
            return
        refuse_held(entry)
        number = find_last(entry.parts, "retire") + 1
        body = {
            "reason": order.reason,
            "not_before": render_time_utc(order.not_before),
            "written_at": render_time_utc(self._repository.clock.now()),
        }
        try:
            self._repository.create_document(self._name(label, f"retire/{number:08d}"), body)
        except ObjectExists:
            return  # somebody else expired it at this moment
        entry = self._catalog.read_entry(label)
        if entry.hold is not None:
            self._claim(label, number, KEEP, "it is held")
            refuse_held(entry)

    def undo(self, label: str) -> None:
        """Take an expiry back. Raises Refused when the backup is not retired, or is being removed already."""
        entry = self._require(label, BackupState.RETIRED)
        assert entry.retirement is not None
        if self._claim(label, entry.retirement.number, KEEP, "undone") != KEEP:
            raise _too_late(label)

    def hold(self, label: str, reason: str) -> None:
        """Exempt a backup from retention, also one that is retired. One that is held already stays as it was.

        When this returns no collector will ever remove the backup unless it is released first. Raises Refused when it
        came too late.
        """
        entry = self._require(label, BackupState.COMMITTED, BackupState.RETIRED)
        if entry.hold is not None and entry.state is BackupState.COMMITTED:
            return
        number = entry.hold.number if entry.hold is not None else find_last(entry.parts, "hold") + 1
        self._note(label, f"hold/{number:08d}", reason)
        entry = self._catalog.read_entry(label)
        if entry.state is BackupState.COMMITTED:
            return
        if entry.retirement is None or self._claim(label, entry.retirement.number, KEEP, "it is held") != KEEP:
            self._note(label, f"release/{number:08d}", "it came too late")
            raise _too_late(label)

    def release(self, label: str) -> None:
        """End a hold. Raises Refused when there is none."""
        entry = self._require(label, BackupState.COMMITTED, BackupState.RETIRED)
        if entry.hold is None:
            raise Refused(f'backup "{label}" is not held')
        self._note(label, f"release/{entry.hold.number:08d}", "released")

    def condemn(self, label: str, reason: str) -> bool:
        """Decide that a label is removed for good; False when that is not (or no longer) to be decided.

        That is for a retired backup whose time to be brought back is over, and which is not held; for anything that was
        abandoned; and for a committed compaction, whose caller knows that no manifest of it will be read again. No
        undecided writer that has not named the label as a source before this returns will use it any more.
        """
        entry = self._catalog.read_entry(label)
        if entry.state is BackupState.CONDEMNED:
            return True
        is_compaction = entry.state is BackupState.COMMITTED and entry.purpose is Purpose.COMPACTION
        if entry.state is BackupState.ABANDONED or is_compaction:
            body = {"reason": reason, "not_before": render_time_utc(self._repository.clock.now())}
            self._put_once(label, "retire/00000001", body)
            return self._claim(label, 1, COLLECT, reason) == COLLECT
        if not is_due(entry, self._repository.clock.now()) or entry.retirement is None:
            return False
        return self._claim(label, entry.retirement.number, COLLECT, reason) == COLLECT

    def remove(self, entry: BackupEntry) -> int:
        """Delete the objects of a condemned or gone label: the intent first, what was decided last; their number.

        Its packs are the collector's.
        """
        assert entry.state in (BackupState.CONDEMNED, BackupState.GONE), entry.state
        store = self._repository.store
        if "intent" in entry.parts:
            store.delete(self._name(entry.label, "intent"))
        rest = sorted(part for part in entry.parts if part != "intent")
        for part in sorted(rest, key=lambda part: part.startswith(_LEFT_UNTIL_LAST)):
            store.delete(self._name(entry.label, part))
        return len(entry.parts)

    # -- underneath -------------------------------------------------------------------------------------------------

    def _name(self, label: str, part: str) -> str:
        return layout.backup_object_name(self._catalog.cluster, label, part)

    def _note(self, label: str, part: str, reason: str) -> None:
        self._put_once(label, part, {"reason": reason})

    def _put_once(self, label: str, part: str, body: dict[str, str]) -> None:
        """Write a document unless somebody wrote it before, whatever it says then."""
        written_at = render_time_utc(self._repository.clock.now())
        try:
            self._repository.create_document(self._name(label, part), {**body, "written_at": written_at})
        except ObjectExists:
            with suppress(ObjectMissing):  # all of it is being removed: whoever asks next will see that
                self._repository.store.confirm(self._name(label, part))

    def _claim(self, label: str, number: int, fate: str, reason: str) -> str:
        """Settle what becomes of a retirement, unless it is settled; returns what became of it.

        An intent that is gone afterwards means that it was settled long ago, and removed with all the rest.
        """
        store = self._repository.store
        name = self._name(label, f"fate/{number:08d}")
        body = {"fate": fate, "reason": reason, "written_at": render_time_utc(self._repository.clock.now())}
        try:
            self._repository.create_document(name, body)
        except ObjectExists:
            with suppress(ObjectMissing):
                store.confirm(name)
                fate = self._catalog.read_fate(label, number)
        return fate if store.find(self._name(label, "intent")) is not None else COLLECT

    def _require(self, label: str, *states: BackupState) -> BackupEntry:
        entry = self._catalog.read_entry(label)
        if entry.state is BackupState.GONE or not entry.has_files:
            raise NotFound(f'there is no backup "{label}" of cluster "{self._catalog.cluster}"')
        if entry.state is BackupState.CONDEMNED:
            raise _too_late(label)
        if entry.state not in states:
            raise Refused(f'backup "{label}" is {entry.state}')
        return entry


def is_due(entry: BackupEntry, now: datetime) -> bool:
    """Whether a backup may be condemned: retired, no longer to be brought back, and not held."""
    is_over = entry.retirement is not None and entry.retirement.not_before <= now
    return entry.state is BackupState.RETIRED and is_over and entry.hold is None


def refuse_held(entry: BackupEntry) -> None:
    """Raises Refused for a backup that is held."""
    if entry.hold is not None:
        raise Refused(
            f'backup "{entry.label}" is held since {render_time(entry.hold.written_at)}: {entry.hold.reason}',
            hint=f"End that first: pghaven release {entry.label}",
        )


def _too_late(label: str) -> Refused:
    return Refused(f'backup "{label}" is being removed already', detail="The time in which that can be undone is over.")
