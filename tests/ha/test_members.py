"""Members are made anew, and what a promotion would lose is told before it is."""

from __future__ import annotations

import json

from pghaven.errors import ServerUnsuitable
from pghaven.ha.view import look
from tests.ha.engine import NAME, Engine, EngineFactory
from tests.support.waiting import wait_until

# More than Patroni lets a standby be behind that promotes itself, less than a segment.
_ROWS = 60_000


def find_noted_lsn(engine: Engine) -> int:
    """The primary's position as Patroni last noted it in etcd."""
    return int(json.loads(engine.etcd.get("status") or "{}").get("optime", 0))


def find_written(engine: Engine, name: str) -> int | None:
    try:
        found = look(engine.local.spec, engine.local.api).find(name)
    except ServerUnsuitable:
        return None  # it is not up yet
    return None if found is None else found.written


def test_a_member_is_made_anew_and_bytes_that_would_be_lost_are_told(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2, durability="async")
    leader = engine.wait_leader()
    standby = next(name for name in engine.names if name != leader)
    engine.sql(leader, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    engine.ok(leader, "backup", NAME)

    # A promotion would wait for the WAL summarizer, half a minute at worst; init, which was run, leaves that as it is.
    assert [engine.value(name, "SHOW summarize_wal") for name in engine.names] == ["off", "off"]
    refused = engine.run(leader, "ha", "reinit", NAME, leader)
    assert (refused.status, "is the primary" in refused.err) == (12, True), refused
    for source, method in (("repository", "pghaven"), ("leader", "basebackup")):
        before = (engine.place / f"{standby}-patroni.log").stat().st_size
        made = engine.json(leader, "ha", "reinit", NAME, standby, "--from", source)
        assert (made["node"], made["source"]) == (standby, source)
        log = (engine.place / f"{standby}-patroni.log").read_bytes()[before:].decode()
        assert f"replica has been created using {method}" in log
        wait_until(lambda: engine.value(standby, "SELECT count(*) FROM t") == 1000, "the rows")

    # The standby is away while the primary writes, and the primary does not come back.
    engine.stop(standby)
    engine.sql(leader, "SELECT pg_switch_wal()")
    engine.sql(leader, f"INSERT INTO t SELECT generate_series(1, {_ROWS})")
    last = engine.value(leader, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
    wait_until(lambda: find_noted_lsn(engine) >= last, "the position in etcd")
    engine.kill(leader)
    engine.drop_leader_key()
    engine.start_node(standby)
    # Patroni answers before its server does, which alone knows how far it has come.
    wait_until(lambda: find_written(engine, standby), "a server that says how far it has come")
    refused = engine.run(standby, "ha", "failover", NAME, "--to", standby)
    assert refused.status == 12, refused
    assert "MiB of WAL that the primary has written and this node does not have" in refused.err
    promoted = engine.json(standby, "ha", "failover", NAME, "--to", standby, "--accept-loss")
    assert promoted["new"] == standby
    assert promoted["lost_bytes"] > 1 << 20
    assert engine.value(standby, "SELECT count(*) FROM t") == 1000
