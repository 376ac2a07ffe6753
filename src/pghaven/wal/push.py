"""What ``wal push`` proves of a file from ``pg_wal``, and how it enters one repository.

The one idea: success is a promise. When this returns, PostgreSQL may remove its only other copy, so the file has been
proven to be what its name says, to belong to the cluster whose archive it enters, and to be durable there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime

from pghaven.clock import Clock
from pghaven.errors import Conflict, Damaged, NotPermitted, Refused
from pghaven.events import Listener, Notice
from pghaven.light import dataclass
from pghaven.postgres.segment import (
    SegmentName,
    WalFileKind,
    classify,
    is_valid_archive_name,
)
from pghaven.postgres.timeline import Timeline, parse_history
from pghaven.postgres.waldata import LONG_HEADER_SIZE, check_segment_head, is_wal_magic, parse_page_header
from pghaven.postgres.walspan import find_span
from pghaven.repository.large import read_plain
from pghaven.repository.repository import Repository
from pghaven.repository.walfacts import render_span
from pghaven.repository.walstore import PutOutcome, WalArchive
from pghaven.units import render_time_utc, since_epoch
from pghaven.wal.announced import may_archive
from pghaven.wal.archives import OpenArchive
from pghaven.wal.conflict import ToldFile, open_or_tell, put_or_tell
from pghaven.wal.directory import find_data_directory, read_system_identifier, refuse_restored_copy
from pghaven.wal.fence import Fork, find_last_fork, load_later_histories
from pghaven.wal.steady import SteadyFile

_SEGMENT_KINDS = frozenset({WalFileKind.SEGMENT, WalFileKind.PARTIAL})
_SEGMENT_NAME_LENGTH = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class WalFile:
    """A file to be archived, of which a segment is not held in memory. ``claim`` is the identifier of the cluster that
    it says it is of.

    ``written_at`` is the file's mtime, rounded up: no commit inside is later. ``mtime_ns`` is that time as it is.
    ``data_directory`` is the server's, None when the file was not read for one.
    """

    name: str
    kind: WalFileKind
    content: bytes | SteadyFile
    claim: int
    mtime_ns: int
    data_directory: str | None = None

    @property
    def written_at(self) -> datetime:
        return since_epoch(-(-self.mtime_ns // 1000) / 1e6)


def read_wal_file(
    path: str, data_directory: str | None = None, claim: int | None = None, *, cluster: str | None = None
) -> WalFile:
    """Read a file, of a segment only its beginning, and find out whose it is. ``path`` may be relative to the current
    directory, as ``%p`` is.

    ``data_directory`` is the configured one, for when the current directory is none. ``claim`` is the identifier of the
    server that the file was received from; then there is no directory. ``cluster`` is whose archive is meant.
    Raises Refused (a name PostgreSQL does not archive, a restored copy), Damaged (not what its name says), NotFound,
    NotPermitted, StoreUnreachable.
    """
    name = os.path.basename(path)
    if not is_valid_archive_name(name):
        raise Refused(
            f'"{name}" is not the name of a file that PostgreSQL archives',
            hint='Such names have 1 to 64 letters, digits and dots; archive_command passes them on as "%p".',
        )
    directory = find_data_directory(data_directory) if claim is None else None
    if directory is not None:
        refuse_restored_copy(directory, cluster)
    file, kind = SteadyFile(path), classify(name)
    content = file if kind in _SEGMENT_KINDS else file.read_all()
    return WalFile(
        name=name,
        kind=kind,
        content=content,
        claim=_read_claim(name, kind, file, directory) if claim is None else claim,
        mtime_ns=file.mtime_ns,
        data_directory=None if directory is None else os.path.realpath(directory),
    )


def open_for(repository: Repository, cluster: str, file: WalFile) -> OpenArchive:
    """The archive that a file enters. Raises what ``open_archive`` raises; another cluster's file is kept as an
    incident."""
    facts = {"host": os.uname().nodename}
    if file.data_directory is not None:
        facts["data_directory"] = file.data_directory
    return open_or_tell(repository, cluster, file.claim, ToldFile(name=file.name, facts=facts))


def push_into(opened: OpenArchive, file: WalFile, clock: Clock, listener: Listener) -> PutOutcome:
    """Have one repository hold the file; durable there when this returns.

    Raises Conflict (another cluster's file, other content under the same name), Refused, Damaged (not what its name
    says), NotPermitted, StoreUnreachable.
    """
    archive = opened.archive
    facts = {
        "host": os.uname().nodename,
        "pushed_at": render_time_utc(clock.now()),
        "source_mtime": render_time_utc(file.written_at),
        "system_identifier": str(archive.system_identifier),
    }
    if file.data_directory is not None:
        facts["data_directory"] = file.data_directory
    if file.kind is WalFileKind.HISTORY:
        # It can never be replaced, and every later decision about timelines rests on it.
        timeline = Timeline.parse_history_name(file.name)
        parse_history(read_plain(file.content).decode("utf-8", "replace"), timeline)
        if _is_unannounced(archive, file, timeline):
            return _put_unannounced(archive, file, facts, listener)
    if file.kind not in _SEGMENT_KINDS:
        return put_or_tell(archive, file.name, file.content, facts)
    segment = _name_segment(opened, file)
    content = file.content
    assert isinstance(content, SteadyFile)
    try:
        check_segment_head(content.head, len(content), segment, opened.lineage.system_identifier, opened.version)
    except Damaged:
        fork = _find_fork(archive, segment, listener)
        if fork is None or not fork.cuts_off(segment):
            raise
        return _put_remainder(archive, file, facts, listener, fork)
    with content.mapped() as memory:
        facts.update(render_span(find_span(memory, segment)))
    if _is_unannounced(archive, file, segment.timeline):
        return _put_unannounced(archive, file, facts, listener)
    # What entered the archive before it was known to be past a fork stays where it is.
    fork = _find_fork(archive, segment, listener)
    if fork is None or not fork.cuts_off(segment) or archive.holds(file.name, file.content):
        return put_or_tell(archive, file.name, file.content, facts)
    if fork.has_left_behind(segment):
        outcome = archive.put_quarantine(file.name, file.content, facts)
        listener(_warn_of(fork, file.name))
        return outcome
    if _agrees_before(archive, file, fork.lsn - segment.start_lsn, listener):
        return _put_remainder(archive, file, facts, listener, fork)
    return put_or_tell(archive, file.name, file.content, facts)


def _find_fork(archive: WalArchive, segment: SegmentName, listener: Listener) -> Fork | None:
    return find_last_fork(segment.timeline, load_later_histories(archive, segment.timeline, listener))


def _agrees_before(archive: WalArchive, file: WalFile, offset: int, listener: Listener) -> bool:
    """Whether the archive has another file of this name that is the same up to where its timeline was left. A host that
    cannot read it cannot tell, and does not hold up its server for that; nor does one that is proven damaged, beside
    which this one is kept."""
    if not archive.exists(file.name):
        return False
    try:
        return bytes(archive.get(file.name)[:offset]) == read_plain(file.content)[:offset]
    except NotPermitted:
        return True
    except Damaged as error:
        text = f'{error.message}; what this server has of "{file.name}" is kept in quarantine'
        hint = "Who follows the newest timeline reads this segment from there, and lacks nothing. See: pghaven verify"
        listener(Notice(level="warning", code="wal_damaged", text=text, hint=hint))
        return True


def _put_remainder(
    archive: WalArchive, file: WalFile, facts: Mapping[str, str], listener: Listener, fork: Fork
) -> PutOutcome:
    """What a server has by accident in the last segment of a timeline that was left: behind the fork each one has
    something else, or all of the file was never written. PostgreSQL asks a new primary to archive it all the same
    (XLogArchiveCheckDone), and would be held up by it for good."""
    outcome = archive.put_quarantine(file.name, file.content, facts)
    text = f'quarantined "{file.name}": timeline {fork.timeline} was left at {fork.lsn}, and up to there it is archived'
    listener(Notice(level="info", code="remainder", text=f"{text} or in the segment of timeline {fork.heir}"))
    return outcome


def _is_unannounced(archive: WalArchive, file: WalFile, timeline: Timeline) -> bool:
    """Whether the server has begun this timeline by somebody's mistake. What is archived already is the cluster's."""
    if file.data_directory is None or timeline == 1:
        return False
    is_history = file.kind is WalFileKind.HISTORY
    if is_history and archive.holds(file.name, file.content):
        return False
    return not may_archive(file.data_directory, timeline, is_history=is_history)


def _put_unannounced(archive: WalArchive, file: WalFile, facts: Mapping[str, str], listener: Listener) -> PutOutcome:
    outcome = archive.put_quarantine(file.name, file.content, facts)
    listener(
        Notice(
            level="warning",
            code="unannounced",
            text=f'quarantined "{file.name}": this server was promoted without its cluster\'s leave',
            hint="If it is to be the primary, announce it first: pghaven ha hook pre-promote CLUSTER --node NAME; then "
            "push what was quarantined again, histories first.",
        )
    )
    return outcome


def _read_claim(name: str, kind: WalFileKind, file: SteadyFile, directory: str | None) -> int:
    """The system identifier this file claims to be of: its own word, else the data directory's it comes from."""
    if kind in _SEGMENT_KINDS and len(file) >= LONG_HEADER_SIZE:
        header = parse_page_header(file.head)
        if is_wal_magic(header.magic) and header.system_identifier is not None:
            return header.system_identifier
    found = None if directory is None else read_system_identifier(directory)
    if found is not None:
        return found
    if kind in _SEGMENT_KINDS:
        raise Damaged(f'"{name}" is not a WAL segment: it does not begin as one')
    raise Refused(
        f'cannot tell which cluster "{name}" belongs to: it does not say, and this is no data directory',
        hint="Run this in the data directory of the server that wrote the file.",
    )


def _name_segment(opened: OpenArchive, file: WalFile) -> SegmentName:
    try:
        return SegmentName.parse(file.name[:_SEGMENT_NAME_LENGTH], opened.lineage.wal_segment_size)
    except ValueError as error:
        raise Conflict(f'"{file.name}" cannot be archived: {error}') from error


def _warn_of(fork: Fork, name: str) -> Notice:
    return Notice(
        level="warning",
        code="quarantined",
        text=f'quarantined "{name}": this server writes a timeline that was left at {fork.lsn} for timeline '
        f"{fork.heir}; what it writes since is no part of the cluster's history",
        hint=f"Another server was promoted to timeline {fork.heir}. Stop this one, or rebuild it as its standby; its "
        "WAL is kept in the repository's quarantine.",
    )
