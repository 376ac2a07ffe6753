"""Timelines and their history files.

The one idea: a timeline's history is the path that leads to it, a row of ancestors each left at one position, and
every WAL position belongs to exactly one timeline of that path. Identifiers are decimal inside history files and in
settings, but eight upper-case hexadecimal digits in file names. Follows timeline.c of PostgreSQL.
"""

from __future__ import annotations

import re
from typing import Self

from pghaven.errors import Damaged
from pghaven.light import dataclass, pattern
from pghaven.postgres.lsn import Lsn

_DECIMAL = pattern(r"[0-9]{1,10}", re.ASCII)
_FILE_FORM = pattern(r"0[0-9A-Fa-f]{7}", re.ASCII)
_PREFIXED = pattern(r"0[xX]([0-9A-Fa-f]{1,8})", re.ASCII)
_HISTORY_NAME = pattern(r"([0-9A-F]{8})\.history", re.ASCII)
_HISTORY_LINE = pattern(r"\s*([0-9]{1,10})\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s+(.*))?", re.ASCII | re.DOTALL)


class Timeline(int):
    """A timeline's identifier, 1 to 2**32 - 1; ``str()`` is decimal. ValueError outside of that."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        if not 1 <= value < 1 << 32:
            raise ValueError(f"{value} is not a timeline: it must be from 1 to 4294967295")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """A timeline as people write it: ``"10"``, ``"0xA"``, or as in file names ``"0000000A"``.

        Eight digits that begin with a zero are read as hexadecimal, because nobody writes a decimal so and file
        names always do. Raises ValueError.
        """
        prefixed = _PREFIXED.fullmatch(text)
        if prefixed is not None:
            return cls(int(prefixed[1], 16))
        if _FILE_FORM.fullmatch(text):
            return cls(int(text, 16))
        if _DECIMAL.fullmatch(text):
            return cls(int(text))
        raise ValueError(f'"{text}" is not a timeline such as "10", "0xA" or "0000000A"')

    @classmethod
    def parse_history_name(cls, name: str) -> Self:
        """The timeline a history file such as ``"0000000A.history"`` belongs to. Raises ValueError."""
        match = _HISTORY_NAME.fullmatch(name)
        if match is None:
            raise ValueError(f'"{name}" is not the name of a timeline history file such as "0000000A.history"')
        return cls(int(match[1], 16))

    @property
    def hex8(self) -> str:
        """As in the names of segments: ``"0000000A"`` for timeline 10."""
        return f"{int(self):08X}"

    @property
    def history_name(self) -> str:
        """The name of this timeline's history file. Timeline 1 has no such file."""
        return f"{self.hex8}.history"

    def __str__(self) -> str:
        return int.__repr__(self)

    def __repr__(self) -> str:
        return f"Timeline({self})"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """An ancestor: WAL before ``switch_lsn`` may be this timeline's, WAL from there on is a descendant's."""

    timeline: Timeline
    switch_lsn: Lsn
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLeg:
    """A stretch of one timeline on the way of a history: from ``start_lsn`` up to ``end_lsn``, exclusive."""

    timeline: Timeline
    start_lsn: Lsn
    end_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The path that leads to ``timeline``: ``entries`` are its ancestors, oldest first."""

    timeline: Timeline
    entries: tuple[HistoryEntry, ...] = ()

    @classmethod
    def root(cls, timeline: Timeline) -> Self:
        """The history of a timeline without ancestors."""
        return cls(timeline=timeline)

    def includes(self, timeline: Timeline) -> bool:
        """Whether the path comes through this timeline at all (tliInHistory)."""
        return timeline == self.timeline or any(entry.timeline == timeline for entry in self.entries)

    def fork_of(self, timeline: Timeline) -> Lsn | None:
        """Where the path left ``timeline``; None if it did not: its own timeline, or one it never came through.

        None alone is therefore no leave to use what that timeline holds; ask ``includes`` or ``contains_end``.

        A later fork may lie before an earlier one: a server told to follow timeline 2 that stops before timeline 2
        began writes such a history (seen on 15 and 18). What counts is then the earliest of them, since the path left
        everything older there.
        """
        for index, entry in enumerate(self.entries):
            if entry.timeline == timeline:
                return min(later.switch_lsn for later in self.entries[index:])
        return None

    def timeline_at(self, lsn: Lsn) -> Timeline:
        """The timeline that holds the byte at ``lsn`` on this path (tliOfPointInHistory).

        A fork's position belongs to the new timeline. For the end of something, which is the first byte after it,
        ask for ``Lsn(end - 1)`` or use ``contains_end``.
        """
        owner = self.timeline
        for entry in reversed(self.entries):
            if lsn >= entry.switch_lsn:
                break
            owner = entry.timeline
        return owner

    def contains(self, timeline: Timeline, lsn: Lsn) -> bool:
        """Whether the byte at ``lsn`` of this very timeline is on the path."""
        return self.timeline_at(lsn) == timeline

    def contains_end(self, timeline: Timeline, end_lsn: Lsn) -> bool:
        """Whether something of this timeline that ends at ``end_lsn`` (exclusive) lies on the path to its end.

        The server asks the same before it replays towards a target ("requested timeline %u does not contain minimum
        recovery point", xlogrecovery.c).
        """
        return end_lsn > 0 and self.contains(timeline, Lsn(end_lsn - 1))

    def legs(self, start_lsn: Lsn, end_lsn: Lsn) -> tuple[HistoryLeg, ...]:
        """The way from ``start_lsn`` to ``end_lsn``, exclusive: one leg a timeline that it comes through.

        None where there is no way, because nothing lies between. ValueError if it would lead backwards.
        """
        if end_lsn < start_lsn:
            raise ValueError(f"there is no way from {start_lsn} back to {end_lsn}")
        legs: list[HistoryLeg] = []
        while start_lsn < end_lsn:
            timeline = self.timeline_at(start_lsn)
            fork = self.fork_of(timeline)
            reached = end_lsn if fork is None else min(fork, end_lsn)
            legs.append(HistoryLeg(timeline=timeline, start_lsn=start_lsn, end_lsn=reached))
            start_lsn = reached
        return tuple(legs)


def parse_history(text: str, of: Timeline) -> History:
    """The contents of the history file of timeline ``of``, by the rules of readTimeLineHistory (timeline.c).

    Empty lines and comments (``#``) are skipped. Raises Damaged with PostgreSQL's reasons: identifiers must
    increase and must be less than the child's.
    """
    entries: list[HistoryEntry] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        entry = _parse_history_line(line, f'timeline history file "{of.history_name}", line {number}')
        if entries and entry.timeline <= entries[-1].timeline:
            raise Damaged(
                f'timeline history file "{of.history_name}", line {number}: timeline {entry.timeline} comes after '
                f"timeline {entries[-1].timeline}, but identifiers must increase"
            )
        entries.append(entry)
    if entries and entries[-1].timeline >= of:
        raise Damaged(
            f'timeline history file "{of.history_name}": timeline {entries[-1].timeline} cannot be an ancestor of '
            f"timeline {of}, because identifiers must be less than the child's"
        )
    return History(timeline=of, entries=tuple(entries))


def _parse_history_line(line: str, place: str) -> HistoryEntry:
    match = _HISTORY_LINE.fullmatch(line)
    if match is None:
        raise Damaged(f'{place}: expected a timeline and the WAL position where it was left, found "{line.strip()}"')
    try:
        timeline = Timeline(int(match[1]))
    except ValueError as error:
        raise Damaged(f"{place}: {error}") from error
    return HistoryEntry(timeline=timeline, switch_lsn=Lsn.parse(match[2]), reason=(match[3] or "").strip())
