"""Planted corruption on real servers: every kind is found, and the relation named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pghaven.events import ignore
from pghaven.postgres.page import BLOCK_SIZE, checksums
from pghaven.proof.deep import DeepSettings, parse_amcheck, run_deep_check
from pghaven.proof.results import CheckResult, Verdict, judge
from pghaven.server.identity import find_owner
from tests.support.cluster import TestCluster
from tests.support.fixtures import ClusterFactory

_LINE_POINTERS, _HEAP_XMIN, _INDEX_KEY = 24, 0, 8
_TABLES = """
    CREATE EXTENSION pg_surgery;
    CREATE TABLE whole AS SELECT i FROM generate_series(1, 500) i; CREATE INDEX ON whole (i);
    CREATE TABLE torn AS SELECT i, md5(i::text) FROM generate_series(1, 1000) i;
    CREATE TABLE unseen AS SELECT i FROM generate_series(1, 300) i;
    CREATE TABLE torn_index AS SELECT i FROM generate_series(1, 1000) i; CREATE INDEX torn_key ON torn_index (i);
    CREATE TABLE wrong_index AS SELECT i FROM generate_series(1, 300) i; CREATE INDEX wrong_key ON wrong_index (i);
    CREATE TABLE toasted (id int, body text); ALTER TABLE toasted ALTER body SET STORAGE EXTERNAL;
    INSERT INTO toasted SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 3) i;
"""


def check(cluster: TestCluster, conninfo: str | None = None, **settings: bool) -> tuple[CheckResult, ...]:
    owner = find_owner(str(cluster.data_directory))
    asked = DeepSettings(
        conninfo=conninfo or cluster.conninfo,
        owner=owner,
        pg_bin=str(cluster.bin_dir),
        databases=(),
        jobs=2,
        **settings,
    )
    return run_deep_check(asked, ignore)


def item(page: bytearray, number: int) -> int:
    """Where an item of a page begins; items are numbered from 1."""
    return int.from_bytes(page[_LINE_POINTERS + 4 * (number - 1) :][:4], "little") & 0x7FFF


def change_page(cluster: TestCluster, path: str, block: int, change: Callable[[bytearray], None]) -> None:
    """Of a stopped server, and with the checksum that then belongs there."""
    with open(cluster.data_directory / path, "r+b") as file:
        file.seek(block * BLOCK_SIZE)
        page = bytearray(file.read(BLOCK_SIZE))
        change(page)
        words = np.frombuffer(page, np.uint8).reshape(1, BLOCK_SIZE)
        page[8:10] = int(checksums(words, np.array([block], np.uint32))[0]).to_bytes(2, "little")
        file.seek(block * BLOCK_SIZE)
        file.write(page)


def tear(cluster: TestCluster, path: str, block: int) -> None:
    """Flip bytes as a disk would, which the checksum tells."""
    with open(cluster.data_directory / path, "r+b") as file:
        file.seek(block * BLOCK_SIZE + 4000)
        flipped = bytes(byte ^ 0xFF for byte in file.read(16))
        file.seek(block * BLOCK_SIZE + 4000)
        file.write(flipped)


def move_key(page: bytearray) -> None:
    """The fifth key of an index's leaf becomes that of the sixth: still in order, but no longer that of its row."""
    here, there = item(page, 5) + _INDEX_KEY, item(page, 6) + _INDEX_KEY
    page[here : here + 4] = page[there : there + 4]


def move_to_the_future(page: bytearray) -> None:
    """A row that a transaction made which was never begun: no reader sees it."""
    at = item(page, 3) + _HEAP_XMIN
    page[at : at + 4] = (1_000_000).to_bytes(4, "little")


def test_planted_corruption_is_found_and_named(make_cluster: ClusterFactory, pg_version: int) -> None:
    cluster = make_cluster()
    cluster.sql(_TABLES)
    before = check(cluster)
    assert judge(before) is Verdict.WARNING, before
    assert "amcheck is not created" in before[-1].text
    healthy = check(cluster, may_install=True)
    assert judge(healthy) is Verdict.OK, healthy
    assert cluster.value("SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'") == 1

    paths = {
        name: str(cluster.value("SELECT pg_relation_filepath(%s::regclass)", name))
        for name in ("torn", "unseen", "torn_key", "wrong_key")
    }
    toast = cluster.value("SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 'toasted'")
    cluster.sql(f"SELECT heap_force_kill('{toast}', ARRAY['(0,2)']::tid[])")
    cluster.stop()
    tear(cluster, paths["torn"], 2)
    tear(cluster, paths["torn_key"], 2)
    change_page(cluster, paths["wrong_key"], 1, move_key)
    change_page(cluster, paths["unseen"], 0, move_to_the_future)
    cluster.start()

    found = {one.relation: one.text for one in check(cluster) if one.verdict is Verdict.FAILED}
    assert set(found) == {f"public.{name}" for name in ("torn", "unseen", "torn_key", "wrong_key", "toasted")}, found
    assert 'table "public.torn" is damaged: invalid page in block 2' in found["public.torn"]
    assert 'index "public.torn_key" is damaged: invalid page in block 2' in found["public.torn_key"]
    assert "lacks matching index tuple" in found["public.wrong_key"]
    assert "toast value" in found["public.toasted"] and "chunk" in found["public.toasted"]
    assert "transaction ID" in found["public.unseen"]


def find_paths(cluster: TestCluster, *names: str) -> dict[str, str]:
    return {name: str(cluster.value("SELECT pg_relation_filepath(%s::regclass)", name)) for name in names}


def tear_all(cluster: TestCluster, *names: str) -> None:
    paths = find_paths(cluster, *names)
    cluster.stop()
    for path in paths.values():
        tear(cluster, path, 1)
    cluster.start()


def test_what_pg_dump_leaves_out_is_read_too(make_cluster: ClusterFactory, pg_version: int) -> None:
    """Without amcheck nobody else does."""
    cluster = make_cluster()
    cluster.sql("CREATE EXTENSION pg_surgery; CREATE TABLE whole AS SELECT i FROM generate_series(1, 1000) i")
    cluster.sql("CREATE MATERIALIZED VIEW seen AS SELECT * FROM whole; CREATE MATERIALIZED VIEW sound AS SELECT 1 AS i")
    cluster.sql("CREATE TABLE extended AS SELECT * FROM whole; ALTER EXTENSION pg_surgery ADD TABLE extended")
    assert judge(check(cluster)) is Verdict.WARNING  # amcheck is not created
    tear_all(cluster, "seen", "extended", "pg_description")
    results = check(cluster)
    found = {one.relation: one.text for one in results if one.verdict is Verdict.FAILED}
    assert set(found) == {"public.seen", "public.extended", "pg_catalog.pg_description"}, found
    assert all("is damaged: invalid page in block 1" in text for text in found.values()), found
    assert not any("every row" in one.text for one in results)


def test_an_index_is_built_anew_by_what_is_advised(make_cluster: ClusterFactory, pg_version: int) -> None:
    cluster = make_cluster()
    cluster.sql(_TABLES + "CREATE EXTENSION amcheck")
    cluster.sql("INSERT INTO toasted SELECT i, repeat(md5(i::text), 300) FROM generate_series(4, 300) i")
    toast_index = str(
        cluster.value(
            "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class c ON indrelid = c.reltoastrelid "
            "WHERE c.relname = 'toasted'"
        )
    )
    tear_all(cluster, "torn_key", toast_index, "pg_description_o_c_o_index")
    found = [one for one in check(cluster) if one.verdict is Verdict.FAILED]
    named = {one.relation for one in found if one.text.startswith("index")}
    assert named == {"public.torn_key", "public.toasted", "pg_catalog.pg_description_o_c_o_index"}, found
    for one in found:
        if one.text.startswith("index"):
            cluster.sql(str(one.hint).partition(": ")[2])
    assert judge(check(cluster)) is Verdict.OK


def test_what_may_not_be_read_is_not_called_damaged(make_cluster: ClusterFactory, pg_version: int) -> None:
    cluster = make_cluster()
    cluster.sql("CREATE TABLE hidden AS SELECT 1 AS i; ALTER TABLE hidden ENABLE ROW LEVEL SECURITY")
    cluster.sql("CREATE ROLE reader LOGIN IN ROLE pg_read_all_data")
    results = check(cluster, conninfo=f"{cluster.conninfo} user=reader")
    assert not any("damaged" in one.text for one in results), results
    (found,) = [one for one in results if one.verdict is Verdict.FAILED]
    assert found.text == (
        'table "public.hidden" was not read: query would be affected by row-level security policy for table "hidden"'
    )


def test_a_database_that_lets_nobody_in_is_named(make_cluster: ClusterFactory, pg_version: int) -> None:
    cluster = make_cluster()
    cluster.sql('CREATE DATABASE "closed one"')
    cluster.sql('ALTER DATABASE "closed one" ALLOW_CONNECTIONS false')
    (found,) = [one for one in check(cluster) if one.name == 'database "closed one"']
    assert (found.verdict, found.text) == (Verdict.WARNING, "not read: it allows no connections")
    cluster.sql(str(found.hint).partition(": ")[2])
    assert "every row" in next(one for one in check(cluster) if one.name == found.name).text


def test_what_pg_amcheck_says_is_read_with_its_places() -> None:
    said = (
        'heap table "a.b.public.odd ""t""", block 0, offset 3, attribute 2:\n    toast value 7 has no chunks\n'
        'btree index "a.b.public.key":\n    ERROR:  item order invariant violated\n    DETAIL:  Lower index tid\n'
    )
    assert list(parse_amcheck(said, "a.b")) == [
        ("table", 'public.odd ""t""', "block 0, offset 3, attribute 2: toast value 7 has no chunks"),
        ("index", "public.key", "item order invariant violated"),
    ]


def test_a_standby_is_checked_as_what_it_is(make_cluster: ClusterFactory, pg_version: int) -> None:
    """What is not logged is not there; and a damaged index is not to be built anew on it."""
    primary = make_cluster()
    primary.sql("CREATE EXTENSION amcheck; CREATE UNLOGGED TABLE fleeting AS SELECT i FROM generate_series(1, 1000) i")
    primary.sql("CREATE TABLE torn AS SELECT i FROM generate_series(1, 1000) i; CREATE INDEX torn_key ON torn (i)")
    standby = make_cluster.standby_of(primary)
    healthy = check(standby)
    assert judge(healthy) is Verdict.OK, healthy
    tear_all(standby, "torn", "torn_key")
    found = {one.relation: one.hint for one in check(standby) if one.verdict is Verdict.FAILED}
    assert set(found) == {"public.torn", "public.torn_key"}, found
    assert all(str(hint).startswith("This is a standby") for hint in found.values()), found
