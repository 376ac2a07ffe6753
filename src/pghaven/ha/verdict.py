"""What is wrong with a cluster, from what was seen of it. Pure.

The one idea: one verdict with its reasons: 0, all is well; 1, it works and something is to be done; 2, nobody can
write, or what is written is not safe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pghaven.ha.dynamic import find_drift
from pghaven.ha.spec import HaSpec
from pghaven.ha.view import ClusterView
from pghaven.units import render_size, render_time

WELL: Final = 0
TO_DO: Final = 1
BROKEN: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    gravity: int
    text: str
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveView:
    """What the repositories know: the highest timeline whose history is archived, segments in quarantine, the newest
    backup on the primary's line, and files that wait on this host's server."""

    timeline: int | None
    quarantined: int
    backup: str | None
    backup_at: datetime | None
    waiting: int | None
    problems: tuple[str, ...] = ()


def judge_cluster(
    spec: HaSpec, wanted: dict[str, object], view: ClusterView, archive: ArchiveView | None, now: datetime
) -> tuple[Reason, ...]:
    """The worst first."""
    reasons = [*_judge_members(spec, view), *_judge_pause(spec, view, now), *_judge_config(spec, wanted, view)]
    if archive is not None:
        reasons += _judge_archive(spec, view, archive)
    return tuple(sorted(reasons, key=lambda one: -one.gravity))


def worst(reasons: tuple[Reason, ...]) -> int:
    return max((one.gravity for one in reasons), default=WELL)


def _judge_members(spec: HaSpec, view: ClusterView) -> Iterator[Reason]:
    leading = view.leading
    if view.dcs_is_silent:
        text = "etcd does not answer: nobody can take over, and what is configured there is not known"
        hint = f"Start etcd; which of its members are silent: pghaven ha check {spec.cluster}"
        yield Reason(gravity=TO_DO, text=text, hint=hint)
    if leading is None:
        lease = "nobody takes writes" if view.dcs_is_silent else "nobody holds the lease"
        yield Reason(gravity=BROKEN, text=f"there is no primary: {lease}")
    elif leading.silence is not None:
        text = f'the primary "{leading.name}" does not answer; another takes over when its lease ends'
        yield Reason(gravity=BROKEN, text=text)
    for member in view.members:
        if leading is not None and member.name == leading.name:
            continue
        if member.silence is not None:
            yield Reason(gravity=TO_DO, text=member.silence, hint="Does Patroni's service run there?")
        elif member.state not in ("streaming", "running", "in archive recovery"):
            hint = f"If it stays so: pghaven ha rejoin {spec.cluster} {member.name}"
            yield Reason(gravity=TO_DO, text=f'node "{member.name}" is in state "{member.state}"', hint=hint)
        elif member.state != "streaming" and spec.followed is None:
            yield Reason(gravity=TO_DO, text=f'node "{member.name}" follows the archive and does not stream')
        elif leading is not None and leading.timeline not in (None, member.timeline) and spec.followed is None:
            text = f'node "{member.name}" is on timeline {member.timeline}, the primary on {leading.timeline}'
            yield Reason(gravity=TO_DO, text=text, hint="Patroni rewinds it; ask again in a moment.")
        else:
            yield from _judge_lag(spec, view, member.name)
    if view.dcs_is_silent:
        return  # who is synchronous stands in etcd
    if spec.durability != "async" and leading is not None and not any(one.is_sync for one in view.members):
        waiting = "wait until one is" if spec.durability == "strict" else "wait for nobody"
        text = (
            f'"{spec.durability}" is configured and no standby is synchronous: commits {waiting}, '
            "and nobody takes over by itself"
        )
        yield Reason(gravity=BROKEN if spec.durability == "strict" else TO_DO, text=text)


def _judge_lag(spec: HaSpec, view: ClusterView, name: str) -> Iterator[Reason]:
    member = view.find(name)
    lag = None if member is None else view.lag_bytes(member)
    if lag is not None and lag > spec.max_lag_on_failover and spec.get_node(name).may_lead:
        yield Reason(
            gravity=TO_DO,
            text=f'node "{name}" is {render_size(lag)} behind: it would not be promoted by itself',
        )


def _judge_pause(spec: HaSpec, view: ClusterView, now: datetime) -> Iterator[Reason]:
    if not view.paused:
        return
    resume = f"To end it: pghaven ha resume {spec.cluster}"
    if view.paused_until is None:
        yield Reason(gravity=TO_DO, text="the cluster is paused: it does not fail over", hint=resume)
    elif view.paused_until < now:
        text = f"the pause was to end at {render_time(view.paused_until)}, and goes on: the cluster does not fail over"
        yield Reason(gravity=BROKEN, text=text, hint=resume)
    else:
        text = f"the cluster is paused until {render_time(view.paused_until)}: it does not fail over"
        yield Reason(gravity=TO_DO, text=text, hint=resume)


def _judge_config(spec: HaSpec, wanted: dict[str, object], view: ClusterView) -> Iterator[Reason]:
    apply = f"To set it right: pghaven ha apply {spec.cluster}"
    for drift in find_drift(wanted, view.config or {}) if view.config is not None else ():
        text = f"{drift.path} is {drift.found!r} in etcd, and {drift.wanted!r} in the configuration"
        yield Reason(gravity=TO_DO, text=text, hint=apply)
    for member in view.members:
        if member.pending_restart:
            text = f'settings of node "{member.name}" wait for a restart of its server'
            yield Reason(gravity=TO_DO, text=text, hint=f"patronictl restart {spec.cluster} {member.name}")


def _judge_archive(spec: HaSpec, view: ClusterView, archive: ArchiveView) -> Iterator[Reason]:
    leading = view.leading
    for problem in archive.problems:
        yield Reason(gravity=TO_DO, text=problem)
    if archive.quarantined:
        text = f"{archive.quarantined} WAL files are in quarantine: somebody archived past a fork"
        yield Reason(gravity=TO_DO, text=text, hint=f"See: pghaven wal list {spec.cluster}")
    if leading is not None and leading.timeline and archive.timeline and archive.timeline > leading.timeline:
        text = f"the archive has timeline {archive.timeline}, and the primary is on {leading.timeline}"
        yield Reason(gravity=BROKEN, text=text, hint="Another server of this cluster may have been promoted.")
    if archive.backup is None:
        yield Reason(gravity=TO_DO, text="there is no backup", hint=f"Take one: pghaven backup {spec.cluster}")
