"""Packs as columns are what they were as objects, and each has one number however often it is told."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from pghaven.repository.pack import PackPlace, PackRef
from pghaven.repository.packtable import PackNumbers, PackRows, PackTable, find_short_pack, join_packs
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.runtime import spill
from pghaven.store.memory import MemoryStore


def make_packs(seed: int, count: int, labels: int = 3) -> list[PackRef]:
    source = random.Random(seed)
    return [
        PackRef(
            label=f"2026030{source.randrange(labels) + 1}T130000Z-0001",
            # Ids with zeros at their end, which byte strings of numpy are padded with.
            id=source.randbytes(30) + bytes((source.randrange(2), 0)),
            size_bytes=source.randrange(1 << 40),
            tail_bytes=source.randrange(1 << 20),
            plain_length=source.randrange(1 << 50),
        )
        for _ in range(count)
    ]


@pytest.fixture(params=["in memory", "in files"])
def packs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[PackRef]:
    if request.param == "in files":
        for module in ("spill", "columns"):
            monkeypatch.setattr(f"pghaven.runtime.{module}.SMALL_BYTES", 1 << 10)
    return make_packs(1, 20_000)


def test_a_table_has_the_packs_it_was_made_of(packs: list[PackRef]) -> None:
    table = PackTable.of(packs)
    assert list(table) == packs == table
    assert (table[-1], table[7], list(table[5:9])) == (packs[-1], packs[7], packs[5:9])
    assert (len(table), table.total_bytes) == (len(packs), sum(pack.size_bytes for pack in packs))
    assert pickle.loads(pickle.dumps(table)) == packs
    assert table != packs[:-1] and table != [*packs[:-1], packs[0]]


def test_chosen_packs_name_only_their_own_labels(packs: list[PackRef]) -> None:
    one = [number for number, pack in enumerate(packs) if pack.label == packs[0].label]
    chosen = PackTable.of(packs).choose(np.array(one))
    assert list(chosen) == [packs[number] for number in one]
    assert chosen.labels == (packs[0].label,)


def test_joined_tables_follow_one_another(packs: list[PackRef]) -> None:
    others = make_packs(2, 10, labels=5)
    assert list(join_packs(packs, PackTable.of(others), ())) == [*packs, *others]


def test_rows_know_what_they_take(packs: list[PackRef]) -> None:
    rows = PackRows()
    rows.extend(packs)
    assert (len(rows), rows.size_bytes) == (len(packs), sum(pack.size_bytes for pack in packs))


def test_a_pack_has_one_number_however_often_it_is_told(packs: list[PackRef]) -> None:
    numbers = PackNumbers()
    order = random.Random(3)
    expected: dict[PackRef, int] = {}
    for _ in range(6):
        some = [order.choice(packs) for _ in range(3000)]
        for pack in some:
            expected.setdefault(pack, len(expected))
        assert numbers.add(some).tolist() == [expected[pack] for pack in some]
    assert list(numbers.table) == list(expected)
    assert numbers.find_all(packs).tolist() == [expected.get(pack, -1) for pack in packs]
    assert [numbers.find(pack.label, pack.id) for pack in packs] == [expected.get(pack, -1) for pack in packs]


def test_the_same_id_under_another_label_is_another_pack() -> None:
    (pack,) = make_packs(4, 1, labels=1)
    other = PackRef(label="20260309T130000Z-0001", id=pack.id, size_bytes=1, tail_bytes=1, plain_length=1)
    numbers = PackNumbers()
    assert (numbers.find(pack.label, pack.id), numbers.add([pack]).tolist()) == (-1, [0])
    assert (numbers.find(other.label, other.id), numbers.find_all([other]).tolist()) == (-1, [-1])
    assert numbers.add([other, pack]).tolist() == [1, 0]


def test_the_store_must_have_every_pack_at_its_full_length() -> None:
    packs = [
        PackRef(label=pack.label, id=pack.id, size_bytes=100, tail_bytes=50, plain_length=9)
        for pack in make_packs(5, 40)
    ]
    store = MemoryStore()
    place = PackPlace(store=store, repository_id="0" * 32, cluster="shop", keyring=OPEN_KEYRING)
    for pack in packs:
        store.create(place.name(pack.label, pack.id), (bytes(100),))
    assert find_short_pack(place, packs) is None
    store.delete(place.name(packs[3].label, packs[3].id))
    assert find_short_pack(place, packs) == (packs[3], False)
    store.create(place.name(packs[3].label, packs[3].id), (bytes(99),))
    assert find_short_pack(place, packs) == (packs[3], True)


def test_nothing_is_left_behind_of_large_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    table = PackTable.of(make_packs(6, 60_000))
    assert spill.find_directory() == str(tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(table) == 60_000
