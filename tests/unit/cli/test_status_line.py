"""The line that shows what can be restored never shows more than that."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pghaven.cli.status_line import (
    ASCII,
    COLUMNS_MIN,
    UTF8,
    Canvas,
    choose_letters,
    draw_marks,
    draw_scale,
    draw_stretches,
    draw_window,
)
from pghaven.postgres.lsn import Lsn
from pghaven.proof.windows import Gap, Reach
from tests.unit.proof.test_problems import REPOSITORY, SIZE, WINDOW, segment

BEGIN = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)
NOW = BEGIN + timedelta(hours=10)
CANVAS = Canvas(begin=BEGIN, now=NOW, columns=20, letters=ASCII, zone=UTC)


def hours(number: float) -> datetime:
    return BEGIN + timedelta(hours=number)


def stretches(*spans: tuple[float, float | None], is_cut: bool = False) -> str:
    windows = [
        replace(WINDOW, begin=hours(begin), end=None if end is None else hours(end), end_lsn=Lsn(number + 1))
        for number, (begin, end) in enumerate(spans)
    ]
    return draw_stretches(windows, CANVAS, is_cut=is_cut)


def test_a_character_is_good_only_if_all_of_its_moments_are() -> None:
    assert stretches((0, 10)) == "=" * 20
    assert stretches((0, 9.9)) == "=" * 19 + "-"
    assert stretches((0, 4.9), (6, 9)) == "=" * 9 + "xxx" + "=" * 6 + "--"
    assert stretches((0, 2), (2.01, 10)) == "====x" + "=" * 15
    assert stretches((2, 10)) == "    " + "=" * 16


def test_what_is_not_known_is_not_shown_as_good() -> None:
    assert stretches((0, None)) == "?" * 20
    assert stretches((0, 4), (6, None)) == "========xxxx" + "?" * 8


def test_behind_a_cut_nothing_is_on_its_way() -> None:
    assert stretches((0, 5)) == "=" * 10 + "-" * 10
    assert stretches((0, 5), is_cut=True) == "=" * 10 + "x" * 10


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=5))
def test_no_moment_outside_of_all_windows_lies_under_a_good_character(pairs: list[tuple[float, float]]) -> None:
    spans = [(min(pair), max(pair)) for pair in pairs]
    line = stretches(*spans)
    assert len(line) == 20
    for column, letter in enumerate(line):
        for step in range(5):
            at = (column + step / 5 + 0.05) / 2
            if letter == "=":
                assert any(begin <= at <= end for begin, end in spans), (line, column)


def test_marks_of_one_place_are_counted_and_a_failure_is_never_hidden() -> None:
    marks = [(hours(0), "B"), (hours(5), "B"), (hours(5.1), "B"), (hours(9), "D"), (hours(9.1), "!"), (hours(10), "D")]
    assert draw_marks(marks, CANVAS) == "B" + " " * 9 + "2" + " " * 7 + "!D"
    assert draw_marks([(hours(-1), "B")], CANVAS).strip() == "", "what was before the line is not on it"


def test_the_scale_has_round_times_and_ends_now() -> None:
    scale = draw_scale(replace(CANVAS, columns=60))
    assert scale == "            |11-23 06:00      |09:00            |12:00  now|"
    assert scale.endswith("now|")
    assert len(scale) == 60
    for span in (timedelta(seconds=20), timedelta(minutes=7), timedelta(days=3), timedelta(days=400)):
        for columns in (COLUMNS_MIN, 40, 120):
            found = draw_scale(replace(CANVAS, begin=NOW - span, columns=columns))
            assert len(found) == columns, found
            assert found.endswith("now|")


def test_where_there_is_no_room_there_is_no_line() -> None:
    assert draw_window(REPOSITORY, None, NOW, columns=COLUMNS_MIN - 1, letters=ASCII) == []
    assert (
        draw_window(
            replace(REPOSITORY, reach=replace(REPOSITORY.reach, windows=())), None, NOW, columns=60, letters=ASCII
        )
        == []
    )


def test_a_gap_at_the_end_is_drawn_as_one() -> None:
    now = WINDOW.begin + timedelta(hours=2)
    short = replace(WINDOW, end=WINDOW.begin + timedelta(hours=1), end_lsn=Lsn(3 * SIZE))
    cut = Reach(windows=(short,), gaps=(Gap(first=segment(3), last=segment(3)),), unusable=(), unknown=())
    lines = dict(draw_window(replace(REPOSITORY, reach=cut), None, now, columns=20, letters=UTF8))
    assert lines["window"] == "━" * 10 + "×" * 10
    assert lines[" backups"][0] == "B"
    assert lines[""] == "━ can be restored to, × cannot"
    whole = replace(REPOSITORY, reach=replace(cut, gaps=()))
    assert dict(draw_window(whole, None, now, columns=20, letters=UTF8))["window"] == "━" * 10 + "┄" * 10


def test_letters_are_those_that_the_stream_can_show() -> None:
    assert choose_letters("utf-8") is UTF8
    assert choose_letters("iso-8859-1") is ASCII
    assert choose_letters("ascii") is ASCII
    assert choose_letters(None) is ASCII
