"""backup_label and tablespace_map, as real servers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.errors import Damaged
from pghaven.postgres.label import BackupLabelFile, parse_backup_label, parse_tablespace_map, render_tablespace_map
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline

# Written by PostgreSQL 18.6.
LABEL = """\
START WAL LOCATION: 0/900028 (file 000000010000000000000009)
CHECKPOINT LOCATION: 0/900080
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-23 05:27:41 UTC
LABEL: a label: x
START TIMELINE: 1
"""


def test_label_of_a_real_server_is_read() -> None:
    assert parse_backup_label(LABEL) == BackupLabelFile(
        start_lsn=Lsn(0x900028),
        start_segment_name="000000010000000000000009",
        start_timeline=Timeline(1),
        checkpoint_lsn=Lsn(0x900080),
        method="streamed",
        backup_from="primary",
        start_time="2026-11-23 05:27:41 UTC",
        label="a label: x",
    )


def test_label_from_a_standby_on_a_later_timeline_is_read() -> None:
    text = LABEL.replace("FROM: primary", "FROM: standby").replace("file 00000001", "file 0000000A")
    label = parse_backup_label(text.replace("TIMELINE: 1", "TIMELINE: 10"))
    assert (label.backup_from, label.start_timeline) == ("standby", 10)


def test_odd_labels_do_not_disturb() -> None:
    assert parse_backup_label(LABEL.replace("a label: x", "")).label == ""
    assert parse_backup_label(LABEL.replace("a label: x", "a\u2028b\vc")).label == "a\u2028b\vc"


def test_label_with_a_line_of_the_file_in_it_is_refused() -> None:
    with pytest.raises(Damaged, match='line "START TIMELINE" comes twice'):
        parse_backup_label(LABEL.replace("a label: x", "x\nSTART TIMELINE: 9"))


@pytest.mark.parametrize("line", range(7))
def test_missing_line_is_damage(line: int) -> None:
    parse_backup_label(LABEL)
    lines = LABEL.splitlines(keepends=True)
    del lines[line]
    with pytest.raises(Damaged, match="backup_label: there is no line"):
        parse_backup_label("".join(lines))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("0/900028 (file", "0/900028 file", "invalid START WAL LOCATION"),
        ("0/900080", "0/x", "is not a WAL position"),
        ("FROM: primary", "FROM: elsewhere", "neither primary nor standby"),
        ("TIMELINE: 1", "TIMELINE: 2", "is not of timeline 2"),
        ("TIMELINE: 1", "TIMELINE: one", "backup_label: "),
        ("TIMELINE: 1", "TIMELINE: 0", "0 is not a timeline"),
    ],
)
def test_contradictions_are_damage(old: str, new: str, reason: str) -> None:
    with pytest.raises(Damaged, match=reason):
        parse_backup_label(LABEL.replace(old, new))


def test_tablespace_map_of_a_real_server_is_read() -> None:
    # Written by PostgreSQL 15.19 for a directory named "ts15 a\b<LF>c<CR>d".
    text = "16384 /srv/ts15 a\\\\b\\\nc\\\rd\n"
    assert parse_tablespace_map(text) == ((16384, "/srv/ts15 a\\b\nc\rd"),)
    assert render_tablespace_map(parse_tablespace_map(text)) == text


def test_map_without_tablespaces_is_empty() -> None:
    assert parse_tablespace_map("") == ()
    assert render_tablespace_map(()) == ""


def test_line_ends_of_windows_and_empty_lines_are_accepted() -> None:
    assert parse_tablespace_map("1 /a\r\n\n2 /b\n") == ((1, "/a"), (2, "/b"))


@pytest.mark.parametrize(
    "text", ["1 /a", "1 /a\\", "1 /a\n\\", "x /a\n", "1\n", "1 \n", "/a\n", "0 /a\n", "4294967296 /a\n"]
)
def test_damaged_map_is_refused(text: str) -> None:
    with pytest.raises(Damaged, match="tablespace_map: "):
        parse_tablespace_map(text)


oids = st.integers(1, (1 << 32) - 1)
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(st.lists(st.tuples(oids, paths)))
def test_any_paths_survive_the_map(entries: list[tuple[int, str]]) -> None:
    assert parse_tablespace_map(render_tablespace_map(entries)) == tuple(entries)
