"""Columns in files are as good as columns in memory, and less of them is in memory."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from pghaven.errors import StoreUnreachable
from pghaven.runtime import columns
from pghaven.runtime.columns import Column, group_rows
from pghaven.runtime.names import list_names
from pghaven.runtime.spill import SMALL_BYTES, Spool, cumulate, find_directory, in_parts, let_go, make_column

MANY = 3 * SMALL_BYTES // 8


def read_resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("count", [0, 1, 1000, MANY])
def test_a_column_keeps_what_is_written_when_it_is_let_go(count: int) -> None:
    column = make_column(count, np.uint64)
    assert not column.any()
    column[:] = np.arange(count)
    let_go()
    assert np.array_equal(column, np.arange(count))


def test_what_is_let_go_is_in_memory_no_more() -> None:
    size = 64 << 20
    column = make_column(size, np.uint8)
    before = read_resident()
    column[:] = 7
    touched = read_resident()
    let_go()
    assert touched - before > size // 2
    assert read_resident() - before < size // 8
    assert int(column[::4096].min()) == 7


def test_working_files_have_no_name_and_go_with_their_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    column = make_column(MANY, np.uint64)
    assert find_directory() == str(tmp_path)
    assert not list(tmp_path.iterdir())
    held = {os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_open(number)}
    assert any(place.startswith(str(tmp_path)) for place in held)
    del column
    held = {os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_open(number)}
    assert not any(place.startswith(str(tmp_path)) for place in held)


def _is_open(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


def test_without_a_place_for_them_it_is_said_which_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    make_column(10, np.uint64)
    with pytest.raises(StoreUnreachable, match="gone") as caught:
        make_column(MANY, np.uint64)
    assert "TMPDIR" in str(caught.value.hint)
    with pytest.raises(StoreUnreachable):
        Spool().write(bytes(SMALL_BYTES + 1))


@pytest.mark.parametrize("count", [0, 5, MANY])
def test_numbers_are_appended_settled_and_read(count: int) -> None:
    column = Column("Q")
    for number in range(count):
        column.append(number)
        if not number % 9000:
            column.settle()
    column.extend(np.arange(count, count + 3, dtype=np.uint64).tobytes())
    column.seal()
    assert len(column) == count + 3
    assert column[count] == count
    assert list(column[:2]) == [0, 1]
    assert np.array_equal(column.to_array(), np.arange(count + 3))
    assert sum(column) == (count + 2) * (count + 3) // 2


def test_sums_go_on_from_part_to_part() -> None:
    counts = np.arange(200_000, dtype=np.uint32)
    assert np.array_equal(cumulate(counts), np.cumsum(counts, dtype=np.int64))
    assert [(part.start, part.stop) for part in in_parts(7, 3)] == [(0, 3), (3, 6), (6, 7)]


@pytest.mark.parametrize("at_once", [10, 100_000])
def test_rows_are_grouped_in_the_order_they_had(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_ROWS_AT_ONCE", at_once)
    chosen = random.Random(1)
    keys = np.array([chosen.choice([0, 1, 1, 1, 5, 9]) for _ in range(5000)], np.uint32)
    values = np.arange(5000, dtype=np.uint64)
    (found, halves), ends = group_rows(keys, (values, (values // 2).astype(np.uint32)), 11)
    order = np.argsort(keys, kind="stable")
    assert np.array_equal(found, values[order])
    assert np.array_equal(halves, values[order] // 2)
    assert np.array_equal(ends, np.cumsum(np.bincount(keys, minlength=11)))
    (nothing,), ends = group_rows(keys[:0], (values[:0],), 3)
    assert not len(nothing)
    assert ends.tolist() == [0, 0, 0]


def test_a_directory_is_listed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [b"%d" % number for number in range(50)] + [b"odd \xff", b"_", b"."[:0] + b"~"]
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    assert list(list_names(str(tmp_path))) == sorted(names)
    monkeypatch.setattr("pghaven.runtime.names._SORTED_AT_ONCE", 7)
    assert list(list_names(str(tmp_path))) == sorted(names)
