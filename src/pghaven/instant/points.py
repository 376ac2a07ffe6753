"""What kept snapshots there are, what each is good for, and removing them.

The one idea: what the repository knows and what the file systems hold are compared each time, and every difference has
a name: a snapshot that somebody removed, one that nobody recorded, one whose WAL is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from pghaven.backup.frozen import find_places, find_volumes, parse_snapshot_name, remove_snapshots
from pghaven.errors import NotFound, PghavenError, Refused, UsageError
from pghaven.events import Listener, Notice
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.repository.horizon import read_horizon
from pghaven.repository.kept import KeptSnapshot, forget_snapshot, list_kept, name_snapshot
from pghaven.repository.repository import Repository
from pghaven.restore.given import survey_given
from pghaven.restore.request import RestoreRequest
from pghaven.runtime.whoami import read_own_identity
from pghaven.snapshot.driver import FoundSnapshot, Volume
from pghaven.snapshot.find import find_volume, get_driver
from pghaven.units import render_duration


class PointState(StrEnum):
    GOOD = "good"
    """It is there, and the archive leads on from it."""
    STALE = "stale"
    """It is there, and WAL that it needs is gone: nothing can be restored from it."""
    VANISHED = "vanished"
    """A volume's snapshot is not there any more."""
    ELSEWHERE = "elsewhere"
    """It is on another host, so that only its record can be seen."""
    UNRECORDED = "unrecorded"
    """A snapshot with our name that this repository knows nothing of: an interrupted command's, or another's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """``kept`` is None for an unrecorded one. ``used_bytes`` is what only this snapshot holds, where that is known."""

    label: str
    state: PointState
    reason: str | None
    kept: KeptSnapshot | None
    volumes: tuple[Volume, ...]
    used_bytes: int | None

    @property
    def taken_at(self) -> datetime | None:
        return None if self.kept is None else self.kept.facts.stopped_at


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRules:
    """Which good ones stay: the newest ``count``, and those of the time ``within``; each keeps by itself."""

    count: int | None = None
    within: timedelta | None = None

    def __str__(self) -> str:
        rules = [f"the newest {self.count} are kept"] if self.count is not None else []
        if self.within is not None:
            rules.append(f"those of the last {render_duration(self.within.total_seconds())} are kept")
        return ", and ".join(rules)


def list_points(
    repository: Repository, cluster: str, data_directory: str, others: Sequence[Repository] = ()
) -> tuple[Point, ...]:
    """All kept snapshots of a cluster, oldest first, and the unrecorded ones that lie beside them on this host.

    Raises StoreUnreachable, NotPermitted, Damaged.
    """
    here = read_own_identity().host
    known = list_kept(repository, cluster)
    volumes = {volume: None for kept in known if kept.facts.host == here for volume in kept.volumes}
    volumes.update(dict.fromkeys(_volumes_now(data_directory)))
    held = {volume: _list(volume) for volume in volumes}
    points = [_judge(repository, others, kept, held, here) for kept in known]
    recorded = {kept.name for kept in known}
    unrecorded: dict[str, list[Volume]] = {}
    for volume, found in held.items():
        for one in found or ():
            label = parse_snapshot_name(cluster, one.name)
            if label is not None and one.name not in recorded:
                unrecorded.setdefault(label, []).append(volume)
    for label, on in sorted(unrecorded.items()):
        points.append(
            Point(
                label=label,
                state=PointState.UNRECORDED,
                reason="an interrupted command left it, or another repository knows it",
                kept=None,
                volumes=tuple(on),
                used_bytes=_sum(held, on, label, cluster),
            )
        )
    return tuple(sorted(points, key=_taken))


def _taken(point: Point) -> tuple[str, float, str]:
    """For the order in which they were taken: a label tells the second, the rest of it is chance."""
    second = point.label.partition("-")[0]
    return second, 0.0 if point.taken_at is None else point.taken_at.timestamp(), point.label


def find_point(
    repository: Repository, cluster: str, data_directory: str, label: str, others: Sequence[Repository] = ()
) -> Point:
    """One of them by its label, or the beginning of it. Raises NotFound, with those that there are, UsageError."""
    points = list_points(repository, cluster, data_directory, others)
    found = [one for one in points if one.label == label] or [one for one in points if one.label.startswith(label)]
    if len(found) > 1:
        raise UsageError(f'several snapshots begin with "{label}": {", ".join(one.label for one in found)}')
    if not found:
        there = ", ".join(one.label for one in points) or "none"
        raise NotFound(f'cluster "{cluster}" has no snapshot "{label}"', hint=f"There are: {there}.")
    return found[0]


def _judge(
    repository: Repository,
    others: Sequence[Repository],
    kept: KeptSnapshot,
    held: dict[Volume, tuple[FoundSnapshot, ...] | None],
    here: str,
) -> Point:
    state, reason = PointState.GOOD, None
    missing = [one for one in kept.volumes if all(found.name != kept.name for found in held.get(one) or ())]
    if kept.facts.host != here:
        state, reason = PointState.ELSEWHERE, f'it is on host "{kept.facts.host}"'
    elif missing:
        state, reason = PointState.VANISHED, f"{missing[0]} does not have it any more"
    else:
        request = RestoreRequest(
            cluster=kept.facts.cluster, target_dir="/", target=RecoveryTarget(kind=TargetKind.LATEST)
        )
        try:
            survey_given(repository, request, kept.entry, others)
        except (Refused, NotFound) as error:
            state, reason = PointState.STALE, error.message
    used = [
        found.used_bytes
        for volume in kept.volumes
        for found in held.get(volume) or ()
        if found.name == kept.name and found.used_bytes is not None
    ]
    return Point(
        label=kept.label,
        state=state,
        reason=reason,
        kept=kept,
        volumes=kept.volumes,
        used_bytes=sum(used) if used else None,
    )


def remove_point(repository: Repository, cluster: str, data_directory: str, label: str, tell: Listener) -> Point:
    """Remove a kept snapshot and then its record, or an unrecorded one; what it was.

    Raises NotFound, Refused for one on another host or one that clones need: then it is recorded still.
    """
    point = find_point(repository, cluster, data_directory, label)
    if point.kept is None:
        _remove_from(point.volumes, name_snapshot(cluster, point.label), tell)
        return point
    if point.state is PointState.ELSEWHERE:
        raise Refused(f'snapshot "{point.label}": {point.reason}', hint="Run this there: only that host can remove it.")
    _remove_from(point.volumes, point.kept.name, tell)
    forget_snapshot(repository, cluster, point.label)
    return point


def find_surplus(points: Sequence[Point], rules: KeepRules, now: datetime) -> frozenset[str]:
    """The labels of the good ones that no rule keeps; none without any rule."""
    if rules.count is None and rules.within is None:
        return frozenset()
    good = [one for one in points if one.state is PointState.GOOD]
    kept = {one.label for one in good[-rules.count :]} if rules.count is not None else set()
    if rules.within is not None:
        kept |= {one.label for one in good if one.taken_at is not None and one.taken_at > now - rules.within}
    return frozenset(one.label for one in good if one.label not in kept)


def trim_points(
    repositories: Sequence[Repository],
    cluster: str,
    data_directory: str,
    rules: KeepRules,
    tell: Listener,
    *,
    dry_run: bool = False,
) -> None:
    """Remove what nothing can ever be restored from again, and of the good ones those that no rule keeps.

    ``repositories`` are all of the cluster's, the one that knows the snapshots first. WAL that is missing may be filled
    in, and a volume that is away may come back: only WAL that has expired, and a snapshot that its volume, which is
    here, does not have, are gone for good. What is removed and what cannot be is told.
    """
    repository, *others = repositories
    points = list_points(repository, cluster, data_directory, others)
    surplus = find_surplus(points, rules, repository.clock.now())
    for point in points:
        useless = _is_gone_for_good(repositories, point)
        if not useless and point.label not in surplus:
            continue
        why = f"it is {point.state}: {point.reason}" if useless else str(rules)
        if dry_run:
            tell(Notice(level="info", code="snapshot_surplus", text=f"snapshot {point.label} would be removed: {why}"))
            continue
        try:
            remove_point(repository, cluster, data_directory, point.label, tell)
        except PghavenError as error:
            tell(Notice(level="warning", code="snapshot_left", text=error.message, hint=error.hint))
            continue
        tell(Notice(level="info", code="snapshot_removed", text=f"snapshot {point.label} was removed: {why}"))


def _is_gone_for_good(repositories: Sequence[Repository], point: Point) -> bool:
    kept = point.kept
    if kept is None:
        return False
    if point.state is PointState.VANISHED:
        return all(_is_here(volume) for volume in kept.volumes)
    facts = kept.facts
    return point.state is PointState.STALE and all(
        read_horizon(one, facts.cluster, facts.system_identifier).is_past(facts.timeline, facts.start_lsn)
        for one in repositories
    )


def _is_here(volume: Volume) -> bool:
    try:
        return find_volume(volume.root) == volume
    except (PghavenError, OSError):
        return False


def _remove_from(volumes: Sequence[Volume], name: str, tell: Listener) -> None:
    if not remove_snapshots(volumes, name, tell):
        raise Refused(f'snapshot "{name}" is not wholly removed', hint="What holds it is told above; run it again.")


def _volumes_now(data_directory: str) -> tuple[Volume, ...]:
    """Those of the data directory as it is; none where it is gone or takes no snapshots."""
    try:
        return find_volumes(find_places(data_directory))
    except (PghavenError, OSError):
        return ()


def _list(volume: Volume) -> tuple[FoundSnapshot, ...] | None:
    try:
        return get_driver(volume.kind).list(volume)
    except NotFound:
        return None


def _sum(
    held: dict[Volume, tuple[FoundSnapshot, ...] | None], volumes: Sequence[Volume], label: str, cluster: str
) -> int | None:
    used = [
        found.used_bytes
        for volume in volumes
        for found in held[volume] or ()
        if parse_snapshot_name(cluster, found.name) == label and found.used_bytes is not None
    ]
    return sum(used) if used else None
