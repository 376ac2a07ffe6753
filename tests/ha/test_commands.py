"""``pghaven ha`` on a real cluster, as people type it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ha.engine import NAME, Engine, EngineFactory
from tests.support.places import own
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
        wait_until(is_so, f"verdict {wanted}")
    except AssertionError:
        raise AssertionError(f"verdict {found[0]}, not {wanted}: {found[1]}") from None
    return found[1]


def test_a_cluster_is_handed_over_lost_and_taken_back(
    make_engine: EngineFactory, record_seconds: Callable[[str, float], None]
) -> None:
    engine = make_engine(durability="quorum")
    record_seconds("three nodes healthy, from nothing", engine.seconds_to_health)
    first = engine.wait_leader()
    assert "there is no backup" in wait_verdict(engine, first, 1)
    engine.ok(first, "backup", NAME)
    assert wait_verdict(engine, first, 0) == []

    second = next(name for name in engine.names if name != first)
    body = engine.json(first, "ha", "switchover", NAME, "--to", second)
    record_seconds("a switchover, until the new primary takes writes", body["seconds"])
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


def test_a_node_that_cannot_come_back_by_itself_is_made_anew(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2)
    leader = engine.wait_leader()
    other = next(name for name in engine.names if name != leader)
    engine.sql(leader, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    engine.ok(leader, "backup", NAME)
    engine.stop(other)
    engine.sql(leader, "INSERT INTO kept VALUES (0)")
    # Not even a rewind helps a server that has lost the disk of its WAL.
    shutil.rmtree(engine.data_directory(other) / "pg_wal")
    engine.start_node(other)
    wait_until(lambda: engine.local.answers(engine.local.spec.get_node(other)), "Patroni")

    body = engine.json(leader, "ha", "rejoin", NAME, other, "--wait", "2s")
    assert (body["node"], body["way"]) == (other, "made anew")
    wait_until(lambda: engine.value(other, "SELECT count(*) FROM kept") == 1001, "the rows")
    log = Path(engine.local.log_path(engine.local.spec.get_node(other), "patroni")).read_text()
    assert "replica has been created using pghaven" in log  # and not from the primary
    again = engine.json(leader, "ha", "rejoin", NAME, other)
    assert again["way"] == "followed"


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


def check(engine: Engine, name: str, *, of: str | None = None) -> dict[str, list[tuple[str, str, str]]]:
    """What ``ha check`` says on a node: by the name of each check verdict, text and hint of its lines."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    body = json.loads(engine.run(name, "--json", "ha", "check", NAME, "--node", of or name).out)
    for one in body["results"]:
        assert "\n" not in one["text"]
        assert one["hint"] or one["verdict"] in ("OK", "skipped"), one
        found.setdefault(one["name"], []).append((one["verdict"], one["text"], one["hint"] or ""))
    return found


def test_a_check_of_a_running_cluster_names_what_is_wrong_and_what_to_do(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2)
    leader = engine.wait_leader()
    other = next(name for name in engine.names if name != leader)
    found = check(engine, leader)
    assert not {name for name, lines in found.items() if any(line[0] == "FAILED" for line in lines)}, found
    assert found["etcd"][-1][0] == found["fencing"][0][0] == "WARNING"  # one member survives nothing; nothing fences
    sound = ("engine", "environment", "shared configuration", "settings", "slots")
    assert [found[name][0][0] for name in sound] == ["OK"] * len(sound)

    # Two nodes of one name: the member is not where the configuration has it.
    config, right = engine.config(leader), engine.config(leader).read_text()
    config.write_text(right.replace(f"\nport = {engine.ports[other][0]}\n", "\nport = 1\n"))
    (collision,) = [line for line in check(engine, leader)["names"] if line[0] == "FAILED"]
    assert f'the member "{other}" is at 127.0.0.1:{engine.ports[other][0]}, and in the configuration' in collision[1]
    assert "give each its own" in collision[2]
    config.write_text(right)

    engine.sql(leader, "SELECT pg_create_physical_replication_slot('forgotten', true)")
    engine.patronictl("edit-config", "-q", "--force", "-s", "ttl=15", "-s", "maximum_lag_on_failover=7")
    engine.sql(leader, "ALTER SYSTEM SET summarize_wal = on")
    engine.sql(leader, "ALTER SYSTEM SET wal_sender_timeout = '15000ms'")  # that is what is configured
    engine.sql(leader, "SELECT pg_reload_conf()")
    engine.stop(other)
    found = check(engine, leader)
    (slot,) = found["slots"]
    assert (slot[0], 'nobody reads the slot "forgotten"' in slot[1]) == ("WARNING", True)
    assert "pg_drop_replication_slot('forgotten')" in slot[2]
    (summaries,) = found["settings"]
    assert (summaries[0], "waits for its WAL summarizer" in summaries[1]) == ("WARNING", True)
    assert "ALTER SYSTEM RESET summarize_wal" in summaries[2]
    shared = {text: (verdict, hint) for verdict, text, hint in found["shared configuration"]}
    assert shared["ttl is 15 in etcd; Patroni takes 20 instead"][0] == "FAILED"
    drift = shared["maximum_lag_on_failover is 7 in etcd, and 1048576 in the configuration"]
    assert drift == ("WARNING", f"Run: pghaven ha apply {NAME}")
    assert any(f'node "{other}" does not answer' in text for _, text, _ in found["patroni"])
    assert engine.run(leader, "ha", "check", NAME, "--node", leader).status == 17

    # All that can be set right from here is, by one command.
    planned = engine.ok(leader, "ha", "plan", NAME, "--node", leader)
    assert "summarize_wal in postgresql.auto.conf: on -> off" in planned
    engine.ok(leader, "ha", "apply", NAME, "--node", leader)
    assert "nothing to do" in engine.ok(leader, "ha", "plan", NAME, "--node", leader)
    assert engine.value(leader, "SHOW summarize_wal") == "off"

    engine.local.start(engine.local.spec.get_node(other), "patroni", {"PGPASSWORD": "mine", "PGHOST": "elsewhere"})
    wait_until(lambda: check(engine, leader, of=other)["environment"][0][0] == "FAILED", "the variables")
    (misled,) = check(engine, leader, of=other)["environment"]
    assert f'Patroni of node "{other}" has PGHOST, PGPASSWORD in its environment' == misled[1]
    assert "unit" in misled[2]


def test_a_check_of_a_host_names_what_keeps_patroni_from_running_there(make_engine: EngineFactory) -> None:
    engine = make_engine(nodes=2, start=False, fencing="watchdog-required")
    name = engine.names[0]
    found = check(engine, name)
    (silent, *_) = found["etcd"]
    assert (silent[0], "does not answer" in silent[1]) == ("FAILED", True)
    assert silent[2] == "Start etcd there. Without a majority of its members nobody can lead."
    assert found["patroni"][0][0] == "FAILED"
    assert found["engine"][0][0] == "OK"
    assert found["files"][0][2] == f"Run: pghaven ha apply {NAME} --node {name}"
    has_watchdog = os.path.exists("/dev/watchdog")
    (fencing,) = found["fencing"]
    assert (fencing[0], "modprobe softdog" in fencing[2]) == (("OK", False) if has_watchdog else ("FAILED", True))

    programs = engine.place / "programs"
    programs.mkdir()
    own(programs)
    for interpreter, words in (
        ("/bin/sh", ("Patroni is 4.2.0; pghaven is tested with 4.1.x", "pip install")),
        (str(engine.place / "closed" / "python"), (f'"{engine.place}/closed" is closed to that user', "Open it")),
    ):
        (programs / "patroni").write_text(f"#!{interpreter}\necho patroni 4.2.0\n")
        (programs / "patroni").chmod(0o755)
        closed = engine.place / "closed"
        closed.mkdir(exist_ok=True)
        (closed / "python").unlink(missing_ok=True)
        (closed / "python").symlink_to("/bin/sh")
        closed.chmod(0)
        engine.configure(engine=str(programs), fencing="watchdog")
        found = check(engine, name)
        (line,) = found["engine"]
        assert (line[0], words[0] in line[1], words[1] in line[2]) == ("FAILED", True, True), line
        assert found["fencing"][0][0] == ("OK" if has_watchdog else "WARNING")
        closed.chmod(0o700)
