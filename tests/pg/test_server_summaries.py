"""WAL summaries of real servers against what was done to them: every page that moved is named.

The strictest of these compares files: between two starts of a backup every page that differs must be among the changes
(with checksums on, hints are in the WAL too).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pghaven.clock import SYSTEM_CLOCK, ManualClock
from pghaven.errors import ServerUnsuitable
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, Timeline, parse_history
from pghaven.server.bracket import backup_bracket
from pghaven.server.changed import ChangedBlocks, RelationChanges
from pghaven.server.connection import Connection, connect
from pghaven.server.privileges import render_least_privilege_sql
from pghaven.server.probe import probe_server, read_timeline
from pghaven.server.summaries import (
    SummariesUnusable,
    find_summaries_obstacle,
    read_changed_blocks,
    wait_for_summaries,
)
from tests.support.cluster import TestCluster
from tests.support.fixtures import ClusterFactory

SUMMARIZING = {"summarize_wal": "on", "wal_level": "replica", "autovacuum": "off"}
PAGE = 8192
DATABASE = 5
PG_DEFAULT = 1663


@pytest.fixture(autouse=True)
def _only_where_there_are_summaries(request: pytest.FixtureRequest) -> None:
    if "pg_version" in request.fixturenames and request.getfixturevalue("pg_version") < 17:
        pytest.skip("WAL summaries exist from PostgreSQL 17 on")


@pytest.fixture
def cluster(pg_version: int, make_cluster: ClusterFactory) -> TestCluster:
    return make_cluster(conf=SUMMARIZING)


@pytest.fixture
def connection(cluster: TestCluster) -> Iterator[Connection]:
    with connect(cluster.conninfo) as opened:
        yield opened


def start_backup(cluster: TestCluster) -> tuple[Timeline, Lsn]:
    """Where a backup taken now would start; everything before that is in the files."""
    with connect(cluster.conninfo) as connection, backup_bracket(connection, "test", fast=True) as backup:
        backup.stop()
        return backup.timeline, backup.start_lsn


def read_history(cluster: TestCluster, timeline: Timeline) -> History:
    path = cluster.data_directory / "pg_wal" / timeline.history_name
    return History.root(timeline) if timeline == 1 else parse_history(path.read_text(), timeline)


def wait(connection: Connection, timeline: Timeline, lsn: Lsn, seconds: float = 30.0) -> SummariesUnusable | None:
    return wait_for_summaries(
        connection, timeline, lsn, timeout_seconds=seconds, clock=SYSTEM_CLOCK, on_wait=lambda: None
    )


def read_changes(cluster: TestCluster, start: Lsn) -> ChangedBlocks | SummariesUnusable:
    """What changed from ``start`` to a backup that starts now."""
    timeline, end = start_backup(cluster)
    with connect(cluster.conninfo) as connection:
        assert wait(connection, timeline, end) is None
        return read_changed_blocks(connection, read_history(cluster, timeline).legs(start, end))


def get_changes(cluster: TestCluster, start: Lsn) -> ChangedBlocks:
    changes = read_changes(cluster, start)
    assert isinstance(changes, ChangedBlocks), changes
    return changes


def find(cluster: TestCluster, changes: ChangedBlocks, name: str, dbname: str = "postgres") -> RelationChanges | None:
    (row,) = cluster.sql(
        "SELECT coalesce(nullif(c.reltablespace, 0), d.dattablespace), d.oid, pg_relation_filenode(c.oid)"
        "  FROM pg_class c, pg_database d WHERE c.oid = %s::regclass AND d.datname = current_database()",
        name,
        dbname=dbname,
    )
    return changes.find(*row)


def test_updated_pages_are_named_and_untouched_tables_are_not(cluster: TestCluster) -> None:
    cluster.sql("CREATE TABLE t (id int, body text) WITH (fillfactor = 50); CREATE TABLE calm (id int)")
    cluster.sql("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 400) n; INSERT INTO calm VALUES (1)")
    cluster.sql("VACUUM t")  # or reading the table would set hints on every page
    _, start = start_backup(cluster)
    (touched,) = cluster.sql("SELECT (ctid::text::point)[0]::int FROM t WHERE id = 200")[0]
    cluster.sql("UPDATE t SET body = repeat('y', 1000) WHERE id = 200")
    changes = get_changes(cluster, start)
    found = find(cluster, changes, "t")
    assert found is not None
    assert touched in found.select(0, 100).tolist()
    assert len(found.select(0, 100)) <= 2
    assert find(cluster, changes, "calm") is None


def test_nothing_done_leaves_tables_unchanged(cluster: TestCluster) -> None:
    cluster.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    _, start = start_backup(cluster)
    changes = get_changes(cluster, start)
    assert find(cluster, changes, "t") is None


def test_tables_made_cut_or_written_anew_have_changed_throughout(cluster: TestCluster) -> None:
    for name in ("cut", "rewritten", "emptied"):
        cluster.sql(f"CREATE TABLE {name} AS SELECT n, repeat('x', 1000) AS body FROM generate_series(1, 200) n")
    _, start = start_backup(cluster)
    cluster.sql("DELETE FROM cut WHERE n > 20")
    cluster.sql("VACUUM cut")
    cluster.sql("INSERT INTO cut SELECT n, repeat('z', 1000) FROM generate_series(1, 100) n")
    cluster.sql("VACUUM FULL rewritten")
    cluster.sql("TRUNCATE emptied; CREATE TABLE made (id int); INSERT INTO made VALUES (1)")
    changes = get_changes(cluster, start)
    cut = find(cluster, changes, "cut")
    assert cut is not None
    assert cut.limit_block in range(1, 5)
    assert cut.select(cut.limit_block or 0, 12).tolist() == list(range(cut.limit_block or 0, 12))
    for name in ("rewritten", "emptied", "made"):
        found = find(cluster, changes, name)
        assert found is not None
        assert found.limit_block == 0, name


@pytest.mark.parametrize("strategy", ["file_copy", "wal_log"])
def test_new_database_has_changed_throughout(cluster: TestCluster, strategy: str) -> None:
    """With ``file_copy`` the WAL names none of its files."""
    _, start = start_backup(cluster)
    cluster.sql(f"CREATE DATABASE fresh STRATEGY {strategy}")
    changes = get_changes(cluster, start)
    found = find(cluster, changes, "pg_class", dbname="fresh")
    assert found is not None
    assert found.select(0, 3).tolist() == [0, 1, 2]
    oid = cluster.value("SELECT oid FROM pg_database WHERE datname = 'fresh'")
    assert changes.find(PG_DEFAULT, oid, 99999) is not None


def test_database_moved_between_tablespaces_has_changed_throughout(cluster: TestCluster, server_path: Path) -> None:
    cluster.sql("CREATE DATABASE moved STRATEGY wal_log")
    cluster.sql(f"CREATE TABLESPACE elsewhere LOCATION '{server_path}'")
    _, start = start_backup(cluster)
    cluster.sql("ALTER DATABASE moved SET TABLESPACE elsewhere")
    found = find(cluster, get_changes(cluster, start), "pg_class", dbname="moved")
    assert found is not None
    assert found.limit_block == 0


def test_more_blocks_than_fit_into_one_value_all_come(cluster: TestCluster) -> None:
    """Blocks past 32768 are in a second value, and need more than two bytes."""
    cluster.sql("CREATE UNLOGGED TABLE big (id int, body text) WITH (fillfactor = 10)")
    cluster.sql("ALTER TABLE big ALTER body SET STORAGE plain")
    cluster.sql("INSERT INTO big SELECT n, '' FROM generate_series(1, 900000) n")
    blocks = cluster.value("SELECT pg_relation_size('big') / 8192")
    assert blocks > 33_000
    cluster.sql("ALTER TABLE big SET LOGGED")
    _, start = start_backup(cluster)
    cluster.sql(f"UPDATE big SET body = 'y' WHERE ctid = ANY (ARRAY['(5,1)', '(32768,1)', '({blocks - 1},1)']::tid[])")
    found = find(cluster, get_changes(cluster, start), "big")
    assert found is not None
    assert {5, 32768, blocks - 1} <= set(found.select(0, blocks + 10).tolist())
    assert len(found.blocks) < 10


def test_every_page_that_differs_between_two_backups_is_named(cluster: TestCluster) -> None:
    cluster.sql(
        "CREATE TABLE t (id int PRIMARY KEY, body text); CREATE INDEX ON t USING gin (to_tsvector('simple', body))"
    )
    cluster.sql("INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 5000) n")
    cluster.sql("CREATE SEQUENCE s")
    _, start = start_backup(cluster)
    before = read_pages(cluster)
    for step in range(6):
        cluster.sql("UPDATE t SET body = md5(random()::text) WHERE mod(id, 97) = %s", step)
        cluster.sql("DELETE FROM t WHERE id > %s", 5000 - step * 200)
        cluster.sql("INSERT INTO t SELECT n, md5(n::text) FROM generate_series(6000, 6100) n ON CONFLICT DO NOTHING")
        cluster.sql("SELECT nextval('s') FROM generate_series(1, 50)")
        cluster.sql(f"CREATE TABLE extra{step} AS SELECT * FROM t LIMIT 300")
        cluster.sql("VACUUM t" if step % 2 else "REINDEX TABLE t")
        if step == 3:
            cluster.crash()
            cluster.start()
    changes = get_changes(cluster, start)
    after = read_pages(cluster)
    missed = []
    differing = 0
    for relfilenode, pages in after.items():
        old = before.get(relfilenode, [])
        found = changes.find(PG_DEFAULT, DATABASE, relfilenode)
        named = set() if found is None else set(found.select(0, len(pages)).tolist())
        for block, page in enumerate(pages):
            if block < len(old) and page == old[block]:
                continue
            differing += 1
            # Pages that were only added, and never written to, are known by the file's length.
            if block not in named and (block < len(old) or any(page)):
                missed.append((relfilenode, block))
    assert differing > 50
    assert missed == []


def read_pages(cluster: TestCluster) -> dict[int, list[bytes]]:
    """The pages of all main forks of one database, as they are on disk."""
    found = {}
    for path in (cluster.data_directory / "base" / str(DATABASE)).iterdir():
        if path.name.isdecimal():
            content = path.read_bytes()
            found[int(path.name)] = [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
    return found


def test_promotion_between_two_backups_is_crossed(pg_version: int, make_cluster: ClusterFactory) -> None:
    primary = make_cluster(conf=SUMMARIZING)
    primary.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE TABLE u (id int); INSERT INTO u VALUES (1)")
    standby = make_cluster.standby_of(primary)
    _, start = start_backup(primary)
    primary.sql("UPDATE t SET id = 2")
    with primary.connect() as connection:
        (lsn,) = connection.execute("SELECT pg_current_wal_lsn()").fetchone() or ("",)
    standby.wait_for("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", lsn)
    standby.sql("SELECT pg_promote()")
    standby.sql("UPDATE u SET id = 2")
    changes = get_changes(standby, start)
    for name in ("t", "u"):
        found = find(standby, changes, name)
        assert found is not None, name
        assert found.select(0, 1).tolist() == [0]
    with connect(standby.conninfo) as connection:
        assert read_timeline(connection) == 2


def test_standby_tells_what_changed_too(pg_version: int, make_cluster: ClusterFactory) -> None:
    primary = make_cluster(conf=SUMMARIZING)
    primary.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    standby = make_cluster.standby_of(primary)
    _, start = start_backup(primary)
    primary.sql("UPDATE t SET id = 2")
    _, reached = start_backup(primary)
    standby.wait_for("SELECT pg_last_wal_replay_lsn() > %s::pg_lsn", str(reached))
    standby.sql("CHECKPOINT")
    timeline, end = start_backup(standby)
    assert end >= reached
    with connect(standby.conninfo) as connection:
        assert wait(connection, timeline, end) is None
        changes = read_changed_blocks(connection, History.root(timeline).legs(start, end))
    assert isinstance(changes, ChangedBlocks)
    assert find(standby, changes, "t") is not None


def test_wal_from_before_summaries_were_switched_on_is_a_gap(pg_version: int, make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(conf={"wal_level": "replica"})
    _, start = start_backup(cluster)
    cluster.sql("CREATE TABLE t (id int)")
    with cluster.connect() as connection:
        for _ in range(3):  # so that the WAL of that time is removed
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")
    cluster.append_conf(summarize_wal="on")
    cluster.reload()
    changes = read_changes(cluster, start)
    assert isinstance(changes, SummariesUnusable)
    assert changes.reason.startswith(f"WAL of timeline 1 from {start} to ")
    assert changes.reason.endswith("is not summarized")


def test_wal_of_level_minimal_is_a_gap(cluster: TestCluster) -> None:
    cluster.sql("CREATE TABLE t (id int)")
    _, start = start_backup(cluster)
    cluster.restart({"wal_level": "minimal", "summarize_wal": "off", "max_wal_senders": "0"})
    cluster.sql("CREATE TABLE loaded AS SELECT n FROM generate_series(1, 1000) n")
    cluster.restart({"wal_level": "replica", "summarize_wal": "on", "max_wal_senders": "10"})
    changes = read_changes(cluster, start)
    assert isinstance(changes, SummariesUnusable)
    assert "is not summarized" in changes.reason


def test_summary_whose_file_is_gone_is_a_reason(cluster: TestCluster, connection: Connection) -> None:
    _, start = start_backup(cluster)
    cluster.sql("CREATE TABLE t (id int)")
    timeline, end = start_backup(cluster)
    assert wait(connection, timeline, end) is None
    legs = History.root(timeline).legs(start, end)
    for path in (cluster.data_directory / "pg_wal" / "summaries").iterdir():
        path.write_bytes(b"")
    changes = read_changed_blocks(connection, legs)
    assert isinstance(changes, SummariesUnusable)
    assert changes.reason.startswith("could not read a WAL summary: ")


def test_summaries_that_end_before_the_way_does_are_a_gap(cluster: TestCluster, connection: Connection) -> None:
    """The last one is gone, with the only word of what was changed last; all before it are there."""
    cluster.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    _, start = start_backup(cluster)
    _, between = start_backup(cluster)
    cluster.sql("UPDATE t SET id = 2")
    timeline, end = start_backup(cluster)
    assert wait(connection, timeline, end) is None
    directory = cluster.data_directory / "pg_wal" / "summaries"
    before = read_changed_blocks(connection, History.root(timeline).legs(start, end))
    assert isinstance(before, ChangedBlocks)
    assert find(cluster, before, "t") is not None
    for path in directory.iterdir():
        if path.stem[24:] > f"{between >> 32:08X}{between & 0xFFFFFFFF:08X}":
            path.unlink()
    changes = read_changed_blocks(connection, History.root(timeline).legs(start, end))
    assert isinstance(changes, SummariesUnusable)
    assert changes.reason.startswith("WAL of timeline 1 from ")
    assert changes.reason.endswith(f" to {end} is not summarized")
    assert isinstance(read_changed_blocks(connection, History.root(timeline).legs(start, between)), ChangedBlocks)


def test_summarizer_that_does_not_come_is_waited_for_no_longer_than_said(connection: Connection) -> None:
    clock, waits = ManualClock(), []
    far = Lsn.parse("FF/0")
    answer = wait_for_summaries(
        connection, Timeline(1), far, timeout_seconds=3, clock=clock, on_wait=lambda: waits.append(clock.monotonic())
    )
    assert answer is not None
    assert answer.reason.startswith("the WAL summarizer did not reach FF/0 within 3.0 s: it is at ")
    assert 3 <= clock.monotonic() < 4
    assert len(waits) > 10


def test_summarizer_that_does_not_run_is_told(pg_version: int, make_cluster: ClusterFactory) -> None:
    with connect(make_cluster().conninfo) as connection:
        facts = probe_server(connection)
        obstacle = find_summaries_obstacle(facts)
        assert obstacle is not None
        assert obstacle.reason == "summarize_wal is off"
        answer = wait(connection, facts.timeline, facts.lsn, seconds=0)
    assert answer is not None
    assert answer.reason.endswith("it does not run")


def test_least_privileges_suffice_and_a_revoked_one_is_named(cluster: TestCluster) -> None:
    cluster.sql(render_least_privilege_sql("frugal"))
    _, start = start_backup(cluster)
    timeline, end = start_backup(cluster)
    legs = History.root(timeline).legs(start, end)
    with connect(cluster.conninfo.replace("user=postgres", "user=frugal")) as connection:
        assert find_summaries_obstacle(probe_server(connection)) is None
        assert wait(connection, timeline, end) is None
        assert isinstance(read_changed_blocks(connection, legs), ChangedBlocks)
        for function in (
            "pg_get_wal_summarizer_state()",
            "pg_wal_summary_contents(bigint, pg_lsn, pg_lsn)",
            "pg_available_wal_summaries()",
        ):
            cluster.sql(f"REVOKE EXECUTE ON FUNCTION pg_catalog.{function} FROM public")
            answer = wait(connection, timeline, end) if "state" in function else read_changed_blocks(connection, legs)
            assert isinstance(answer, SummariesUnusable)
            assert answer.reason.startswith('role "frugal" may not ')
            grant = f'GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO "frugal"'
            assert answer.hint == f"As a superuser, run: {grant}"
            cluster.sql(grant)
        assert wait(connection, timeline, end) is None
        assert isinstance(read_changed_blocks(connection, legs), ChangedBlocks)


def test_session_that_ends_is_no_reason_to_go_on(cluster: TestCluster, connection: Connection) -> None:
    cluster.sql("SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
    with pytest.raises(ServerUnsuitable):
        read_changed_blocks(connection, ())
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
