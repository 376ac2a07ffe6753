from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum, StrEnum
from pathlib import Path

import pytest

from pghaven.cli.render import Column, render_block, render_json, render_table, to_json


class Place(int):
    """As Lsn: a number that prints itself in its own way."""

    def __str__(self) -> str:
        return f"{self >> 32:X}/{int(self) & 0xFFFFFFFF:X}"


class Count(int):
    """As Timeline: a number that prints itself as one."""


class Kind(StrEnum):
    FULL = "full"


class Plain(Enum):
    ONE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    label: str
    start_lsn: Place


def test_a_table_is_aligned_without_boxes_and_ends_no_line_in_spaces() -> None:
    text = render_table(
        ["name", Column(title="size", align="right"), "note"], [["a", "1 B", ""], ["bcdef", "10 KiB", None]]
    )
    assert text == "name     size  note\na         1 B\nbcdef  10 KiB  -\n"


def test_wide_and_combining_characters_keep_the_columns() -> None:
    text = render_table(["n", "x"], [["日本", "1"], ["e\u0301", "2"], ["ab", "3"]])
    assert text == "n     x\n日本  1\ne\u0301     2\nab    3\n"


def test_control_characters_in_a_cell_are_shown_not_sent() -> None:
    assert render_table(["n"], [["a\nb\x1b[2J\u202e"]]) == "n\na\\nb\\x1b[2J\\u202e\n"


def test_a_table_without_rows_is_its_titles() -> None:
    assert render_table(["a", "b"], []) == "a  b\n"


def test_a_block_aligns_values_and_leaves_out_what_is_not_known() -> None:
    assert render_block([("name", "x"), ("stop LSN", "0/3"), ("gone", None)], indent="  ") == (
        "  name:      x\n  stop LSN:  0/3\n"
    )
    assert render_block([]) == ""


def test_json_names_its_schema_and_is_one_ascii_line() -> None:
    text = render_json("backup-list", {"backups": [Row(label="ä\udcff", start_lsn=Place(0x300000028))]})
    assert text.isascii()
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "schema": "pghaven/backup-list/1",
        "backups": [{"label": "ä\udcff", "start_lsn": "3/28"}],
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (Count(7), 7),
        (Place(16), "0/10"),
        (0.1234567891, 0.123457),
        (Kind.FULL, "full"),
        (Plain.ONE, 1),
        (Path("/x"), "/x"),
        ((1, {2}), [1, [2]]),
        ({Kind.FULL: Place(1)}, {"full": "0/1"}),
        (datetime(2026, 11, 23, 5, 47, tzinfo=timezone(timedelta(hours=1))), "2026-11-23T04:47:00.000000Z"),
    ],
)
def test_values_have_one_form_in_json(value: object, expected: object) -> None:
    assert to_json(value) == expected


@pytest.mark.parametrize("value", [b"x", object(), Row])
def test_what_has_no_form_in_json_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        to_json(value)
