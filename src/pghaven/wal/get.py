"""``wal get``: one file from the archive to where PostgreSQL's recovery asked for it.

The one idea: there are three answers and no fourth. *Fetched* means the proven bytes are in place. *Absent* means that
every repository was opened, knows the cluster, and proved that it does not hold the file, and that recovery may end
here. Anything else is raised, because PostgreSQL takes "absent" for the end of all WAL and opens the database.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import (
    Cancelled,
    Damaged,
    NotPermitted,
    ObjectMissing,
    PghavenError,
    Refused,
    StoreUnreachable,
    UsageError,
)
from pghaven.events import Listener, Notice, ignore
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName, WalFileKind, classify, is_valid_archive_name
from pghaven.postgres.timeline import Timeline
from pghaven.postgres.waldata import check_segment
from pghaven.repository.branches import find_apart, timeline_of
from pghaven.repository.partials import find_newest_partial
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.walstore import WalArchive
from pghaven.runtime.durable import OwnerOf, write_fully
from pghaven.wal.archives import OpenArchive, PlaceFailure, join_failures, open_archive
from pghaven.wal.commands import render_archive_command, render_restore_command
from pghaven.wal.fence import find_current_fork, load_later_histories
from pghaven.wal.occupied import refuse_occupied_tablespaces
from pghaven.wal.plan import FollowedPlan, Verdict
from pghaven.wal.rewinding import find_own_quarantined, find_rewound_directory
from pghaven.wal.tail import Tail, find_planned_tail, find_tail

__all__ = ["GetOutcome", "GetRequest", "get_file", "render_archive_command", "render_restore_command"]

_TEMPORARY_PREFIX = ".pghaven-"
_LEFTOVER_SECONDS = 3600.0


class GetOutcome(StrEnum):
    FETCHED = "fetched"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class GetRequest:
    """``target_path`` may be relative to the current directory, as PostgreSQL's ``%p`` is.

    ``standby`` says that the server waits for WAL instead of ending recovery: then absence is normal, a store that
    cannot be reached counts as absence so that streaming can go on, and ``plan`` is not followed.
    ``still_wanted`` is asked just before the file is put in place; False leaves it undone. ``ahead`` is for a file that
    recovery has not asked for yet: absence is then no answer, only a reason to wait until it does.
    """

    cluster: str
    repositories: tuple[RepositoryPlace, ...]
    file_name: str
    target_path: str
    system_identifier: int | None = None
    plan: FollowedPlan | None = None
    standby: bool = False
    clock: Clock = SYSTEM_CLOCK
    still_wanted: Callable[[], bool] = lambda: True
    ahead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Absence:
    """A repository's proof that it has no file to give; ``objection`` says why recovery may not end here. ``tail`` is
    what it has of an unfinished segment that recovery may end with."""

    objection: str | None = None
    tail: Tail | None = None


Open = Callable[[RepositoryPlace, str, int | None], OpenArchive]


def _open(place: RepositoryPlace, cluster: str, system_identifier: int | None) -> OpenArchive:
    return open_archive(open_place(place), cluster, system_identifier)


def get_file(request: GetRequest, listener: Listener = ignore) -> GetOutcome:
    """Fetch one file, or prove that it is absent.

    The file replaces whatever is at ``target_path``, whole; it is not made durable, because PostgreSQL flushes what it
    keeps of it (KeepFileRestoredFromArchive in xlogarchive.c). Raises as ``find_file``.
    """
    content = find_file(request, listener)
    if content is None:
        return GetOutcome.ABSENT
    _deliver(content, request)
    return GetOutcome.FETCHED


def find_file(request: GetRequest, listener: Listener = ignore, open_one: Open = _open) -> bytes | None:
    """What recovery is to get under this name; None when it is proven absent. The repositories are tried in order
    until one has it; one that holds another branch of its timeline than those before it has none of it.

    Raises Damaged (also for a file that the plan needs and nobody has), StoreUnreachable, NotPermitted, NotFound,
    Refused, UsageError, Cancelled.
    """
    if not is_valid_archive_name(request.file_name):
        raise UsageError(f'"{request.file_name}" is not the name of a file that PostgreSQL archives')
    failures: list[PlaceFailure] = []
    objections: list[str] = []
    tails: list[Tail] = []
    asked: list[WalArchive] = []
    for place in request.repositories:
        try:
            opened = open_one(place, request.cluster, request.system_identifier)
            if any(timeline_of(request.file_name) in find_apart(one, opened.archive) for one in asked):
                continue  # another branch than that of the repository which comes first
            found = _find(opened, request, listener)
        except Cancelled:
            raise
        except PghavenError as error:
            failures.append(PlaceFailure(place=place, error=error))
            continue
        if isinstance(found, bytes):
            _warn_of(failures, request.file_name, listener)
            return found
        asked.append(opened.archive)
        if found.objection is not None:
            objections.append(found.objection)
        if found.tail is not None:
            tails.append(found.tail)
    if request.standby and failures and all(isinstance(one.error, StoreUnreachable) for one in failures):
        _warn_of(failures, request.file_name, listener)
        return None
    if failures:
        raise join_failures(f'could not fetch "{request.file_name}"', failures, len(request.repositories))
    if objections:
        raise Damaged(objections[0], hint=_hint_for(request))
    return max(tails, key=lambda tail: tail.end_lsn).content if tails else None


def _hint_for(request: GetRequest) -> str:
    return (
        "Ending recovery here would lose what was archived after it. Archive the file from a server that still has it, "
        + ("or restore to an earlier target." if request.plan else "or set a recovery target before it.")
    )


def _find(opened: OpenArchive, request: GetRequest, listener: Listener) -> bytes | _Absence:
    archive = opened.archive
    kind = classify(request.file_name)
    if kind is WalFileKind.SEGMENT:
        return _find_segment(opened, request, listener)
    try:
        return archive.get(request.file_name)
    except ObjectMissing:
        plan = request.plan
        if kind is WalFileKind.HISTORY and plan is not None and not request.standby:
            timeline = Timeline.parse_history_name(request.file_name)
            if plan.needs_history(timeline):
                return _Absence(
                    objection=f'the history file of timeline {timeline}, to which restore plan "{plan.source}" leads, '
                    "is not in the archive"
                )
        return _Absence()


def _find_segment(opened: OpenArchive, request: GetRequest, listener: Listener) -> bytes | _Absence:
    archive = opened.archive
    try:
        segment = SegmentName.parse(request.file_name, archive.segment_size)
    except ValueError as error:
        raise UsageError(str(error)) from error
    rewound = find_rewound_directory(request.file_name, request.target_path)
    if rewound is not None:
        return find_own_quarantined(archive, request.file_name, rewound) or _read_segment(opened, segment) or _Absence()
    if request.standby:
        fork = find_current_fork(segment.timeline, load_later_histories(archive, segment.timeline, listener))
        # The part before the fork is in the first segment of the timeline that took over, or comes by streaming.
        off = fork is not None and fork.cuts_off(segment)
        return _Absence() if off else _read_segment(opened, segment) or _Absence()
    plan = request.plan
    if plan is None:
        # Where recovery ends can be told only when it asks.
        found = _read_segment(opened, segment)
        return found or (_Absence() if request.ahead else _end_here(opened, segment, listener))
    verdict = plan.judge(segment)
    if verdict is Verdict.ELSEWHERE:
        return _Absence()
    if verdict is Verdict.PASSED_OVER:
        raise Refused(
            f'WAL segment "{segment}" is not the one that restore plan "{plan.source}" leads through: '
            "a later timeline took over inside it",
        )
    try:
        content = _read_segment(opened, segment) or find_planned_tail(opened, segment, plan)
    except Damaged as error:
        if verdict is Verdict.NEEDED:
            raise
        # The server reads ahead. What lies beyond the plan's end is not its business, whatever has become of it.
        text = f"{error.message}; the restore does not need it"
        listener(Notice(level="warning", code="wal_damaged", text=text))
        return _Absence()
    if content is not None:
        content = _cut(content, segment, plan.find_cut(segment))
        refuse_occupied_tablespaces(segment, content, plan)
        return content
    if verdict is Verdict.NEEDED:
        return _Absence(
            objection=f'WAL segment "{segment}" is missing from the archive, but restore plan "{plan.source}" '
            f"needs it to reach {plan.expected_end_lsn}"
        )
    return _Absence()


def _read_segment(opened: OpenArchive, segment: SegmentName) -> bytes | None:
    """The proven contents; None when the archive proves that it does not have them. Raises Damaged."""
    try:
        content = opened.archive.get(str(segment))
    except ObjectMissing:
        return None
    check_segment(content, segment, opened.lineage.system_identifier, opened.version)
    return content


def _end_here(opened: OpenArchive, segment: SegmentName, listener: Listener) -> _Absence:
    objection = _find_gap(opened.archive, segment)
    return _Absence(objection=objection, tail=None if objection is not None else find_tail(opened, segment, listener))


def _find_gap(archive: WalArchive, segment: SegmentName) -> str | None:
    """Without a plan, the end of the archive is where no later segment is held. This is asked at the very end of a
    recovery, so that listing a whole timeline does no harm."""
    for held in archive.list_segments(segment.timeline):
        if held.name.number > segment.number:
            return f'WAL segment "{segment}" is missing from the archive, which goes on with "{held.name}"'
    partial = find_newest_partial(archive, segment.timeline)
    if partial is not None and partial.segment.number > segment.number:
        return f'WAL segment "{segment}" is missing from the archive, which goes on with part of "{partial.segment}"'
    return None


def _cut(content: bytes, segment: SegmentName, at: Lsn | None) -> bytes:
    """The contents up to a position, then zeros, which the server takes for the end of WAL."""
    if at is None:
        return content
    kept = at - segment.start_lsn
    return content[:kept] + bytes(len(content) - kept)


def _deliver(content: bytes, request: GetRequest) -> None:
    """Write a temporary file beside the target and rename it, so that the target is never there in part."""
    path = request.target_path
    directory, name = os.path.split(path)
    directory = directory or "."
    prefix = f"{_TEMPORARY_PREFIX}{name}-"
    temporary = os.path.join(directory, f"{prefix}{os.urandom(6).hex()}")
    try:
        _remove_leftovers(directory, prefix, request.clock.now().timestamp() - _LEFTOVER_SECONDS)
        try:
            _write(temporary, content, OwnerOf.path(directory))
            _put_in_place(temporary, request)
        except BaseException:
            with suppress(OSError):  # the failure that led here is the one to report
                os.unlink(temporary)
            raise
    except PermissionError as error:
        raise NotPermitted(f'could not write "{path}": permission denied') from error
    except OSError as error:
        raise StoreUnreachable(f'could not write "{path}": {error.strerror}') from error


def _put_in_place(temporary: str, request: GetRequest) -> None:
    if not request.still_wanted():
        raise Cancelled(f'"{request.file_name}" is no longer wanted: the process that asked for it is gone')
    os.rename(temporary, request.target_path)


def _write(path: str, content: bytes, owner: OwnerOf) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        write_fully(descriptor, [content])
        owner.give(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(directory: str, prefix: str, before_seconds: float) -> None:
    """Remove what earlier calls for the same target left when they were killed."""
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(prefix)]
    for name in names:
        path = os.path.join(directory, name)
        with suppress(FileNotFoundError):
            if os.lstat(path).st_mtime < before_seconds:
                os.unlink(path)


def _warn_of(failures: Sequence[PlaceFailure], name: str, listener: Listener) -> None:
    for failure in failures:
        text = f'could not fetch "{name}" from repository "{failure.place.name}": {failure.error.message}'
        listener(Notice(level="warning", code="repository_failed", text=text, hint=failure.error.hint))
