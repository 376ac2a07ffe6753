"""The facts that retention judges, from a repository: backups, what is known of them, timelines and their last use.

The one idea: only small documents and names are read, never a manifest or the contents of WAL, so that asking what
would expire is cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pghaven.errors import Damaged, ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState
from pghaven.repository.evidence import Evidence, Verdict, judge_backup, load_evidence
from pghaven.repository.ledger import Held, walk_path
from pghaven.repository.walstore import WalArchive
from pghaven.retention.facts import KnownBackup, KnownLineage, KnownTimeline, know_announced
from pghaven.units import parse_time_utc, render_time

_JUDGED = (BackupState.UNDECIDED, BackupState.COMMITTED, BackupState.RETIRED)
_VERIFIED = {Verdict.NEVER: None, Verdict.WHOLE: True, Verdict.DAMAGED: False}


def gather_lineages(catalog: BackupCatalog) -> tuple[KnownLineage, ...]:
    """Every lineage of the catalog's cluster, in the order they were registered.

    Backups whose records cannot be read are left out; no collector removes anything while there are such. Raises
    Damaged for records that can be read and do not say what they must.
    """
    results = load_evidence(catalog.repository, catalog.cluster).results
    found: dict[int, list[KnownBackup]] = {}
    for entry in catalog.list_entries():
        if entry.state in _JUDGED and entry.intent is not None:
            backups = found.setdefault(entry.intent.system_identifier, [])
            backups.append(_know_backup(catalog, entry, results))
    lineages = []
    for lineage in catalog.repository.list_lineages(catalog.cluster):
        identifier = lineage.system_identifier
        archive = WalArchive(catalog.repository, catalog.cluster, identifier, lineage.wal_segment_size)
        timelines = tuple(_know_timeline(archive, timeline) for timeline in archive.list_timelines())
        # Listed after the backups: the WAL of each that is committed by then has been there.
        known = _add_missing_wal(archive, found.pop(identifier, []), timelines)
        lineages.append(KnownLineage(system_identifier=identifier, backups=known, timelines=timelines))
    if found:
        raise Damaged(f'cluster "{catalog.cluster}" has backups of a lineage that is not registered: {min(found)}')
    return tuple(lineages)


def _know_backup(catalog: BackupCatalog, entry: BackupEntry, results: Sequence[Evidence]) -> KnownBackup:
    if entry.state is BackupState.UNDECIDED:
        return know_announced(entry)
    hold, retirement = entry.hold, entry.retirement
    verdict = judge_backup(results, entry.label, catalog.find_manifest(entry)[1]).verdict
    retired = None
    if retirement is not None:
        until = render_time(retirement.not_before)
        retired = f"{render_time(retirement.written_at)} ({retirement.reason}), to be removed after {until}"
    try:
        return KnownBackup(
            label=entry.label,
            state=entry.state,
            timeline=Timeline(entry.summary["timeline"]),
            start_lsn=Lsn.parse(entry.summary["start_lsn"]),
            stop_lsn=Lsn.parse(entry.summary["stop_lsn"]),
            started_at=parse_time_utc(entry.summary["started_at"]),
            stopped_at=parse_time_utc(entry.summary["stopped_at"]),
            from_standby=bool(entry.summary["from_standby"]),
            bad_pages=int(entry.summary["bad_pages"]),
            verified=_VERIFIED[verdict],
            held=None if hold is None else f"since {render_time(hold.written_at)}: {hold.reason}",
            retired=retired,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f'what the decision of backup "{entry.label}" says of it is damaged ({error!r})') from error


def _add_missing_wal(
    archive: WalArchive, backups: Sequence[KnownBackup], timelines: Sequence[KnownTimeline]
) -> tuple[KnownBackup, ...]:
    if not backups:
        return ()
    held = {one.timeline: archive.list_numbers_of(one.timeline) for one in timelines}
    return tuple(replace(one, missing_wal=_find_missing_wal(archive, one, timelines, held)) for one in backups)


def _find_missing_wal(
    archive: WalArchive,
    backup: KnownBackup,
    timelines: Sequence[KnownTimeline],
    held: Held,
) -> str | None:
    """The first segment from a backup's start to its stop that no path has; None where that is not known.

    A later timeline's first file holds what came before the fork, too.
    """
    if backup.stop_lsn is None:
        return None
    histories = {one.timeline: one.history for one in timelines}
    if backup.timeline not in histories:
        histories[backup.timeline] = History.root(backup.timeline)  # nothing of it is there
    start = SegmentName.containing(backup.timeline, backup.start_lsn, archive.segment_size)
    missing: str | None = None
    for timeline, history in sorted(histories.items()):
        if history is None:
            if timeline >= backup.timeline:
                return None
            continue
        if not history.contains_end(backup.timeline, backup.stop_lsn):
            continue
        walk = walk_path(history, start, held)
        if walk.end_lsn >= backup.stop_lsn:
            return None
        missing = missing or str(walk.first_missing)
    return missing


def _know_timeline(archive: WalArchive, timeline: Timeline) -> KnownTimeline:
    try:
        history = archive.read_history(timeline)
    except (ObjectMissing, Damaged):
        history = None
    return KnownTimeline(timeline=timeline, history=history, last_sign=archive.find_last_sign(timeline))
