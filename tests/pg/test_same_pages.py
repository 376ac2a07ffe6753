"""What ``tests.support.samepages`` takes for the same and for different, on pages that a server has written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from tests.support.cluster import TestCluster
from tests.support.fixtures import ClusterFactory, wanted_versions
from tests.support.pagemasks import PAGE, Owner, find_owner
from tests.support.samepages import find_page_difference

INDEXES = {
    Owner.BTREE: "btree (n)",
    Owner.HASH: "hash (n)",
    Owner.GIST: "gist (place)",
    Owner.GIN: "gin (words)",
    Owner.SPGIST: "spgist (place)",
    Owner.BRIN: "brin (n) WITH (pages_per_range = 2)",
}
EVERY_OWNER = pytest.mark.parametrize("owner", [owner for owner in Owner if owner is not Owner.GENERIC])


@pytest.fixture(scope="module")
def pages(request: pytest.FixtureRequest) -> dict[Owner, list[bytes]]:
    """All pages of one relation of each kind, as the newest server has them on its disk."""
    with contextlib.ExitStack() as cleanup:
        return make_pages(ClusterFactory(wanted_versions(request.config)[-1], cleanup)())


def make_pages(cluster: TestCluster) -> dict[Owner, list[bytes]]:
    cluster.sql("CREATE TABLE heap (n int, place point, words int[])")
    cluster.sql("INSERT INTO heap SELECT n, point(n, -n), ARRAY[n % 7, n] FROM generate_series(1, 2000) n")
    for owner, kind in INDEXES.items():
        cluster.sql(f"CREATE INDEX {owner} ON heap USING {kind}")
    cluster.sql("CREATE SEQUENCE sequence")
    cluster.sql("SELECT nextval('sequence')")
    cluster.sql("CHECKPOINT")
    return {owner: read_pages(cluster, owner) for owner in Owner if owner is not Owner.GENERIC}


def read_pages(cluster: TestCluster, relation: str) -> list[bytes]:
    path = cluster.data_directory / str(cluster.value(f"SELECT pg_relation_filepath('{relation}')"))
    content = path.read_bytes()
    return [content[at : at + PAGE] for at in range(0, len(content), PAGE)]


def change(page: bytes, at: int, by: Callable[[int], int]) -> bytes:
    return page[:at] + bytes([by(page[at])]) + page[at + 1 :]


def flip(number: int) -> int:
    return number ^ 0x55


@EVERY_OWNER
def test_owner_of_every_page_is_known(pages: dict[Owner, list[bytes]], owner: Owner) -> None:
    assert {find_owner(page) for page in pages[owner]} == {owner}


@EVERY_OWNER
def test_another_lsn_is_a_difference(pages: dict[Owner, list[bytes]], owner: Owner) -> None:
    for page in pages[owner]:
        assert find_page_difference(page, change(page, 5, flip), 0)


@EVERY_OWNER
def test_another_checksum_or_hint_is_none(pages: dict[Owner, list[bytes]], owner: Owner) -> None:
    for page in pages[owner]:
        assert find_page_difference(page, change(page, 8, flip), 0) is None
        if owner is not Owner.SEQUENCE:
            assert find_page_difference(page, change(page, 10, lambda flags: flags ^ 0x07), 0) is None
            assert find_page_difference(page, change(page, 20, flip), 0) is None


@EVERY_OWNER
def test_other_contents_are_a_difference(pages: dict[Owner, list[bytes]], owner: Owner) -> None:
    """In the first byte behind the header, and in one of the rows, entries or whatever a page has at its end."""
    page = pages[owner][1 if owner is Owner.HASH else -1]  # the last of these is a bitmap, and not full
    end = int.from_bytes(page[16:18], "little")
    if owner is Owner.SEQUENCE:
        end -= 24  # what a sequence has come to may differ
    for at in (24, end - 9):
        assert find_page_difference(page, change(page, at, flip), 0)


def test_what_is_known_of_a_row_is_none_and_that_it_is_frozen_is_one(pages: dict[Owner, list[bytes]]) -> None:
    (page, *_) = pages[Owner.HEAP]
    infomask = (int.from_bytes(page[24:28], "little") & 0x7FFF) + 20
    for hint in (0x01, 0x08):  # HEAP_XMIN_COMMITTED, HEAP_XMAX_INVALID
        assert find_page_difference(page, change(page, infomask + 1, lambda bits, hint=hint: bits ^ hint), 0) is None
    assert find_page_difference(page, change(page, infomask + 1, lambda bits: bits | 0x03), 0)
    assert find_page_difference(page, change(page, infomask, lambda bits: bits ^ 0x01), 0)  # HEAP_HASNULL


def test_a_sequence_may_be_ahead(pages: dict[Owner, list[bytes]]) -> None:
    (page,) = pages[Owner.SEQUENCE]
    item = int.from_bytes(page[24:28], "little") & 0x7FFF
    assert find_page_difference(page, change(page, item + page[item + 22], lambda value: value + 32), 0) is None
    assert find_page_difference(page, change(page, item, flip), 0)
