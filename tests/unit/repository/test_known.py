"""Frames and pages of an interrupted backup are found by what they hold, and by nothing else."""

from __future__ import annotations

import random

import pytest

from pghaven.repository import layout
from pghaven.repository.container import CELL_BYTES, FRAME_BYTES, hash_cells
from pghaven.repository.known import KnownFrames, load_known_frames
from pghaven.repository.pack import PackPlace, PackWriter, iter_pack_frames, load_pack_index
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import SEALED

LABELS = ("20260301T130000Z-0001", "20260301T140000Z-0002")
CHANCE = random.Random(7)
FRAMES = [CHANCE.randbytes(size) for size in (FRAME_BYTES, 5 * CELL_BYTES, CELL_BYTES, CELL_BYTES + 1, 100, 1)]


def place_at(store: MemoryStore, ring: Keyring = OPEN_KEYRING) -> PackPlace:
    return PackPlace(store=store, repository_id="ab" * 16, cluster="shop", keyring=ring)


def write(place: PackPlace, label: str, frames: list[bytes], pack_bytes: int = 2 * CELL_BYTES) -> None:
    writer = PackWriter(place, label, level=3, pack_bytes=pack_bytes)
    for frame in frames:
        writer.append(frame)
    writer.close()


def read(place: PackPlace, known: KnownFrames, found: tuple[int, int], length: int) -> bytes:
    """What lies where something was found."""
    ref, offset = known.packs[found[0]], found[1]
    index = load_pack_index(place, ref)
    at = index.frame_at(offset)
    ((_, plain),) = iter_pack_frames(place, ref, index, [at])
    inside = offset - index.plain_offsets[at]
    return bytes(plain)[inside : inside + length]


def load(place: PackPlace) -> KnownFrames:
    known = load_known_frames(place, LABELS)
    assert known is not None
    return known


@pytest.mark.parametrize("ring", [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")])
def test_every_frame_is_found_where_it_lies(ring: Keyring) -> None:
    place = place_at(MemoryStore(), ring)
    write(place, LABELS[0], FRAMES[:3])
    write(place, LABELS[1], FRAMES[3:])
    known = load(place)
    assert len(known.packs) > 2
    for frame in FRAMES:
        found = known.find(hash_cells(frame), len(frame))
        assert found is not None
        assert read(place, known, found, len(frame)) == frame
    other = bytes([FRAMES[0][0] ^ 1]) + FRAMES[0][1:]
    assert known.find(hash_cells(other), len(other)) is None


@pytest.mark.parametrize("ring", [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")])
def test_every_whole_cell_is_found_where_it_lies(ring: Keyring) -> None:
    place = place_at(MemoryStore(), ring)
    write(place, LABELS[0], FRAMES)
    known = load(place)
    cells = [
        frame[at : at + CELL_BYTES] for frame in FRAMES for at in range(0, len(frame) - CELL_BYTES + 1, CELL_BYTES)
    ]
    assert len(known.pages) == len(cells)
    for cell in cells:
        found = known.pages.find(memoryview(cell))
        assert found is not None
        assert read(place, known, found, CELL_BYTES) == cell
    assert known.pages.find(memoryview(bytes(CELL_BYTES))) is None


def test_without_packs_nothing_is_known() -> None:
    assert load_known_frames(place_at(MemoryStore()), LABELS) is None
    assert load_known_frames(place_at(MemoryStore()), ()) is None


def test_flipped_byte_where_a_pack_says_what_it_holds_costs_that_pack_alone() -> None:
    """Any byte behind the frames, one at a time: the pack is passed over, or all that is found in it is right."""
    store = MemoryStore()
    place = place_at(store)
    write(place, LABELS[0], FRAMES[1:3], pack_bytes=1 << 30)
    write(place, LABELS[1], FRAMES[3:], pack_bytes=1 << 30)
    whole = load(place)
    victim = next(pack for pack in whole.packs if pack.label == LABELS[0])
    name = place.name(victim.label, victim.id)
    content = store.read(name)
    for at in range(load_pack_index(place, victim).stored_offsets[-1], len(content)):
        store.delete(name)
        store.create(name, [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]])
        known = load(place)
        assert [pack for pack in known.packs if pack.label == LABELS[1]]
        for frame in FRAMES[1:3]:
            found = known.pages.find(memoryview(frame)[:CELL_BYTES])
            assert found is None or read(place, known, found, CELL_BYTES) == frame[:CELL_BYTES]
            assert victim in known.packs or known.find(hash_cells(frame), len(frame)) is None


def test_pack_that_is_cut_off_or_empty_is_passed_over() -> None:
    store = MemoryStore()
    place = place_at(store)
    write(place, LABELS[0], FRAMES[:2], pack_bytes=1 << 30)
    (info,) = store.list(layout.packs_prefix("shop", LABELS[0]))
    content = store.read(info.name)
    for length in (0, 1, 50, len(content) // 2, len(content) - 1):
        store.delete(info.name)
        store.create(info.name, [content[:length]])
        assert load_known_frames(place, LABELS) is None
