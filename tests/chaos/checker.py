"""What must be true of the ledger after a fault. Pure.

The one idea: commits are judged in the order that WAL gives them. Of two on one timeline, of which the one was asked
for after the other had been acknowledged, the later cannot survive without the earlier; so whatever is lost is the end
of a timeline, and nothing in its midst.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from pghaven.postgres.lsn import Lsn
from tests.chaos.announced import Announcement
from tests.chaos.ledger import Ack

RECORD_BYTES = 32 << 10
"""A standby may have received a part of a record, which is nothing; none of the clients' is larger."""
LATE_SECONDS = 2.0
"""Until a fault that was begun has come about."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``problems`` is empty if all is well. ``lost`` counts acknowledged commits that are gone, ``cancelled_lost``
    those whose wait was cancelled; ``lost_bytes`` is the WAL from the fork to the last one lost."""

    problems: tuple[str, ...]
    acknowledged: int
    cancelled: int
    lost: int
    cancelled_lost: int
    lost_bytes: int


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the durability and the fault allow. ``forks`` maps a timeline to where the line left it; ``began`` is when
    the fault began, and ``window_seconds`` how long after it may be acknowledged what is lost then."""

    may_lose: bool
    may_overlap: bool
    forks: Mapping[int, Lsn]
    began: float
    window_seconds: float


def judge(acks: Sequence[Ack], survivors: Set[int], rules: Rules) -> Verdict:
    """``survivors`` are the rows of the cluster as it is now."""
    lost = [ack for ack in acks if ack.id not in survivors and not ack.cancelled]
    problems = [
        *_judge_loss(lost, rules),
        *_judge_order(acks, survivors),
        *_judge_forks(acks, survivors, rules.forks),
        *([] if rules.may_overlap else _judge_overlap([ack for ack in acks if ack.at >= rules.began])),
    ]
    ends = [ack.lsn - rules.forks[ack.timeline] for ack in lost if ack.timeline in rules.forks]
    return Verdict(
        problems=tuple(problems),
        acknowledged=len(acks),
        cancelled=sum(ack.cancelled for ack in acks),
        lost=len(lost),
        cancelled_lost=sum(ack.cancelled and ack.id not in survivors for ack in acks),
        lost_bytes=max([0, *ends]),
    )


@dataclass(frozen=True, kw_only=True)
class Honesty:
    """What was lost against what had been announced; ``announced_bytes`` was told last before the fault, and
    ``written_bytes`` is what the primary wrote from then on; None where nothing was lost."""

    problems: tuple[str, ...] = ()
    announced_bytes: int | None = None
    written_bytes: int | None = None
    lost_seconds: float | None = None


def judge_announced(lost: Sequence[Ack], heard: Sequence[Announcement], rules: Rules, *, lease_holds: bool) -> Honesty:
    """No more was lost than had been announced: in bytes by every announcement of the round, in seconds by the lease,
    where ``lease_holds`` (nothing but a watchdog ends a primary that hangs, which is announced too)."""
    problems = []
    for one in heard:
        fork = rules.forks.get(one.timeline)
        if fork is not None and one.position > fork + RECORD_BYTES:
            behind = one.position - fork
            problems.append(f"{behind} bytes are lost of what was announced to be safe, up to {one.position}")
            break
    ours = [ack for ack in lost if ack.timeline in rules.forks]
    if not ours:
        return Honesty(problems=tuple(problems))
    last = max(ours, key=lambda ack: ack.at)
    before = [
        one for one in heard if one.timeline == last.timeline and one.at <= rules.began and one.now_bytes is not None
    ]
    if not before:
        return Honesty(problems=(*problems, "nothing was announced before the fault"))
    told = max(before, key=lambda one: one.at)
    late = last.at - rules.began - told.lease_seconds
    if lease_holds and late > LATE_SECONDS:
        problems.append(f"a lost commit was acknowledged {late:.1f} s after the lease that was announced")
    assert told.now_bytes is not None
    primary = told.position + told.now_bytes
    return Honesty(
        problems=tuple(problems),
        announced_bytes=told.now_bytes,
        written_bytes=max(0, last.lsn - primary),
        lost_seconds=round(last.at - min(ack.at for ack in ours), 1),
    )


def _judge_loss(lost: Sequence[Ack], rules: Rules) -> list[str]:
    if not lost:
        return []
    if not rules.may_lose:
        first = min(lost, key=lambda ack: ack.at)
        return [f"{len(lost)} acknowledged commits are lost, the first on {first.node}, timeline {first.timeline}"]
    early = [ack for ack in lost if ack.at < rules.began - 1]
    late = [ack for ack in lost if ack.at > rules.began + rules.window_seconds]
    problems = []
    if early:
        problems.append(f"{len(early)} commits are lost that were acknowledged before the fault")
    if late:
        problems.append(f"{len(late)} commits are lost that were acknowledged after the lease must have ended")
    return problems


def _judge_order(acks: Sequence[Ack], survivors: Set[int]) -> list[str]:
    """The first loss of each timeline and node against the last survivor."""
    problems = []
    for place in {(ack.timeline, ack.node) for ack in acks}:
        ours = [ack for ack in acks if (ack.timeline, ack.node) == place]
        lost_at = min((ack.at for ack in ours if ack.id not in survivors), default=None)
        kept = max((ack.asked_at for ack in ours if ack.id in survivors), default=None)
        if lost_at is not None and kept is not None and kept > lost_at:
            problems.append(f"on {place[1]}, timeline {place[0]}, a commit is lost in the midst of others that are not")
    return problems


def _judge_forks(acks: Sequence[Ack], survivors: Set[int], forks: Mapping[int, Lsn]) -> list[str]:
    """What stands before the fork is there, what stands behind it is not."""
    behind = [ack for ack in acks if ack.id in survivors and ack.timeline in forks and ack.lsn >= forks[ack.timeline]]
    return [f"{len(behind)} commits survive that stand behind the fork of their timeline"] if behind else []


def _judge_overlap(acks: Sequence[Ack]) -> list[str]:
    """Nobody is told of a commit by a predecessor once the successor has told of one."""
    problems = []
    first: dict[int, float] = {}
    for ack in acks:
        if not ack.cancelled:
            first[ack.timeline] = min(first.get(ack.timeline, ack.at), ack.at)
    for ack in acks:
        if ack.cancelled:
            continue
        taken_over = min((at for timeline, at in first.items() if timeline > ack.timeline), default=None)
        if taken_over is not None and ack.at > taken_over:
            late = f"{ack.at - taken_over:.2f} s after its successor did"
            problems.append(f"{ack.node} acknowledged on timeline {ack.timeline} {late}")
            break
    return problems
