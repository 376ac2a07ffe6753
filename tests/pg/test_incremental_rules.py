"""What a backup that builds on another must not miss: each rule of finding changes, on real servers.

Each test does to a server what one rule is there for, takes the next backup, and compares every page of it with the
data directory or with a full backup (``tests.support.twins``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pghaven.backup import origin
from pghaven.backup.session import BackupResult
from pghaven.errors import PghavenError, Refused, ServerUnsuitable
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.page import page_lsns
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.repository.entry import BackupState
from tests.cli.running import clean_environment
from tests.support.cluster import Kind, TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import own
from tests.support.protected import Protected
from tests.support.samepages import find_bad_checksums
from tests.support.twins import assert_holds_all, assert_twin_of_full

MakeSite = Callable[..., Protected]


@pytest.fixture
def make_site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> MakeSite:
    """A cluster with a repository. Nothing in it is done by itself."""

    def make(kind: Kind | None = None, **conf: str) -> Protected:
        summarizing = {"summarize_wal": "on"} if make_cluster.version >= 17 else {}
        cluster = make_cluster(kind=kind, conf={"autovacuum": "off", **summarizing, **conf})
        return Protected(cluster, pghaven_command, server_path)

    return make


@pytest.fixture
def site(make_site: MakeSite) -> Protected:
    return make_site()


def methods(version: int) -> tuple[str, ...]:
    return ("lsn", "summaries") if version >= 17 else ("lsn",)


def take(site: Protected, method: str, **settings: object) -> BackupResult:
    """A backup that goes on from the one before it, in this very way."""
    parent = site.catalog.list_committed()[-1].label
    result = site.backup(changes=method, **settings)
    assert (result.facts.changes, result.facts.parent) == (method, parent)
    return result


def run(cluster: TestCluster, statements: str, dbname: str = "postgres") -> None:
    """One statement a line, each in a transaction of its own."""
    with cluster.connect(dbname) as connection:
        for statement in filter(None, map(str.strip, statements.splitlines())):
            connection.execute(statement.encode())


ROWS = "AS SELECT n, md5(n::text) AS body FROM generate_series(1, 3000) n"

BEFORE = f"""
    CREATE TABLE updated (n int PRIMARY KEY, body text) WITH (fillfactor = 50)
    INSERT INTO updated SELECT n, md5(n::text) FROM generate_series(1, 3000) n
    VACUUM updated
    CREATE TABLE deleted {ROWS}
    VACUUM FREEZE deleted
    CREATE TABLE never_vacuumed {ROWS}
    CREATE TABLE cut {ROWS}
    CREATE TABLE cut_and_grown {ROWS}
    CREATE TABLE emptied {ROWS}
    CREATE TABLE dropped {ROWS}
    CREATE TABLE made_again {ROWS}
    CREATE TABLE rewritten {ROWS}
    CREATE TABLE clustered {ROWS}
    CREATE INDEX clustered_n ON clustered (n DESC)
    CREATE UNLOGGED TABLE made_logged {ROWS}
    CREATE TABLE made_unlogged {ROWS}
    CREATE TABLE there_and_back {ROWS}
    CREATE TABLE moved {ROWS}
    CREATE TABLE grown_by_zeros {ROWS}
    CREATE TABLE words (n int, body text, place point, span int4range)
    INSERT INTO words SELECT n, md5(n::text), point(n, n), int4range(n, n + 5) FROM generate_series(1, 1500) n
    CREATE INDEX ON words USING gin (to_tsvector('simple', body))
    CREATE INDEX ON words USING gist (place)
    CREATE INDEX ON words USING spgist (span)
    CREATE INDEX ON words USING hash (body)
    CREATE INDEX ON words USING brin (n) WITH (pages_per_range = 2)
    CREATE SEQUENCE counted
    SELECT nextval('counted')
    CREATE DATABASE one STRATEGY file_copy
    CREATE DATABASE place OID 90001 TEMPLATE one STRATEGY file_copy
    CREATE DATABASE travelled OID 90002 STRATEGY file_copy
"""

AFTER = f"""
    UPDATE updated SET body = 'u' || body WHERE n % 500 = 1
    DELETE FROM deleted WHERE n % 700 = 3
    VACUUM never_vacuumed
    DELETE FROM cut WHERE n > 1000
    VACUUM cut
    DELETE FROM cut_and_grown WHERE n > 1000
    VACUUM cut_and_grown
    INSERT INTO cut_and_grown SELECT n, 'again' || n FROM generate_series(1, 4000) n
    TRUNCATE emptied
    INSERT INTO emptied SELECT n, 'again' || n FROM generate_series(1, 50) n
    DROP TABLE dropped
    DROP TABLE made_again
    CREATE TABLE made_again {ROWS}
    VACUUM FULL rewritten
    CLUSTER clustered USING clustered_n
    REINDEX INDEX updated_pkey
    ALTER TABLE made_logged SET LOGGED
    UPDATE made_logged SET body = '' WHERE n = 7
    ALTER TABLE made_unlogged SET UNLOGGED
    ALTER TABLE there_and_back SET UNLOGGED
    UPDATE there_and_back SET body = 'unlogged' WHERE n % 100 = 0
    ALTER TABLE there_and_back SET LOGGED
    CREATE TABLE made {ROWS}
    CREATE UNLOGGED TABLE made_and_logged {ROWS}
    ALTER TABLE made_and_logged SET LOGGED
    ALTER TABLE moved SET TABLESPACE beside
    CREATE TABLE made_beside TABLESPACE beside {ROWS}
    INSERT INTO grown_by_zeros VALUES (0, 'in a page of zeros')
    UPDATE words SET body = md5(body), place = point(n, 7), span = int4range(n, n + 1000) WHERE n % 300 = 5
    DELETE FROM words WHERE n % 2 = 1
    VACUUM words
    SELECT nextval('counted') FROM generate_series(1, 5)
    CREATE DATABASE copied STRATEGY file_copy
    CREATE DATABASE logged STRATEGY wal_log
    DROP DATABASE place
    CREATE DATABASE place OID 90001 TEMPLATE two STRATEGY file_copy
    ALTER DATABASE travelled SET TABLESPACE beside
    ALTER DATABASE travelled SET TABLESPACE pg_default
"""

MORE = """
    UPDATE updated SET body = 'v' || body WHERE n % 500 = 2
    DELETE FROM deleted WHERE n % 700 = 4
    INSERT INTO cut SELECT n, 'again' || n FROM generate_series(1, 4000) n
    DELETE FROM cut_and_grown WHERE n > 500
    VACUUM cut_and_grown
    VACUUM FULL rewritten
    TRUNCATE emptied
    ALTER TABLE moved SET TABLESPACE pg_default
    VACUUM made
    UPDATE made SET body = 'changed' WHERE n = 30
    SELECT nextval('counted')
    DROP DATABASE copied
    CREATE DATABASE copied STRATEGY wal_log
    DROP DATABASE place
    CREATE DATABASE place OID 90001 TEMPLATE one STRATEGY file_copy
"""


def make_tablespace(site: Protected, name: str) -> None:
    place = site.place / name
    place.mkdir()
    own(place)
    site.cluster.sql(f"CREATE TABLESPACE {name} LOCATION '{place}'")


def add_zeros(cluster: TestCluster, table: str, pages: int) -> None:
    """New pages without anything, as a server leaves them that had to stop while it made a table longer."""
    path = cluster.data_directory / str(cluster.value(f"SELECT pg_relation_filepath('{table}')"))
    cluster.sql("CHECKPOINT")
    with open(path, "ab") as file:
        file.write(bytes(pages * 8192))


def test_no_kind_of_change_is_missed(pg_version: int, make_site: MakeSite, make_cluster: ClusterFactory) -> None:
    """With checksums on every other version, without them on the others."""
    site = make_site(Kind(checksums=pg_version % 2 == 0))
    cluster = site.cluster
    run(cluster, BEFORE)
    add_zeros(cluster, "grown_by_zeros", 5)
    # Two databases whose files have the same names and sizes, and other contents.
    run(cluster, f"CREATE TABLE held {ROWS}", "one")
    run(cluster, "DROP DATABASE place")
    run(cluster, "CREATE DATABASE place OID 90001 TEMPLATE one STRATEGY file_copy")
    run(cluster, "CREATE DATABASE two TEMPLATE one STRATEGY file_copy")
    run(cluster, "DELETE FROM held WHERE n % 3 = 0", "two")
    site.backup()
    make_tablespace(site, "beside")
    run(cluster, AFTER)
    result = take(site, "lsn")
    assert_holds_all(site, result.facts)
    if pg_version >= 17:
        run(cluster, MORE)
        # Longer again than it was, by pages that are in no WAL and were rows in the parent.
        add_zeros(cluster, "cut_and_grown", 100)
        result = take(site, "summaries")
        assert_holds_all(site, result.facts)
    run(cluster, "SELECT nextval('counted')")
    assert_twin_of_full(site, result.facts, make_cluster)


# -- pages whose LSN tells nothing ------------------------------------------------------------------------------------


def test_marks_of_a_vacuum_are_not_missed_without_checksums(make_site: MakeSite) -> None:
    """They move no LSN then but that of the visibility map's own page."""
    site = make_site(Kind(checksums=False))
    run(site.cluster, f"CREATE TABLE t {ROWS}")
    site.backup()
    for method in methods(site.cluster.version):
        run(site.cluster, "VACUUM (TRUNCATE false) t")
        assert_holds_all(site, take(site, method).facts)
        run(site.cluster, "UPDATE t SET body = 'changed' WHERE n % 200 = 0")
        assert_holds_all(site, take(site, method).facts)


def test_root_of_a_gist_index_that_was_being_built_is_not_missed(pg_version: int, site: Protected) -> None:
    """15 and 16 sort, write all pages with LSN 1, and the root last, over zeros: what the parent sees is made here."""
    if pg_version >= 17:
        pytest.skip("since 17 such pages have the LSN of their WAL")
    cluster = site.cluster
    run(cluster, "CREATE TABLE t AS SELECT point(n, n) AS place FROM generate_series(1, 3000) n")
    run(cluster, "CREATE INDEX places ON t USING gist (place)")
    path = cluster.data_directory / str(cluster.value("SELECT pg_relation_filepath('places')"))
    with open(path, "r+b") as file:
        root = file.read(8192)
        file.seek(0)
        file.write(bytes(8192))
        file.flush()
        site.backup()
        file.seek(0)
        file.write(root)
    assert page_lsns(root).tolist() == [1]
    assert_holds_all(site, take(site, "lsn").facts)


def test_hints_alone_are_not_stored(make_site: MakeSite) -> None:
    site = make_site(Kind(checksums=False))
    run(site.cluster, f"CREATE TABLE t {ROWS}")
    site.backup()
    before = site.backup(changes="lsn").facts.stored_bytes
    run(site.cluster, "SELECT count(*) FROM t")
    result = take(site, "lsn")
    assert_holds_all(site, result.facts)
    assert result.facts.stored_bytes <= before + 8192


# -- other futures ----------------------------------------------------------------------------------------------------


def write_past(site: Protected, lsn: Lsn) -> None:
    while Lsn.parse(site.cluster.value("SELECT pg_current_wal_insert_lsn()::text")) <= lsn:
        site.cluster.switch_wal()


def test_backup_of_a_future_that_was_undone_is_not_built_on(site: Protected, make_cluster: ClusterFactory) -> None:
    """Restored to an earlier point: pages there have smaller LSNs than that backup, and hold something else."""
    run(site.cluster, f"CREATE TABLE t {ROWS}")
    first = site.backup()
    run(site.cluster, "UPDATE t SET body = 'common' WHERE n % 500 = 1")
    moment = site.cluster.value("SELECT clock_timestamp()")
    run(site.cluster, "UPDATE t SET body = 'undone' WHERE n % 500 = 2")
    undone = take(site, "lsn")
    site.settle()
    plan = site.plan(RecoveryTarget(kind=TargetKind.TIME, time=moment), archiving=True)
    site.cluster.stop()
    restored = make_cluster.adopt(Path(plan.request.target_dir))
    site.recover(plan, restored)
    site.cluster = restored
    run(restored, "UPDATE t SET body = 'done instead' WHERE n % 500 = 3")
    write_past(site, undone.facts.stop_lsn)

    result = site.backup(changes="lsn")

    assert (result.facts.timeline, result.facts.parent) == (2, first.facts.label)
    assert_holds_all(site, result.facts)


def test_backup_of_a_primary_that_failed_is_not_built_on_past_the_fork(
    site: Protected, make_cluster: ClusterFactory
) -> None:
    """A standby that lagged behind is promoted. Its summaries reach back over the fork to a backup before it."""
    primary = site.cluster
    run(primary, f"CREATE TABLE t {ROWS}")
    standby = make_cluster.standby_of(primary)
    common = site.backup()
    run(primary, "UPDATE t SET body = 'common' WHERE n % 500 = 1")
    catch_up(primary, standby)
    standby.sql("ALTER SYSTEM SET primary_conninfo = ''")
    standby.reload()
    standby.wait_for("SELECT count(*) = 0 FROM pg_stat_wal_receiver")
    run(primary, "UPDATE t SET body = 'lost' WHERE n % 500 = 2")
    lost = take(site, "lsn")
    primary.crash()
    standby.sql("SELECT pg_promote()")
    site.cluster = standby
    run(standby, "UPDATE t SET body = 'done instead' WHERE n % 500 = 3")
    write_past(site, lost.facts.stop_lsn)
    parents = [common.facts.label]
    for method in reversed(methods(standby.version)):
        result = site.backup(changes=method)
        assert (result.facts.timeline, result.facts.changes, result.facts.parent) == (2, method, parents[-1])
        assert_holds_all(site, result.facts)
        parents.append(result.facts.label)


def catch_up(primary: TestCluster, standby: TestCluster) -> None:
    """Everything is replayed, and the standby's next backup would start here."""
    primary.sql("CHECKPOINT")
    lsn = primary.value("SELECT pg_current_wal_flush_lsn()::text")
    standby.wait_for("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", lsn)
    standby.sql("CHECKPOINT")


def test_backups_from_standby_and_primary_build_on_each_other(site: Protected, make_cluster: ClusterFactory) -> None:
    primary = site.cluster
    run(primary, f"CREATE TABLE t {ROWS}")
    standby = make_cluster.standby_of(primary)
    site.backup()
    for number, method in enumerate(methods(primary.version), start=1):
        for server in (standby, primary):
            run(primary, f"UPDATE t SET body = '{server.directory.name}' WHERE n % 500 = {number}")
            run(primary, "VACUUM t")
            catch_up(primary, standby)
            place = {"data_directory": str(server.data_directory), "conninfo": server.conninfo}
            site.settle()
            result = take(site, method, **place)
            assert result.facts.from_standby == (server is standby)
            assert_holds_all(site, result.facts, server)


# -- what was switched meanwhile --------------------------------------------------------------------------------------


def test_checksums_switched_on_make_the_next_backup_a_full_one(make_site: MakeSite) -> None:
    site = make_site(Kind(checksums=False))
    cluster = site.cluster
    site.backup()
    cluster.stop()
    cluster.run("pg_checksums", "--enable", "-D", str(cluster.data_directory))
    cluster.start()
    result = site.backup()
    assert (result.facts.changes, result.facts.parent) == ("full", None)
    site.settle()
    directory = site.restore(RecoveryTarget(kind=TargetKind.IMMEDIATE))
    assert find_bad_checksums(directory) == []


def test_checksums_that_were_off_for_a_while_hide_no_marks(make_site: MakeSite) -> None:
    """On before and on after, with a vacuum in between that moved no LSN."""
    site = make_site()
    cluster = site.cluster
    run(cluster, f"CREATE TABLE t {ROWS}")
    site.backup()
    for switch, statement in (("--disable", "VACUUM (TRUNCATE false) t"), ("--enable", "SELECT 1")):
        cluster.stop()
        cluster.run("pg_checksums", switch, "-D", str(cluster.data_directory))
        cluster.start()
        run(cluster, statement)
    assert_holds_all(site, take(site, "lsn").facts)


def test_time_of_minimal_wal_makes_the_next_backup_a_full_one(site: Protected) -> None:
    cluster = site.cluster
    run(cluster, f"CREATE TABLE t {ROWS}")
    site.backup()
    cluster.restart({"wal_level": "minimal", "archive_mode": "off", "max_wal_senders": "0", "summarize_wal": "off"})
    run(cluster, f"CREATE TABLE loaded {ROWS}")
    cluster.restart({"wal_level": "replica", "archive_mode": "on", "max_wal_senders": "10", "summarize_wal": "on"})
    for method in ("lsn", "summaries"):
        with pytest.raises(PghavenError) as refusal:
            site.backup(changes=method)
        assert isinstance(refusal.value, Refused if method == "lsn" else ServerUnsuitable)
    result = site.backup()
    assert (result.facts.changes, result.facts.parent) == ("full", None)
    assert any("wal_level" in notice.text for notice in site.notices)


# -- summaries that are not there -------------------------------------------------------------------------------------


def summarizer(cluster: TestCluster) -> int:
    return int(cluster.wait_for("SELECT summarizer_pid FROM pg_get_wal_summarizer_state()"))


def test_summarizer_that_is_behind_is_waited_for(site: Protected) -> None:
    cluster = site.cluster
    run(cluster, f"CREATE TABLE t {ROWS}")
    site.backup()
    pid = summarizer(cluster)
    os.kill(pid, signal.SIGSTOP)
    run(cluster, "UPDATE t SET body = 'changed' WHERE n % 500 = 1")

    def resume() -> None:
        with suppress(AssertionError):  # nobody asks: then it is not this that fails
            cluster.wait_for(
                "SELECT count(*) > 0 FROM pg_stat_activity"
                " WHERE query LIKE '%%summarized_lsn%%' AND pid <> pg_backend_pid()",
                timeout_seconds=20,
            )
        os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=resume)
    thread.start()
    try:
        result = take(site, "summaries")
    finally:
        thread.join()
    assert_holds_all(site, result.facts)


def test_summarizer_that_does_not_come_is_not_waited_for_for_ever(
    site: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "_SUMMARIZER_SECONDS", 0.3)
    cluster = site.cluster
    run(cluster, f"CREATE TABLE t {ROWS}")
    site.backup()
    run(cluster, "UPDATE t SET body = 'changed' WHERE n % 500 = 1")
    pid = summarizer(cluster)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ServerUnsuitable, match="the WAL summarizer did not reach"):
            site.backup(changes="summaries")
        assert_nothing_half_done(site)
        result = site.backup()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert result.facts.changes == "lsn"
    assert any("did not reach" in notice.text for notice in site.notices)
    assert_holds_all(site, result.facts)


def assert_nothing_half_done(site: Protected) -> None:
    """What failed is given up, by its own word, and the backup before is there as it was."""
    states = [entry.state for entry in site.catalog.list_entries()]
    assert states[0] is BackupState.COMMITTED
    assert set(states[1:]) <= {BackupState.ABANDONED}


def test_gap_in_the_summaries_is_noticed(site: Protected) -> None:
    cluster = site.cluster
    run(cluster, f"CREATE TABLE t {ROWS}")
    site.backup()
    run(cluster, "UPDATE t SET body = 'changed' WHERE n % 500 = 1")
    cluster.sql("CHECKPOINT")
    cluster.wait_for("SELECT summarized_lsn >= redo_lsn FROM pg_get_wal_summarizer_state(), pg_control_checkpoint()")
    for path in (cluster.data_directory / "pg_wal" / "summaries").iterdir():
        path.unlink()
    with pytest.raises(ServerUnsuitable, match="is not summarized"):
        site.backup(changes="summaries")
    assert_nothing_half_done(site)
    result = site.backup()
    assert result.facts.changes == "lsn"
    assert_holds_all(site, result.facts)


def test_summaries_switched_off_and_on_hide_nothing(site: Protected) -> None:
    cluster = site.cluster
    run(cluster, f"CREATE TABLE t {ROWS}")
    site.backup()
    cluster.append_conf(summarize_wal="off")
    cluster.reload()
    run(cluster, "UPDATE t SET body = 'unseen' WHERE n % 500 = 1")
    with pytest.raises(ServerUnsuitable, match="summarize_wal is off"):
        site.backup(changes="summaries")
    assert_nothing_half_done(site)
    result = site.backup()
    assert result.facts.changes == "lsn"
    assert_holds_all(site, result.facts)
    run(cluster, "UPDATE t SET body = 'unseen too' WHERE n % 500 = 2")
    cluster.append_conf(summarize_wal="on")
    cluster.reload()
    run(cluster, "UPDATE t SET body = 'seen' WHERE n % 500 = 3")
    assert_holds_all(site, site.backup().facts)


# -- what was asked for and cannot be ---------------------------------------------------------------------------------


def test_ways_that_need_a_parent_are_refused_without_one(pg_version: int, site: Protected) -> None:
    for method in ("lsn", "summaries"):
        with pytest.raises(Refused, match="no backup that this one could build on") as refusal:
            site.backup(changes=method)
        assert refusal.value.hint
    assert site.catalog.list_entries() == ()


def test_summaries_of_a_server_that_has_none_are_refused(pg_version: int, site: Protected) -> None:
    if pg_version >= 17:
        pytest.skip("this one has them")
    site.backup()
    with pytest.raises(ServerUnsuitable, match=f"PostgreSQL {pg_version} has no WAL summaries"):
        site.backup(changes="summaries")
    assert_nothing_half_done(site)
    assert site.backup().facts.changes == "lsn"


# -- while others write -----------------------------------------------------------------------------------------------


def test_database_that_moves_while_it_is_copied_fails_the_backup(site: Protected) -> None:
    """Replay would copy its files from where they were, and the backup may have missed them there."""
    make_tablespace(site, "beside")
    site.cluster.sql("CREATE DATABASE moving")
    moves = iter(["beside"])
    tell = site.tell

    def move(event: object) -> None:
        if "reading " in str(event) and (space := next(moves, None)):
            site.cluster.sql(f"ALTER DATABASE moving SET TABLESPACE {space}")

    site.tell = move  # type: ignore[method-assign]
    with pytest.raises(ServerUnsuitable, match='"moving" was moved'):
        site.backup()
    site.tell = tell  # type: ignore[method-assign]
    assert_holds_all(site, site.backup().facts)


@pytest.mark.slow
def test_pages_torn_under_load_do_no_harm(make_site: MakeSite, make_cluster: ClusterFactory) -> None:
    site = make_site(Kind(wal_segment_size_mib=16))  # much WAL: fewer segments to archive
    cluster = site.cluster
    cluster.append_conf(shared_buffers="1MB", bgwriter_lru_maxpages="1000", bgwriter_delay="10ms")
    cluster.restart()
    cluster.run("pgbench", "--initialize", "--scale=3", "--quiet")
    site.backup()
    with subprocess.Popen(
        [cluster.programs.path("pgbench"), "--no-vacuum", "--client=2", "--rate=300", "--time=60", cluster.conninfo],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    ) as load:
        try:
            results = [take(site, method) for method in ("lsn", "summaries", "lsn")]
        finally:
            load.send_signal(signal.SIGINT)
    assert not any(result.facts.bad_pages for result in results)
    cluster.wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'")
    assert_twin_of_full(site, results[-1].facts, make_cluster)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_relation_of_more_than_one_file_is_followed_over_their_border(
    pg_version: int, site: Protected, make_cluster: ClusterFactory
) -> None:
    """Changed on both sides of it, cut back over it and grown again in one step, and in two."""
    cluster = site.cluster
    cluster.append_conf(max_wal_size="4GB")
    cluster.reload()
    # One row a page: a GiB of pages with a tenth of it in WAL.
    run(
        cluster,
        """
        CREATE TABLE big (n int, body text) WITH (fillfactor = 10)
        ALTER TABLE big ALTER body SET STORAGE plain
        INSERT INTO big SELECT n, repeat('x', 700) FROM generate_series(1, 140000) n
        VACUUM big
        """,
    )
    assert cluster.value("SELECT pg_relation_size('big')") > 1 << 30
    site.backup()
    border = "ctid = ANY (ARRAY['(0,1)', '(131071,1)', '(131072,1)', '(131073,1)', '(139990,1)']::tid[])"
    for method in methods(pg_version):
        run(cluster, f"UPDATE big SET body = '{method}' WHERE body IN ('lsn', 'summaries') OR {border}")
        result = take(site, method)
        assert result.facts.stored_bytes < 1 << 20
        assert_holds_all(site, result.facts)
    method = methods(pg_version)[-1]
    cut = ("DELETE FROM big WHERE n > 100000", "VACUUM big")
    grow = "INSERT INTO big SELECT n, repeat('{}', 700) FROM generate_series(100001, 139000) n"
    run(cluster, "\n".join((*cut, grow.format("y"))))
    assert_holds_all(site, take(site, method).facts)
    run(cluster, "\n".join(cut))
    assert cluster.value("SELECT pg_relation_size('big')") < 1 << 30
    assert_holds_all(site, take(site, methods(pg_version)[0]).facts)
    run(cluster, grow.format("z"))
    assert_twin_of_full(site, take(site, method).facts, make_cluster)
