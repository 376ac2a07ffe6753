"""Which files of a lineage's archive belong into the target.

The one idea: a backup is worth what its WAL is worth, so all WAL from the oldest backup on goes with it, but for what
the target's own policy has removed: what lies before its horizon would only be removed again. Nothing passes between
two branches of one timeline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pghaven.errors import ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName, WalFileKind, classify
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.branches import APART_HINT, describe_apart, find_apart, timeline_of
from pghaven.repository.container import Kind
from pghaven.repository.entry import BackupEntry
from pghaven.repository.horizon import Horizon, read_horizon
from pghaven.repository.repository import Lineage, Repository
from pghaven.repository.walstore import WalArchive
from pghaven.transfer.carrier import WalJob, describe_conflict

_OF_SEGMENT = (WalFileKind.SEGMENT, WalFileKind.PARTIAL, WalFileKind.BACKUP_HISTORY)


@dataclass(frozen=True, slots=True, kw_only=True)
class WalWish:
    """What is wanted of a lineage: everything with a byte from ``begin_lsn`` on, and every history file."""

    lineage: Lineage
    begin_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class WalFound:
    """``jobs`` are the files to copy, histories first and then in the order of their names; ``present`` are there.

    ``apart`` are (history file, reason) where the target has another branch, of which nothing is copied.
    """

    jobs: list[WalJob]
    present: int
    apart: tuple[tuple[str, str], ...]


def list_missing(source: Repository, target: Repository, cluster: str, wish: WalWish) -> WalFound:
    """What is to be copied of a lineage's archive."""
    identifier = wish.lineage.system_identifier
    archives = [WalArchive(one, cluster, identifier, wish.lineage.wal_segment_size) for one in (source, target)]
    apart = find_apart(*archives)
    prefix = layout.wal_prefix(cluster, identifier)
    there = {info.name for info in target.store.list(prefix)}
    horizon = read_horizon(target, cluster, identifier)
    jobs: list[WalJob] = []
    present = 0
    for info in source.store.list(prefix):
        file_name = info.name.rpartition("/")[2]
        if info.name != layout.wal_object_name(cluster, identifier, file_name) or timeline_of(file_name) in apart:
            continue
        if not _is_wanted(file_name, wish, horizon):
            continue
        if info.name in there:
            present += 1
        else:
            jobs.append(WalJob(system_identifier=identifier, file_name=file_name, size_bytes=info.size_bytes))
    jobs.sort(key=lambda job: (classify(job.file_name) is not WalFileKind.HISTORY, job.file_name))
    reasons = ((min(apart).history_name, f"{describe_apart(apart, *archives)}. {APART_HINT}"),) if apart else ()
    return WalFound(jobs=jobs, present=present, apart=reasons)


def _is_wanted(file_name: str, wish: WalWish, horizon: Horizon) -> bool:
    if classify(file_name) not in _OF_SEGMENT:
        return True
    try:
        segment = SegmentName.parse(file_name[:24], wish.lineage.wal_segment_size)
    except ValueError:
        return False  # no segment of this lineage
    end = (segment.number + 1) * segment.segment_size
    return end > max(wish.begin_lsn, horizon.positions.get(segment.timeline, Lsn(0)))


def iter_own_segments(entry: BackupEntry) -> Iterator[SegmentName]:
    """The segments from a backup's start to its stop: without them it is none. Raises KeyError, ValueError."""
    size = int(entry.summary["wal_segment_size"])
    timeline = Timeline(int(entry.summary["timeline"]))
    segment = SegmentName.containing(timeline, Lsn.parse(entry.summary["start_lsn"]), size)
    last = SegmentName.before(timeline, Lsn.parse(entry.summary["stop_lsn"]), size)
    while segment <= last:
        yield segment
        segment = segment.next()


def find_own_missing(source: Repository, target: Repository, cluster: str, entry: BackupEntry) -> list[WalJob] | str:
    """Which of a backup's own segments are to be copied; or the reason why its WAL cannot be had.

    What is there already is compared by the hash of its contents. Raises Damaged.
    """
    identifier = int(entry.summary["system_identifier"])
    size = int(entry.summary["wal_segment_size"])
    archives = [WalArchive(one, cluster, identifier, size) for one in (source, target)]
    apart = find_apart(*archives)
    if int(entry.summary["timeline"]) in apart:
        return describe_apart(apart, *archives)
    jobs = []
    for segment in iter_own_segments(entry):
        name = layout.wal_object_name(cluster, identifier, str(segment))
        found = source.store.find(name)
        if found is None:
            return f'WAL segment "{segment}", which it needs, is not in {source.store.url}'
        if target.store.find(name) is None:
            jobs.append(WalJob(system_identifier=identifier, file_name=str(segment), size_bytes=found.size_bytes))
            continue
        try:
            hashes = {one.load_index(name, Kind.WAL).meta.get("hash") for one in (source, target)}
        except ObjectMissing as error:
            return error.message
        if len(hashes) != 1:
            return describe_conflict(str(segment))
    return jobs
