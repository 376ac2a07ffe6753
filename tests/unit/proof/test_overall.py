"""What several repositories bring back between them, and what each of them lacks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.proof.overall import find_overall
from pghaven.proof.states import Lack, Overall, RepositorySilence, RepositoryState
from pghaven.proof.windows import Reach, Window

START = datetime(2026, 11, 23, tzinfo=UTC)
SIZE = 1 << 24
SILENCE = RepositorySilence(name="lost", url="file:///l", reason="gone", hint=None)


def window(begin: int, end: int, timeline: int = 1) -> Window:
    """From one hour to another; each hour fills a segment."""
    return Window(
        timeline=Timeline(timeline),
        begin=START + timedelta(hours=begin),
        begin_lsn=Lsn(begin * SIZE),
        end=START + timedelta(hours=end),
        end_lsn=Lsn(end * SIZE),
        last_segment=SegmentName(timeline=Timeline(timeline), number=end - 1, segment_size=SIZE),
        backups=(),
    )


def repository(name: str, *windows: Window, backups: str = "") -> RepositoryState:
    return RepositoryState(
        name=name,
        url=f"file:///{name}",
        free_bytes=None,
        system_identifier=77,
        backups=(),
        reach=Reach(windows=windows, gaps=(), unusable=(), unknown=()),
        recovery_point=None,
        quarantined=0,
        fenced=None,
        originals=frozenset(backups),
    )


def find(*repositories: RepositoryState | RepositorySilence, timeline: int | None = 1) -> Overall:
    found = find_overall(repositories, None if timeline is None else Timeline(timeline))
    assert found is not None
    return found


def hours(found: Overall) -> tuple[float, float]:
    assert found.end is not None
    return ((found.begin - START) / timedelta(hours=1), (found.end - START) / timedelta(hours=1))


def test_nothing_is_nothing() -> None:
    assert find_overall([SILENCE, repository("a")], Timeline(1)) is None


def test_the_past_of_one_and_the_end_of_the_other_count_where_they_meet() -> None:
    found = find(repository("a", window(5, 9)), SILENCE, repository("b", window(1, 6)))
    assert (hours(found), found.begin_in, found.end_in) == ((1, 9), "b", "a")
    assert found.lacks == (Lack(repository="b", backups=(), wal_bytes=3 * SIZE),)


def test_what_lies_beyond_a_break_does_not_count() -> None:
    found = find(repository("a", window(5, 9)), repository("b", window(1, 4), window(6, 9)))
    assert hours(found) == (5, 9)
    bridged = find(repository("a", window(5, 9)), repository("b", window(1, 4)), repository("c", window(3, 7)))
    assert (hours(bridged), bridged.begin_in) == ((1, 9), "b")


def test_of_equals_the_first_is_named() -> None:
    found = find(repository("a", window(1, 9)), repository("b", window(1, 9)))
    assert (found.begin_in, found.end_in, found.lacks) == ("a", "a", ())


def test_the_servers_timeline_goes_before_one_that_leads_further() -> None:
    states = (repository("a", window(1, 9)), repository("b", window(1, 6, timeline=2)))
    found = find(*states, timeline=2)
    assert (found.timeline, found.end_in) == (2, "b")
    assert found.lacks == (Lack(repository="a", backups=(), wal_bytes=None),)
    assert find(*states, timeline=None).end_in == "a"
    assert find(*states, timeline=3).end_in == "a"


def test_backups_that_another_one_has_are_named() -> None:
    found = find(repository("a", window(1, 9), backups="xy"), repository("b", window(1, 9), backups="yz"))
    assert [(one.repository, one.backups) for one in found.lacks] == [("a", ("z",)), ("b", ("x",))]


def test_another_clusters_life_is_another_matter() -> None:
    stranger = replace(repository("b", window(0, 5), backups="z"), system_identifier=78)
    found = find(repository("a", window(1, 9)), stranger)
    assert (hours(found), found.lacks) == ((1, 9), ())
