"""What is generated runs: three nodes come up, follow a crash, and come back."""

from __future__ import annotations

import pytest

from tests.ha.engine import EngineFactory


@pytest.mark.slow
def test_three_nodes_come_up_fail_over_and_come_back(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=3)
    first = engine.wait_leader()
    engine.sql(first, "CREATE TABLE t AS SELECT 1 AS n")
    engine.kill(first)
    assert engine.drop_leader_key()
    second = engine.wait_leader(other_than=first)
    assert engine.value(second, "SELECT count(*) FROM t") == 1
    engine.sql(second, "INSERT INTO t VALUES (2)")
    engine.start_node(first)
    engine.wait_healthy()
    assert engine.local.leader() is not None
    assert "streaming" in engine.patronictl("list")
