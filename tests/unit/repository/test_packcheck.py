"""Proving a whole pack: every part by itself, and what of it is lost."""

from __future__ import annotations

import pytest

from pghaven.errors import NotPermitted, StoreUnreachable
from pghaven.repository.container import CELL_BYTES
from pghaven.repository.pack import PackPlace, PackRef, PackWriter, load_pack_index
from pghaven.repository.packcheck import check_pack, try_read
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from pghaven.store.api import ObjectInfo
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import CLUSTER, SEALED, make_repository

LABEL = "20260301T130000Z-0001"
SIZES = [1, CELL_BYTES, 3 * CELL_BYTES + 5, 1 << 20, 700]


class BadSector(MemoryStore):
    """Some bytes of one object cannot be read; with ``is_away`` nothing can."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: tuple[str, int] | None = None
        self.is_away = False

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        if self.bad is not None and name == self.bad[0] and offset <= self.bad[1] < offset + length:
            raise StoreUnreachable(f'could not read "{name}" in {self.url}: Input/output error')
        return super().read_range(name, offset, length)

    def find(self, name: str) -> ObjectInfo | None:
        if self.is_away:
            raise StoreUnreachable("the store is away")
        return super().find(name)


def make_pack(store: MemoryStore, keyring: Keyring = OPEN_KEYRING) -> tuple[Repository, PackPlace, PackRef, str]:
    repository = make_repository(store, keyring=keyring)
    place = PackPlace(store=store, repository_id=repository.id, cluster=CLUSTER, keyring=keyring)
    writer = PackWriter(place, LABEL, level=3)
    for number, size in enumerate(SIZES):
        writer.append(bytes([number + 1]) * size)
    (ref,) = writer.close()
    return repository, place, ref, place.name(ref.label, ref.id)


def damage(store: MemoryStore, name: str, *places: int) -> None:
    content = bytearray(store.read(name))
    for place in places:
        content[place] ^= 1
    store.delete(name)
    store.create(name, [bytes(content)])


@pytest.mark.parametrize("keyring", [OPEN_KEYRING, SEALED], ids=["open", "sealed"])
def test_a_whole_pack_is_proven_to_its_last_byte(keyring: Keyring) -> None:
    _, place, ref, _ = make_pack(MemoryStore(), keyring)
    check = check_pack(place, ref, contents=True)
    assert check.flaws == ()
    assert (check.frames, check.read_bytes, check.proven_bytes) == (len(SIZES), ref.size_bytes, sum(SIZES))


def test_several_damaged_frames_are_each_found() -> None:
    store = MemoryStore()
    _, place, ref, name = make_pack(store)
    index = load_pack_index(place, ref)
    damage(store, name, index.stored_offsets[1], index.stored_offsets[3])
    check = check_pack(place, ref, contents=True)
    spans = [(flaw.start, flaw.end) for flaw in check.flaws]
    assert spans == [(index.plain_offsets[n], index.plain_offsets[n + 1]) for n in (1, 3)]
    assert check.proven_bytes == sum(SIZES) - SIZES[1] - SIZES[3]


def test_without_its_end_all_of_it_is_lost() -> None:
    store = MemoryStore()
    _, place, ref, name = make_pack(store)
    damage(store, name, ref.size_bytes - 1)
    for contents in (True, False):
        (flaw,) = check_pack(place, ref, contents=contents).flaws
        assert (flaw.start, flaw.end) == (0, sum(SIZES))
        assert name in flaw.reason


def test_the_header_counts_for_the_first_frame() -> None:
    store = MemoryStore()
    _, place, ref, name = make_pack(store)
    damage(store, name, 0)
    (flaw,) = check_pack(place, ref, contents=True).flaws
    assert (flaw.start, flaw.end) == (0, SIZES[0])


def test_damaged_cell_hashes_lose_nothing() -> None:
    store = MemoryStore()
    _, place, ref, name = make_pack(store)
    damage(store, name, load_pack_index(place, ref).stored_offsets[-1])
    (flaw,) = check_pack(place, ref, contents=True).flaws
    assert flaw.start == flaw.end
    assert "cell hashes" in flaw.reason


def test_without_contents_only_the_end_is_read() -> None:
    store = MemoryStore()
    _, place, ref, name = make_pack(store)
    damage(store, name, 20)
    check = check_pack(place, ref, contents=False)
    assert check.flaws == ()
    assert (check.frames, check.read_bytes, check.proven_bytes) == (0, ref.tail_bytes, 0)


def test_a_bad_sector_costs_one_frame() -> None:
    store = BadSector()
    _, place, ref, name = make_pack(store)
    index = load_pack_index(place, ref)
    store.bad = (name, index.stored_offsets[2])
    (flaw,) = check_pack(place, ref, contents=True).flaws
    assert (flaw.start, flaw.end) == (index.plain_offsets[2], index.plain_offsets[3])
    assert "Input/output error" in flaw.reason


def test_a_store_that_is_away_is_no_damage() -> None:
    store = BadSector()
    _, place, ref, name = make_pack(store)
    store.bad, store.is_away = (name, ref.size_bytes - 1), True
    with pytest.raises(StoreUnreachable, match="the store is away"):
        check_pack(place, ref, contents=True)


def test_what_is_not_permitted_is_no_damage() -> None:
    def refuse() -> None:
        raise NotPermitted("not yours")

    with pytest.raises(NotPermitted):
        try_read(MemoryStore(), refuse)
