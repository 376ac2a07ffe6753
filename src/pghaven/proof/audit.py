"""``wal audit``: every byte of a lineage's WAL read again, and every record proven to follow from the one before it.

The one idea: a segment can be whole and yet not belong where it lies, so the records are read on from one segment to
the next, as recovery would; what stops a recovery stops the reading, is told, and reading begins anew behind it.
An audit stops when its time is up and goes on there the next time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pghaven.errors import Conflict, Damaged, ObjectMissing, Refused
from pghaven.events import Listener, Step
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.postgres.version import find_by_major
from pghaven.postgres.waldata import check_segment
from pghaven.postgres.walpage import EndReason
from pghaven.postgres.walrecord import find_last_record
from pghaven.repository.audits import Audit, keep_audit, load_audit
from pghaven.repository.gaps import find_gaps
from pghaven.repository.horizon import read_horizon
from pghaven.repository.ledger import Segments, range_of
from pghaven.repository.repository import Lineage, Repository
from pghaven.repository.walstore import WalArchive

# The state is written after so many segments, so that an audit that is killed loses little.
_KEPT_EVERY = 256
_FLAWS_MAX = 200


@dataclass(slots=True, kw_only=True)
class _Progress:
    began_at: datetime
    segments: int = 0
    read_bytes: int = 0
    flaws: dict[str, str] = field(default_factory=dict)
    next_segment: SegmentName | None = None
    is_stopped: bool = False

    def note(self, name: str, reason: str) -> None:
        if len(self.flaws) < _FLAWS_MAX:
            self.flaws.setdefault(name, reason)


def run_audit(
    repository: Repository,
    cluster: str,
    lineage: Lineage,
    listener: Listener,
    *,
    is_over: Callable[[int], bool],
    restart: bool = False,
) -> Audit:
    """Go on with the audit that was left, or begin one, until ``is_over`` (asked with the segments read in this run).

    Raises StoreUnreachable, NotPermitted. What is damaged is in the result.
    """
    return _Auditor(repository, cluster, lineage, listener, is_over).run(restart=restart)


class _Auditor:
    def __init__(
        self,
        repository: Repository,
        cluster: str,
        lineage: Lineage,
        listener: Listener,
        is_over: Callable[[int], bool],
    ) -> None:
        self._repository = repository
        self._lineage = lineage
        self._tell = listener
        self._is_over = is_over
        self._archive = WalArchive(repository, cluster, lineage.system_identifier, lineage.wal_segment_size)
        self._progress = _Progress(began_at=repository.clock.now())
        self._count = 0
        # What was read last: after damage a segment may be read twice.
        self._last: SegmentName | None = None

    def run(self, *, restart: bool) -> Audit:
        archive, progress = self._archive, self._progress
        begin: str | None = None
        left = load_audit(self._repository, archive.cluster, archive.system_identifier)
        if left is not None and not left.is_complete and not restart:
            begin = left.next_segment
            progress.began_at, progress.segments, progress.read_bytes = left.began_at, left.segments, left.read_bytes
            progress.flaws = dict(left.flaws)
        timelines = archive.list_timelines()
        held = {timeline: archive.list_numbers_of(timeline) for timeline in timelines}
        histories = self._check_histories(timelines)
        for timeline in timelines:
            for row in held[timeline].iter_rows():
                found = range_of(timeline, row, archive.segment_size)
                segments = Segments([found])
                if begin is not None:
                    segments = segments[bisect_left(segments, begin, key=str) :]
                if segments and not progress.is_stopped:
                    before = SegmentName(
                        timeline=timeline, number=max(segments[0].number - 1, 0), segment_size=archive.segment_size
                    )
                    self._read_range(segments, before if before in found else None)
        horizon = read_horizon(self._repository, archive.cluster, archive.system_identifier).positions
        gaps = find_gaps(held, histories, horizon, archive.segment_size)
        return self._keep(tuple((str(gap.first), str(gap.last)) for gap in gaps))

    def _keep(self, gaps: tuple[tuple[str, str], ...] = ()) -> Audit:
        progress = self._progress
        audit = Audit(
            began_at=progress.began_at,
            written_at=self._repository.clock.now(),
            next_segment=None if progress.next_segment is None else str(progress.next_segment),
            segments=progress.segments,
            read_bytes=progress.read_bytes,
            flaws=tuple(sorted(progress.flaws.items())),
            gaps=gaps,
        )
        keep_audit(self._repository, self._archive.cluster, self._archive.system_identifier, audit)
        return audit

    # -- histories --------------------------------------------------------------------------------------------------

    def _check_histories(self, timelines: Sequence[Timeline]) -> Mapping[Timeline, History]:
        """Each must be readable, and begin as those of its ancestors do."""
        histories: dict[Timeline, History] = {}
        for timeline in timelines:
            try:
                histories[timeline] = self._archive.read_history(timeline)
            except ObjectMissing:
                self._progress.note(timeline.history_name, "it is missing, and WAL of its timeline is held")
            except Damaged as error:
                self._progress.note(timeline.history_name, error.message)
        for timeline, history in histories.items():
            for at, entry in enumerate(history.entries):
                ancestor = histories.get(entry.timeline)
                if ancestor is not None and ancestor.entries != history.entries[:at]:
                    reason = f"it tells another way to timeline {entry.timeline} than {entry.timeline.history_name}"
                    self._progress.note(timeline.history_name, reason)
        return histories

    # -- segments ---------------------------------------------------------------------------------------------------

    def _read_range(self, segments: Sequence[SegmentName], before: SegmentName | None) -> None:
        """Read continuous segments; ``before`` is one that was read by an earlier run and goes before them."""
        progress, at = self._progress, 0
        while at < len(segments) and not progress.is_stopped:
            first, reached = at, [at]
            lead = before if at == 0 else None
            end = find_last_record(self._feed(segments, at, lead, reached)).end
            at, before = reached[0], None
            if end.reason in (EndReason.DAMAGED, EndReason.END_OF_WAL):
                number = end.lsn // self._archive.segment_size
                hit = number - segments[0].number
                if 0 <= hit < len(segments):
                    if end.reason is EndReason.DAMAGED or hit < len(segments) - 1:
                        progress.note(str(segments[hit]), end.message)
                    # The segment behind may have been looked at, to tell why reading ended; its records were not read.
                    at = max(hit, first) + 1

    def _feed(
        self, segments: Sequence[SegmentName], at: int, before: SegmentName | None, reached: list[int]
    ) -> Iterator[tuple[SegmentName, bytes]]:
        """The contents from one on, until one is damaged or time is up; ``reached`` has where to go on."""
        progress = self._progress
        if before is not None:
            content = self._prove(before)
            if content is not None:
                yield before, content
        for number in range(at, len(segments)):
            segment = segments[number]
            if self._is_over(self._count):
                progress.is_stopped, progress.next_segment = True, segment
                return
            self._tell(Step(text=f"reading {segment}"))
            content = self._prove(segment)
            reached[0] = number + 1
            if self._last is None or segment > self._last:
                self._last = segment
                self._count += 1
                progress.segments += 1
                progress.read_bytes += self._archive.segment_size
            if content is None:
                return
            if self._count % _KEPT_EVERY == 0 and number + 1 < len(segments):
                progress.next_segment = segments[number + 1]
                self._keep()
                progress.next_segment = None
            yield segment, content

    def _prove(self, segment: SegmentName) -> bytes | None:
        """The contents, proven by their hash, and by the first page to be of this cluster and this place."""
        try:
            content = self._archive.get(str(segment))
            check_segment(content, segment, self._lineage.system_identifier, find_by_major(self._lineage.major))
        except ObjectMissing:
            return None  # it has expired meanwhile
        except (Damaged, Conflict, Refused) as error:
            self._progress.note(str(segment), error.message)
            return None
        return content
