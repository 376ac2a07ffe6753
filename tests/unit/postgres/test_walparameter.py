"""Finding the records that say which wal_level a server came up with, without reading all others."""

from __future__ import annotations

import random
import struct

import pytest

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.walparameter import decode_parameter_change, may_contain_parameter_change
from pghaven.postgres.walrecord import WalRecord
from tests.unit.postgres.walmaker import MIB, WalMaker
from tests.unit.postgres.walreading import read


def parameters(wal_level: int) -> bytes:
    return struct.pack("<6i2?2x", 100, 8, 10, 0, 64, wal_level, False, False)


def fill_to(maker: WalMaker, offset: int) -> None:
    """Records up to an offset into the area, which must be a multiple of 8 and not within a page's header."""
    while offset - len(maker.area) > 4000:
        maker.append(data=bytes(1000))
    if offset - len(maker.area) < 48:
        maker.append(data=bytes(1000))
    maker.append(data=bytes(offset - len(maker.area) - 24))
    assert len(maker.area) == offset


def decode_all(maker: WalMaker) -> list[tuple[int, int]]:
    records, _ = read(maker.segments())
    changes = (decode_parameter_change(record) for record in records)
    return [(change.wal_level, int(change.start_lsn)) for change in changes if change is not None]


def test_wal_level_of_each_change_is_read() -> None:
    maker = WalMaker()
    made = [maker.append_main(0, 0x60, parameters(level)) for level in (0, 1, 2)]
    maker.append_main(0, 0x70, bytes(72))
    assert decode_all(maker) == [(level, one.start_lsn) for level, one in enumerate(made)]


@pytest.mark.parametrize("before_end", range(8, 72, 8))
def test_change_is_noticed_wherever_it_crosses_a_page(before_end: int) -> None:
    maker = WalMaker()
    fill_to(maker, 5 * 8192 - before_end)
    made = maker.append_main(0, 0x60, parameters(0))
    maker.append(data=bytes(100))
    ((_, content),) = maker.segments()
    assert decode_all(maker) == [(0, made.start_lsn)]
    assert may_contain_parameter_change(content)


@pytest.mark.parametrize("before_end", range(8, 72, 8))
def test_change_is_noticed_in_the_segment_where_it_begins(before_end: int) -> None:
    maker = WalMaker()
    fill_to(maker, MIB - before_end)
    made = maker.append_main(0, 0x60, parameters(0))
    (_, first), *rest = maker.segments()
    assert len(rest) == (1 if before_end < 54 else 0)
    assert decode_all(maker) == [(0, made.start_lsn)]
    assert may_contain_parameter_change(first)


@pytest.mark.parametrize("block_size", [1024, 8192, 65536])
def test_change_is_noticed_at_every_place_and_page_size(block_size: int) -> None:
    chance = random.Random(block_size)
    for _ in range(50):
        maker = WalMaker(block_size=block_size)
        for _ in range(chance.randrange(40)):
            maker.append(data=chance.randbytes(chance.randrange(300)))
        maker.append_main(0, 0x60 | chance.choice([0, 2]), parameters(1))
        ((_, content),) = maker.segments()
        assert may_contain_parameter_change(content)


def test_other_records_of_that_length_are_passed_over() -> None:
    maker = WalMaker()
    for _ in range(3):
        maker.append_main(0, 0x70, bytes(28))
        maker.append_main(1, 0x60, bytes(28))
        maker.append(rmid=10, data=struct.pack("<6q", 54, 54, 54, 54, 0, 54))
    ((_, content),) = maker.segments()
    assert not may_contain_parameter_change(content)
    assert decode_all(maker) == []


def test_what_is_no_whole_segment_is_refused() -> None:
    ((_, content),) = WalMaker().segments()
    assert not may_contain_parameter_change(content)
    with pytest.raises(Damaged):
        may_contain_parameter_change(content[:-8])
    with pytest.raises(Damaged):
        may_contain_parameter_change(content[8192:])


def test_change_of_another_length_is_refused() -> None:
    record = WalRecord(Lsn(0x100), Lsn(0x140), 0, 0, 0x60, b"\xff\x18" + bytes(24), 0xD118)
    with pytest.raises(Damaged, match="cannot be decoded"):
        decode_parameter_change(record)
