"""Packs: named by what they hold, stored once, read in few ranges."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pghaven.errors import Damaged, ObjectExists, ObjectMissing, StoreUnreachable
from pghaven.repository import pack as pack_module
from pghaven.repository.codec import Buffer
from pghaven.repository.container import FRAME_BYTES, Index
from pghaven.repository.pack import PackPlace, PackRef, PackWriter, iter_pack_frames, load_pack_index
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from pghaven.store.api import Buffers, Store
from pghaven.store.memory import MemoryStore
from pghaven.store.recording import RecordingStore
from tests.support.forging import PACK, Forgery, Frame, hash_of
from tests.support.synthetic import SEALED

RINGS = [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")]
LABEL = "20260301T130000Z-0001"
FRAMES = [bytes([65 + number]) * (200 + number) for number in range(9)]


def place_at(store: Store, ring: Keyring = OPEN_KEYRING, cluster: str = "shop") -> PackPlace:
    return PackPlace(store=store, repository_id="ab" * 16, cluster=cluster, keyring=ring)


def write(
    place: PackPlace, frames: Sequence[Buffer], pack_bytes: int = 40
) -> tuple[list[tuple[int, int]], Sequence[PackRef]]:
    writer = PackWriter(place, LABEL, level=3, pack_bytes=pack_bytes)
    where = [writer.append(frame) for frame in frames]
    return where, writer.close()


def write_one(place: PackPlace, frames: Sequence[Buffer] = FRAMES) -> tuple[PackRef, Index]:
    _, (ref,) = write(place, frames, pack_bytes=1 << 30)
    return ref, load_pack_index(place, ref)


class RangeStore(MemoryStore):
    """Counts what is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[int, int]] = []

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        self.ranges.append((offset, length))
        return super().read_range(name, offset, length)


@pytest.mark.parametrize("ring", RINGS)
def test_each_frame_lies_where_append_said(ring: Keyring) -> None:
    place = place_at(MemoryStore(), ring)
    where, packs = write(place, FRAMES)
    assert len(packs) > 2
    for (number, offset), frame in zip(where, FRAMES, strict=True):
        index = load_pack_index(place, packs[number])
        at = index.frame_at(offset)
        ((got, plain),) = iter_pack_frames(place, packs[number], index, [at])
        assert (got, index.plain_offsets[at], bytes(plain)) == (at, offset, frame)


def test_a_pack_is_stored_under_the_hash_of_what_it_holds() -> None:
    store = MemoryStore()
    ref, index = write_one(place_at(store))
    (info,) = store.list("")
    assert info.name == f"clusters/shop/packs/{LABEL}/{ref.id.hex()}"
    assert hash_of(store.read(info.name)) == ref.id == index.hash
    assert (ref.size_bytes, ref.plain_length) == (info.size_bytes, sum(map(len, FRAMES)))


def test_without_frames_nothing_is_stored() -> None:
    store = MemoryStore()
    assert PackWriter(place_at(store), LABEL, level=3).close() == ()
    assert list(store.list("")) == []


def test_packs_are_stored_one_after_another_while_the_next_is_filled() -> None:
    store = RecordingStore(MemoryStore())
    _, packs = write(place_at(store), FRAMES)
    assert [mutation.name.rpartition("/")[2] for mutation in store.mutations] == [ref.id.hex() for ref in packs]


def test_the_buffer_may_be_reused_at_once() -> None:
    place = place_at(MemoryStore())
    buffer = bytearray(b"x" * 300)
    writer = PackWriter(place, LABEL, level=3)
    writer.append(memoryview(buffer))
    buffer[:] = b"y" * 300
    (ref,) = writer.close()
    ((_, plain),) = iter_pack_frames(place, ref, load_pack_index(place, ref), [0])
    assert bytes(plain) == b"x" * 300


def test_the_same_pack_again_is_the_same_object() -> None:
    """After a lost answer, or a crash, the same contents meet themselves."""
    store = RecordingStore(MemoryStore())
    first, _ = write_one(place_at(store))
    second, _ = write_one(place_at(store))
    assert first == second
    assert len(store.mutations) == 1


def test_a_pack_that_is_there_with_other_bytes_is_not_relied_on() -> None:
    store = MemoryStore()
    ref, _ = write_one(place_at(store))
    name = place_at(store).name(LABEL, ref.id)
    broken = bytearray(store.read(name))
    broken[20] ^= 1
    store.delete(name)
    store.create(name, [bytes(broken)])
    with pytest.raises(Damaged, match=ref.id.hex()):
        write_one(place_at(store))


class FullStore(MemoryStore):
    def create(self, name: str, content: Buffers) -> None:
        raise StoreUnreachable(f'could not create "{name}": no space left')


def test_a_pack_that_could_not_be_stored_fails_the_writer_at_the_latest_when_it_is_closed() -> None:
    writer = PackWriter(place_at(FullStore()), LABEL, level=3)
    writer.append(FRAMES[0])
    with pytest.raises(StoreUnreachable, match="no space left"):
        writer.close()


def test_an_aborted_writer_stores_no_more() -> None:
    store = MemoryStore()
    writer = PackWriter(place_at(store), LABEL, level=3)
    writer.append(FRAMES[0])
    writer.abort()
    assert list(store.list("")) == []


@pytest.mark.parametrize("ring", RINGS)
def test_another_cluster_s_pack_under_its_name_is_found(ring: Keyring) -> None:
    """The same bytes, the same id: what it is bound to says whose it is."""
    store = MemoryStore()
    here, there = place_at(store, ring), place_at(store, ring, cluster="other")
    ref, _ = write_one(there)
    store.create(here.name(LABEL, ref.id), [store.read(there.name(LABEL, ref.id))])
    with pytest.raises(Damaged, match=f"clusters/shop/packs/.*{ref.id.hex()}"):
        load_pack_index(here, ref)


def test_a_pack_in_place_of_another_of_the_same_size_is_found() -> None:
    store = MemoryStore()
    place = place_at(store)
    one, _ = write_one(place, [b"a" * 300])
    other, _ = write_one(place, [b"b" * 300])
    assert (one.size_bytes, one.tail_bytes) == (other.size_bytes, other.tail_bytes)
    store.delete(place.name(LABEL, one.id))
    store.create(place.name(LABEL, one.id), [store.read(place.name(LABEL, other.id))])
    with pytest.raises(Damaged, match="belong to another pack"):
        load_pack_index(place, one)


def test_a_missing_pack_is_missing() -> None:
    store = MemoryStore()
    ref, _ = write_one(place_at(store))
    store.delete(place_at(store).name(LABEL, ref.id))
    with pytest.raises(ObjectMissing, match=ref.id.hex()):
        load_pack_index(place_at(store), ref)


def test_a_manifest_cannot_say_that_a_pack_is_larger_or_smaller_than_it_is() -> None:
    place = place_at(MemoryStore())
    ref, _ = write_one(place)
    for wrong in (
        replace(ref, plain_length=ref.plain_length + 1),
        replace(ref, plain_length=0),
        replace(ref, size_bytes=ref.size_bytes + 1),
        replace(ref, size_bytes=ref.size_bytes - 1),
        replace(ref, tail_bytes=ref.tail_bytes - 1),
    ):
        with pytest.raises(Damaged, match=ref.id.hex()):
            load_pack_index(place, wrong)


def test_frames_near_each_other_come_in_one_range() -> None:
    store = RangeStore()
    ref, index = write_one(place_at(store))
    store.ranges.clear()
    found = dict(iter_pack_frames(place_at(store), ref, index, [1, 2, 5, 8]))
    assert {number: bytes(plain) for number, plain in found.items()} == {n: FRAMES[n] for n in (1, 2, 5, 8)}
    assert store.ranges == [(index.stored_offsets[1], index.stored_offsets[9] - index.stored_offsets[1])]


def test_frames_far_apart_come_in_ranges_of_bounded_size() -> None:
    store = RangeStore()
    frames = [os.urandom(FRAME_BYTES) for _ in range(12)]
    ref, index = write_one(place_at(store), frames)
    store.ranges.clear()
    wanted = [0, 2, *range(4, 12)]
    found = [(number, bytes(plain)) for number, plain in iter_pack_frames(place_at(store), ref, index, wanted)]
    assert found == [(number, frames[number]) for number in wanted]
    assert len(store.ranges) == 3
    assert max(length for _, length in store.ranges) <= pack_module._RANGE_BYTES_MAX


def test_no_frames_are_no_request() -> None:
    store = RangeStore()
    ref, index = write_one(place_at(store))
    store.ranges.clear()
    assert list(iter_pack_frames(place_at(store), ref, index, [])) == []
    assert store.ranges == []


def test_a_damaged_frame_is_named_with_its_pack() -> None:
    store = MemoryStore()
    place = place_at(store)
    ref, index = write_one(place)
    name = place.name(LABEL, ref.id)
    broken = bytearray(store.read(name))
    broken[index.stored_offsets[3]] ^= 0x40
    store.delete(name)
    store.create(name, [bytes(broken)])
    with pytest.raises(Damaged, match=f"{ref.id.hex()}.*frame 3 is damaged"):
        list(iter_pack_frames(place, ref, index, [2, 3, 4]))
    assert [number for number, _ in iter_pack_frames(place, ref, index, [2, 4])] == [2, 4]


def test_the_header_is_looked_at_with_the_first_frame() -> None:
    store = MemoryStore()
    place = place_at(store)
    content = Forgery(
        kind=PACK, context=place.context(LABEL), frames=[Frame(plain=b"x" * 99)], header=bytes(16)
    ).render()
    store.create(place.name(LABEL, hash_of(content)), [content])
    ref = PackRef(label=LABEL, id=hash_of(content), size_bytes=len(content), tail_bytes=120 + 6 + 45, plain_length=99)
    with pytest.raises(Damaged, match="does not begin as"):
        list(iter_pack_frames(place, ref, load_pack_index(place, ref), [0]))


def test_a_store_that_says_exists_without_having_it_is_not_believed() -> None:
    class Lying(MemoryStore):
        def create(self, name: str, content: Buffers) -> None:
            raise ObjectExists(f'"{name}" exists already')

    with pytest.raises(ObjectMissing):
        write_one(place_at(Lying()))
