"""The WAL of one lineage as a verification sees it: what is held, what is needed, what is missing, what that means.

The one idea: a damaged segment is as good as none, so what the archive still leads to is found by walking it twice:
with everything that is listed, and without what turned out to be damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName, WalFileKind, classify
from pghaven.postgres.timeline import History, Timeline
from pghaven.proof.findings import Finding, Gravity, damage, list_labels, warning
from pghaven.proof.verify_records import WalNeed
from pghaven.proof.verify_worker import VerifyJob, WalObject
from pghaven.repository import layout
from pghaven.repository.evidence import ArchiveEnd
from pghaven.repository.ledger import Held, SegmentRange, Walk, walk_path, without_segments
from pghaven.repository.packcheck import try_read
from pghaven.repository.partials import Piece, join_pieces, name_piece, parse_piece
from pghaven.repository.repository import Lineage, Repository
from pghaven.repository.walstore import WalArchive
from pghaven.runtime.ranges import NumberRanges
from pghaven.store.api import ObjectInfo
from pghaven.units import render_size

# A job's share of the archive: enough that handing it out costs nothing, little enough that workers end together.
_JOB_BYTES = 16 << 20
_JOB_FILES = 64


@dataclass(slots=True, kw_only=True)
class LineageWal:
    """What is listed of a lineage, and the histories that could be read. ``flaws`` is filled when the files are read:
    the objects' names and what is wrong with them."""

    lineage: Lineage
    archive: WalArchive
    needs: tuple[WalNeed, ...]
    held: dict[Timeline, NumberRanges] = field(default_factory=dict)
    histories: dict[Timeline, History] = field(default_factory=dict)
    unreadable: dict[Timeline, str] = field(default_factory=dict)
    total_bytes: int = 0
    pieces: list[tuple[ObjectInfo, Piece]] = field(default_factory=list)
    flaws: dict[str, str] = field(default_factory=dict)

    def name_of(self, file_name: str) -> str:
        return layout.wal_object_name(self.archive.cluster, self.lineage.system_identifier, file_name)


def list_wal(repository: Repository, cluster: str, lineage: Lineage, needs: Sequence[WalNeed]) -> LineageWal:
    """List the archive and read all histories. Raises StoreUnreachable, NotPermitted."""
    archive = WalArchive(repository, cluster, lineage.system_identifier, lineage.wal_segment_size)
    mine = tuple(one for one in needs if one.system_identifier == lineage.system_identifier)
    wal = LineageWal(lineage=lineage, archive=archive, needs=mine)
    timelines = {need.timeline for need in mine}
    for info, file_name in _iter_files(archive):
        wal.total_bytes += info.size_bytes
        segment = _parse_segment(file_name, archive)
        if segment is not None:
            wal.held.setdefault(segment.timeline, NumberRanges()).add(segment.number)
        elif classify(file_name) is WalFileKind.HISTORY:
            timelines.add(Timeline.parse_history_name(file_name))
    for info in archive.store.list(layout.partials_prefix(cluster, lineage.system_identifier)):
        if (piece := parse_piece(archive, info.name)) is not None:
            wal.total_bytes += info.size_bytes
            wal.pieces.append((info, piece))
    for timeline in sorted(timelines | set(wal.held)):
        history = try_read(archive.store, lambda: archive.read_history(timeline))  # noqa: B023 called at once
        if isinstance(history, str):
            wal.unreadable[timeline] = history
        else:
            wal.histories[timeline] = history
    return wal


def _iter_files(archive: WalArchive) -> Iterator[tuple[ObjectInfo, str]]:
    """The objects of the archive that have the place their file belongs to; others have no meaning."""
    prefix = layout.wal_prefix(archive.cluster, archive.system_identifier)
    for info in archive.store.list(prefix):
        file_name = info.name.rpartition("/")[2]
        if layout.wal_object_name(archive.cluster, archive.system_identifier, file_name) == info.name:
            yield info, file_name


def _parse_segment(file_name: str, archive: WalArchive) -> SegmentName | None:
    if classify(file_name) is not WalFileKind.SEGMENT:
        return None
    try:
        return SegmentName.parse(file_name, archive.segment_size)
    except ValueError:
        return None


def iter_wal_jobs(wal: LineageWal, *, only_needed: bool) -> Iterator[VerifyJob]:
    """Every file of the archive and of the quarantine, or only what the backups need."""
    needed = _find_used(wal) if only_needed else {}
    batch: list[WalObject] = []
    size_bytes = 0
    for file in _iter_objects(wal):
        if only_needed and _find_user(needed, _parse_segment(file.file_name, wal.archive)) is None:
            continue
        if classify(file.file_name) is WalFileKind.HISTORY and file.file_name != "00000001.history":
            timeline = Timeline.parse_history_name(file.file_name)
            if timeline in wal.unreadable:
                continue  # it is told of already
        batch.append(file)
        size_bytes += file.size_bytes
        if size_bytes >= _JOB_BYTES or len(batch) >= _JOB_FILES:
            yield VerifyJob(lineage=wal.lineage, files=tuple(batch))
            batch, size_bytes = [], 0
    if batch:
        yield VerifyJob(lineage=wal.lineage, files=tuple(batch))


def _iter_objects(wal: LineageWal) -> Iterator[WalObject]:
    archive = wal.archive
    for info, file_name in _iter_files(archive):
        yield WalObject(file_name, info.size_bytes)
    prefix = f"{layout.quarantine_prefix(archive.cluster)}{archive.system_identifier}/"
    for info in archive.store.list(prefix):
        yield WalObject(info.name.removeprefix(prefix), info.size_bytes, is_quarantined=True)
    for info, piece in wal.pieces:
        yield WalObject(piece.label, info.size_bytes, piece=piece)


# -- walking ---------------------------------------------------------------------------------------------------------


def _walk_all(wal: LineageWal, held: Held) -> Iterator[tuple[History, WalNeed, Walk]]:
    """For each history and each backup on it the WAL that follows the backup."""
    for history in wal.histories.values():
        last: Walk | None = None
        for need in sorted(wal.needs, key=lambda one: one.start_lsn):
            if not history.contains_end(need.timeline, need.stop_lsn):
                continue
            start = SegmentName.containing(need.timeline, need.start_lsn, wal.archive.segment_size)
            if last is None or not last.passes(start):
                last = walk_path(history, start, held)
            yield history, need, last


def _find_used(wal: LineageWal) -> dict[Timeline, set[SegmentRange]]:
    """What recoveries read, by the timeline that they lead to."""
    used: dict[Timeline, set[SegmentRange]] = {}
    for history, _, walk in _walk_all(wal, wal.held):
        used.setdefault(history.timeline, set()).update(walk.files.iter_ranges())
    return used


def _find_user(used: Mapping[Timeline, Iterable[SegmentRange]], segment: SegmentName | None) -> Timeline | None:
    """The first timeline to which a recovery reads this segment."""
    if segment is None:
        return None
    return next((timeline for timeline, ranges in used.items() if any(segment in one for one in ranges)), None)


def find_archive_ends(wal: LineageWal) -> tuple[ArchiveEnd, ...]:
    size = wal.archive.segment_size
    return tuple(
        ArchiveEnd(
            system_identifier=wal.lineage.system_identifier,
            timeline=timeline,
            end_lsn=Lsn((numbers.last + 1) * size),
        )
        for timeline, numbers in sorted(wal.held.items())
    )


# -- what it means ---------------------------------------------------------------------------------------------------


Positions = Mapping[Timeline, Lsn]
"""Of each timeline the position before which WAL that no backup needs may have been removed on purpose."""


def judge_wal(wal: LineageWal, horizon: Positions) -> list[Finding]:
    """What is wrong, after the files were read. ``horizon`` is as it is then.

    Each flaw and each gap is told once, with the backups that cannot be restored because of it.
    """
    good = _without_flaws(wal)
    reached = {need.label for _, need, walk in _walk_all(wal, good) if walk.end_lsn >= need.stop_lsn}
    lost = [need for need in wal.needs if need.label not in reached]
    return [
        *_judge_histories(wal, lost),
        *_judge_flaws(wal, lost, horizon),
        *_judge_gaps(wal, lost, horizon),
        *_judge_pieces(wal),
    ]


def _without_flaws(wal: LineageWal) -> Held:
    found = ((name, _parse_segment(name.rpartition("/")[2], wal.archive)) for name in wal.flaws)
    return without_segments(wal.held, (one for name, one in found if one is not None and name == wal.name_of(str(one))))


def _judge_histories(wal: LineageWal, lost: Sequence[WalNeed]) -> Iterator[Finding]:
    for timeline, reason in wal.unreadable.items():
        labels = tuple(need.label for need in lost if need.timeline == timeline)
        meaning = f"the WAL of timeline {timeline} cannot be used; --target-timeline leads a restore along another"
        if labels:
            meaning += f", and {list_labels(labels)} cannot be restored"
        yield damage(wal.name_of(timeline.history_name), reason, meaning, labels)


def _judge_flaws(wal: LineageWal, lost: Sequence[WalNeed], horizon: Positions) -> Iterator[Finding]:
    used = _find_used(wal)
    pieces = {name_piece(wal.archive, piece) for _, piece in wal.pieces}
    for name, reason in wal.flaws.items():
        if name in pieces:
            continue
        file_name = name.rpartition("/")[2]
        segment = _parse_segment(file_name, wal.archive)
        user = _find_user(used, segment)
        if segment is None or user is None or name != wal.name_of(file_name):
            if wal.archive.store.find(name) is not None:  # else it was removed meanwhile
                yield warning(name, reason, "no restore of a backup that is here reads it")
            continue
        labels = _list_hit(lost, segment, segment)
        if not labels and _is_before(segment, horizon) and not wal.archive.exists(file_name):
            continue
        meaning = f"recovery on timeline {user} cannot go beyond {segment.start_lsn}"
        if labels:
            meaning = f"{list_labels(labels)} cannot be restored; {meaning}"
        yield damage(name, reason, meaning, labels)


def _judge_pieces(wal: LineageWal) -> Iterator[Finding]:
    """Pieces that are damaged, and such as lead nowhere because what came before them is gone."""
    archive = wal.archive
    receivers: dict[tuple[SegmentName, str], list[Piece]] = {}
    for _, piece in wal.pieces:
        receivers.setdefault((piece.segment, piece.receiver), []).append(piece)
    for (segment, _), pieces in receivers.items():
        is_end = segment.number > wal.held.get(segment.timeline, NumberRanges()).last
        reached = max((piece.end for piece in join_pieces(pieces)), default=0)
        for piece in pieces:
            name = name_piece(archive, piece)
            reason = wal.flaws.get(name)
            if reason is None and piece.end > reached and is_end:
                reason = f"what came before offset {piece.begin} of its segment is missing"
            if reason is None or archive.store.find(name) is None:
                continue  # its receiver has put a larger one in its place
            if is_end:
                meaning = f"what was received of timeline {segment.timeline} after {segment.start_lsn} may be lost"
                yield damage(name, reason, meaning)
            else:
                yield warning(name, reason, "no restore reads it: its segment is archived, or a later one")


def _is_before(segment: SegmentName, horizon: Positions) -> bool:
    return segment.end_lsn <= horizon.get(segment.timeline, Lsn(0))


def _judge_gaps(wal: LineageWal, lost: Sequence[WalNeed], horizon: Positions) -> Iterator[Finding]:
    told: set[SegmentName] = set()
    for history, need, walk in _walk_all(wal, wal.held):
        for first, last in _iter_gaps(history, need, walk):
            if first in told:
                continue
            told.add(first)
            labels = _list_hit(lost, first, last)
            if not labels and _is_before(last, horizon):
                continue
            count = last.number - first.number + 1
            reason = "it is missing" if count == 1 else f"it and all up to {last} are missing, {count} segments"
            meaning = f"recovery on timeline {history.timeline} cannot go beyond {first.start_lsn}"
            if labels:
                meaning = f"{list_labels(labels)} cannot be restored; {meaning}"
            yield damage(wal.name_of(str(first)), reason, meaning, labels)


def _iter_gaps(history: History, need: WalNeed, walk: Walk) -> Iterator[tuple[SegmentName, SegmentName]]:
    """All WAL that is missing on a path between what is held, and up to the backup's stop."""
    size = walk.first_missing.segment_size
    after = walk.first_missing.number
    for held in walk.beyond.iter_ranges():
        if held.first.number > after:
            yield _named(history, after, size), _named(history, held.first.number - 1, size)
        after = held.last.number + 1
    stop = SegmentName.before(need.timeline, need.stop_lsn, size).number
    if walk.end_lsn < need.stop_lsn and after <= stop:
        yield _named(history, after, size), _named(history, stop, size)


def _named(history: History, number: int, size: int) -> SegmentName:
    """The file a path needs for a number: of the timeline that owns its last byte."""
    return SegmentName(timeline=history.timeline_at(Lsn((number + 1) * size - 1)), number=number, segment_size=size)


def _list_hit(lost: Iterable[WalNeed], first: SegmentName, last: SegmentName) -> tuple[str, ...]:
    return tuple(one.label for one in lost if one.start_lsn < last.end_lsn and one.stop_lsn > first.start_lsn)


def judge_ends(wal: LineageWal, before: Sequence[ArchiveEnd], when: str, horizon: Positions) -> list[Finding]:
    """WAL that was there at the end of a timeline when the archive was verified before, and is no more."""
    now = {end.timeline: end.end_lsn for end in find_archive_ends(wal)}
    found = []
    for end in before:
        if end.system_identifier != wal.lineage.system_identifier:
            continue
        if end.end_lsn <= max(now.get(end.timeline, Lsn(0)), horizon.get(end.timeline, Lsn(0))):
            continue
        segment = SegmentName.before(end.timeline, end.end_lsn, wal.archive.segment_size)
        reason = (
            f"it is missing: the archive of timeline {end.timeline} reached {end.end_lsn} when it was verified {when}"
        )
        meaning = (
            f"recovery on timeline {end.timeline} cannot go beyond {now.get(end.timeline, 'the fork it began at')}"
        )
        found.append(damage(wal.name_of(str(segment)), reason, meaning))
    return found


def note_quarantine(wal: LineageWal) -> list[Finding]:
    """What is in quarantine, as one note."""
    prefix = f"{layout.quarantine_prefix(wal.archive.cluster)}{wal.lineage.system_identifier}/"
    sizes = [info.size_bytes for info in wal.archive.store.list(prefix)]
    if not sizes:
        return []
    what = "1 WAL file" if len(sizes) == 1 else f"{len(sizes)} WAL files"
    reason = f"{what} ({render_size(sum(sizes))}) of a server that was passed over"
    return [Finding(gravity=Gravity.INFO, object=prefix, reason=reason)]
