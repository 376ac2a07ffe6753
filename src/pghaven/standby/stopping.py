"""Where a standby stops that is told a moment or a position: found before it is touched.

The one idea: PostgreSQL only stops when it comes upon something that is later; where nothing is, it waits for more for
ever, as a standby that is half promoted. So what it will replay is read first, and it is given a position in that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from pghaven.errors import Damaged, NotFound, NotPermitted, Refused, StoreUnreachable
from pghaven.postgres.datadir import WAL_DIRECTORY
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.walevent import decode_xact
from pghaven.postgres.walrecord import RM_XACT, iter_records
from pghaven.repository.ledger import walk_path
from pghaven.repository.partials import extend_walk, find_partials
from pghaven.repository.walstore import WalArchive
from pghaven.restore.passages import find_passages
from pghaven.restore.walsearch import FoundRecord, WalPath, find_first_commit_after
from pghaven.standby.lineage import ArchiveView, find_line
from pghaven.standby.view import StandbyState
from pghaven.units import render_time

_ALL_HINT = "Leave the target out: all that is there is replayed, and nothing of it is later."


def find_stop(
    target: RecoveryTarget, state: StandbyState, views: Sequence[ArchiveView], data_directory: str, end_lsn: Lsn
) -> RecoveryTarget:
    """The target as a position that will be reached; ``end_lsn`` is up to where the standby or an archive has WAL.

    Raises Refused for one that is past, that nothing comes after, or that came more than once.
    """
    lsn = target.lsn
    if target.time is not None:
        if state.replayed_at is not None and target.time < state.replayed_at:
            raise Refused(
                f"the target is past: the standby has replayed what was committed at {render_time(state.replayed_at)}",
                hint="Restore to that moment instead: pghaven restore",
            )
        found = _find_commit(target.time, state, views, data_directory)
        if found is None:
            raise Refused(
                f"no transaction ended after {render_time(target.time)} in the WAL that there is, up to {end_lsn}",
                hint=_ALL_HINT,
            )
        lsn = found.start_lsn
    assert lsn is not None
    if lsn < state.replayed_lsn:
        raise Refused(
            f"the target {lsn} is past: the standby has replayed up to {state.replayed_lsn}",
            hint="Restore to that position instead: pghaven restore",
        )
    if lsn >= end_lsn:
        raise Refused(f"the target {lsn} is not before the end of the WAL that there is, {end_lsn}", hint=_ALL_HINT)
    return replace(target, kind=TargetKind.LSN, time=None, lsn=lsn, inclusive=False)


def _find_commit(
    moment: datetime, state: StandbyState, views: Sequence[ArchiveView], data_directory: str
) -> FoundRecord | None:
    """The first end of a transaction later than a moment: in an archive, else in what only this standby has."""
    read_up_to = state.replayed_lsn
    for view in views:
        try:
            path = None if view.archive is None else _find_path(view.archive, state)
            if path is None:
                continue
            passages = find_passages(path, moment, (), inclusive=True)
            if len(passages) > 1:
                raise Refused(
                    f"{render_time(moment)} came {len(passages)} times by the clock of the server, which was set back",
                    hint="Name the position that is meant: --target-lsn",
                )
            found = passages[0].record if passages else find_first_commit_after(path, moment, inclusive=True)
        except (Damaged, StoreUnreachable, NotPermitted):
            continue  # the plan has told of it
        if found is not None:
            return found
        read_up_to = max(read_up_to, Lsn(min(path.end_lsn, state.has_lsn)))
    wal = _read_own(state, read_up_to, os.path.join(data_directory, WAL_DIRECTORY))
    for record in iter_records(wal, resource_managers=(RM_XACT,)):
        event = decode_xact(record)
        if event is not None and event.kind != "prepare" and event.time > moment:
            return FoundRecord(start_lsn=record.start_lsn, end_lsn=record.end_lsn, time=event.time)
    return None


def _find_path(archive: WalArchive, state: StandbyState) -> WalPath | None:
    """What an archive has from where the standby is."""
    history = find_line(archive, state.timeline)
    held = archive.list_numbers()
    lsn = state.replayed_lsn
    start = SegmentName.containing(history.timeline_at(lsn), lsn, archive.segment_size)
    try:
        walk = extend_walk(walk_path(history, start, held), history, find_partials(archive, held))
    except NotFound:
        return None
    return WalPath(archive=archive, segments=walk.files, end_lsn=walk.end_lsn) if walk.files else None


def _read_own(state: StandbyState, first_lsn: Lsn, directory: str) -> Iterator[tuple[SegmentName, bytes]]:
    """The standby's files of WAL up to where it has received them; behind that they are old ones under new names."""
    segment = SegmentName.before(state.timeline, max(first_lsn, Lsn(1)), state.segment_size)
    while segment.start_lsn < state.has_lsn:
        try:
            with open(os.path.join(directory, str(segment)), "rb") as file:
                yield segment, file.read(min(state.segment_size, state.has_lsn - segment.start_lsn))
        except OSError:
            return
        segment = segment.next()
