"""What people are told while something is amiss: what is not known is not called nothing, and nothing is taken for
something else.
"""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.ha.engine import NAME, EngineFactory
from tests.ha.test_commands import check, verdict_of
from tests.support.waiting import wait_until


def test_what_a_silent_primary_wrote_last_is_not_called_nothing(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2, durability="async")
    leader = engine.wait_leader()
    standby = next(name for name in engine.names if name != leader)
    engine.sql(leader, "CREATE TABLE t (n int)")
    wait_until(lambda: engine.value(standby, "SELECT to_regclass('t') IS NOT NULL"), "the table", 60.0)
    # Acknowledged by the primary alone, and Patroni's note in etcd is older than that, or not.
    for (sender,) in engine.sql(leader, "SELECT pid FROM pg_stat_replication"):
        os.kill(sender, signal.SIGSTOP)
    engine.sql(leader, "INSERT INTO t SELECT generate_series(1, 1000)")
    engine.kill(leader)

    reasons = verdict_of(engine, standby)[1]
    assert not [text for text in reasons if "timeline" in text]  # of a silent primary that is not known
    refused = engine.run(standby, "ha", "failover", NAME, "--primary-is-dead")
    assert refused.status == 12
    assert "what the primary wrote after its last word" in refused.err
    done = engine.json(standby, "ha", "failover", NAME, "--primary-is-dead", "--accept-loss")
    assert (done["new"], done["lost_at_least"]) == (standby, True)
    assert engine.value(standby, "SELECT count(*) FROM t") == 0


@pytest.mark.slow
def test_of_two_who_order_at_once_nobody_is_told_what_is_not_so(make_engine: EngineFactory) -> None:
    engine = make_engine()
    for order in ("switchover", "failover"):
        leader = engine.wait_leader()
        others = [name for name in engine.names if name != leader]
        with ThreadPoolExecutor(2) as both:
            ended = list(
                both.map(lambda name, order=order: engine.run(name, "--json", "ha", order, NAME, "--to", name), others)
            )
        told = [json.loads(one.out)["new"] for one in ended if one.status == 0]
        assert told == [name for name, one in zip(others, ended, strict=True) if one.status == 0]
        assert told
        assert {one.status for one in ended} <= {0, 12}, ended
        engine.wait_healthy()


def test_a_lost_etcd_is_not_taken_for_lost_servers(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2)
    leader = engine.wait_leader()
    (node,) = engine.local.spec.dcs_members
    engine.local.kill(node, server=False, service="etcd")

    def is_noticed() -> bool:
        return any(text.startswith("etcd does not answer") for text in verdict_of(engine, leader)[1])

    wait_until(is_noticed, "the silence of etcd", 60.0)
    verdict, reasons = verdict_of(engine, leader)
    # It goes on, or is read-only where it did not reach the others in time; no server is called silent.
    assert verdict == (2 if any(text.startswith("there is no primary") for text in reasons) else 1), reasons
    assert not [text for text in reasons if "does not answer at" in text]
    refused = engine.run(leader, "ha", "switchover", NAME)
    assert (refused.status, "etcd does not answer" in refused.err) == (15, True), refused
    planned = engine.ok(leader, "ha", "plan", NAME, "--node", leader)
    assert "what the members share in etcd: no Patroni tells it" in planned
    assert "nothing to do" not in planned
    found = check(engine, leader)
    assert {line[0] for line in found["patroni"]} == {"OK"}
    assert found["shared configuration"][0][::2] == ("FAILED", "Start etcd.")
    engine.local.start(node, "etcd")
    engine.wait_healthy()
    assert not is_noticed()


def test_a_check_tells_of_a_pause_and_of_slots_by_what_they_are_there_for(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2, parameters=["wal_level = logical"])
    leader = engine.wait_leader()
    other = next(name for name in engine.names if name != leader)
    assert check(engine, leader)["pause"][0][0] == "OK"
    for period, verdict in (("2h", "WARNING"), ("1ms", "FAILED")):
        engine.ok(leader, "ha", "pause", NAME, "--for", period)
        wait_until(lambda wanted=verdict: check(engine, leader)["pause"][0][0] == wanted, "the pause", 60.0)
    assert check(engine, leader)["pause"][0][2] == f"To end it: pghaven ha resume {NAME}"
    engine.ok(leader, "ha", "resume", NAME)

    slots = ("kept.type=physical", "gone.type=logical", "gone.database=postgres", "gone.plugin=pgoutput")
    engine.patronictl("edit-config", "-q", "--force", *(word for one in slots for word in ("-s", f"slots.{one}")))
    there = "SELECT count(*) FROM pg_replication_slots WHERE slot_name IN ('kept', 'gone') AND slot_type = ANY(%s)"
    for name, kinds in ((leader, ["physical", "logical"]), (other, ["physical"])):
        wait_until(lambda on=name, of=kinds: engine.value(on, there, of) == len(of), "the permanent slots", 60.0)
    # Nobody ever reads them there; Patroni restarts a standby that gets a logical one.
    sound = [("OK", "every slot is somebody's", "")]
    wait_until(lambda: check(engine, other)["slots"] == sound, "a standby with slots that are all somebody's", 60.0)
    gone, kept = sorted(check(engine, leader)["slots"], key=lambda line: line[1])
    assert (gone[0], 'nobody reads the slot "gone"' in gone[1]) == ("WARNING", True)
    assert (kept[0], "slots.kept=null" in kept[2]) == ("WARNING", True)
