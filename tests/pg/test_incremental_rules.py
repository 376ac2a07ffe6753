"""What a backup that builds on another must not miss: each rule of finding changes, on real servers.

Each test does to a server what one rule is there for, takes the next backup, and compares every page of it with the
data directory or with a full backup (``tests.support.twins``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pghaven.backup.session import BackupResult
from tests.support.cluster import Kind, TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import own
from tests.support.protected import Protected
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


def test_no_kind_of_change_is_missed(pg_version: int, site: Protected, make_cluster: ClusterFactory) -> None:
    cluster = site.cluster
    run(cluster, BEFORE)
    add_zeros(cluster, "grown_by_zeros", 5)
    # Two databases whose files have the same names and sizes, and other contents.
    run(cluster, f"CREATE TABLE held {ROWS}", "one")
    run(cluster, "DROP DATABASE place")
    run(cluster, "CREATE DATABASE place OID 90001 TEMPLATE one STRATEGY file_copy")
    run(cluster, "CREATE DATABASE two TEMPLATE one STRATEGY file_copy")
    run(cluster, "DELETE FROM held WHERE n % 3 = 0", "two")
    full = site.backup()
    make_tablespace(site, "beside")
    run(cluster, AFTER)
    result = take(site, "lsn")
    assert result.facts.stored_bytes < full.facts.stored_bytes
    assert_holds_all(site, result)
    if pg_version >= 17:
        run(cluster, MORE)
        result = take(site, "summaries")
        assert_holds_all(site, result)
    run(cluster, "SELECT nextval('counted')")
    assert_twin_of_full(site, result, make_cluster)
