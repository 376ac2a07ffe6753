"""How often an object store is asked: what a repository costs there, counted in front of a real one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from pghaven.repository.backups import BackupCatalog
from pghaven.repository.pack import PackRef, PackWriter, iter_pack_frames, load_pack_index
from pghaven.repository.readahead import ReadAhead
from pghaven.repository.repository import Repository
from pghaven.store.open import create_root
from tests.support.fixtures import ObjectServerFactory
from tests.support.httpproxy import FaultyProxy, proxying
from tests.support.synthetic import CLUSTER, BackupOrder, make_intent, make_repository
from tests.support.waiting import wait_until

MIB = 1 << 20
WRITTEN = 80 * MIB
LABEL = "20260101T000000Z"


@pytest.fixture
def proxy(object_server: ObjectServerFactory) -> Iterator[FaultyProxy]:
    with proxying(object_server("seaweedfs").port) as made:
        yield made


@pytest.fixture
def repository(object_server: ObjectServerFactory, proxy: FaultyProxy) -> Repository:
    made = make_repository(create_root(object_server("seaweedfs").settings(endpoint=proxy.endpoint)))
    proxy.calm()
    return made


def write_packs(repository: Repository) -> tuple[PackRef, ...]:
    writer = PackWriter(BackupCatalog(repository, CLUSTER).pack_place, LABEL, level=1)
    for _ in range(WRITTEN // MIB):
        writer.append(os.urandom(MIB))
    return writer.close()


def test_packs_are_written_and_read_in_large_requests(repository: Repository, proxy: FaultyProxy) -> None:
    packs = write_packs(repository)
    assert Counter(method for method, _ in proxy.asked) == {"PUT": len(packs)}
    assert len(packs) <= WRITTEN // (16 * MIB)

    proxy.calm()
    place = BackupCatalog(repository, CLUSTER).pack_place
    total = 0
    for pack in packs:
        index = load_pack_index(place, pack)
        for _, plain in iter_pack_frames(place, pack, index, range(len(index.plain_lengths))):
            total += len(plain)
    assert total == WRITTEN
    asked = Counter(method for method, _ in proxy.asked)
    assert set(asked) == {"GET"}
    # For each pack its index, and two ranges that hold a whole one.
    assert asked["GET"] <= 3 * len(packs)


def test_the_next_pack_is_on_its_way_while_the_last_range_of_one_is_used(
    repository: Repository, proxy: FaultyProxy
) -> None:
    packs = write_packs(repository)
    place = BackupCatalog(repository, CLUSTER).pack_place
    ahead = ReadAhead(place)
    proxy.calm()
    readings = [ahead.begin(pack, lambda index: range(len(index.plain_lengths))) for pack in packs]
    for number, reading in enumerate(readings):
        following = place.name(packs[number + 1].label, packs[number + 1].id) if reading is not readings[-1] else ""
        count = len(reading.index.plain_lengths)
        for frame, _ in reading.iter_frames():
            if following and frame == count - 1:
                wait_until(lambda name=following: count_gets(proxy, name) >= 2, "index and range of the next pack")  # type: ignore[misc]
    ahead.close()


def count_gets(proxy: FaultyProxy, name: str) -> int:
    return sum(method == "GET" and path.endswith(name) for method, path in proxy.asked)


def test_reading_a_pack_stops_at_once_where_nobody_wants_more(repository: Repository, proxy: FaultyProxy) -> None:
    packs = write_packs(repository)
    place = BackupCatalog(repository, CLUSTER).pack_place
    index = load_pack_index(place, packs[0])
    proxy.calm()
    frames = iter_pack_frames(place, packs[0], index, range(len(index.plain_lengths)))
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert len(proxy.asked) <= 2, "one range, and the next that was on its way"


def test_a_listing_of_backups_asks_for_two_small_documents_each(repository: Repository, proxy: FaultyProxy) -> None:
    catalog = BackupCatalog(repository, CLUSTER)
    count = 30
    for number in range(count):
        order = BackupOrder(number=number + 1)
        catalog.announce(order.label, make_intent(order))
        catalog.abandon(order.label, "tried")
    proxy.calm()
    assert len(catalog.list_labels()) == count
    asked = Counter("LIST" if "list-type" in path else method for method, path in proxy.asked)
    assert asked == {"LIST": 1, "GET": 2 * count}
