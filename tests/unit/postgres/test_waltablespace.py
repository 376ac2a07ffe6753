"""The making of a tablespace is found wherever its record stands, and nothing else is taken for one."""

from __future__ import annotations

import struct

import pytest

from pghaven.postgres.waltablespace import TablespaceCreation, find_tablespace_creations
from tests.unit.postgres.walmaker import MIB, WalMaker

RM_TBLSPC, CREATE, DROP = 5, 0x00, 0x10
PATH = "/srv/tablespace"


def creation(path: str, oid: int = 16400) -> bytes:
    return struct.pack("<I", oid) + path.encode() + b"\0"


def find(maker: WalMaker) -> list[TablespaceCreation]:
    return [made for segment, content in maker.segments() for made in find_tablespace_creations(segment, content)]


@pytest.mark.parametrize("before", [0, 1, 8000, 8100, 8160, 100_000])
def test_it_is_found_wherever_it_stands(before: int) -> None:
    maker = WalMaker()
    maker.append(data=bytes(before))
    made = maker.append_main(RM_TBLSPC, CREATE, creation(PATH))
    maker.append()
    (found,) = find(maker)
    assert (found.oid, found.path, found.start_lsn) == (16400, PATH, made.start_lsn)


@pytest.mark.parametrize("length", [1, 200, 250, 251, 1000])
def test_a_path_of_any_length_is_read(length: int) -> None:
    maker = WalMaker()
    maker.append_main(RM_TBLSPC, CREATE, creation("/" + "x" * (length - 1)))
    maker.append()
    assert [made.path for made in find(maker)] == ["/" + "x" * (length - 1)]


def test_nothing_else_is_taken_for_one() -> None:
    maker = WalMaker()
    maker.append_main(RM_TBLSPC, DROP, creation(PATH))
    maker.append(data=struct.pack("<IIQBBH", 60, 0, 0, CREATE, RM_TBLSPC, 0) * 50)  # what looks like one, as data
    maker.append(data=bytes([RM_TBLSPC]) * (MIB // 8))
    maker.append()
    assert find(maker) == []
