"""Names of relation files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.postgres.relfile import Fork, RelFile, is_temporary, parse_relfile


@pytest.mark.parametrize(
    ("name", "relfilenode", "fork", "segment"),
    [
        ("16384", 16384, Fork.MAIN, 0),
        ("16384.1", 16384, Fork.MAIN, 1),
        ("16384_fsm", 16384, Fork.FSM, 0),
        ("16384_vm.2", 16384, Fork.VM, 2),
        ("16384_init", 16384, Fork.INIT, 0),
        ("4294967295.32767", 4294967295, Fork.MAIN, 32767),
    ],
)
def test_relation_files_are_recognized(name: str, relfilenode: int, fork: Fork, segment: int) -> None:
    assert parse_relfile(name) == RelFile(relfilenode=relfilenode, fork=fork, segment=segment)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "0",
        "016384",
        "16384.",
        "16384.0",
        "16384.01",
        "16384_",
        "16384_main",
        "16384_FSM",
        "16384_fsm_vm",
        "16384.1_fsm",
        "16384.bak",
        "16384\n",
        " 16384",
        "4294967296",
        "16384.4294967296",
        "pg_filenode.map",
        "pg_control",
        "PG_VERSION",
        "t3_16384",
        "١٦٣٨٤",
        "16384\udcff",
    ],
)
def test_other_names_are_not_relations(name: str) -> None:
    assert parse_relfile(name) is None


@given(
    st.builds(
        RelFile,
        relfilenode=st.integers(1, (1 << 32) - 1),
        fork=st.sampled_from(Fork),
        segment=st.integers(0, (1 << 32) - 1),
    )
)
def test_every_file_reads_back_from_its_name(file: RelFile) -> None:
    assert parse_relfile(str(file)) == file
    assert not is_temporary(str(file))


def test_first_block_follows_from_the_segment() -> None:
    file = RelFile(relfilenode=1, fork=Fork.MAIN, segment=3)
    assert file.first_block(131072) == 393216


@pytest.mark.parametrize("name", ["t3_16384", "t3_16384_fsm", "t123_16384.1", "t3_16384_vm.2", "t0_1_init"])
def test_temporary_relations_are_recognized(name: str) -> None:
    assert is_temporary(name)


@pytest.mark.parametrize("name", ["", "t3", "t_16384", "t3_", "t3_16384_", "t3_16384_x", "t3_16384.", "T3_1", "t3_1\n"])
def test_similar_names_are_not_temporary(name: str) -> None:
    assert not is_temporary(name)
