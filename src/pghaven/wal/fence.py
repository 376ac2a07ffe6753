"""The lineage fence: which WAL its own timeline's history has left behind.

The one idea: the archive itself knows who left whom. A later timeline's history file says where each of its ancestors
was left, so a server that still writes such an ancestor past that point (a primary that was passed over and does not
know it) is told apart from a sound one without asking anybody.
"""

from __future__ import annotations

from collections.abc import Iterable

from pghaven.errors import Damaged, ObjectMissing
from pghaven.events import Listener, Notice
from pghaven.light import dataclass
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.walstore import WalArchive


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """``timeline`` was left at ``lsn`` on the way to timeline ``heir``."""

    timeline: Timeline
    lsn: Lsn
    heir: Timeline

    def has_left_behind(self, segment: SegmentName) -> bool:
        """Whether all of this segment lies past the fork."""
        return segment.start_lsn >= self.lsn

    def cuts_off(self, segment: SegmentName) -> bool:
        """Whether any of this segment lies past the fork."""
        return segment.end_lsn > self.lsn


def find_last_fork(timeline: Timeline, histories: Iterable[History]) -> Fork | None:
    """The last point at which any later timeline left this one; None if none did.

    The last and not the first: after a restore to an earlier point several timelines may leave one ancestor at
    different points, and what lies before the last of them is still some timeline's past.
    """
    forks = [
        Fork(timeline=timeline, lsn=lsn, heir=history.timeline)
        for history in histories
        if history.timeline > timeline and history.includes(timeline) and (lsn := history.fork_of(timeline)) is not None
    ]
    return max(forks, key=lambda fork: (fork.lsn, -fork.heir), default=None)


def find_current_fork(timeline: Timeline, histories: Iterable[History]) -> Fork | None:
    """Where the newest timeline of all left this one; None if it did not."""
    newest = max(histories, key=lambda history: history.timeline, default=None)
    return None if newest is None else find_last_fork(timeline, [newest])


def load_later_histories(archive: WalArchive, timeline: Timeline, listener: Listener) -> tuple[History, ...]:
    """The histories held of timelines after this one; usually there are none, which one listing shows.

    A damaged history is passed over with a warning: fencing is a help, and WAL that is not fenced does no harm in the
    archive, while WAL that cannot be stored fills a server's disk.
    """
    histories = []
    for later in archive.list_timelines():
        if later <= timeline:
            continue
        try:
            histories.append(archive.read_history(later))
        except ObjectMissing:
            continue  # some of its WAL came before its history
        except Damaged as error:
            text = f"cannot tell what timeline {later} left behind: {error.message}"
            listener(Notice(level="warning", code="history_damaged", text=text))
    return tuple(histories)
