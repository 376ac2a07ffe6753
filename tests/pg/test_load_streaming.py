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


def test_many_tables_are_streamed_in_whatever_order_they_are_asked_for(site: Dumped) -> None:
    """Of several sizes, so that some are files, and more than there are sessions."""
    for number in range(7):
        site.cluster.sql(
            f"CREATE TABLE t{number} AS SELECT i AS id, md5((i * {number + 3})::text) AS note "
            f"FROM generate_series(1, {60000 + 40000 * (number % 3)}) i; ALTER TABLE t{number} ADD PRIMARY KEY (id)"
        )
    dump = open_dump(site.catalog, site.dump("postgres").label)
    site.cluster.sql("CREATE DATABASE target")
    load(site, dump, dump.choose("postgres"), jobs=3, processes=2)
    for table in ("big", *(f"t{number}" for number in range(7))):
        asked = f"SELECT count(*) || ' ' || sum(hashtext({table}::text)) FROM {table}"
        assert site.cluster.value(asked, dbname="target") == site.cluster.value(asked)


def test_what_would_come_late_is_written_out_and_nothing_else() -> None:
    """Pipes have no size: pg_restore begins with files, the largest first, and goes on with pipes by their numbers."""
    alone = {"1.dat": 900 * MIB, "2.dat": 50 * MIB, "blob_7.dat": 20 * MIB}
    assert choose_streamed(alone, 2) == choose_streamed(alone, 1) == {"1.dat", "2.dat"}
    equal = {f"{number}.dat": 100 * MIB for number in range(1, 9)}
    assert choose_streamed(equal, 2) == choose_streamed(equal, 4) == set(equal)
    late = {**{f"{number}.dat": 100 * MIB for number in range(1, 9)}, "9.dat": 800 * MIB}
    assert choose_streamed(late, 2) == set(late) - {"9.dat"}
    assert choose_streamed(late, 1) == set(late), "one session ends no sooner for any order"
    early = {**late, "0.dat": late["9.dat"]}
    del early["9.dat"]
    assert choose_streamed(early, 2) == set(early)
    many = {f"{number}.dat": 5 * MIB + number for number in range(600)}
    assert choose_streamed(many, 2) == {f"{number}.dat" for number in range(344, 600)}, "a thread for each, to a limit"
    assert choose_streamed({"1.dat": 3 * MIB, "blobs.toc": 1, "blob_7.dat": 30 * MIB}, 4) == set()
    assert choose_streamed({}, 4) == set()
