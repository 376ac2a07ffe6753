"""WAL positions as text and as numbers."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.postgres.lsn import LSN_INVALID, Lsn

positions = st.integers(min_value=0, max_value=(1 << 64) - 1).map(Lsn)


@given(positions)
def test_text_form_reads_back_to_the_same_position(lsn: Lsn) -> None:
    assert Lsn.parse(str(lsn)) == lsn
    assert Lsn.parse(f"{lsn}".lower()) == lsn


def test_text_form_is_the_one_postgresql_writes() -> None:
    assert str(Lsn(0x16_B374D848)) == "16/B374D848"
    assert str(Lsn(0x3000028)) == "0/3000028"
    assert str(LSN_INVALID) == "0/0"
    assert f"at {Lsn(0x3000028)}" == "at 0/3000028"


def test_padded_low_part_is_read_too() -> None:
    assert Lsn.parse("0/03000028") == Lsn(0x3000028)


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/123456789", "g/0", "0x1/0", " 0/1", "0/1\n", "-1/0", "٠/0"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a WAL position"):
        Lsn.parse(text)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_numbers_beyond_64_bits_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="is not a WAL position"):
        Lsn(value)


@given(positions)
def test_position_survives_the_way_to_another_process(lsn: Lsn) -> None:
    copy = pickle.loads(pickle.dumps(lsn))
    assert copy == lsn
    assert type(copy) is Lsn
