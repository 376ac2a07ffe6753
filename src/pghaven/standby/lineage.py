"""Where a server stands to the line of timelines in an archive: on it, on a branch that was left, or nowhere.

The one idea: a server may be followed, promoted or started again as a standby only if what it has written lies on the
newest line that is archived; otherwise it was passed over, and everything that follows it would be too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pghaven.errors import Damaged, NotFound, ObjectMissing, PghavenError
from pghaven.events import ignore
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.ledger import walk_path
from pghaven.repository.partials import extend_walk, find_partials
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.walstore import WalArchive
from pghaven.restore.walsearch import WalPath, find_archive_end
from pghaven.wal.archives import open_archive
from pghaven.wal.fence import load_later_histories


class Standing(StrEnum):
    ON = "on the newest timeline of the archive"
    AHEAD = "on a timeline that the archive does not have yet"
    BEHIND = "on the way to the newest timeline"
    PASSED_OVER = "past the point where the newest timeline left its own"
    APART = "on a timeline that the newest one does not come from"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """``newest`` is the archive's newest timeline; ``left_at`` where it left the server's."""

    standing: Standing
    newest: Timeline
    left_at: Lsn | None = None

    @property
    def is_sound(self) -> bool:
        return self.standing not in (Standing.PASSED_OVER, Standing.APART)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveView:
    """An archive in one repository, or why it could not be looked into."""

    name: str
    archive: WalArchive | None
    error: PghavenError | None = None


def open_archives(
    places: Sequence[RepositoryPlace], cluster: str, system_identifier: int | None
) -> tuple[ArchiveView, ...]:
    """Each repository's archive of the cluster. What fails is told in the view."""
    views = []
    for place in places:
        try:
            opened = open_archive(open_place(place), cluster, system_identifier)
            views.append(ArchiveView(name=place.name, archive=opened.archive))
        except PghavenError as error:
            views.append(ArchiveView(name=place.name, archive=None, error=error))
    return tuple(views)


def find_place(archive: WalArchive, timeline: Timeline, lsn: Lsn) -> Place:
    """Where a server on ``timeline`` that has WAL up to ``lsn`` stands. Raises StoreUnreachable, NotPermitted."""
    later = load_later_histories(archive, timeline, ignore)
    newest = max(later, key=lambda history: history.timeline, default=None)
    if newest is None:
        known = archive.list_timelines()
        is_known = timeline in known or not known
        return Place(standing=Standing.ON if is_known else Standing.AHEAD, newest=timeline)
    if not newest.includes(timeline):
        return Place(standing=Standing.APART, newest=newest.timeline)
    fork = newest.fork_of(timeline)
    assert fork is not None
    standing = Standing.PASSED_OVER if lsn > fork else Standing.BEHIND
    return Place(standing=standing, newest=newest.timeline, left_at=fork)


def find_held_end(archive: WalArchive, timeline: Timeline, lsn: Lsn) -> Lsn | None:
    """Up to where the archive leads from ``lsn`` of ``timeline``, along its newest line: the end of its last record.

    None when it holds nothing from there. Reads the last segments. Raises Damaged, StoreUnreachable, NotPermitted.
    """
    history = find_line(archive, timeline)
    held = archive.list_numbers()
    start = SegmentName.containing(history.timeline_at(lsn), lsn, archive.segment_size)
    try:
        walk = extend_walk(walk_path(history, start, held), history, find_partials(archive, held))
    except NotFound:
        return None
    if not walk.files:
        return None
    end = find_archive_end(WalPath(archive=archive, segments=walk.files, end_lsn=walk.end_lsn))
    return end.end_lsn


def find_line(archive: WalArchive, timeline: Timeline) -> History:
    """The history of the newest timeline that comes from this one; of this one itself without any."""
    later = [one for one in load_later_histories(archive, timeline, ignore) if one.includes(timeline)]
    if later:
        return max(later, key=lambda history: history.timeline)
    try:
        return archive.read_history(timeline)
    except (ObjectMissing, Damaged):
        return History.root(timeline)
