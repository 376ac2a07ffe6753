"""The recovery window: which backups a restore to any moment of it begins from.

The one idea: a window needs a base, the newest backup from before it, on the path of each timeline that was in use
within it. After a restore to an earlier point the newest backup may lie on what was left behind, and then it does not
lead to what came since.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pghaven.postgres.timeline import History, Timeline
from pghaven.retention.facts import DatedBackup, KnownLineage, KnownTimeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A backup from before the window that the window needs. ``words`` go on after "base of the ... window"."""

    backup: DatedBackup
    words: str
    is_guess: bool = False


def find_bases(
    lineage: KnownLineage, backups: Sequence[DatedBackup], *, dated: Sequence[DatedBackup], begin: datetime
) -> Iterator[Base]:
    """The bases of a window that begins at ``begin``, a backup perhaps several times.

    ``backups`` are those of this lineage to choose from, ``dated`` all of it, both oldest first. Where the history of
    a timeline is missing, whatever may lead to it is a base, as a guess.
    """
    before = [one for one in backups if one.moment <= begin]
    yield from _choose(before, "")
    for known in _list_timelines_in_use(lineage, dated, begin):
        where = f" on timeline {known.timeline}"
        history = known.history or _own_path(known.timeline, before)
        if history is not None:
            yield from _choose([one for one in before if _leads(one, history)], where)
            continue
        for one in before:
            words = f"may lead to timeline {known.timeline}, whose history is missing"
            yield Base(backup=one, words=words, is_guess=True)


def _choose(ways: Sequence[DatedBackup], where: str) -> Iterator[Base]:
    """The newest, and where that is known to be bad, the newest that is not."""
    if not ways:
        return
    newest = ways[-1]
    yield Base(backup=newest, words=where)
    if newest.backup.flaw is None:
        return
    for one in reversed(ways):
        if one.backup.flaw is None:
            yield Base(backup=one, words=f'{where} in place of "{newest.backup.label}", which {newest.backup.flaw}')
            return


def _leads(one: DatedBackup, history: History) -> bool:
    stop_lsn = one.backup.stop_lsn
    return stop_lsn is not None and history.contains_end(one.backup.timeline, stop_lsn)


def _own_path(timeline: Timeline, before: Sequence[DatedBackup]) -> History | None:
    """What can be said without a history file: timeline 1 has none, and a timeline's own backups lead along it."""
    if timeline == 1 or any(one.backup.timeline == timeline for one in before):
        return History.root(timeline)
    return None


def _list_timelines_in_use(
    lineage: KnownLineage, dated: Sequence[DatedBackup], begin: datetime
) -> tuple[KnownTimeline, ...]:
    """The timelines that may have been written to after ``begin``."""
    known = {one.timeline: one for one in lineage.timelines}
    newest = {one.backup.timeline: one.moment for one in dated}
    for timeline in newest.keys() - known.keys():
        known[timeline] = KnownTimeline(timeline=timeline, history=None, last_sign=newest[timeline])
    return tuple(
        one
        for _, one in sorted(known.items())
        if one.last_sign is None or max(one.last_sign, newest.get(one.timeline, one.last_sign)) > begin
    )
