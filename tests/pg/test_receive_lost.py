"""Receivers that come back late: after a failover that went past what they had, and to a slot that lasts no longer."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository import layout
from tests.pg.test_receive_server import newest_end
from tests.support.agent import running_agent
from tests.support.cluster import TestCluster, adopt, make_standby
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import run_as_plain
from tests.support.protected import Protected
from tests.support.receiving import SLOT, burn, current_lsn, receiving
from tests.support.waiting import wait_until


@pytest.fixture
def site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    made = Protected(make_cluster(), pghaven_command, server_path)
    made.cluster.sql("CREATE TABLE t (n int)")
    made.backup()
    return made


def test_what_was_vouched_for_past_a_fork_is_kept_although_the_receiver_is_late(
    pg_version: int, site: Protected
) -> None:
    """A synchronous receiver has more than the standby that takes over, no store has it, and it is back too late."""
    primary = site.cluster
    standby = make_standby(primary)
    try:
        with receiving(site, receive_synchronous="true") as receiver:
            receiver.start()
            receiver.wait_for_stream()
            primary.append_conf(synchronous_standby_names=SLOT)
            primary.reload()
            primary.wait_for("SELECT sync_state = 'sync' FROM pg_stat_replication WHERE application_name = %s", SLOT)
            standby.wait_for("SELECT count(*) = 0 FROM t")
            receiver.wait_stored(current_lsn(primary))
            standby.stop()
            site.repository_directory.rename(site.place / "away")
            primary.append_conf(archive_command="false")
            primary.reload()
            primary.switch_wal()
            primary.sql("INSERT INTO t VALUES (2)")
            receiver.kill()
            left = SegmentName.containing(Timeline(1), current_lsn(primary), site.facts.wal_segment_size)
            (kept,) = (path for path in receiver.spool.iterdir() if path.name == f"{left}.partial")
            content = kept.read_bytes()
            burn(primary, primary.data_directory)
            (site.place / "away").rename(site.repository_directory)
            standby.append_conf(archive_mode="on", archive_command=site.archive_command(), primary_conninfo="")
            standby.append_conf(synchronous_standby_names="")
            standby.start()
            standby.sql("SELECT pg_promote()")
            wait_until(lambda: site.archive.exists("00000002.history"), "the new timeline's history")
            place = str(primary.socket_directory), str(standby.socket_directory)
            site.config.write_text(site.config.read_text().replace(*place))
            receiver.start()
            receiver.wait_for_stream(standby)
            receiver.wait_stored(current_lsn(standby), timeline=2)
            wait_until(lambda: not kept.exists(), "the end of what the spool had")
            assert receiver.end() in (0, 3), receiver.log
            assert f'has what was received of "{left}" in quarantine' in receiver.log
        (entry,) = (one for one in site.archive.list_quarantine() if one.startswith(f"{left}.partial"))
        name = f"{layout.quarantine_prefix(site.name)}{site.facts.system_identifier}/{entry}"
        assert site.archive.get_at(name, f"{left}.partial")[: len(content)] == content
        told = run_as_plain([*site.command.words, "--config", str(site.config), "status"]).stdout
        assert "2 WAL files of a server that was passed over are in quarantine" in told, told
    finally:
        standby.stop_and_remove()


def invalidate_by_size(primary: TestCluster) -> None:
    for _ in range(8):
        primary.switch_wal()
    for _ in range(2):
        primary.switch_wal()
        primary.sql("CHECKPOINT")


def invalidate_by_idleness(primary: TestCluster) -> None:
    since = "SELECT clock_timestamp() - inactive_since > interval '2 s' FROM pg_replication_slots"
    primary.wait_for(since)
    primary.sql("CHECKPOINT")


@pytest.mark.parametrize(
    ("settings", "invalidate", "since"),
    [
        ({"max_slot_wal_keep_size": "1MB", "max_wal_size": "2MB", "min_wal_size": "2MB"}, invalidate_by_size, 15),
        ({"idle_replication_slot_timeout": "1s"}, invalidate_by_idleness, 18),
    ],
    ids=["size", "idleness"],
)
def test_a_slot_that_the_server_has_invalidated_is_made_anew(
    pg_version: int,
    site: Protected,
    settings: dict[str, str],
    invalidate: Callable[[TestCluster], None],
    since: int,
) -> None:
    if pg_version < since:
        pytest.skip(f"of PostgreSQL {since}")
    primary = site.cluster
    primary.append_conf(**settings)
    primary.restart()
    with receiving(site) as receiver:
        receiver.start()
        receiver.wait_for_stream()
        receiver.wait_stored(current_lsn(primary))
        receiver.kill()
        primary.sql("INSERT INTO t VALUES (1)")
        site.settle()
        invalidate(primary)
        assert primary.value("SELECT wal_status FROM pg_replication_slots") == "lost"
        receiver.start()
        receiver.wait_for_stream()
        primary.sql("INSERT INTO t VALUES (2)")
        receiver.wait_stored(current_lsn(primary))
        assert receiver.end() in (0, 3), receiver.log
        assert "it is made anew" in receiver.log
    assert primary.value("SELECT wal_status FROM pg_replication_slots") == "reserved"
    site.settle()
    plan = site.plan()
    restored = adopt(Path(plan.request.target_dir), primary.programs)
    try:
        site.recover(plan, restored)
        assert restored.sql("SELECT n FROM t ORDER BY n") == [(1,), (2,)]
    finally:
        restored.stop_and_remove()


def test_the_agent_receives_without_a_data_directory_and_brings_home_what_a_lost_server_left(
    pg_version: int, site: Protected
) -> None:
    """On a host of its own; and after the server, and the agent in the midst of what the store did not take."""
    primary = site.cluster
    elsewhere = site.config.read_text().replace(str(primary.data_directory), str(site.place / "nowhere"))
    site.config.write_text(
        f'{elsewhere}receive = true\nreceive_synchronous = true\nreceive_spool = "{site.place}/spool"\n'
    )
    away, there = site.place / "away", site.repository_directory
    with running_agent(site.config) as agent:
        primary.wait_for("SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'")
        primary.append_conf(synchronous_standby_names=SLOT)
        primary.reload()
        primary.wait_for("SELECT sync_state = 'sync' FROM pg_stat_replication")
        there.rename(away)
        primary.sql("INSERT INTO t VALUES (1)")
        end = current_lsn(primary)
        agent.end(signal.SIGKILL)
    burn(primary, primary.data_directory)
    away.rename(there)
    with running_agent(site.config) as agent:
        wait_until(lambda: newest_end(site) >= end, "what the server acknowledged last in the repository")
        assert agent.end() == 0, agent.log.read_text()
