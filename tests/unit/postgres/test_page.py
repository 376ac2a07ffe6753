"""Page checksums and LSNs, against pages that real servers wrote and against PostgreSQL's algorithm spelled out."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.page import ChecksumWork, checksums, page_lsns, pages_to_store, verify_pages
from pghaven.postgres.version import SUPPORTED
from tests.unit.postgres.golden import read_zstd

GOLDEN = Path(__file__).parents[2] / "golden" / "pages"
PLACES = json.loads((GOLDEN / "pages.json").read_text())
PAGES = read_zstd(GOLDEN / "pages.zst")
BLOCKS = np.array([place["block"] for place in PLACES], np.uint32)
BLOCK_SIZE = 8192
BLOCK_SIZES = (1024, 2048, 4096, 8192, 16384, 32768)

BASE_OFFSETS = """
    5B1F36E9 B8525960 02AB50AA 1DE66D2A 79FF467A 9BB9F8A3 217E7CD2 83E13D2C F8D4474F E39EB970 42C6AE16 993216FA
    7B093B5D 98DAFF3C F718902A 0B1C9CDB E58F764B 187636BC 5D7B3BB1 E73DE7DE 92BEC979 CCA6C0B2 304A0979 85AA43D4
    783125BB 6CA8EAA2 E407EAC6 4B5CFC3E 9FBF8C76 15CA20BE F2CA9FD3 959BD756
"""


def compute_slowly(page: bytes, block: int) -> int:
    """pg_checksum_page, one number at a time."""
    words = struct.unpack(f"<{len(page) // 4}I", page[:8] + b"\0\0" + page[10:])
    sums = [int(word, 16) for word in BASE_OFFSETS.split()]
    for position, word in enumerate((*words, *[0] * 64)):
        mixed = sums[position % 32] ^ word
        sums[position % 32] = (mixed * 16777619 & 0xFFFFFFFF) ^ (mixed >> 17)
    result = block
    for value in sums:
        result ^= value
    return result % 65535 + 1


def make_pages(count: int, block_size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(count * block_size)


def number(count: int, first: int = 0) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.arange(first, first + count, dtype=np.uint32)


def seal_pages(pages: bytes, blocks: np.ndarray[tuple[int], np.dtype[np.uint32]], block_size: int = 8192) -> bytearray:
    """The same pages with the checksums that belong there."""
    sealed = bytearray(pages)
    for index, checksum in enumerate(checksums(pages, blocks, block_size=block_size)):
        struct.pack_into("<H", sealed, index * block_size + 8, checksum)
    return sealed


def test_golden_pages_come_from_every_supported_version() -> None:
    assert {place["version"] for place in PLACES} == {str(version) for version in SUPPORTED}


def test_pages_of_real_servers_are_good() -> None:
    assert verify_pages(PAGES, BLOCKS).tolist() == []


def test_real_pages_carry_the_checksum_that_is_computed() -> None:
    stored = [struct.unpack_from("<H", PAGES, offset + 8)[0] for offset in range(0, len(PAGES), BLOCK_SIZE)]
    written = [index for index, value in enumerate(stored) if value]
    assert len(written) > len(stored) / 2
    computed = checksums(PAGES, BLOCKS)
    assert [computed[index] for index in written] == [stored[index] for index in written]


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_checksums_follow_the_algorithm_for_every_block_size(block_size: int) -> None:
    pages = make_pages(3, block_size)
    blocks = np.array([0, 131072 * 7 + 5, 0xFFFFFFFE], np.uint32)
    expected = [
        compute_slowly(pages[index * block_size : (index + 1) * block_size], int(block))
        for index, block in enumerate(blocks)
    ]
    assert checksums(pages, blocks, block_size=block_size).tolist() == expected


@pytest.mark.parametrize("count", [1, 255, 256, 257, 511, 513, 1000])
def test_every_page_of_a_batch_of_any_length_gets_its_own_checksum(count: int) -> None:
    pages = make_pages(count, 1024)
    together = checksums(pages, number(count, 10), block_size=1024)
    one_by_one = [
        int(checksums(pages[index * 1024 : (index + 1) * 1024], number(1, 10 + index), block_size=1024)[0])
        for index in range(count)
    ]
    assert together.tolist() == one_by_one


def test_scratch_memory_may_be_reused_for_other_lengths_and_block_sizes() -> None:
    work = ChecksumWork()
    for count, block_size in ((300, 1024), (1, 32768), (256, 8192), (7, 2048)):
        pages = make_pages(count, block_size, seed=count)
        fresh = checksums(pages, number(count), block_size=block_size)
        assert checksums(pages, number(count), work, block_size=block_size).tolist() == fresh.tolist()


def test_what_is_stored_as_checksum_does_not_matter() -> None:
    pages = bytearray(make_pages(2, BLOCK_SIZE))
    before = checksums(pages, number(2)).tolist()
    pages[8:10] = b"\xff\xff"
    pages[BLOCK_SIZE + 8 : BLOCK_SIZE + 10] = b"\0\0"
    assert checksums(pages, number(2)).tolist() == before


def test_pages_are_never_modified() -> None:
    pages = bytearray(make_pages(300, 1024))
    before = bytes(pages)
    checksums(pages, number(300), block_size=1024)
    verify_pages(pages, number(300), block_size=1024)
    page_lsns(pages, block_size=1024)
    assert pages == before


def test_any_kind_of_buffer_will_do_at_any_address() -> None:
    pages = make_pages(4, BLOCK_SIZE)
    expected = checksums(pages, number(4)).tolist()
    odd = memoryview(b"x" + pages)[1:]
    for buffer in (bytearray(pages), memoryview(pages), odd, np.frombuffer(pages, np.uint8)):
        assert checksums(buffer, number(4)).tolist() == expected
        assert page_lsns(buffer).tolist() == page_lsns(pages).tolist()


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_one_wrong_bit_anywhere_on_a_page_is_found(block_size: int) -> None:
    chance = random.Random(block_size)
    good = seal_pages(make_pages(40, block_size), number(40), block_size)
    assert verify_pages(good, number(40), block_size=block_size).tolist() == []
    for _ in range(20):
        index, bit = chance.randrange(40), chance.randrange(block_size * 8)
        bad = bytearray(good)
        bad[index * block_size + bit // 8] ^= 1 << bit % 8
        assert verify_pages(bad, number(40), block_size=block_size).tolist() == [index]


def test_a_wrong_bit_on_any_real_page_is_found() -> None:
    chance = random.Random(1)
    for index in range(len(BLOCKS)):
        bad = bytearray(PAGES)
        bit = chance.randrange(BLOCK_SIZE * 8)
        bad[index * BLOCK_SIZE + bit // 8] ^= 1 << bit % 8
        assert verify_pages(bad, BLOCKS).tolist() == [index]


def test_a_page_in_another_pages_place_is_found() -> None:
    good = seal_pages(make_pages(3, BLOCK_SIZE), number(3))
    swapped = good[BLOCK_SIZE : 2 * BLOCK_SIZE] + good[:BLOCK_SIZE] + good[2 * BLOCK_SIZE :]
    assert verify_pages(swapped, number(3)).tolist() == [0, 1]


def test_new_pages_are_good_only_if_all_zero() -> None:
    count = 600
    pages = bytearray(count * 1024)
    assert verify_pages(pages, number(count), block_size=1024).tolist() == []
    pages[5 * 1024 + 1023] = 1
    pages[599 * 1024 + 8] = 1
    assert verify_pages(pages, number(count), block_size=1024).tolist() == [5, 599]


def test_a_page_whose_header_was_zeroed_is_bad_though_it_looks_new() -> None:
    pages = seal_pages(make_pages(2, BLOCK_SIZE), number(2))
    pages[BLOCK_SIZE : BLOCK_SIZE + 512] = bytes(512)
    assert verify_pages(pages, number(2)).tolist() == [1]


def test_page_lsn_has_its_high_half_first() -> None:
    pages = bytearray(3 * BLOCK_SIZE)
    struct.pack_into("<II", pages, 0, 0x16, 0xB374D848)
    struct.pack_into("<II", pages, BLOCK_SIZE, 0xFFFFFFFF, 0xFFFFFFFE)
    lsns = page_lsns(pages)
    assert lsns.dtype == np.uint64
    assert lsns.tolist() == [0x16B374D848, 0xFFFFFFFFFFFFFFFE, 0]


def test_no_pages_give_no_results() -> None:
    assert checksums(b"", number(0)).tolist() == []
    assert verify_pages(memoryview(b""), number(0)).tolist() == []
    assert page_lsns(bytearray()).tolist() == []


@pytest.mark.parametrize("size", [BLOCK_SIZE - 1, BLOCK_SIZE + 1, 2 * BLOCK_SIZE, 0])
def test_block_numbers_must_match_the_pages(size: int) -> None:
    with pytest.raises(ValueError, match="pages of 8192 bytes"):
        checksums(bytes(size), number(1))
    with pytest.raises(ValueError, match="pages of 8192 bytes"):
        verify_pages(bytes(size), number(1))


@pytest.mark.parametrize("block_size", [0, 512, 8191, 12288, 65536])
def test_only_postgresqls_block_sizes_are_accepted(block_size: int) -> None:
    with pytest.raises(ValueError, match=f"no pages of {block_size} bytes"):
        checksums(bytes(65536), number(1), block_size=block_size)
    with pytest.raises(ValueError, match=f"no pages of {block_size} bytes"):
        page_lsns(bytes(65536), block_size=block_size)


def test_cut_off_pages_have_no_lsns() -> None:
    with pytest.raises(ValueError, match="8196 bytes are not whole pages"):
        page_lsns(bytes(BLOCK_SIZE + 4))


SINCE = Lsn.parse("16/B374D848")


def make_written(lsn: int, **header: int) -> bytes:
    """A page with a sane header, but for what is said."""
    size = header.get("block_size", BLOCK_SIZE)
    fields = {"flags": 0, "lower": 28, "upper": 4000, "special": size, "version": size | 4, **header}
    names = ("flags", "lower", "upper", "special", "version")
    start = struct.pack("<IIH5HI", lsn >> 32, lsn & 0xFFFFFFFF, 7, *(fields[name] for name in names), 0)
    return start + b"\x11" * (size - len(start))


def is_stored(page: bytes, since: int = SINCE, block_size: int = BLOCK_SIZE) -> bool:
    return bool(pages_to_store(page, since=Lsn(since), block_size=block_size)[0])


def test_pages_from_the_parents_start_on_are_stored_and_those_before_it_are_not() -> None:
    lsns = [SINCE - 1, SINCE, SINCE + 1, 0x15FFFFFFFF, 0x1700000000, 1, (1 << 64) - 1]
    pages = b"".join(make_written(lsn) for lsn in lsns)
    assert pages_to_store(pages, since=SINCE).tolist() == [False, True, True, False, True, False, True]


def test_real_pages_are_judged_by_nothing_but_their_lsn() -> None:
    lsns = page_lsns(PAGES)
    assert len(set(lsns.tolist())) > 10
    for lsn in lsns.tolist():
        assert pages_to_store(PAGES, since=Lsn(lsn)).tolist() == (lsns >= lsn).tolist()
    assert not pages_to_store(PAGES, since=Lsn(int(lsns.max()) + 1)).any()


def test_pages_without_an_lsn_are_stored() -> None:
    assert is_stored(bytes(BLOCK_SIZE))
    assert is_stored(make_written(0))
    assert is_stored(make_written(0), since=(1 << 64) - 1)
    assert pages_to_store(make_written(0) + make_written(1), since=Lsn(0)).tolist() == [True, True]


@pytest.mark.parametrize(
    "header",
    [
        {"lower": 20},
        {"lower": 4008},
        {"upper": 8200},
        {"upper": 0},
        {"special": 8188},
        {"special": 3992},
        {"special": 8200},
        {"flags": 8},
        {"version": 8192 | 3},
        {"version": 4096 | 4},
        {"version": 0},
    ],
)
def test_an_old_lsn_proves_nothing_when_the_header_is_not_sane(header: dict[str, int]) -> None:
    assert not is_stored(make_written(SINCE - 1))
    assert is_stored(make_written(SINCE - 1, **header))


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_old_pages_are_left_out_at_every_block_size(block_size: int) -> None:
    upper = block_size - 8
    old, new = (make_written(SINCE + step, block_size=block_size, upper=upper) for step in (-1, 1))
    pages = (old + new) * 150
    assert pages_to_store(pages, since=SINCE, block_size=block_size).tolist() == [False, True] * 150


def test_judging_pages_leaves_them_alone_wherever_they_lie() -> None:
    pages = bytearray(b"x" + make_written(SINCE - 1) + make_written(SINCE))
    before = bytes(pages)
    assert pages_to_store(memoryview(pages)[1:], since=SINCE).tolist() == [False, True]
    assert pages == before
    assert pages_to_store(b"", since=SINCE).tolist() == []
    with pytest.raises(ValueError, match="not whole pages"):
        pages_to_store(pages, since=SINCE)
