"""Limits reach every worker, and a backup gives way to a real standby that does not follow."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pghaven.backup.easing import EaseRules
from pghaven.restore.execute import RestoreSettings, find_owner_ids, run_restore
from pghaven.runtime.pace import Pace
from pghaven.server.connection import connect
from pghaven.server.pressure import read_pressure
from pghaven.store.metered import MeteredStore
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.protected import Protected
from tests.support.waiting import wait_until


@pytest.fixture
def protected(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    return Protected(make_cluster(), pghaven_command, server_path)


def test_every_byte_that_is_read_and_stored_passes_the_pace(protected: Protected) -> None:
    store = protected.repository.store = MeteredStore(protected.repository.store)
    store.pace = Pace()
    reading = Pace()
    result = protected.backup(pace=reading)
    assert reading.passed_bytes >= result.read_bytes > 0
    assert store.pace.passed_bytes >= result.facts.stored_bytes + result.manifest_bytes
    requests = store.requests
    assert requests.put >= result.pack_count + 3, "packs, intent, manifest, decision"
    assert requests.sent_bytes >= result.facts.stored_bytes + result.manifest_bytes
    assert result.eased is None
    plan, writing = protected.plan(), Pace()
    settings = RestoreSettings(
        place=protected.catalog.pack_place,
        processes=2,
        restore_command=protected.restore_command(),
        owner=find_owner_ids(plan.manifest),
        pace=writing,
    )
    assert run_restore(plan, settings, protected.tell).written_bytes <= writing.passed_bytes


def test_a_backup_gives_way_while_a_standby_s_replay_is_behind(
    protected: Protected, make_cluster: ClusterFactory
) -> None:
    standby = make_cluster.standby_of(protected.cluster)
    standby.wait_for("SELECT count(*) > 0 FROM pg_stat_wal_receiver WHERE status = 'streaming'")
    standby.sql("SELECT pg_wal_replay_pause()")
    standby.wait_for("SELECT pg_get_wal_replay_pause_state() = 'paused'")
    protected.cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")

    def lag() -> int:
        with connect(protected.cluster.conninfo) as connection:
            pressure = read_pressure(connection, False)
        return pressure.standby_lag_bytes if pressure is not None else 0

    wait_until(lambda: lag() > 1 << 20, "the lag of a standby whose replay is paused")
    result = protected.backup(ease=EaseRules(standby_lag_bytes=1 << 20))
    assert result.eased is not None
    assert "is " in result.eased.reasons[0]
    assert "behind" in result.eased.reasons[0]
    assert "eased" in protected.notice_codes()
    assert protected.backup(ease=EaseRules(standby_lag_bytes=1 << 40)).eased is None
    with connect(standby.conninfo) as connection:
        own = read_pressure(connection, False)
    assert own is not None
    assert own.standby == "this server"
    assert own.standby_lag_bytes > 1 << 20


def test_a_backup_gives_way_while_wal_waits_to_be_archived(protected: Protected) -> None:
    """Archiving fails until the backup has said that it gives way: it could not end otherwise."""
    released = protected.place / "released"
    protected.cluster.append_conf(archive_command=f"test -e {released} && {protected.archive_command()}")
    protected.cluster.reload()
    for number in range(3):
        protected.cluster.sql(f"CREATE TABLE t{number} ()")
        protected.cluster.switch_wal()

    def release() -> None:
        wait_until(lambda: "eased" in protected.notice_codes(), "a backup that gives way")
        released.touch()

    releaser = threading.Thread(target=release)
    releaser.start()
    result = protected.backup(ease=EaseRules(waiting_files=3))
    releaser.join()
    assert result.eased is not None
    assert "WAL files wait to be archived" in result.eased.reasons[0]


def test_what_waits_to_be_archived_is_seen(protected: Protected) -> None:
    protected.cluster.append_conf(archive_command="false")
    protected.cluster.reload()
    for number in range(3):
        protected.cluster.sql(f"CREATE TABLE t{number} ()")
        protected.cluster.switch_wal()
    with connect(protected.cluster.conninfo) as connection:
        pressure = read_pressure(connection, True)
        assert pressure is not None
        assert pressure.waiting_files >= 3
        left_out = read_pressure(connection, False)
        assert left_out is not None
        assert left_out.waiting_files == 0
