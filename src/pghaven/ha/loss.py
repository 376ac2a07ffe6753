"""What a failover would lose, told before there is one. Pure.

The one idea: what one standby has by now outlasts the primary, so the number is what the primary has beyond that; what
it goes on to write until its lease has ended comes on top, and has a bound in time and none in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pghaven.ha.spec import HaSpec
from pghaven.ha.view import ClusterView, Member
from pghaven.units import render_duration, render_size

_FOLLOWING: Final = ("running", "streaming", "in archive recovery")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """If the primary were lost now.

    ``candidate`` has most of those who may lead, and ``position`` is what it has: nothing before is lost. ``now_bytes``
    is what the primary has written beyond that; None when either is not known. ``acknowledged``: whether commits that
    a client was told of can be among it. ``by_itself``: whether anybody takes over without being told to.

    A primary that is cut off writes on until its lease ends, ``lease_seconds`` after it was renewed at the latest.
    ``fenced``: whether a watchdog ends one that hangs, or whose Patroni is gone; without it that one has no bound.
    """

    candidate: str | None
    position: int | None
    now_bytes: int | None
    acknowledged: bool
    by_itself: bool
    lease_seconds: int
    fenced: bool


def assess_loss(spec: HaSpec, view: ClusterView) -> Loss | None:
    """What would be lost if the primary were lost now; None when none leads, for a cluster that follows another, and
    while etcd is silent: then nobody takes over, and who is synchronous is not known."""
    leading = view.leading
    if leading is None or view.dcs_is_silent or spec.followed is not None:
        return None
    able = list(_find_able(spec, view, leading))
    synchronous = [one for one in able if one.is_sync]
    safe = spec.durability != "async"
    candidates = synchronous if safe and synchronous else able
    best = max(candidates, key=lambda one: one.written or 0, default=None)
    position = None if best is None else best.written
    lag = None if best is None else view.lag_bytes(best)
    timely = lag is None or lag <= spec.max_lag_on_failover
    return Loss(
        candidate=None if best is None else best.name,
        position=position,
        now_bytes=lag,
        acknowledged=not (safe and synchronous),
        by_itself=bool(synchronous if safe else able) and timely and not view.paused,
        lease_seconds=spec.timing.ttl,
        fenced=spec.fencing == "watchdog-required",
    )


def render_loss(loss: Loss) -> str:
    """One line for people."""
    if loss.candidate is None:
        return "nobody can take over: everything since the newest WAL in the repository would be lost"
    if not loss.acknowledged:
        return f"{loss.candidate} can take over; no commit that was acknowledged is lost"
    now = f"{loss.candidate} lacks up to {render_size(loss.now_bytes or 0)}"
    if loss.now_bytes is None:
        now = f"what {loss.candidate} lacks is not known"
    hand = "" if loss.by_itself else "; only by hand"
    more = f"and what is written until the lease ends, {render_duration(loss.lease_seconds)} at most"
    beyond = "" if loss.fenced else "; longer where the primary hangs or its Patroni is gone"
    return f"{now}{hand}; {more}{beyond}"


def _find_able(spec: HaSpec, view: ClusterView, leading: Member) -> Iterator[Member]:
    """Who may lead, answers, and is on the primary's timeline: positions on another one say nothing of this one."""
    following = [
        one
        for one in view.members
        if one.name != leading.name and one.silence is None and one.state in _FOLLOWING and one.timeline
    ]
    # Of a primary that does not answer it is not known.
    timeline = leading.timeline or max((one.timeline or 0 for one in following), default=0)
    for one in following:
        if one.timeline == timeline and spec.get_node(one.name).may_lead:
            yield one
