"""Timelines and what their history files tell."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, HistoryEntry, Timeline, parse_history

# Written by PostgreSQL 18.6: a comment-free file of a timeline with two ancestors has an empty line between them.
WRITTEN_BY_18 = "1\t0/A00000\tno recovery target specified\n\n2\t0/B000060\tbefore 2026-11-23 06:25:35.147676+01\n"
# Written by PostgreSQL 15.19 and 18.6 when told to follow timeline 2 but to stop before timeline 2 began.
FORK_BEFORE_FORK = '1\t0/900160\tat restore point "it\'s a \\name ü"\n\n2\t0/800100\treached consistency\n'


def test_file_names_are_hexadecimal() -> None:
    assert Timeline(9).hex8 == "00000009"
    assert Timeline(10).hex8 == "0000000A"
    assert Timeline(10).history_name == "0000000A.history"
    assert Timeline(0xFFFFFFFF).history_name == "FFFFFFFF.history"
    assert Timeline.parse_history_name("0000000A.history") == 10
    assert str(Timeline(10)) == "10"
    assert f"timeline {Timeline(10)}" == "timeline 10"


@pytest.mark.parametrize(("text", "value"), [("10", 10), ("0xA", 10), ("0Xa", 10), ("0000000A", 10), ("00000010", 16)])
def test_people_may_write_it_as_number_or_as_in_file_names(text: str, value: int) -> None:
    assert Timeline.parse(text) == value


@pytest.mark.parametrize("text", ["", "0", "latest", "A", "-1", "4294967296", "00000000", "0x", "1 ", "٣"])
def test_text_that_is_no_timeline_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a timeline"):
        Timeline.parse(text)


@pytest.mark.parametrize(
    "name", ["A.history", "0000000a.history", "0000000A.HISTORY", "0000000A", "0000000A.history\n"]
)
def test_name_that_is_no_history_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name"):
        Timeline.parse_history_name(name)


@given(st.integers(min_value=1, max_value=(1 << 32) - 1).map(Timeline))
def test_all_written_forms_read_back(timeline: Timeline) -> None:
    assert Timeline.parse(str(timeline)) == timeline
    assert Timeline.parse(f"0x{timeline:X}") == timeline
    assert Timeline.parse_history_name(timeline.history_name) == timeline
    assert type(pickle.loads(pickle.dumps(timeline))) is Timeline


def test_history_of_a_real_server_is_read() -> None:
    history = parse_history(WRITTEN_BY_18, Timeline(3))
    assert history == History(
        timeline=Timeline(3),
        entries=(
            HistoryEntry(timeline=Timeline(1), switch_lsn=Lsn(0xA00000), reason="no recovery target specified"),
            HistoryEntry(
                timeline=Timeline(2), switch_lsn=Lsn(0xB000060), reason="before 2026-11-23 06:25:35.147676+01"
            ),
        ),
    )


def test_fork_position_belongs_to_the_new_timeline() -> None:
    history = parse_history(WRITTEN_BY_18, Timeline(3))
    assert history.timeline_at(Lsn(0)) == 1
    assert history.timeline_at(Lsn(0xA00000 - 1)) == 1
    assert history.timeline_at(Lsn(0xA00000)) == 2
    assert history.timeline_at(Lsn(0xB000060 - 1)) == 2
    assert history.timeline_at(Lsn(0xB000060)) == 3
    assert history.timeline_at(Lsn((1 << 64) - 1)) == 3
    assert history.contains(Timeline(2), Lsn(0xA00000))
    assert not history.contains(Timeline(1), Lsn(0xA00000))


def test_end_at_the_fork_still_lies_on_the_old_timeline() -> None:
    history = parse_history(WRITTEN_BY_18, Timeline(3))
    assert history.contains_end(Timeline(1), Lsn(0xA00000))
    assert not history.contains_end(Timeline(1), Lsn(0xA00001))
    assert history.contains_end(Timeline(2), Lsn(0xB000060))
    assert not history.contains_end(Timeline(2), Lsn(0xB000061))
    assert not history.contains_end(Timeline(4), Lsn(0xB000061))
    assert not history.contains_end(Timeline(1), Lsn(0))


def test_only_ancestors_were_left() -> None:
    history = parse_history(WRITTEN_BY_18, Timeline(5))
    assert history.fork_of(Timeline(1)) == 0xA00000
    assert history.fork_of(Timeline(2)) == 0xB000060
    assert history.fork_of(Timeline(5)) is None
    assert history.fork_of(Timeline(3)) is None


def test_own_timeline_and_ancestors_are_on_the_path_and_strangers_are_not() -> None:
    history = parse_history(WRITTEN_BY_18, Timeline(5))
    assert [number for number in range(1, 8) if history.includes(Timeline(number))] == [1, 2, 5]


def test_fork_before_an_earlier_fork_takes_back_what_lies_between() -> None:
    history = parse_history(FORK_BEFORE_FORK, Timeline(3))
    assert history.fork_of(Timeline(1)) == 0x800100
    assert history.timeline_at(Lsn(0x800100 - 1)) == 1
    assert history.timeline_at(Lsn(0x800100)) == 3
    assert history.timeline_at(Lsn(0x900160)) == 3
    assert not history.contains_end(Timeline(1), Lsn(0x900000))


def test_first_timeline_owns_everything() -> None:
    history = History.root(Timeline(1))
    assert history.timeline_at(Lsn(0)) == history.timeline_at(Lsn((1 << 64) - 1)) == 1
    assert history.fork_of(Timeline(1)) is None


def test_comments_empty_lines_and_leading_blanks_are_skipped() -> None:
    text = "# a comment\n\n  \t\n  # another\n  1 0/5000000\n2\t0/6000000\t\r\n"
    entries = parse_history(text, Timeline(0xA)).entries
    assert [(entry.timeline, entry.switch_lsn, entry.reason) for entry in entries] == [
        (1, 0x5000000, ""),
        (2, 0x6000000, ""),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("one\t0/5000000\tx\n", "line 1: expected a timeline"),
        ("1\t0x5000000\tx\n", "line 1: expected a timeline"),
        ("1\n", "line 1: expected a timeline"),
        ("1\t0/50000000000\tx\n", "line 1: expected a timeline"),
        ("0\t0/5000000\tx\n", "line 1: 0 is not a timeline"),
        ("4294967296\t0/5000000\tx\n", "is not a timeline"),
        ("2\t0/5000000\tx\n2\t0/6000000\tx\n", "line 2: timeline 2 comes after timeline 2"),
        ("3\t0/5000000\tx\n2\t0/6000000\tx\n", "identifiers must increase"),
        ("1\t0/5000000\tx\n10\t0/6000000\tx\n", "timeline 10 cannot be an ancestor of timeline 10"),
        ("11\t0/6000000\tx\n", "must be less than the child's"),
    ],
)
def test_damaged_history_is_refused_with_its_name_and_reason(text: str, reason: str) -> None:
    with pytest.raises(Damaged, match=reason) as caught:
        parse_history(text, Timeline(10))
    assert '"0000000A.history"' in caught.value.message


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Any row of ancestors, with forks in any order, as files may hold them."""
    count = draw(st.integers(min_value=0, max_value=6))
    numbers = sorted(draw(st.sets(st.integers(1, 1000), min_size=count + 1, max_size=count + 1)))
    forks = draw(st.lists(st.integers(0, 50), min_size=count, max_size=count))
    entries = tuple(
        HistoryEntry(timeline=Timeline(number), switch_lsn=Lsn(fork), reason="")
        for number, fork in zip(numbers, forks, strict=False)
    )
    return History(timeline=Timeline(numbers[-1]), entries=entries)


def point_in_history(history: History, lsn: int) -> int:
    """tliOfPointInHistory, word for word: newest first, each from its begin (the fork before it) to its own fork."""
    begin = 0
    spans: list[tuple[int, int, int | None]] = []
    for entry in history.entries:
        spans.append((entry.timeline, begin, entry.switch_lsn))
        begin = entry.switch_lsn
    spans.append((history.timeline, begin, None))
    for timeline, start, end in reversed(spans):
        if (start == 0 or start <= lsn) and (end is None or end == 0 or lsn < end):
            return timeline
    raise AssertionError("timeline history was not contiguous")


@given(histories(), st.integers(0, 60))
def test_owner_of_a_position_is_the_one_postgresql_names(history: History, lsn: int) -> None:
    if any(entry.switch_lsn == 0 for entry in history.entries):
        return  # 0/0 means "open" to PostgreSQL; no server forks there
    assert history.timeline_at(Lsn(lsn)) == point_in_history(history, lsn)


@given(histories(), st.integers(0, 60))
def test_what_lies_before_the_fork_of_its_timeline_is_all_that_is_kept_of_it(history: History, lsn: int) -> None:
    owner = history.timeline_at(Lsn(lsn))
    fork = history.fork_of(owner)
    assert fork is None or lsn < fork


def way(history: History, start: str, end: str) -> list[tuple[int, str, str]]:
    legs = history.legs(Lsn.parse(start), Lsn.parse(end))
    return [(int(leg.timeline), str(leg.start_lsn), str(leg.end_lsn)) for leg in legs]


def test_way_on_one_timeline_has_one_leg() -> None:
    assert way(History.root(Timeline(1)), "0/100", "0/200") == [(1, "0/100", "0/200")]


def test_way_over_switches_has_a_leg_for_each_timeline_it_comes_through() -> None:
    history = parse_history("1\t0/400\tx\n2\t0/480\tx\n", Timeline(3))
    assert way(history, "0/100", "0/500") == [(1, "0/100", "0/400"), (2, "0/400", "0/480"), (3, "0/480", "0/500")]
    assert way(history, "0/400", "0/480") == [(2, "0/400", "0/480")]
    assert way(history, "0/100", "0/401") == [(1, "0/100", "0/400"), (2, "0/400", "0/401")]
    assert way(history, "0/480", "0/481") == [(3, "0/480", "0/481")]


def test_way_does_not_enter_a_timeline_that_was_left_before_it_began() -> None:
    history = parse_history("1\t0/400\tx\n2\t0/300\tx\n", Timeline(3))
    assert way(history, "0/100", "0/500") == [(1, "0/100", "0/300"), (3, "0/300", "0/500")]


def test_there_is_no_way_back() -> None:
    history = History.root(Timeline(1))
    assert way(history, "0/100", "0/100") == []
    with pytest.raises(ValueError, match="no way from 0/101 back to 0/100"):
        history.legs(Lsn(0x101), Lsn(0x100))
