"""Large tables are streamed into pg_restore: what comes out is what was dumped, or nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pghaven.dump.load import open_dump
from pghaven.dump.restoring import choose_streamed
from pghaven.errors import Damaged, ServerUnsuitable
from tests.pg.test_dump import Dumped
from tests.pg.test_load_obstacles import load
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.waiting import wait_until

MIB = 1 << 20
_SUM = "SELECT count(*) || ' ' || coalesce(sum(hashtext(big::text)), 0) FROM big"


@pytest.fixture
def site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Dumped:
    """One table of some 25 MB, and a small one."""
    site = Dumped(make_cluster(), pghaven_command, server_path)
    site.cluster.sql(
        "CREATE TABLE big AS SELECT i AS id, md5(i::text) AS one, md5((i * 7)::text) || md5((i * 3)::text) AS two "
        "FROM generate_series(1, 240000) i; ALTER TABLE big ADD PRIMARY KEY (id); "
        "CREATE TABLE small AS SELECT generate_series(1, 10) AS i"
    )
    return site


@pytest.mark.parametrize(("jobs", "processes"), [(1, 0), (3, 2)])
def test_what_was_streamed_is_what_was_dumped(site: Dumped, jobs: int, processes: int) -> None:
    dump = open_dump(site.catalog, site.dump("postgres").label)
    before = set(site.place.iterdir())
    site.cluster.sql("CREATE DATABASE target")
    load(site, dump, dump.choose("postgres"), jobs=jobs, processes=processes)
    assert site.cluster.value(_SUM, dbname="target") == site.cluster.value(_SUM)
    assert site.cluster.value("SELECT count(*) FROM small", dbname="target") == 10
    assert set(site.place.iterdir()) == before


def test_of_a_damaged_dump_no_row_of_the_table_is_there(site: Dumped) -> None:
    """An end of data on the way would have been taken for that of the table."""
    label = site.dump("postgres").label
    dump = open_dump(site.catalog, label)
    packs = site.repository_directory / "clusters" / site.name / "packs" / label
    for pack in packs.iterdir():
        content = bytearray(pack.read_bytes())
        for at in range(len(content) // 2, len(content) * 3 // 4, 50_000):  # frames far from the first of any table
            content[at] ^= 1
        pack.write_bytes(content)
    site.cluster.sql("CREATE DATABASE target")
    with pytest.raises(Damaged):
        load(site, dump, dump.choose("postgres"), jobs=2, processes=2)
    assert site.cluster.value(_SUM, dbname="target") == "0 0"
    busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'target' AND query LIKE 'COPY%' AND state = 'active'"
    wait_until(lambda: site.cluster.value(busy) == 0, "the server to notice")
    assert not list(site.place.glob("pghaven-load-*"))


def test_what_pg_restore_stumbles_over_is_named_and_nobody_waits(site: Dumped) -> None:
    dump = open_dump(site.catalog, site.dump("postgres").label)
    site.cluster.sql("CREATE DATABASE target")
    site.cluster.sql(
        "CREATE TABLE small (i int); CREATE TABLE big (id int CHECK (id < 200000), one text, two text)", dbname="target"
    )
    with pytest.raises(ServerUnsuitable, match="violates check constraint") as raised:
        load(site, dump, dump.choose("postgres"), jobs=2, processes=2, part="data")
    assert 'table "big"' in raised.value.message
    assert site.cluster.value(_SUM, dbname="target") == "0 0"


def test_nothing_is_streamed_that_could_make_others_wait() -> None:
    """Pipes have no size, and pg_restore begins with the largest."""
    assert choose_streamed({"1.dat": 900 * MIB, "2.dat": 50 * MIB, "blob_7.dat": 20 * MIB}, 2) == {"1.dat", "2.dat"}
    assert choose_streamed({"1.dat": 900 * MIB, "2.dat": 50 * MIB}, 1) == {"1.dat"}
    assert choose_streamed({"1.dat": 900 * MIB, "2.dat": 500 * MIB}, 1) == set()
    assert choose_streamed({"1.dat": 9 * MIB}, 4) == set()
    assert choose_streamed({"1.dat": 100 * MIB, "blobs.toc": 1, "blob_7.dat": 30 * MIB}, 4) == set()
    assert choose_streamed({}, 4) == set()
