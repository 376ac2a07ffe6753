"""Starting and stopping backups, WAL orders, and the role that may."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pghaven.errors import NotPermitted, Refused, ServerUnsuitable, UsageError
from pghaven.postgres.label import parse_tablespace_map
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.server.bracket import backup_bracket
from pghaven.server.connection import Connection, connect
from pghaven.server.privileges import render_least_privilege_sql
from pghaven.server.probe import probe_server
from pghaven.server.relations import list_relations
from pghaven.server.walcontrol import create_restore_point, run_checkpoint, switch_wal
from tests.support.cluster import TestCluster
from tests.support.fixtures import ClusterFactory


def test_stopped_backup_has_label_and_range(pg_version: int, pg_cluster: TestCluster) -> None:
    with connect(pg_cluster.conninfo) as connection:
        with backup_bracket(connection, "pghaven 'quoted' ü", fast=True) as backup:
            assert (backup.timeline, backup.from_standby) == (1, False)
            backup.confirm()
            stopped = backup.stop()
        assert stopped.label.start_lsn == backup.start_lsn < stopped.stop_lsn
        assert stopped.label.label == "pghaven 'quoted' ü"
        assert stopped.label.backup_from == "primary"
        assert stopped.tablespace_map is None
        assert not connection.closed


def test_tablespaces_are_in_the_map(pg_version: int, pg_cluster: TestCluster, server_path: Path) -> None:
    pg_cluster.sql(f"CREATE TABLESPACE far LOCATION '{server_path}'")
    with connect(pg_cluster.conninfo) as connection:
        with backup_bracket(connection, "x", fast=True) as backup:
            stopped = backup.stop()
        assert stopped.tablespace_map is not None
        assert [path for _, path in parse_tablespace_map(stopped.tablespace_map)] == [str(server_path)]
    pg_cluster.crash()


def test_bracket_left_early_ends_its_session(pg_cluster: TestCluster) -> None:
    connection = connect(pg_cluster.conninfo)
    with pytest.raises(RuntimeError, match="copy failed"), backup_bracket(connection, "x", fast=True):
        raise RuntimeError("copy failed")
    assert connection.closed
    pg_cluster.wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pghaven'")
    with connect(pg_cluster.conninfo) as again, backup_bracket(again, "x", fast=True) as backup:
        backup.stop()


def test_backup_whose_session_was_ended_cannot_be_stopped(pg_cluster: TestCluster) -> None:
    with connect(pg_cluster.conninfo) as connection, backup_bracket(connection, "x", fast=True) as backup:
        pg_cluster.sql("SELECT pg_terminate_backend(%s, 10000)", connection.info.backend_pid)
        with pytest.raises(ServerUnsuitable, match="its session has ended"):
            backup.confirm()
        with pytest.raises(ServerUnsuitable, match="could not stop the backup"):
            backup.stop()


@pytest.mark.parametrize("label", ["two\nlines", "x" * 1025])
def test_label_postgresql_cannot_store_is_refused(pg_cluster: TestCluster, label: str) -> None:
    with connect(pg_cluster.conninfo) as connection:
        with pytest.raises(UsageError), backup_bracket(connection, label, fast=True):
            pass
        assert not connection.closed


def test_standby_can_be_backed_up_but_not_ordered_about(pg_version: int, make_cluster: ClusterFactory) -> None:
    primary = make_cluster()
    standby = make_cluster.standby_of(primary)
    with connect(standby.conninfo) as connection:
        with backup_bracket(connection, "x", fast=True) as backup:
            assert (backup.timeline, backup.from_standby) == (1, True)
            assert backup.stop().label.backup_from == "standby"
        with pytest.raises(Refused, match="on a standby"):
            switch_wal(connection)
        with pytest.raises(Refused, match="on a standby"):
            create_restore_point(connection, "x")


def test_backup_of_a_standby_promoted_meanwhile_is_worthless(make_cluster: ClusterFactory) -> None:
    standby = make_cluster.standby_of(make_cluster())
    with connect(standby.conninfo) as connection, backup_bracket(connection, "x", fast=True) as backup:
        standby.sql("SELECT pg_promote()")
        with pytest.raises(ServerUnsuitable, match="promoted"):
            backup.stop()


def test_switched_segment_is_the_one_that_is_complete(pg_version: int, pg_cluster: TestCluster) -> None:
    with connect(pg_cluster.conninfo) as connection:
        written = Lsn.parse(pg_cluster.value("SELECT pg_logical_emit_message(false, 'a', 'b')::text"))
        switched = switch_wal(connection)
        assert switched.segment == SegmentName.before(Timeline(1), written, 1 << 20)
        assert switch_wal(connection).segment == switched.segment, "an empty segment is not switched"


def test_restore_point_ends_where_it_says(pg_cluster: TestCluster) -> None:
    with connect(pg_cluster.conninfo) as connection:
        lsn = create_restore_point(connection, "before the migration")
        assert lsn <= Lsn.parse(pg_cluster.value("SELECT pg_current_wal_insert_lsn()::text"))
        for name in ("", "x" * 64):
            with pytest.raises(UsageError):
                create_restore_point(connection, name)


def test_least_privileged_role_can_do_all_a_backup_needs(pg_version: int, pg_cluster: TestCluster) -> None:
    pg_cluster.sql(render_least_privilege_sql('back"up'))
    conninfo = f"{pg_cluster.conninfo} user='back\"up'"
    with connect(conninfo) as connection:
        facts = probe_server(connection)
        assert (facts.role, facts.is_superuser) == ('back"up', False)
        with backup_bracket(connection, "x", fast=True) as backup:
            backup.stop()
        switch_wal(connection)
        create_restore_point(connection, "x")
        run_checkpoint(connection)
        assert list(list_relations(lambda name: connect(conninfo, dbname=name), facts.databases))


def start_backup(connection: Connection) -> None:
    with backup_bracket(connection, "x", fast=True) as backup:
        backup.stop()


@pytest.mark.parametrize(
    "order",
    [start_backup, switch_wal, lambda connection: create_restore_point(connection, "x"), run_checkpoint],
    ids=["backup", "switch", "restore-point", "checkpoint"],
)
def test_missing_privilege_is_named_by_the_statement_that_gives_it(
    pg_cluster: TestCluster, order: Callable[[Connection], object]
) -> None:
    pg_cluster.sql("CREATE ROLE poor LOGIN")
    # Starting and stopping a backup are two privileges, found missing one after the other.
    for _ in range(3):
        with connect(f"{pg_cluster.conninfo} user=poor") as connection:
            try:
                order(connection)
            except NotPermitted as error:
                statement = re.fullmatch("As a superuser, run: (GRANT .*)", error.hint or "")
                assert statement is not None, error.hint
                pg_cluster.sql(statement[1])
            else:
                return
    pytest.fail("the statements did not help")


def test_lost_server_is_an_error_of_ours(pg_cluster: TestCluster) -> None:
    with connect(pg_cluster.conninfo) as connection:
        pg_cluster.crash()
        with pytest.raises(ServerUnsuitable) as caught:
            probe_server(connection)
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert "\n" not in caught.value.message
