"""What is read ahead: the next pack comes while one is used, room is bounded, and failures are the reader's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pghaven.errors import Damaged, ObjectMissing
from pghaven.repository.container import FRAME_BYTES, Index
from pghaven.repository.pack import PackPlace, PackRef, PackWriter
from pghaven.repository.readahead import RANGES_HELD, ReadAhead
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.store.memory import MemoryStore
from tests.support.waiting import wait_until

LABEL = "20260301T130000Z-0001"
PACKS = 5
FRAMES = [os.urandom(FRAME_BYTES // 2) for _ in range(2)]


class CountingStore(MemoryStore):
    """Tells what was asked, and how many objects' frames (not indexes) have been fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.indexes = 0

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        if offset == 0:
            self.fetched.append(name)
        else:
            self.indexes += 1
        return super().read_range(name, offset, length)


def choose_all(index: Index) -> Iterator[int]:
    return iter(range(len(index.plain_lengths)))


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def place(store: CountingStore) -> PackPlace:
    return PackPlace(store=store, repository_id="0" * 32, cluster="main", keyring=OPEN_KEYRING)


@pytest.fixture
def packs(place: PackPlace) -> tuple[PackRef, ...]:
    writer = PackWriter(place, LABEL, level=1, pack_bytes=FRAME_BYTES)
    for number in range(PACKS):
        for frame in FRAMES:
            writer.append(bytes([number]) + frame[1:])
    return tuple(sorted(writer.close(), key=lambda ref: ref.id))


@pytest.fixture
def ahead(place: PackPlace) -> Iterator[ReadAhead]:
    made = ReadAhead(place)
    yield made
    made.close()


def test_the_next_pack_comes_while_one_is_used_and_no_more_than_there_is_room_for(
    store: CountingStore, ahead: ReadAhead, packs: tuple[PackRef, ...]
) -> None:
    readings = [ahead.begin(ref, choose_all) for ref in packs]
    used = 0
    for number, reading in enumerate(readings):
        for _ in reading.iter_frames():
            used = max(used, number + 1)
            expected = min(len(packs), number + RANGES_HELD)
            wait_until(lambda expected=expected: len(store.fetched) >= expected, "the next pack")  # type: ignore[misc]
            assert len(store.fetched) == expected
    assert used == len(packs)
    assert store.fetched == [ahead._place.name(ref.label, ref.id) for ref in packs]


def test_frames_are_those_that_were_chosen(ahead: ReadAhead, packs: tuple[PackRef, ...]) -> None:
    one = ahead.begin(packs[0], lambda _: [0])
    none = ahead.begin(packs[1], lambda _: [])
    assert [number for number, _ in one.iter_frames()] == [0]
    assert list(none.iter_frames()) == []
    assert none.index.plain_length == packs[1].plain_length


def test_parts_of_a_pack_share_its_index(store: CountingStore, ahead: ReadAhead, packs: tuple[PackRef, ...]) -> None:
    for _ in range(3):
        assert len(list(ahead.begin(packs[0], choose_all).iter_frames())) == len(FRAMES)
    assert store.indexes == 1


def test_a_failure_is_raised_where_its_pack_is_read(
    store: CountingStore, ahead: ReadAhead, place: PackPlace, packs: tuple[PackRef, ...]
) -> None:
    name = place.name(LABEL, packs[1].id)
    content = bytearray(store.read(name))
    content[FRAME_BYTES // 2] ^= 1
    store.delete(name)
    store.create(name, [bytes(content)])
    store.delete(place.name(LABEL, packs[2].id))

    readings = [ahead.begin(ref, choose_all) for ref in packs]
    assert len(list(readings[0].iter_frames())) == 2
    with pytest.raises(Damaged, match=packs[1].id.hex()):
        list(readings[1].iter_frames())
    with pytest.raises(ObjectMissing):
        list(readings[2].iter_frames())
    assert [len(list(reading.iter_frames())) for reading in readings[3:]] == [2, 2]


def test_what_is_left_in_the_middle_makes_room(ahead: ReadAhead, packs: tuple[PackRef, ...]) -> None:
    for ref in packs * 3:
        frames = ahead.begin(ref, choose_all).iter_frames()
        next(frames)
        frames.close()  # type: ignore[attr-defined]
