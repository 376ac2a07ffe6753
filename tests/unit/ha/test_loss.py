"""What a failover would lose, from what the members say."""

from __future__ import annotations

from dataclasses import replace

from pghaven.ha.acts import render_cost
from pghaven.ha.loss import Loss, assess_loss, render_loss
from pghaven.ha.spec import Followed, HaNode, HaSpec, derive_timing
from pghaven.ha.view import ClusterView, Member

NODES = tuple(HaNode(name=f"db{at}", address=f"10.0.0.{at}") for at in (1, 2, 3))
SPEC = HaSpec(cluster="shop", nodes=NODES, durability="async", timing=derive_timing(20.0, 2.0))
LEADER = Member(name="db1", role="leader", state="running", timeline=2, written=5000)
NEAR = Member(name="db2", role="replica", state="streaming", timeline=2, written=4000)
FAR = Member(name="db3", role="replica", state="streaming", timeline=2, written=3000)


def view_of(*members: Member, leader: str | None = "db1") -> ClusterView:
    return ClusterView(members=members, leader=leader, paused=False, paused_until=None, config=None)


def loss_of(*members: Member, spec: HaSpec = SPEC) -> Loss:
    loss = assess_loss(spec, view_of(*members))
    assert loss is not None
    return loss


def test_the_standby_that_has_most_is_what_outlasts_the_primary() -> None:
    loss = loss_of(LEADER, FAR, NEAR)
    assert (loss.candidate, loss.position, loss.now_bytes) == ("db2", 4000, 1000)
    assert loss.acknowledged
    assert loss.by_itself
    assert loss.lease_seconds == 20
    text = render_loss(loss)
    assert "db2 lacks up to 1000 B" in text
    assert "20 s at most; longer where" in text
    assert "longer" not in render_loss(replace(loss, fenced=True))


def test_who_cannot_take_over_saves_nothing() -> None:
    for useless in (
        replace(NEAR, silence="no answer"),
        replace(NEAR, timeline=1),
        replace(NEAR, state="start failed"),
    ):
        assert loss_of(LEADER, useless, FAR).candidate == "db3"
    never = replace(SPEC, nodes=(NODES[0], replace(NODES[1], priority=0), NODES[2]))
    assert loss_of(LEADER, NEAR, FAR, spec=never).candidate == "db3"
    alone = loss_of(LEADER)
    assert (alone.candidate, alone.now_bytes, alone.by_itself) == (None, None, False)
    assert "nobody can take over" in render_loss(alone)


def test_of_a_primary_that_does_not_answer_only_the_standby_is_known() -> None:
    silent = replace(LEADER, silence="no answer", timeline=None, written=None)
    loss = loss_of(silent, NEAR, replace(FAR, timeline=1, written=9000))
    assert (loss.candidate, loss.position, loss.now_bytes) == ("db2", 4000, None)
    assert "db2 lacks how much is not known" not in render_loss(loss)
    assert "what db2 lacks is not known" in render_loss(loss)


def test_a_standby_beyond_the_limit_is_promoted_by_hand_only() -> None:
    tight = replace(SPEC, max_lag_on_failover=999)
    loss = loss_of(LEADER, NEAR, spec=tight)
    assert not loss.by_itself
    assert "only by hand" in render_loss(loss)


def test_with_a_synchronous_standby_no_acknowledged_commit_is_lost() -> None:
    quorum = replace(SPEC, durability="quorum")
    loss = loss_of(LEADER, NEAR, replace(FAR, is_sync=True), spec=quorum)
    assert (loss.candidate, loss.acknowledged, loss.by_itself) == ("db3", False, True)
    assert "no commit that was acknowledged is lost" in render_loss(loss)
    without = loss_of(LEADER, NEAR, FAR, spec=quorum)
    assert (without.candidate, without.acknowledged, without.by_itself) == ("db2", True, False)


def test_without_a_primary_or_on_a_second_site_there_is_nothing_to_tell() -> None:
    assert assess_loss(SPEC, view_of(NEAR, FAR, leader=None)) is None
    assert assess_loss(replace(SPEC, followed=Followed(cluster="other")), view_of(LEADER, NEAR)) is None


def test_what_a_promotion_costs_is_told_or_whose_position_is_not_known() -> None:
    assert "3.00 MiB of WAL that the primary has written" in render_cost(3 << 20, NEAR)
    assert "primary's last position is not known" in render_cost(None, NEAR)
    assert "after its last word, which it gives every 2 s, is not known" in render_cost(0, NEAR, 2)
    starting = Member(name="db2", role="replica", state="starting")
    assert "its server does not say yet how far it has come" in render_cost(None, starting)
