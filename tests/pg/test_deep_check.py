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


def check(cluster: TestCluster, **settings: bool) -> tuple[CheckResult, ...]:
    owner = find_owner(str(cluster.data_directory))
    asked = DeepSettings(
        conninfo=cluster.conninfo, owner=owner, pg_bin=str(cluster.bin_dir), databases=(), jobs=2, **settings
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


def test_what_pg_amcheck_says_is_read_with_its_places() -> None:
    said = (
        'heap table "a.b.public.odd ""t""", block 0, offset 3, attribute 2:\n    toast value 7 has no chunks\n'
        'btree index "a.b.public.key":\n    ERROR:  item order invariant violated\n    DETAIL:  Lower index tid\n'
    )
    assert list(parse_amcheck(said, "a.b")) == [
        ("table", 'public.odd ""t""', "block 0, offset 3, attribute 2: toast value 7 has no chunks"),
        ("index", "public.key", "item order invariant violated"),
    ]
