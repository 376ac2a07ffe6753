"""``pghaven ha`` on a real cluster, as people type it."""

from __future__ import annotations

import json

import pytest

from tests.ha.engine import NAME, Engine, EngineFactory
from tests.support.waiting import wait_until


def verdict_of(engine: Engine, name: str) -> tuple[int, list[str]]:
    ended = engine.run(name, "--json", "ha", "status", NAME)
    body = json.loads(ended.out)
    assert body["verdict"] == ended.status, ended
    return ended.status, [reason["text"] for reason in body["reasons"]]


def wait_verdict(engine: Engine, name: str, wanted: int) -> list[str]:
    """The verdict follows Patroni's own loop."""
    found: tuple[int, list[str]] = (-1, [])

    def is_so() -> bool:
        nonlocal found
        found = verdict_of(engine, name)
        return found[0] == wanted

    try:
        wait_until(is_so, f"verdict {wanted}", 60.0)
    except AssertionError:
        raise AssertionError(f"verdict {found[0]}, not {wanted}: {found[1]}") from None
    return found[1]


def test_a_cluster_is_handed_over_lost_and_taken_back(make_engine: EngineFactory) -> None:
    engine = make_engine(durability="quorum")
    first = engine.wait_leader()
    assert "there is no backup" in wait_verdict(engine, first, 1)
    engine.ok(first, "backup", NAME)
    assert wait_verdict(engine, first, 0) == []

    second = next(name for name in engine.names if name != first)
    body = engine.json(first, "ha", "switchover", NAME, "--to", second)
    assert (body["old"], body["new"], body["lost_bytes"]) == (first, second, 0)
    assert "is the primary already" in engine.run(first, "ha", "switchover", NAME, "--to", second).err
    engine.wait_healthy()
    engine.sql(second, "CREATE TABLE kept AS SELECT 1 AS n")

    refused = engine.run(first, "ha", "failover", NAME, "--to", first, "--primary-is-dead", "--accept-loss")
    assert refused.status == 12
    assert "but answers as the primary" in refused.err
    engine.kill(second)
    third = next(name for name in engine.names if name not in (first, second))
    body = engine.json(first, "ha", "failover", NAME, "--primary-is-dead", "--accept-loss")
    assert body["old"] == second
    assert body["new"] in (first, third)
    leader = engine.wait_leader(other_than=second)
    assert engine.value(leader, "SELECT n FROM kept") == 1
    assert any("does not answer" in reason for reason in wait_verdict(engine, first, 1))

    engine.start_node(second)
    assert engine.json(first, "ha", "rejoin", NAME, second)["way"] == "followed"
    engine.wait_healthy()
    assert wait_verdict(engine, first, 0) == []


@pytest.mark.slow
def test_a_pause_that_lasts_too_long_is_an_error(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2)
    leader = engine.wait_leader()
    engine.ok(leader, "backup", NAME)
    engine.ok(leader, "ha", "pause", NAME, "--for", "2h")
    assert any(reason.startswith("the cluster is paused until") for reason in wait_verdict(engine, leader, 1))
    engine.ok(leader, "ha", "pause", NAME, "--for", "1ms")
    assert any("and goes on" in reason for reason in wait_verdict(engine, leader, 2))
    engine.ok(leader, "ha", "resume", NAME)
    assert wait_verdict(engine, leader, 0) == []


def test_what_drifts_in_etcd_is_found_and_set_right(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2)
    leader = engine.wait_leader()
    assert "nothing to do" in engine.ok(leader, "ha", "plan", NAME, "--node", leader)
    engine.patronictl("edit-config", "-q", "--force", "-s", "ttl=45", "-s", "postgresql.parameters.work_mem=8MB")
    body = engine.json(leader, "ha", "plan", NAME, "--node", leader)
    assert body["shared"] == [{"path": "ttl", "found": 45, "wanted": 20}]
    config = engine.config(leader)
    config.write_text(config.read_text().replace('"jit = off"', '"jit = off", "work_mem = 16MB"'))
    planned = engine.ok(leader, "ha", "plan", NAME, "--node", leader)
    assert 'work_mem: "16MB"' in planned
    password = engine.local.places[leader].secrets.superuser
    assert password not in planned
    engine.ok(leader, "ha", "apply", NAME, "--node", leader)
    wait_until(lambda: engine.value(leader, "SHOW work_mem") == "16MB", "the setting")
    assert "nothing to do" in engine.ok(leader, "ha", "plan", NAME, "--node", leader)


def test_a_check_names_what_is_wrong_and_what_to_do(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2)
    leader = engine.wait_leader()
    other = next(name for name in engine.names if name != leader)

    def check() -> dict[str, list[tuple[str, str, str | None]]]:
        found: dict[str, list[tuple[str, str, str | None]]] = {}
        body = json.loads(engine.run(leader, "--json", "ha", "check", NAME, "--node", leader).out)
        for one in body["results"]:
            found.setdefault(one["name"], []).append((one["verdict"], one["text"], one["hint"]))
        return found

    found = check()
    assert "summaries" not in found
    failed = {name for name, lines in found.items() if any(line[0] == "FAILED" for line in lines)}
    assert failed == set(), found
    assert found["etcd"][-1][0] == "WARNING"  # one member survives nothing
    assert found["fencing"][0][0] == "WARNING"
    assert found["engine"][0][0] == found["environment"][0][0] == found["shared configuration"][0][0] == "OK"

    # Two nodes of one name: the member is not where the configuration has it.
    config, right = engine.config(leader), engine.config(leader).read_text()
    config.write_text(right.replace(f"\nport = {engine.ports[other][0]}\n", "\nport = 1\n"))
    assert any(f'the member "{other}" is at' in text for _, text, _ in check()["names"])
    config.write_text(right)

    engine.sql(leader, "SELECT pg_create_physical_replication_slot('forgotten', true)")
    engine.patronictl("edit-config", "-q", "--force", "-s", "ttl=15")
    engine.sql(leader, "ALTER SYSTEM SET summarize_wal = on")
    engine.sql(leader, "SELECT pg_reload_conf()")
    engine.stop(other)
    config.write_text(right.replace('"engine" = "', "").replace('engine = "/', 'engine = "/nowhere/'))
    found = check()
    assert found["engine"][0][0] == "FAILED"
    assert "pip install" in (found["engine"][0][2] or "")
    assert any('nobody reads the slot "forgotten"' in text for _, text, _ in found["slots"])
    assert found["summaries"][0][0] == "WARNING"
    assert any("ttl is 15 in etcd" in text for verdict, text, _ in found["shared configuration"])
    assert any(f'node "{other}" does not answer' in text for verdict, text, _ in found["patroni"])
    assert engine.run(leader, "ha", "check", NAME, "--node", leader).status == 17

    engine.local.stop(engine.local.spec.dcs_members[0], "etcd")
    found = check()
    assert found["etcd"][0][0] == "FAILED"
    assert found["etcd"][0][2]
