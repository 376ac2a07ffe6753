"""A backup and the WAL that follows it, and what becomes of that where the WAL turns out to be damaged.

The one idea: a damaged file of WAL takes away what comes after it and nothing else. Whatever is looked for is looked
for again in what lies before the damage, and only if it is not found there the damage is in its way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from pghaven.errors import Damaged, Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History
from pghaven.repository.entry import BackupEntry
from pghaven.repository.ledger import Walk
from pghaven.restore.passages import Passage, find_passages
from pghaven.restore.walsearch import WalPath
from pghaven.units import parse_time_utc, render_time

_Found = TypeVar("_Found")

_AFTER_END_HINT = (
    "Choose an earlier target, or leave the target out to restore up to the end. Where the server still runs, "
    "SELECT pg_switch_wal() has it archive what it wrote last."
)
_REFILL_HINT = "If a server still has what is missing: pghaven wal refill"


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


def find_in_windows(
    windows: Sequence[Way], entries: Sequence[BackupEntry], moment: datetime, *, inclusive: bool
) -> Passage | None:
    """Where a moment came, if the clock of the server was set back across it and it came once nevertheless.

    ``windows`` are the ways from the first backup of each stretch of WAL. None where the order of times is that of
    positions, which is the rule. Raises Refused for a moment that came more than once.
    """
    found: list[Passage] = []
    for way in windows:
        ends = [
            (lsn, parse_time_utc(entry.summary["stopped_at"]))
            for entry in entries
            if way.stop_lsn <= (lsn := Lsn.parse(entry.summary["stop_lsn"])) <= way.path.end_lsn
        ]
        with suppress(Damaged):  # it is told by who needs what is damaged
            for one in find_passages(way.path, moment, sorted(ends), inclusive=inclusive):
                if one.record is None or one.record.start_lsn >= way.stop_lsn:
                    found.append(one)
    if len(found) < 2:
        return found[0] if found else None
    raise Refused(
        f"{render_time(moment)} came {len(found)} times by the clock of the server, which was set back",
        detail="It could mean " + ", or ".join(map(_describe, found)) + ".",
        hint="Name the position that is meant: --target-lsn with --exclusive, or no target for the end.",
    )


def _describe(passage: Passage) -> str:
    if passage.record is None:
        return f"the end of the archive, after {render_time(passage.before)}"
    between = f"after {render_time(passage.before)} and before {render_time(passage.record.time)}"
    return f"at {passage.record.start_lsn}, {between}"


def refuse_before_all(ways: Sequence[Way], what: str) -> Refused:
    """Of a target that no backup comes before; ``what`` is it, with its verb."""
    return Refused(
        f"{what} before the end of the oldest backup that could be used",
        detail=describe_reachable(ways),
        hint="Choose a later target.",
    )


def describe_reachable(ways: Sequence[Way]) -> str:
    """What can be reached by the ways from the oldest backup to the end, for people."""
    first, last = ways[0], ways[-1]
    try:
        written = last.path.read_written_time()
    except Damaged:
        written = None
    to_time = f" ({render_time(written)})" if written else ""
    return (
        f"Reachable on timeline {first.history.timeline}: from {first.stop_lsn} ({render_time(first.stopped_at)}, "
        f"the end of backup {first.backup.label}) to {last.path.end_lsn}{to_time}."
    )


def refuse_behind(way: Way, what: str) -> Refused:
    """For a target after all that this way leads over: the end of the archive, or a gap in it."""
    text, hint = f"{what} is after the end of the archive", _AFTER_END_HINT
    if way.walk.beyond:
        text = f"{what} lies in or behind a gap: WAL segment {way.walk.first_missing} is missing"
        hint = f"The archive goes on at {way.walk.beyond[0]}, and no backup leads there in time. {_REFILL_HINT}"
    return Refused(text, detail=describe_reachable([way]), hint=hint)
