"""What a restore plan says of each file that recovery asks for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.place import RepositoryPlace
from pghaven.store.settings import StoreSettings
from pghaven.wal.plan import FollowedPlan, Verdict, parse_plan

SIZE = 1 << 20


def seg(number: int, timeline: int = 1) -> SegmentName:
    return SegmentName(timeline=Timeline(timeline), number=number, segment_size=SIZE)


def at(segments: float) -> Lsn:
    return Lsn(round(segments * SIZE))


def plan(end: float, *path: tuple[int, float, float | None]) -> FollowedPlan:
    body = {
        "format": 1,
        "system_identifier": "7",
        "timeline_path": [
            [timeline, str(at(begin)), None if until is None else str(at(until))] for timeline, begin, until in path
        ],
        "expected_end_lsn": str(at(end)),
    }
    return parse_plan(json.dumps(body), "plan.json")


ONE = plan(5.5, (1, 0, None))
TWO = plan(8.5, (1, 0, 4.5), (2, 4.5, None))


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        (seg(0), Verdict.NEEDED),
        (seg(5), Verdict.NEEDED),
        (seg(6), Verdict.WELCOME),
        (seg(5, 2), Verdict.ELSEWHERE),
    ],
)
def test_on_one_timeline_everything_before_the_end_is_needed(name: SegmentName, verdict: Verdict) -> None:
    assert ONE.judge(name) is verdict


def test_the_segment_that_begins_at_the_end_is_not_needed() -> None:
    assert plan(5, (1, 0, None)).judge(seg(4)) is Verdict.NEEDED
    assert plan(5, (1, 0, None)).judge(seg(5)) is Verdict.WELCOME


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        (seg(3), Verdict.NEEDED),
        (seg(3, 2), Verdict.ELSEWHERE),  # timeline 2 had not begun
        (seg(4, 2), Verdict.NEEDED),  # it holds the fork and what follows
        (seg(4), Verdict.PASSED_OVER),
        (seg(5), Verdict.ELSEWHERE),  # left behind
        (seg(5, 2), Verdict.NEEDED),
        (seg(8, 2), Verdict.NEEDED),
        (seg(9, 2), Verdict.WELCOME),
        (seg(9), Verdict.ELSEWHERE),
        (seg(5, 3), Verdict.ELSEWHERE),
    ],
)
def test_a_fork_hands_over_to_the_new_timeline(name: SegmentName, verdict: Verdict) -> None:
    assert TWO.judge(name) is verdict


def test_when_the_plan_ends_at_the_fork_the_new_timeline_s_file_may_be_absent() -> None:
    ends_there = plan(4.5, (1, 0, 4.5), (2, 4.5, None))
    assert ends_there.judge(seg(4, 2)) is Verdict.WELCOME
    assert ends_there.judge(seg(4)) is Verdict.NEEDED
    assert ends_there.find_cut(seg(4)) == at(4.5)


def test_one_byte_after_the_fork_needs_the_new_timeline_s_file() -> None:
    just_after = plan(4.5 + 1 / SIZE, (1, 0, 4.5), (2, 4.5, None))
    assert just_after.judge(seg(4, 2)) is Verdict.NEEDED
    assert just_after.judge(seg(4)) is Verdict.PASSED_OVER


def test_several_forks_in_one_segment_need_the_last_file_only() -> None:
    path = ((1, 0, 4.25), (2, 4.25, 4.5), (3, 4.5, None))
    assert [plan(6, *path).judge(seg(4, t)) for t in (3, 2, 1)] == [
        Verdict.NEEDED,
        Verdict.PASSED_OVER,
        Verdict.PASSED_OVER,
    ]
    assert [plan(4.4, *path).judge(seg(4, t)) for t in (3, 2, 1)] == [
        Verdict.WELCOME,
        Verdict.NEEDED,
        Verdict.PASSED_OVER,
    ]


def test_only_a_file_that_goes_on_past_its_timeline_s_fork_is_cut() -> None:
    assert TWO.find_cut(seg(3)) is None
    assert TWO.find_cut(seg(4)) == at(4.5)
    assert TWO.find_cut(seg(4, 2)) is None
    assert plan(9, (1, 0, 4), (2, 4, None)).find_cut(seg(3)) is None


def test_a_timeline_that_was_left_before_it_began_has_no_part() -> None:
    odd = plan(8, (1, 0, 9), (2, 9, 5), (3, 5, None))
    assert odd.judge(seg(4)) is Verdict.NEEDED
    assert odd.judge(seg(5, 3)) is Verdict.NEEDED
    assert odd.judge(seg(9, 2)) is Verdict.ELSEWHERE
    assert odd.judge(seg(6)) is Verdict.ELSEWHERE


def test_only_the_last_timeline_s_history_is_needed_and_the_first_has_none() -> None:
    assert TWO.needs_history(Timeline(2))
    assert not TWO.needs_history(Timeline(3))
    assert not ONE.needs_history(Timeline(1))


@given(st.lists(st.floats(0, 8), max_size=3), st.floats(0.1, 12), st.integers(0, 12))
def test_asking_from_the_newest_timeline_down_leads_to_exactly_one_needed_file(
    forks: list[float], end: float, number: int
) -> None:
    """XLogFileReadAnyTLI: the newest first, older ones while "absent" is the answer."""
    borders = sorted(forks)
    path = [
        (t + 1, borders[t - 1] if t else 0.0, borders[t] if t < len(borders) else None) for t in range(len(borders) + 1)
    ]
    followed = plan(end, *path)
    verdicts = [followed.judge(seg(number, timeline)) for timeline, _, _ in reversed(path)]
    meaningful = [verdict for verdict in verdicts if verdict is not Verdict.ELSEWHERE]
    if number * SIZE < followed.expected_end_lsn:
        assert meaningful.count(Verdict.NEEDED) == 1
        before = meaningful[: meaningful.index(Verdict.NEEDED)]
        after = meaningful[meaningful.index(Verdict.NEEDED) + 1 :]
        assert set(before) <= {Verdict.WELCOME}
        assert set(after) <= {Verdict.PASSED_OVER}
    else:
        assert set(meaningful) == {Verdict.WELCOME}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"format": 1}',
        '{"format": 2, "timeline_path": [[1, "0/0", null]], "expected_end_lsn": "0/1"}',
        '{"format": 1, "timeline_path": [], "expected_end_lsn": "0/1"}',
        '{"format": 1, "timeline_path": [[1, "0/0"]], "expected_end_lsn": "0/1"}',
        '{"format": 1, "timeline_path": [[0, "0/0", null]], "expected_end_lsn": "0/1"}',
        '{"format": 1, "timeline_path": [[1, "x", null]], "expected_end_lsn": "0/1"}',
        '{"format": 1, "timeline_path": [[1, "0/0", null]], "expected_end_lsn": null}',
    ],
)
def test_a_plan_that_cannot_be_followed_is_damage(text: str) -> None:
    with pytest.raises(Damaged, match=r'restore plan "plan.json" cannot be followed'):
        parse_plan(text, "plan.json")


@pytest.mark.parametrize(
    ("planned", "asked"),
    [((), ("near", "far")), (("far",), ("far",)), (("far", "near"), ("far", "near")), (("renamed",), ("near", "far"))],
)
def test_only_repositories_that_the_plan_was_made_with_are_asked_and_in_its_order(
    planned: tuple[str, ...], asked: tuple[str, ...]
) -> None:
    places = [RepositoryPlace(name=name, store=StoreSettings(url=f"file:///{name}")) for name in ("near", "far")]
    followed = replace(plan(3, (1, 0, None)), repositories=planned)
    assert tuple(one.name for one in followed.choose_places(places)) == asked
