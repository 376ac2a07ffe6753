"""Which summaries belong to a way through the WAL, and when they are not to be relied on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, HistoryLeg, Timeline, parse_history
from pghaven.postgres.version import require_supported
from pghaven.server.summaries import (
    FAULTY_MINORS,
    SummariesUnusable,
    WalSummary,
    choose_summaries,
    find_summaries_obstacle,
)
from tests.support.serverfacts import FACTS


def obstacle(**changes: Any) -> str:
    found = find_summaries_obstacle(replace(FACTS, **changes))
    return found.reason if found else ""


def test_server_that_summarizes_has_no_obstacle() -> None:
    assert not obstacle()
    assert not obstacle(version_num=180000, version="18.0", major=require_supported(180000))


def test_servers_without_summaries_say_why() -> None:
    assert obstacle(version="16.15", major=require_supported(160015)) == "PostgreSQL 16 has no WAL summaries"
    assert obstacle(settings={"summarize_wal": "off"}) == "summarize_wal is off"


@pytest.mark.parametrize("version", FAULTY_MINORS)
def test_versions_with_known_faults_are_not_relied_on(version: str) -> None:
    assert "are faulty" in obstacle(version=version, version_num=170000)
    assert "are faulty" in obstacle(version=f"{version} (Debian {version}-1)", version_num=170000)


def summary(text: str) -> WalSummary:
    timeline, start, end = text.split()
    return WalSummary(timeline=Timeline(int(timeline)), start_lsn=Lsn.parse(start), end_lsn=Lsn.parse(end))


def choose(available: list[str], legs: tuple[HistoryLeg, ...]) -> list[str] | str:
    chosen = choose_summaries([summary(one) for one in available], legs)
    if isinstance(chosen, SummariesUnusable):
        assert chosen.hint
        return chosen.reason
    return [f"{one.timeline} {one.start_lsn} {one.end_lsn}" for one in chosen]


ON_1 = History.root(Timeline(1)).legs(Lsn(0x100), Lsn(0x300))
# Timeline 1 was left at 0/200.
ON_2 = parse_history("1\t0/200\tx\n", Timeline(2)).legs(Lsn(0x100), Lsn(0x300))


def test_summaries_that_only_touch_the_way_are_left_out() -> None:
    available = ["1 0/50 0/100", "1 0/200 0/300", "1 0/100 0/200", "1 0/300 0/400", "2 0/100 0/300"]
    assert choose(available, ON_1) == ["1 0/100 0/200", "1 0/200 0/300"]


def test_summaries_that_reach_over_either_end_are_taken() -> None:
    assert choose(["1 0/80 0/180", "1 0/180 0/400"], ON_1) == ["1 0/80 0/180", "1 0/180 0/400"]


def test_old_timelines_summary_that_begins_where_it_was_left_is_another_future() -> None:
    available = ["1 0/100 0/200", "1 0/200 0/280", "2 0/200 0/300"]
    assert choose(available, ON_2) == ["1 0/100 0/200", "2 0/200 0/300"]


def test_old_timelines_summary_that_reaches_beyond_its_end_covers_the_rest_of_it() -> None:
    """A standby summarizes what it receives, which can be more than it replays before it is promoted."""
    available = ["1 0/100 0/180", "1 0/180 0/280", "2 0/200 0/300"]
    assert choose(available, ON_2) == ["1 0/100 0/180", "1 0/180 0/280", "2 0/200 0/300"]


@pytest.mark.parametrize(
    ("available", "gap"),
    [
        ([], "1 from 0/100 to 0/200"),
        (["2 0/200 0/300"], "1 from 0/100 to 0/200"),
        (["1 0/100 0/180", "2 0/200 0/300"], "1 from 0/180 to 0/200"),
        (["1 0/120 0/200", "2 0/200 0/300"], "1 from 0/100 to 0/120"),
        (["1 0/100 0/140", "1 0/160 0/200", "2 0/200 0/300"], "1 from 0/140 to 0/160"),
        (["1 0/100 0/200"], "2 from 0/200 to 0/300"),
        (["1 0/100 0/300"], "2 from 0/200 to 0/300"),
        (["1 0/100 0/200", "2 0/210 0/300"], "2 from 0/200 to 0/210"),
        (["1 0/100 0/200", "2 0/200 0/2F0"], "2 from 0/2F0 to 0/300"),
    ],
)
def test_any_gap_is_told_and_nothing_is_chosen(available: list[str], gap: str) -> None:
    assert choose(available, ON_2) == f"WAL of timeline {gap} is not summarized"


def test_overlapping_summaries_leave_no_gap() -> None:
    available = ["1 0/100 0/250", "1 0/120 0/180", "1 0/220 0/300"]
    assert choose(available, ON_1) == available


def test_no_way_needs_no_summaries() -> None:
    assert choose([], ()) == []
