"""What the repositories of a cluster bring back between them. Pure.

The one idea: a restore may take from any of them, so the moments of all count; what one of them lacks, that another
has, is told beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pghaven.postgres.timeline import Timeline
from pghaven.proof.states import Lack, Overall, RepositorySilence, RepositoryState
from pghaven.proof.windows import Window


def find_overall(
    repositories: Iterable[RepositoryState | RepositorySilence], timeline: Timeline | None
) -> Overall | None:
    """The moments that lead up to the latest one, on this timeline if there is any; None when nothing can be restored.

    Only what one repository can do by itself counts. WAL that one has and another lacks may carry a restore further.
    """
    answered = [one for one in repositories if isinstance(one, RepositoryState)]
    ends = [(window, one) for one in answered if (window := one.find_window(timeline)) is not None]
    if not ends:
        return None
    latest, source = max(ends, key=lambda end: (end[0].timeline == timeline, end[0].end_lsn))
    same = [one for one in answered if one.system_identifier == source.system_identifier]
    earliest, earliest_in = _reach_back(latest, source, same)
    return Overall(
        timeline=latest.timeline,
        begin=earliest.begin,
        begin_in=earliest_in.name,
        end=latest.end,
        end_lsn=latest.end_lsn,
        end_in=source.name,
        recovery_point=source.recovery_point,
        lacks=tuple(_find_lacks(latest, same)),
    )


def _reach_back(
    latest: Window, source: RepositoryState, states: Sequence[RepositoryState]
) -> tuple[Window, RepositoryState]:
    """The window with the first moment from which on there is no break up to the latest one."""
    found = latest, source
    windows = [(window, one) for one in states for window in one.reach.windows if window.timeline == latest.timeline]
    for window, one in sorted(windows, key=lambda pair: pair[0].begin_lsn, reverse=True):
        if window.begin_lsn < found[0].begin_lsn <= window.end_lsn:
            found = window, one
    return found


def _find_lacks(latest: Window, states: Sequence[RepositoryState]) -> Iterator[Lack]:
    there = {label for one in states for label in one.originals}
    for one in states:
        ends = [window.end_lsn for window in one.reach.windows if window.timeline == latest.timeline]
        behind = latest.end_lsn - max(ends) if ends else None
        backups = tuple(sorted(there.difference(one.originals)))
        if backups or behind != 0:
            yield Lack(repository=one.name, backups=backups, wal_bytes=behind)
