"""Removing WAL that nothing needs: what lies before a horizon and outside every backup's own span.

The one idea: the caller says what its policy needs, and whatever else is there is looked at once more after the horizon
has been written: a backup that has announced itself keeps everything from its start on, one that is whole keeps the
WAL between its start and its stop. A timeline later than every backup's has not been judged by anybody, and keeps all;
where there is no backup at all, whoever asks has judged every timeline, and the first backup that is seen counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName, WalFileKind, classify
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collectplan import LIVE
from pghaven.repository.entry import BackupEntry, BackupState, Purpose
from pghaven.repository.hidden import list_pack_labels, refuse_hidden
from pghaven.repository.horizon import raise_horizon
from pghaven.repository.partials import iter_needless_pieces, list_partial_timelines, remove_pieces
from pghaven.repository.unreadable import advise, interpret
from pghaven.repository.walstore import WalArchive

_KINDS = (WalFileKind.SEGMENT, WalFileKind.PARTIAL, WalFileKind.BACKUP_HISTORY)
# A folder of the archive holds the WAL of as many bytes as the lower half of a position counts.
_FOLDER_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class WalNeed:
    """What of a lineage's WAL its policy needs: all from ``horizon`` on, and ``spans`` of first and last positions.

    ``is_alone`` says that there is no backup of this lineage, so that the horizon is meant for all its timelines.
    """

    system_identifier: int
    horizon: Lsn
    spans: tuple[tuple[Lsn, Lsn], ...] = ()
    is_alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WalRemoval:
    """What was removed, or would be: names of files as PostgreSQL knows them, and the stored bytes set free.

    ``horizon`` is where the removal ended, which is before what was asked for when a backup is under way.
    """

    is_done: bool
    system_identifier: int
    horizon: Lsn
    files: tuple[str, ...]
    freed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What must stay: all files with a byte from ``horizon`` on, or in one of the ``spans``, whose ends count."""

    horizon: Lsn
    spans: tuple[tuple[Lsn, Lsn], ...]

    def includes(self, segment: SegmentName) -> bool:
        begin, end = segment.number * segment.segment_size, (segment.number + 1) * segment.segment_size
        return end > self.horizon or any(first < end and begin <= last for first, last in self.spans)


class WalCollector:
    """Removes WAL of one cluster name. Any number may be at work at once, and stop anywhere."""

    def __init__(self, catalog: BackupCatalog) -> None:
        self._catalog = catalog
        self._repository = catalog.repository

    def preview(self, need: WalNeed, *, going: Collection[str] = ()) -> WalRemoval:
        """What ``run`` would remove at this moment, were the labels in ``going`` no more; writes nothing.

        Raises Damaged, NotFound for an unknown lineage.
        """
        entries = [entry for entry in self._read_entries(need) if entry.label not in going]
        return self._remove(need, entries, self._list_judged(need, entries), is_done=False)

    def run(self, need: WalNeed) -> WalRemoval:
        """Remove what nothing needs, oldest first, so that what is left has no new gap wherever this ends.

        Raises Damaged when a backup's records cannot be read: then nothing is removed. NotFound for an unknown lineage.
        """
        entries = self._read_entries(need)
        need = replace(need, horizon=_find_kept(need, entries).horizon)
        timelines = self._list_judged(need, entries)
        if timelines:
            positions = dict.fromkeys(timelines, need.horizon)
            raise_horizon(self._repository, self._catalog.cluster, need.system_identifier, positions)
        return self._remove(need, self._read_entries(need), timelines, is_done=True)

    def _remove(
        self, need: WalNeed, entries: Sequence[BackupEntry], timelines: Sequence[Timeline], *, is_done: bool
    ) -> WalRemoval:
        kept = _find_kept(need, entries)
        files = []
        freed_bytes = 0
        archive = self.open_archive(need.system_identifier)
        for timeline in timelines:
            for name, file_name, size_bytes in tuple(self._iter_unneeded(archive, timeline, kept)):
                if is_done:
                    self._repository.store.delete(name)
                files.append(file_name)
                freed_bytes += size_bytes
        for piece, size_bytes in iter_needless_pieces(archive, timelines, kept.includes):
            if is_done:
                remove_pieces(archive, [piece])
            files.append(piece.label)
            freed_bytes += size_bytes
        return WalRemoval(
            is_done=is_done,
            system_identifier=need.system_identifier,
            horizon=kept.horizon,
            files=tuple(files),
            freed_bytes=freed_bytes,
        )

    def open_archive(self, system_identifier: int) -> WalArchive:
        """The archive of a lineage. Raises NotFound for an unknown one."""
        lineage = self._repository.require_lineage(self._catalog.cluster, system_identifier)
        return WalArchive(self._repository, self._catalog.cluster, system_identifier, lineage.wal_segment_size)

    def _read_entries(self, need: WalNeed) -> list[BackupEntry]:
        """The backups of this lineage that are whole or under way. Raises Damaged where a listing left one out."""
        found = []
        repository, cluster = self._repository, self._catalog.cluster
        labels = list_pack_labels(repository, cluster)
        entries = {listed.label: listed for listed in self._catalog.list_labels()}
        refuse_hidden(repository, cluster, labels, entries, "no WAL was removed")
        for listed in entries.values():
            entry = interpret(self._catalog, listed)
            if entry.state is BackupState.DAMAGED or (entry.state is BackupState.UNDECIDED and entry.intent is None):
                raise Damaged(f"no WAL was removed: {entry.reason}", hint=advise(self._catalog, entry.label))
            known = entry.summary.get("system_identifier") if entry.intent is None else entry.intent.system_identifier
            is_ours = str(known) == str(need.system_identifier)
            if is_ours and entry.purpose is Purpose.BACKUP and entry.state in (BackupState.UNDECIDED, *LIVE):
                found.append(entry)
        return found

    def _list_judged(self, need: WalNeed, entries: Sequence[BackupEntry]) -> list[Timeline]:
        """The timelines with WAL that are not later than every backup's. All of them where there is no backup; none
        where there should be none and is one, since then nobody has judged what it needs."""
        archive = self.open_archive(need.system_identifier)
        if need.is_alone:
            return [] if entries else sorted({*archive.list_timelines(), *list_partial_timelines(archive)})
        newest = max((entry.intent.timeline for entry in entries if entry.intent is not None), default=0)
        return [timeline for timeline in archive.list_timelines() if timeline <= newest]

    def _iter_unneeded(self, archive: WalArchive, timeline: Timeline, kept: _Kept) -> Iterator[tuple[str, str, int]]:
        """The objects of one timeline that may go, in order: name, file name, size in bytes."""
        store = self._repository.store
        prefix = layout.wal_timeline_prefix(archive.cluster, archive.system_identifier, timeline.hex8)
        for child in store.list_children(prefix):
            folder = child.removesuffix("/")
            if folder == child or not _may_hold(folder, kept.horizon):
                continue
            for info in store.list(prefix + child):
                file_name = info.name.rpartition("/")[2]
                if classify(file_name) not in _KINDS:
                    continue
                try:
                    segment = SegmentName.parse(file_name[:24], archive.segment_size)
                except ValueError:
                    continue  # no segment of this lineage; nobody would miss it, and nobody knows what it is
                if not kept.includes(segment):
                    yield info.name, file_name, info.size_bytes


def _may_hold(folder: str, horizon: Lsn) -> bool:
    """Whether a folder of 4 GiB of WAL can hold anything before the horizon."""
    try:
        return int(folder, 16) << _FOLDER_BITS < horizon
    except ValueError:
        return False


def _find_kept(need: WalNeed, entries: Sequence[BackupEntry]) -> _Kept:
    """What the policy needs, and what these backups need whatever the policy knew of them."""
    horizon = need.horizon
    spans = list(need.spans)
    for entry in entries:
        try:
            if entry.intent is not None and (need.is_alone or entry.state is BackupState.UNDECIDED):
                horizon = min(horizon, Lsn.parse(entry.intent.start_lsn))
            else:
                spans.append((Lsn.parse(entry.summary["start_lsn"]), Lsn.parse(entry.summary["stop_lsn"])))
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(
                f'no WAL was removed: what backup "{entry.label}" says of its WAL is damaged ({error!r})'
            ) from error
    return _Kept(horizon=horizon, spans=tuple(sorted(spans)))
