"""Members are made anew, and what a promotion would lose is told before it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pghaven.errors import ServerUnsuitable
from pghaven.ha.view import look
from pghaven.units import parse_size
from tests.ha.engine import NAME, Engine, EngineFactory
from tests.support.waiting import wait_until
from tests.support.watching import watch_reads

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


def read_restored(log: str) -> tuple[int, int]:
    """What a restore over a member's directory tells: bytes written, and bytes that were there."""
    found = re.search(r"restored backup .*: ([0-9.]+ \w+) written, ([0-9.]+ \w+) were there", log)
    assert found is not None, log
    return parse_size(found[1].replace(" ", "")), parse_size(found[2].replace(" ", ""))


def test_a_member_made_anew_from_the_repository_reads_nothing_of_the_primary_and_writes_what_differs(
    make_engine: EngineFactory,
) -> None:
    engine = make_engine(nodes=2, durability="async")
    leader = engine.wait_leader()
    standby = next(name for name in engine.names if name != leader)
    # A vacuum or a first reader in between would touch every page.
    engine.sql(leader, "CREATE TABLE t (n int, filler text) WITH (autovacuum_enabled = off)")
    engine.sql(leader, f"INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, {_ROWS}) AS n")
    engine.sql(leader, "VACUUM FREEZE t")
    engine.ok(leader, "backup", NAME)
    engine.sql(leader, "UPDATE t SET filler = 'y' WHERE n = 1")
    engine.sql(leader, "CHECKPOINT")
    table = str(engine.value(leader, "SELECT pg_relation_filepath('t')"))
    table_bytes = int(engine.value(leader, "SELECT pg_relation_size('t')"))
    changed = "SELECT filler FROM t WHERE n = 1"
    wait_until(lambda: engine.value(standby, changed) == "y", "the change")

    # What replay has made of a page is not always the primary's to the bit: first a standby with the primary's pages.
    for source in ("leader", "repository"):
        before = (engine.place / f"{standby}-patroni.log").stat().st_size
        with watch_reads(Path(engine.data_directory(leader), table)) as reads:
            engine.json(leader, "ha", "reinit", NAME, standby, "--from", source)
            wait_until(lambda: engine.value(standby, changed) == "y", "a standby with all")
            assert (reads() > 0) == (source == "leader"), f"the primary's table was read {reads()} times"
        log = (engine.place / f"{standby}-patroni.log").read_bytes()[before:].decode()
        if source == "repository":
            written, were_there = read_restored(log)
            assert were_there > table_bytes
            assert written < table_bytes / 4, f"{written} bytes written for a page of {table_bytes}"


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
