"""A backup and the WAL that follows it, and what becomes of that where the WAL turns out to be damaged.

The one idea: a damaged file of WAL takes away what comes after it and nothing else. Whatever is looked for is looked
for again in what lies before the damage, and only if it is not found there the damage is in its way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from pghaven.errors import Damaged, Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History
from pghaven.repository.entry import BackupEntry
from pghaven.repository.ledger import Walk
from pghaven.restore.walsearch import WalPath
from pghaven.units import parse_time_utc, render_time

_Found = TypeVar("_Found")

AFTER_END_HINT = (
    "Choose an earlier target, or leave the target out to restore up to the end. Where the server still runs, "
    "SELECT pg_switch_wal() has it archive what it wrote last."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A backup and the continuous WAL that follows it on one timeline's path."""

    backup: BackupEntry
    history: History
    walk: Walk
    path: WalPath

    @property
    def stop_lsn(self) -> Lsn:
        return Lsn.parse(self.backup.summary["stop_lsn"])

    @property
    def stopped_at(self) -> datetime:
        return parse_time_utc(self.backup.summary["stopped_at"])


def look_before_damage(way: Way, look: Callable[[Way], _Found], warn: Callable[[str, str], None]) -> _Found:
    """What ``look`` finds on a way, or on as much of it as lies before its damage; then ``warn`` is told
    a code and a text.

    Raises Damaged when it is not found before the damage (None, or Refused), and whatever ``look`` raises without any.
    """
    damage: Damaged | None = None
    while True:
        try:
            found = look(way)
        except Damaged as error:
            path = way.path.before(way.path.unreadable[-1]) if way.path.unreadable else None
            if path is None or path.end_lsn < way.stop_lsn:
                raise
            damage, way = error, replace(way, path=path)
        except Refused:
            if damage is not None:
                raise damage from None
            raise
        else:
            if damage is not None:
                if found is None:
                    raise damage
                warn("wal_damaged", f"{damage.message}; nothing from {way.path.end_lsn} on can be reached")
            return found


def explain_damage(way: Way, damage: Damaged) -> Damaged:
    """The same damage, with what can be restored in spite of it as the hint."""
    path = way.path.before(way.path.unreadable[-1]) if way.path.unreadable else None
    if path is None or path.end_lsn < way.stop_lsn:
        return damage
    try:
        written = path.read_written_time()
    except Damaged:
        written = None
    target = f' --target-time "{render_time(written)}"' if written else f" a target before {path.end_lsn}"
    hint = f"What comes before it can be restored, with{target}. What it means: pghaven verify."
    return Damaged(damage.message, detail=damage.detail, hint=hint)
