"""From a request to a plan: which backup, which timeline, which WAL, and whether it can work at all.

The one idea: nothing is written until everything is known. A target that cannot be reached is refused here, with the
span that can be, instead of by the server after hours of copying and replay.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime

from pghaven.errors import Damaged, NotFound, ObjectMissing, PghavenError, Refused
from pghaven.events import Notice
from pghaven.postgres.control import parse_control
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState
from pghaven.repository.joined import JoinedArchive
from pghaven.repository.ledger import list_legs, walk_path
from pghaven.repository.manifest import Manifest
from pghaven.repository.partials import extend_walk, find_partials
from pghaven.repository.repository import Lineage, Repository
from pghaven.restore.existing import plan_existing
from pghaven.restore.places import plan_roots
from pghaven.restore.port import find_port_notice
from pghaven.restore.request import RestorePlan, RestoreRequest, Survey, WalPlan
from pghaven.restore.walsearch import (
    FoundRecord,
    WalPath,
    before_page_header,
    find_archive_end,
    find_first_commit_after,
    find_last_commit,
    find_restore_points,
    find_transaction_end,
)
from pghaven.restore.way import (
    Way,
    describe_reachable,
    explain_damage,
    find_in_windows,
    look_before_damage,
    refuse_before_all,
    refuse_behind,
)
from pghaven.units import parse_time_utc, render_time


def survey_restore(repository: Repository, request: RestoreRequest, others: Sequence[Repository] = ()) -> Survey:
    """As ``plan_restore``, as far as names alone tell. Raises the same."""
    way = Planner(repository, request, others).choose_way()
    start = Lsn.parse(way.backup.summary["start_lsn"])
    return Survey(backup=way.backup, start_lsn=start, timeline=way.history.timeline, end_lsn=way.walk.end_lsn)


def plan_restore(repository: Repository, request: RestoreRequest, others: Sequence[Repository] = ()) -> RestorePlan:
    """Decide everything about a restore. Reads the repository and looks at the target; writes nothing.

    WAL is looked for in ``others`` too, which are of the same cluster.

    Raises NotFound without a usable backup, Refused for a target that cannot be reached or a directory that must not
    be written to, Damaged.
    """
    planner = Planner(repository, request, others)
    way = planner.choose_way()
    manifest = planner.catalog.load_manifest(way.backup)
    wal = planner.plan_wal(way, manifest)
    roots, found, is_unfinished = plan_roots(request, manifest, way.backup.original)
    existing, notices = plan_existing(found, request, planner.archive, is_unfinished=is_unfinished)
    port = find_port_notice(request, manifest.facts)
    return RestorePlan(
        request=request,
        backup=way.backup,
        manifest=manifest,
        wal=wal,
        roots=roots,
        fetch_bytes=sum(pack.size_bytes for pack in manifest.packs),
        existing=existing,
        notices=(*planner.notices, *notices, *([port] if port else [])),
    )


def survey_target(
    repository: Repository, request: RestoreRequest, others: Sequence[Repository] = ()
) -> tuple[BackupEntry, WalPlan]:
    """Whether a target can be reached: the backup and the WAL that lead to it. No target directory is looked at.

    Raises Refused for a target that cannot be reached, telling what can; NotFound, Damaged.
    """
    planner = Planner(repository, request, others)
    way = planner.choose_way()
    return way.backup, planner.plan_wal(way, planner.catalog.load_manifest(way.backup))


class Planner:
    def __init__(self, repository: Repository, request: RestoreRequest, others: Sequence[Repository]) -> None:
        self._request = request
        self._target = request.target
        self.catalog = BackupCatalog(repository, request.cluster)
        self.notices: list[Notice] = []
        self._found: FoundRecord | None = None
        self._wal_block_size = 0
        lineages = repository.list_lineages(request.cluster)
        if not lineages:
            known = ", ".join(repository.list_clusters()) or "none"
            raise NotFound(
                f'there is no cluster "{request.cluster}" in repository {repository.store.url}',
                hint=f"Clusters there: {known}.",
            )
        self._entries = self.list_entries(lineages)
        system_identifier = int(self._entries[-1].summary["system_identifier"])
        lineage = next(one for one in lineages if one.system_identifier == system_identifier)
        self.archive = JoinedArchive(repository, others, request.cluster, lineage)
        self._held = self.archive.list_numbers()
        self._partials = find_partials(self.archive, self._held)

    def list_entries(self, lineages: Sequence[Lineage]) -> list[BackupEntry]:
        """The backups to choose from, oldest first: of the one asked for, or of the newest lineage that has any."""
        if self._request.backup_label is not None:
            return [self.catalog.find_entry(self._request.backup_label)]
        known = self.catalog.list_entries()
        for entry in known:
            if entry.state is BackupState.DAMAGED:
                self._warn("backup_damaged", f'backup "{entry.label}" cannot be used: {entry.reason}')
        committed = [entry for entry in known if entry.state is BackupState.COMMITTED]
        for lineage in reversed(lineages):
            entries = [one for one in committed if int(one.summary["system_identifier"]) == lineage.system_identifier]
            if entries:
                return entries
        raise NotFound(
            f'cluster "{self._request.cluster}" has no backup', hint=f"Take one: pghaven backup {self._request.cluster}"
        )

    # -- which timeline, which backup -------------------------------------------------------------------------------

    def choose_way(self) -> Way:
        """The newest backup from which the target can be reached, on the newest timeline that has one."""
        refusal: PghavenError | None = None
        for timeline in self._timelines():
            history = self._read_history(timeline)
            entries = [entry for entry in self._entries if history is not None and _is_on(history, entry)]
            if history is None or not entries:
                continue
            try:
                way = self._choose_among(history, entries)
            except Refused as error:
                refusal = refusal or error
                if self._target.timeline is None and self._target.kind in (TargetKind.XID, TargetKind.NAME):
                    continue  # it may have happened on another branch
                raise
            if way is not None:
                self._mention_branches(timeline)
                return way
        if refusal is not None:
            raise refusal
        where = f"timeline {self._target.timeline}" if self._target.timeline else "any timeline in the archive"
        raise Refused(
            f"no backup of {len(self._entries)} lies on the history of {where} with its WAL",
            hint="`pghaven list` shows each backup's timeline, `pghaven status` the gaps in the archive.",
        )

    def _timelines(self) -> list[Timeline]:
        """Timelines to try, newest first."""
        if self._target.timeline is not None:
            return [self._target.timeline]
        ours = {Timeline(int(entry.summary["timeline"])) for entry in self._entries}
        return sorted(ours | set(self._held) | set(self._partials), reverse=True)

    def _read_history(self, timeline: Timeline) -> History | None:
        """None when it is not in the archive and nobody asked for this timeline."""
        try:
            return self.archive.read_history(timeline)
        except ObjectMissing:
            if self._target.timeline is None:
                return None
            raise Refused(
                f"the history file of timeline {timeline} is not in the archive",
                detail=f"The archive holds WAL of timelines {', '.join(map(str, self._held)) or '(none)'}.",
                hint="Choose another --target-timeline, or archive the file from a server that still has it.",
            ) from None

    def _find_way(self, history: History, entry: BackupEntry) -> Way | None:
        """The WAL that follows a backup; None, with a warning, when it does not even reach the backup's own end."""
        own = Timeline(int(entry.summary["timeline"]))
        start = SegmentName.containing(own, Lsn.parse(entry.summary["start_lsn"]), self.archive.segment_size)
        walk = extend_walk(walk_path(history, start, self._held), history, self._partials)
        path = WalPath(archive=self.archive, segments=walk.files, end_lsn=walk.end_lsn)
        way = Way(backup=entry, history=history, walk=walk, path=path)
        if path.segments and walk.end_lsn >= way.stop_lsn:
            return way
        text = f'backup "{entry.label}" cannot be used: WAL segment {walk.first_missing} is missing'
        if all(notice.text != text for notice in self.notices):
            self._warn("backup_gap", text)
        return None

    def _find_windows(self, history: History, entries: Sequence[BackupEntry]) -> list[Way]:
        """The first usable backup of each stretch of continuous WAL, oldest first; gaps lie between them."""
        windows: list[Way] = []
        for entry in entries:
            if windows and Lsn.parse(entry.summary["stop_lsn"]) <= windows[-1].path.end_lsn:
                continue
            way = self._find_way(history, entry)
            if way is not None:
                windows.append(way)
        return windows

    def _choose_among(self, history: History, entries: Sequence[BackupEntry]) -> Way | None:
        """The newest usable backup that ends before the target; None when no backup is usable at all."""
        target = self._target
        lsn: Lsn | None = None
        if target.kind in (TargetKind.LSN, TargetKind.XID, TargetKind.NAME):
            windows = self._find_windows(history, entries)
            if not windows:
                return None
            lsn = self._find_lsn(windows)
        elif target.time is not None:
            lsn = self._find_unclear(history, entries, target.time)
        for entry in reversed(entries):
            if lsn is None and target.time is not None and parse_time_utc(entry.summary["stopped_at"]) > target.time:
                continue
            if lsn is not None and Lsn.parse(entry.summary["stop_lsn"]) > lsn:
                continue
            way = self._find_way(history, entry)
            if way is not None:
                return way
        windows = self._find_windows(history, entries)
        if not windows:
            return None
        raise refuse_before_all(windows, f"WAL position {lsn} is" if lsn is not None else f"{_show(target.time)} is")

    def _find_unclear(self, history: History, entries: Sequence[BackupEntry], moment: datetime) -> Lsn | None:
        """Where recovery to a time ends that came when the clock of the server was wrong; None as a rule."""
        told = list(self.notices)
        windows = self._find_windows(history, entries)
        self.notices[:] = told
        found = find_in_windows(windows, entries, moment, inclusive=self._target.inclusive)
        if found is None:
            return None
        self._found = found.record
        lsn = windows[-1].path.end_lsn if found.record is None else found.record.start_lsn
        self._note("clock", f"the clock of the server was set back; {render_time(moment)} is taken as {lsn}")
        return lsn

    def _find_lsn(self, windows: Sequence[Way]) -> Lsn:
        """The position that an LSN, transaction or restore point target means."""
        target = self._target
        if target.lsn is not None:
            return target.lsn
        for way in reversed(windows):
            self._found = look_before_damage(way, self._locate, self._warn)
            if self._found is not None:
                return self._found.start_lsn
        what = f'no restore point "{target.name}" is'
        if target.xid is not None:
            what = f"transaction {target.xid} does not end"
        raise Refused(
            f"{what} in the archived WAL that follows the oldest backup",
            detail=describe_reachable(windows),
            hint="Is the number or name right? With --target-timeline other branches can be searched.",
        )

    def _locate(self, way: Way) -> FoundRecord | None:
        target = self._target
        if target.xid is not None:
            return find_transaction_end(way.path, target.xid)
        assert target.name is not None
        points = find_restore_points(way.path, target.name)
        if len(points) > 1:
            times = ", ".join(render_time(point.time) for point in points)
            self._note("restore_points", f'"{target.name}" was created several times ({times}); the last one is taken')
        return points[-1] if points else None

    def _mention_branches(self, chosen: Timeline) -> None:
        others = [one for one in self._held if one != chosen and self._target.timeline is None]
        branches = [str(one) for one in others if not self._archive_history_includes(chosen, one)]
        if branches:
            self._note(
                "branches",
                f"timeline {chosen} is taken, the newest; there is also timeline {', '.join(branches)}, which it does "
                f"not descend from (--target-timeline chooses)",
            )

    def _archive_history_includes(self, chosen: Timeline, other: Timeline) -> bool:
        return self.archive.read_history(chosen).includes(other)

    # -- which WAL --------------------------------------------------------------------------------------------------

    def plan_wal(self, way: Way, manifest: Manifest) -> WalPlan:
        target, control = self._target, parse_control(manifest.control)
        self._wal_block_size = control.wal_block_size
        if self._request.standby or target.kind is TargetKind.LATEST:
            try:
                return self._plan_latest(way)
            except Damaged as error:
                raise explain_damage(way, error) from error
        if target.kind is TargetKind.IMMEDIATE:
            # A standby's backup is consistent where its pg_control says, which was read just before its stop.
            end_lsn = control.min_recovery_point if manifest.facts.from_standby else way.stop_lsn
            return self._wal_plan(way, target, end_lsn, way.stopped_at)
        if target.kind is TargetKind.TIME:
            return look_before_damage(way, self._plan_time, self._warn)
        if target.kind is TargetKind.LSN:
            return look_before_damage(way, self._plan_lsn, self._warn)
        found = self._found
        assert found is not None  # choose_way looked for it
        recovery = target
        if target.name is not None:
            # The server stops at the first restore point of a name; this one may be a later one.
            recovery = self._at_lsn(found.start_lsn, inclusive=True)
        return self._wal_plan(way, recovery, found.end_lsn if target.inclusive else found.start_lsn, found.time)

    def _plan_latest(self, way: Way) -> WalPlan:
        end = find_archive_end(way.path)
        if end.start_lsn is None or end.end_lsn is None:
            raise Refused(f"the WAL after backup {way.backup.label} holds no whole record: {end.end.message}")
        moment = find_last_commit(way.path)
        if way.walk.beyond:
            self._warn(
                "gap",
                f"WAL segment {way.walk.first_missing} is missing; the archive goes on at {way.walk.beyond[0]}, "
                "which cannot be reached",
            )
        recovery = self._target if self._request.standby else self._at_lsn(end.start_lsn, inclusive=True)
        return self._wal_plan(way, recovery, max(end.start_lsn, way.stop_lsn), moment)

    def _plan_time(self, way: Way) -> WalPlan:
        target = self._target
        assert target.time is not None
        found = self._found or find_first_commit_after(way.path, target.time, inclusive=target.inclusive)
        if found is not None:
            # By its time the server would stop earlier if its clock has ever been ahead, and nobody has seen it.
            end_lsn = max(found.start_lsn, way.stop_lsn)
            return self._wal_plan(way, self._at_lsn(end_lsn, inclusive=False), end_lsn, target.time)
        # Nothing was committed after the target. If the archive is known to cover it, its end is the target.
        written = way.path.read_written_time()
        if written is None or written < target.time:
            raise refuse_behind(way, render_time(target.time))
        self._note("quiet", "nothing was committed after the target time: the end of the archive is the target")
        return self._plan_latest(way)

    def _plan_lsn(self, way: Way) -> WalPlan:
        target = self._target
        assert target.lsn is not None
        end = find_archive_end(way.path)
        if end.start_lsn is None or end.end_lsn is None or target.lsn > end.end_lsn:
            raise refuse_behind(way, f"WAL position {target.lsn}")
        if target.lsn > end.start_lsn:
            # The server looks for a record that begins at or after its target; there is none, this is the last one.
            return self._plan_latest(way)
        return self._wal_plan(way, target, max(target.lsn, way.stop_lsn), None)

    def _wal_plan(self, way: Way, recovery: RecoveryTarget, end_lsn: Lsn, moment: datetime | None) -> WalPlan:
        end_lsn = before_page_header(end_lsn, self.archive.segment_size, self._wal_block_size)
        needed = way.path.segments[: bisect_left(way.path.segments, end_lsn, key=lambda one: one.start_lsn)]
        return WalPlan(
            recovery=recovery,
            timeline=way.history.timeline,
            path=list_legs(way.history),
            first_segment=needed[0],
            last_segment=needed[-1],
            segment_count=len(needed),
            end_lsn=end_lsn,
            moment=moment,
        )

    def _at_lsn(self, lsn: Lsn, *, inclusive: bool) -> RecoveryTarget:
        return RecoveryTarget(kind=TargetKind.LSN, lsn=lsn, inclusive=inclusive, action=self._target.action)

    # -- words ------------------------------------------------------------------------------------------------------

    def _note(self, code: str, text: str) -> None:
        self.notices.append(Notice(level="info", code=code, text=text))

    def _warn(self, code: str, text: str) -> None:
        self.notices.append(Notice(level="warning", code=code, text=text))


def _is_on(history: History, entry: BackupEntry) -> bool:
    return history.contains_end(Timeline(int(entry.summary["timeline"])), Lsn.parse(entry.summary["stop_lsn"]))


def _show(moment: datetime | None) -> str:
    return render_time(moment) if moment is not None else "the target"
