"""A primary that runs without Patroni is taken over, and keeps what it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pghaven.ha.adopt import CONTROLLED, find_changed, find_lost_rules, find_lost_settings
from pghaven.ha.yamltext import render_yaml
from pghaven.server.identity import child_identity
from pghaven.server.instance import Instance
from tests.ha.engine import NAME, Engine, EngineFactory
from tests.support import places
from tests.support.cluster import Kind
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.unit.ha.test_rendered import SPEC


@pytest.mark.slow
def test_a_running_primary_becomes_a_member(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2, start=False)
    data = str(engine.data_directory("db1"))
    instance = Instance(data, engine.programs, log_path=str(engine.place / "own.log"), os_user=engine.user.name)
    instance.initdb(Kind().render(engine.programs.major))
    settings = {"unix_socket_directories": str(engine.place / "db1"), "port": str(engine.ports["db1"][0])}
    with open(f"{data}/postgresql.conf", "a", encoding="utf-8") as file:
        file.write("max_connections = 77\nwal_log_hints = on\narchive_mode = on\narchive_command = false\n")
    instance.start(settings)
    engine.sql("db1", "CREATE TABLE kept AS SELECT 7 AS n")
    engine.local.start(engine.local.spec.get_node("db1"), "etcd")
    wait_until(lambda: not engine.etcd.find_silent(), "etcd")

    body = engine.json("db1", "ha", "adopt", NAME, "--node", "db1")
    assert body["settings"] == ["max_connections = 77", "shared_buffers = 128MB"]
    assert (body["patroni"], body["archive_command"]) == (None, "false")
    refused = engine.run("db1", "ha", "adopt", NAME, "--node", "db1", "--apply")
    assert refused.status == 12
    assert 'add "max_connections = 77" to parameters' in refused.err
    for name in engine.names:
        config = engine.config(name)
        text = config.read_text().replace("max_connections = 30", "max_connections = 77")
        config.write_text(text.replace("shared_buffers = 16MB", "shared_buffers = 128MB"))
    assert "would end: archiving by false" in engine.run("db1", "ha", "adopt", NAME, "--node", "db1", "--apply").err
    engine.ok("db1", "ha", "adopt", NAME, "--node", "db1", "--apply", "--accept-changes")
    engine.ok("db2", "ha", "apply", NAME, "--node", "db2")
    instance.stop()

    engine.start_node("db1")
    assert engine.wait_leader() == "db1"
    engine.start_node("db2")
    engine.wait_healthy()
    assert [engine.value(name, "SELECT n FROM kept") for name in engine.names] == [7, 7]
    assert engine.value("db1", "SHOW max_connections") == "77"


class TheirPatroni:
    """A cluster of two that somebody has set up by hand, on the data directories and addresses of ``engine``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def file(self, name: str) -> Path:
        return self.engine.place / f"theirs-{name}.yml"

    def write(self, name: str) -> None:
        engine = self.engine
        port, rest, *_ = engine.ports[name]
        secrets = engine.local.places[name].secrets
        described = {
            "scope": "theirs",
            "name": name,
            "restapi": {"listen": f"127.0.0.1:{rest}", "connect_address": f"127.0.0.1:{rest}"},
            "etcd3": {"hosts": list(engine.local.spec.dcs_hosts)},
            "bootstrap": {
                "dcs": {
                    "ttl": 45,
                    "loop_wait": 1,
                    "retry_timeout": 3,
                    "slots": {"feed": {"type": "physical"}},
                    "postgresql": {"use_pg_rewind": True, "parameters": {"work_mem": "9MB", "max_connections": 33}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{port}",
                "connect_address": f"127.0.0.1:{port}",
                "data_dir": str(engine.data_directory(name)),
                "bin_dir": engine.programs.bin_dir,
                "authentication": {
                    "superuser": {"username": "postgres", "password": secrets.superuser},
                    "replication": {"username": "replicator", "password": secrets.replication},
                },
                "parameters": {
                    "unix_socket_directories": str(engine.place / name),
                    "shared_buffers": "16MB",
                    "log_min_duration_statement": "77s",
                },
                "pg_hba": [
                    "local all all trust",
                    "host replication replicator 127.0.0.1/32 scram-sha-256",
                    "host all all 127.0.0.1/32 scram-sha-256",
                    "host all app 192.168.7.0/24 scram-sha-256",
                ],
            },
        }
        self.file(name).write_text(render_yaml(described))
        places.own(self.file(name))

    def start(self, name: str) -> None:
        engine = self.engine
        with (engine.place / f"{name}-theirs.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(Path(sys.executable).parent / "patroni"), str(self.file(name))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=engine.local.environment(engine.local.places[name]),
                start_new_session=True,
                **child_identity(engine.user),
            )

    def ctl(self, *words: str) -> None:
        line = [str(Path(sys.executable).parent / "patronictl"), "-c", str(self.file("db1")), *words]
        done = places.run_as_plain(line)
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(PATIENCE_SECONDS)
        self._processes.clear()


@pytest.fixture
def theirs(make_engine: EngineFactory) -> Iterator[TheirPatroni]:
    made = TheirPatroni(make_engine(nodes=2, start=False))
    yield made
    made.stop()


def test_a_cluster_that_patroni_runs_is_taken_over_as_it_runs_and_keeps_its_settings(theirs: TheirPatroni) -> None:
    engine = theirs.engine
    engine.start_etcd()
    for name in engine.names:
        theirs.write(name)
        theirs.start(name)
    engine.wait_healthy()
    leader = engine.wait_leader()
    other = next(name for name in engine.names if name != leader)
    engine.sql(leader, "CREATE TABLE kept AS SELECT 7 AS n")
    engine.sql(leader, "ALTER SYSTEM SET wal_sender_timeout = '40s'")
    engine.sql(leader, "SELECT pg_reload_conf()")
    started = {name: engine.value(name, "SELECT pg_postmaster_start_time()") for name in engine.names}

    found = engine.json(leader, "ha", "adopt", NAME, "--node", leader)
    assert found["patroni"]["scope"] == "theirs"
    # Of what they share in etcd, ours takes the place of this; the rest stays. The rest of this is in their files.
    assert {one["path"]: (one["found"], one["wanted"]) for one in found["shared"]} == {
        "ttl": (45, 20),
        "postgresql.parameters.max_connections": (33, "30"),
    }
    assert found["settings"] == ["max_connections = 33", "log_min_duration_statement = 77s"]
    assert found["rules"] == ["host all app 192.168.7.0/24 scram-sha-256"]
    assert [one["name"] for one in found["overrides"]] == ["wal_sender_timeout"]

    words = ("ha", "adopt", NAME, "--node", leader, "--apply")
    refused = engine.run(leader, *words)
    assert (refused.status, "would fail over" in refused.err, "pause" in refused.err) == (12, True, True), refused
    theirs.ctl("pause", "--wait", "theirs")
    refused = engine.run(leader, *words)
    assert (refused.status, 'add "log_min_duration_statement = 77s" to parameters' in refused.err) == (12, True), (
        refused
    )
    engine.configure(
        failover_after="45s",
        hba=found["rules"],
        parameters=["max_connections = 33", "log_min_duration_statement = 77s", "wal_sender_timeout = 40s"],
    )
    for name in engine.names:
        config = engine.config(name)
        config.write_text(config.read_text().replace('"max_connections = 30", ', ""))
    assert engine.json(leader, *words)["applied"]
    engine.ok(other, "ha", "apply", NAME, "--node", other)
    theirs.stop()
    assert engine.value(leader, "SELECT n FROM kept") == 7

    engine.start_node(leader)
    assert engine.wait_leader() == leader
    engine.start_node(other)
    engine.wait_healthy()
    engine.ok(other, "ha", "apply", NAME, "--node", other)  # a standby that ran gets its settings now
    query = "SELECT 1 WHERE current_setting('wal_sender_timeout') = '40s'"
    for name in engine.names:
        assert engine.value(name, "SELECT n FROM kept") == 7
        assert engine.value(name, "SELECT pg_postmaster_start_time()") == started[name], "it was restarted"
        shown = [engine.value(name, f"SHOW {one}") for one in ("work_mem", "log_min_duration_statement")]
        assert shown == ["9MB", "77s"]
        wait_until(lambda on=name: engine.sql(on, query), f"{name} with its setting")
    assert engine.value(leader, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'feed'") == 1
    assert "nothing to do" in engine.ok(leader, "ha", "plan", NAME, "--node", leader)
    again = engine.run(leader, *words)
    assert (again.status, "knows a cluster" in again.err) == (12, True), again


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
    assert find_lost_rules(rules, spec) == ("host all all 192.168.0.0/16 md5",)
    kept = replace(spec, hba=(*spec.hba, "host  all all 192.168.0.0/16   md5"))
    assert find_lost_rules([*rules, "host all all 10.0.0.0 255.0.0.0 scram-sha-256"], kept) == ()


def test_settings_that_are_in_patronis_files_alone_are_named() -> None:
    made = [
        ("work_mem", "8MB", True),
        ("fsync", "off", False),
        ("port", "5433", True),
        ("wal_sender_timeout", "1min", True),
    ]
    wanted = {"wal_sender_timeout": "15s"}
    assert list(find_lost_settings(made, wanted, rewritten=False)) == ["wal_sender_timeout = 1min"]
    assert list(find_lost_settings(made, wanted, rewritten=True)) == ["work_mem = 8MB", "wal_sender_timeout = 1min"]
    assert list(find_lost_settings(made, {"wal_sender_timeout": "60s", "work_mem": "8192kB"}, rewritten=True)) == []
