"""The checker finds what it is there for: each rule with a ledger that breaks it, and one that does not."""

from __future__ import annotations

from dataclasses import replace

from pghaven.postgres.lsn import Lsn
from tests.chaos.announced import Announcement
from tests.chaos.checker import LATE_SECONDS, RECORD_BYTES, Honesty, Rules, judge, judge_announced
from tests.chaos.ledger import Ack

FORK = Lsn(1000)
RULES = Rules(may_lose=False, may_overlap=False, forks={1: FORK}, began=10.0, window_seconds=20.0)


def ack(number: int, *, at: float, timeline: int = 1, lsn: int = 0, cancelled: bool = False) -> Ack:
    node = f"n{timeline}"
    where = Lsn(lsn or number * 10)
    return Ack(id=number, node=node, timeline=timeline, lsn=where, asked_at=at - 0.1, at=at, cancelled=cancelled)


BEFORE = [ack(number, at=float(number)) for number in range(1, 11)]
LAST = ack(150, at=15.0)
AFTER = [ack(200 + number, at=30.0 + number, timeline=2, lsn=2000 + number) for number in range(5)]
ALL = [*BEFORE, LAST, *AFTER]
SURVIVORS = {one.id for one in ALL} - {LAST.id}


def test_all_that_was_acknowledged_and_is_there_is_well() -> None:
    verdict = judge([*BEFORE, *AFTER], SURVIVORS, RULES)
    assert verdict.problems == ()
    assert (verdict.acknowledged, verdict.lost) == (15, 0)


def test_a_lost_commit_is_a_problem_unless_the_durability_allows_it() -> None:
    verdict = judge(ALL, SURVIVORS, RULES)
    assert verdict.lost == 1
    assert "1 acknowledged commits are lost" in verdict.problems[0]
    allowed = judge(ALL, SURVIVORS, replace(RULES, may_lose=True))
    assert allowed.problems == ()
    assert allowed.lost_bytes == LAST.lsn - FORK


def test_a_cancelled_wait_is_counted_apart() -> None:
    verdict = judge([*BEFORE, replace(LAST, cancelled=True), *AFTER], SURVIVORS, RULES)
    assert verdict.problems == ()
    assert (verdict.lost, verdict.cancelled_lost) == (0, 1)


def test_what_is_lost_was_acknowledged_during_the_fault() -> None:
    loose = replace(RULES, may_lose=True)
    assert "before the fault" in judge(ALL, SURVIVORS, replace(loose, began=17.0)).problems[0]
    assert "lease" in judge(ALL, SURVIVORS, replace(loose, window_seconds=3.0)).problems[0]


def test_nothing_is_lost_in_the_midst() -> None:
    loose = replace(RULES, may_lose=True, began=0.0)
    (problem,) = judge(ALL, SURVIVORS - {5}, loose).problems
    assert "in the midst" in problem


def test_nothing_survives_from_behind_the_fork() -> None:
    (problem,) = judge(ALL, {one.id for one in ALL}, RULES).problems
    assert "behind the fork" in problem


def test_nobody_acknowledges_after_a_successor_has() -> None:
    late = replace(LAST, at=31.0, lsn=Lsn(900))
    everything = [*BEFORE, late, *AFTER]
    (problem,) = judge(everything, {one.id for one in everything}, RULES).problems
    assert "after its successor did" in problem
    assert judge(everything, {one.id for one in everything}, replace(RULES, may_overlap=True)).problems == ()


def announcement(position: int, *, at: float, now_bytes: int | None = 0, timeline: int = 1) -> Announcement:
    where = Lsn(position)
    return Announcement(
        asked_at=at - 0.1, at=at, timeline=timeline, position=where, now_bytes=now_bytes, lease_seconds=20
    )


def test_what_was_announced_to_be_safe_is_not_lost() -> None:
    rules = replace(RULES, may_lose=True)
    told = announcement(980, at=9.0, now_bytes=120)
    honest = judge_announced([LAST], [told], rules, lease_holds=True)
    assert honest == Honesty(announced_bytes=120, written_bytes=LAST.lsn - 1100, lost_seconds=0.0)
    beyond = announcement(FORK + RECORD_BYTES + 1, at=12.0)
    (problem,) = judge_announced([LAST], [told, beyond], rules, lease_holds=True).problems
    assert "announced to be safe" in problem
    of_another = replace(beyond, timeline=2)
    assert judge_announced([LAST], [told, of_another], rules, lease_holds=True).problems == ()


def test_what_is_lost_was_acknowledged_before_the_announced_lease_ended() -> None:
    rules = replace(RULES, may_lose=True)
    told = announcement(980, at=9.0)
    late = replace(LAST, at=rules.began + 20 + LATE_SECONDS + 1)
    (problem,) = judge_announced([late], [told], rules, lease_holds=True).problems
    assert "after the lease that was announced" in problem
    assert judge_announced([late], [told], rules, lease_holds=False).problems == ()


def test_a_loss_that_nobody_announced_is_a_problem() -> None:
    after = announcement(980, at=RULES.began + 1)
    (problem,) = judge_announced([LAST], [after], RULES, lease_holds=True).problems
    assert "nothing was announced" in problem
