"""The whole cluster is taken back to a moment, in place."""

from __future__ import annotations

import pytest

from tests.ha.engine import NAME, EngineFactory


@pytest.mark.slow
def test_a_cluster_is_taken_back_and_the_others_follow(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2)
    leader = engine.wait_leader()
    other = next(name for name in engine.names if name != leader)
    engine.sql(leader, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    engine.ok(leader, "backup", NAME)
    lsn = engine.value(leader, "SELECT pg_current_wal_insert_lsn()")
    engine.sql(leader, "INSERT INTO t SELECT generate_series(1001, 3000)")
    engine.sql(leader, "SELECT pg_switch_wal()")

    refused = engine.run(leader, "ha", "restore", NAME, "--node", leader, "--target-lsn", str(lsn))
    assert refused.status == 12
    assert "Patroni still runs on" in refused.err
    assert engine.value(leader, "SELECT count(*) FROM t") == 3000

    engine.stop(other)
    engine.stop(leader)
    body = engine.json(leader, "ha", "restore", NAME, "--node", leader, "--target-lsn", str(lsn))
    assert body["timeline"] == 2
    engine.start_node(leader)
    assert engine.wait_leader() == leader
    engine.start_node(other)
    engine.wait_healthy()
    assert [engine.value(name, "SELECT count(*) FROM t") for name in (leader, other)] == [1000, 1000]
    engine.ok(leader, "backup", NAME)
    assert engine.json(leader, "ha", "status", NAME)["leader"] == leader
