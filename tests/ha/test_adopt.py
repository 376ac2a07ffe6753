"""A primary that runs without Patroni is taken over, and keeps what it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pghaven.ha.adopt import CONTROLLED, find_changed, find_lost_rules
from pghaven.server.instance import Instance
from tests.ha.engine import NAME, EngineFactory
from tests.support.cluster import Kind
from tests.support.waiting import wait_until
from tests.unit.ha.test_rendered import SPEC


@pytest.mark.slow
def test_a_running_primary_becomes_a_member(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2, start=False)
    data = str(engine.data_directory("db1"))
    instance = Instance(data, engine.programs, log_path=str(engine.place / "own.log"), os_user=engine.user.name)
    instance.initdb(Kind().render(engine.programs.major))
    settings = {"unix_socket_directories": str(engine.place / "db1"), "port": str(engine.ports["db1"][0])}
    with open(f"{data}/postgresql.conf", "a", encoding="utf-8") as file:
        file.write("max_connections = 77\nwal_log_hints = on\n")
    instance.start(settings)
    engine.sql("db1", "CREATE TABLE kept AS SELECT 7 AS n")
    engine.local.start(engine.local.spec.get_node("db1"), "etcd")
    wait_until(lambda: not engine.etcd.find_silent(), "etcd")

    body = engine.json("db1", "ha", "adopt", NAME, "--node", "db1")
    assert body["settings"] == ["max_connections = 77"]
    refused = engine.run("db1", "ha", "adopt", NAME, "--node", "db1", "--apply")
    assert refused.status == 12
    assert 'add "max_connections = 77" to parameters' in refused.err
    for name in engine.names:
        config = engine.config(name)
        config.write_text(config.read_text().replace("max_connections = 30", "max_connections = 77"))
    engine.ok("db1", "ha", "adopt", NAME, "--node", "db1", "--apply")
    engine.ok("db2", "ha", "apply", NAME, "--node", "db2")
    instance.stop()

    engine.start_node("db1")
    assert engine.wait_leader() == "db1"
    engine.start_node("db2")
    engine.wait_healthy()
    assert [engine.value(name, "SELECT n FROM kept") for name in engine.names] == [7, 7]
    assert engine.value("db1", "SHOW max_connections") == "77"


def test_settings_that_patroni_would_change_are_named() -> None:
    found = {**CONTROLLED, "max_connections": "500"}
    assert find_changed(found, {}) == ("max_connections = 500",)
    assert find_changed(found, {"max_connections": "500"}) == ()


def test_rules_that_would_go_are_named() -> None:
    spec = replace(SPEC, hba=("host all all 10.0.0.0/8 scram-sha-256",))
    rules = [
        "local all all peer",
        "host all all 127.0.0.1 255.255.255.255 trust",
        "host all all 192.168.0.0 255.255.0.0 md5",
    ]
    assert find_lost_rules(rules, spec) == ("host all all 192.168.0.0 255.255.0.0 md5",)
