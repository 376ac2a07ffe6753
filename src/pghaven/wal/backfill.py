"""Backfill: what a standby has received whole and a repository lacks, given to it when the standby takes over.

The one idea: a standby marks what it receives as archived, since that is its primary's business (``walreceiver.c``), so
what a primary had not archived when it was lost would never be archived by anybody. The marks are of no use here: what
a repository lacks is found by comparing, and has to be marked as waiting *before* the promotion, because the first
checkpoint after it removes old segments. Pushing at once is surer still, and leaves less to the server.

Whether a segment is whole is read from its pages: a receiver writes in order, and files are recycled under new names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pghaven.errors import Conflict, Damaged, NotPermitted, PghavenError, Refused, ServerUnsuitable
from pghaven.events import ignore
from pghaven.postgres.segment import SegmentName, WalFileKind, classify
from pghaven.postgres.timeline import History, Timeline, parse_history
from pghaven.postgres.waldata import LONG_HEADER_SIZE, SHORT_HEADER, check_first_page, check_segment
from pghaven.repository.horizon import read_horizon
from pghaven.repository.walstore import WalArchive
from pghaven.runtime.durable import OwnerOf, fsync_directory
from pghaven.wal.fence import find_current_fork, load_later_histories
from pghaven.wal.marks import Marks

_STATUS_DIRECTORY = "archive_status"
_DONE, _READY = ".done", ".ready"

UNASKED_MAX = 128
"""How many of the newest segments are marked where no repository can be asked which it lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfilled:
    """``names`` are held by as many repositories as must now; ``failed`` says why of those that are not."""

    names: tuple[str, ...]
    failed: tuple[tuple[str, str], ...] = ()


def list_whole(wal_directory: str, system_identifier: int, segment_size: int) -> tuple[SegmentName, ...]:
    """The segments in a standby's ``pg_wal`` that are this cluster's and whole, in order. Their pages are not read.

    The server may be running. A segment is left out that a timeline took over in: what it holds behind that is no WAL.
    Raises NotPermitted, ServerUnsuitable.
    """
    found = sorted(_list_segments(wal_directory, segment_size))
    present = [one for one in found if _is_present(wal_directory, one, system_identifier)]
    newest = {one.timeline: one.number for one in present}  # in order, so the last one stays
    histories = _read_newest_history(wal_directory)
    statuses = _list_names(os.path.join(wal_directory, _STATUS_DIRECTORY))
    whole = []
    for segment in present:
        if any(_cuts_off(history, segment) for history in histories):
            continue
        is_told = f"{segment}{_DONE}" in statuses or f"{segment}{_READY}" in statuses
        if is_told or segment.number < newest[segment.timeline]:
            whole.append(segment)
    return tuple(whole)


def list_lacking(wal_directory: str, archives: Sequence[WalArchive]) -> tuple[str, ...]:
    """The files of a standby's ``pg_wal`` that any of these archives should hold and does not, histories first.

    What has expired, or is older than all an archive has, is not brought back; nor is what history has left behind.
    Pages are read of what is lacking only. Raises StoreUnreachable, NotPermitted, Damaged, ServerUnsuitable.
    """
    first = archives[0]
    whole = list_whole(wal_directory, first.system_identifier, first.segment_size)
    lacking: set[SegmentName] = set()
    histories: set[str] = set()
    for archive in archives:
        lacking.update(_list_lacking(archive, whole))
        histories.update(
            name
            for name in _list_names(wal_directory)
            if classify(name) is WalFileKind.HISTORY and not archive.exists(name)
        )
    proven = [str(one) for one in sorted(lacking) if is_written_whole(wal_directory, one, first.system_identifier)]
    return (*sorted(histories), *proven)


def mark_waiting(wal_directory: str, names: Sequence[str]) -> tuple[str, ...]:
    """Mark files as waiting to be archived, so that the server has them archived as soon as it is promoted.

    Takes a rename each and no request, and is durable when it returns; gives those that did not wait already. A server
    that is never promoted takes no notice. Raises NotPermitted, ServerUnsuitable.
    """
    directory = os.path.join(wal_directory, _STATUS_DIRECTORY)
    marked = []
    try:
        owner = OwnerOf.path(wal_directory)
        for name in names:
            ready = os.path.join(directory, name + _READY)
            if os.path.exists(ready):
                continue
            try:
                os.rename(os.path.join(directory, name + _DONE), ready)
            except FileNotFoundError:
                _make_mark(ready, owner)
            marked.append(name)
        fsync_directory(directory)
    except PermissionError as error:
        raise NotPermitted(f'could not mark WAL in "{directory}": permission denied') from error
    except OSError as error:
        raise ServerUnsuitable(f'could not mark WAL in "{directory}": {error.strerror}') from error
    return tuple(marked)


def push_waiting(wal_directory: str, names: Sequence[str], push: Callable[[str], object]) -> Backfilled:
    """Push files with ``push``, which takes a path, looks ahead at what waits, and raises what failed.

    What an earlier push took along is not pushed again. Goes on behind one that fails.
    """
    marks = Marks(wal_directory)
    done, failed = [], []
    for name in names:
        try:
            if not marks.is_marked(name):
                push(os.path.join(wal_directory, name))
            done.append(name)
        except PghavenError as error:
            failed.append((name, error.message))
    return Backfilled(names=tuple(done), failed=tuple(failed))


def is_written_whole(wal_directory: str, segment: SegmentName, system_identifier: int) -> bool:
    """Whether every page of a segment is its own, up to its end or up to where its server switched away from it."""
    content = _read(wal_directory, str(segment))
    if content is None:
        return False
    try:
        identity = check_segment(content, segment, system_identifier)
    except (Damaged, Conflict, Refused):
        return False
    block = identity.block_size
    for offset in range(0, len(content), block):
        magic, _, _, page_lsn, _ = SHORT_HEADER.unpack_from(content, offset)
        if magic == 0:
            return not any(content[offset:]) and _ends_with_switch(content, segment)
        if page_lsn != segment.start_lsn + offset:
            return False
    return True


def _ends_with_switch(content: bytes, segment: SegmentName) -> bool:
    """Whether the records of a segment, of which the rest is zeros, lead to its end."""
    from pghaven.postgres.walrecord import find_last_record

    found = find_last_record([(segment, content)])
    return found.end_lsn is not None and found.end_lsn >= segment.end_lsn


def _list_lacking(archive: WalArchive, whole: Sequence[SegmentName]) -> Iterator[SegmentName]:
    positions = read_horizon(archive.repository, archive.cluster, archive.system_identifier).positions
    floor = _find_floor(archive)
    for timeline in sorted({one.timeline for one in whole}):
        segments = [one for one in whole if one.timeline == timeline]
        fork = find_current_fork(timeline, load_later_histories(archive, timeline, ignore))
        for segment in segments:
            is_past = segment.end_lsn <= positions.get(timeline, 0) or segment.number < floor
            if is_past or (fork is not None and fork.cuts_off(segment)) or archive.exists(str(segment)):
                continue
            yield segment


def _find_floor(archive: WalArchive) -> int:
    """The number of the oldest segment that an archive has of any timeline; 0 when it has none."""
    firsts = (next(archive.list_segments(timeline), None) for timeline in archive.list_timelines())
    return min((first.name.number for first in firsts if first is not None), default=0)


def _cuts_off(history: History, segment: SegmentName) -> bool:
    """Whether the way of this history leaves the segment's timeline before the segment ends."""
    fork = history.fork_of(segment.timeline)
    return fork is not None and segment.end_lsn > fork


def _list_segments(wal_directory: str, segment_size: int) -> Iterator[SegmentName]:
    for name in _list_names(wal_directory):
        if classify(name) is WalFileKind.SEGMENT:
            with suppress(ValueError):
                yield SegmentName.parse(name, segment_size)


def _list_names(directory: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(directory))
    except PermissionError as error:
        raise NotPermitted(f'could not look into "{directory}": permission denied') from error
    except OSError as error:
        raise ServerUnsuitable(f'could not look into "{directory}": {error.strerror}') from error


def _is_present(wal_directory: str, segment: SegmentName, system_identifier: int) -> bool:
    """Whether the file begins as the segment that it is named as, and not as the one it was recycled from."""
    head = _read(wal_directory, str(segment), LONG_HEADER_SIZE)
    if head is None:
        return False
    try:
        check_first_page(head, segment, system_identifier)
    except (Damaged, Conflict, Refused):
        return False
    return True


def _read_newest_history(wal_directory: str) -> tuple[History, ...]:
    """The history of the newest timeline that the standby knows, which is the one it follows; none at all on the
    first."""
    names = sorted(name for name in _list_names(wal_directory) if classify(name) is WalFileKind.HISTORY)
    for name in names[-1:]:
        content = _read(wal_directory, name)
        with suppress(Damaged):
            return (parse_history((content or b"").decode("utf-8", "replace"), Timeline.parse_history_name(name)),)
    return ()


def _read(wal_directory: str, name: str, size: int = -1) -> bytes | None:
    """None when it went away, or cannot be read."""
    try:
        with open(os.path.join(wal_directory, name), "rb") as file:
            return file.read(size)
    except OSError:
        return None


def _make_mark(path: str, owner: OwnerOf) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        owner.give(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
