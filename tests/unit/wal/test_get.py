"""Fetched, proven absent, or an error: what recovery is answered, with a plan, without one, and as a standby."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Cancelled, Damaged, NotPermitted, PghavenError, Refused, StoreUnreachable, UsageError
from pghaven.events import Event, Notice
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.repository.partials import Piece, put_piece
from pghaven.repository.place import RepositoryPlace
from pghaven.store.settings import StoreSettings
from pghaven.wal.get import GetOutcome, GetRequest, get_file
from pghaven.wal.plan import FollowedPlan, parse_plan
from tests.support.walfile import (
    CLUSTER,
    SEGMENT_SIZE,
    SYSTEM_IDENTIFIER,
    WalSite,
    make_lineage,
    make_segment,
    render_history,
    segment_name,
)

TARGET = "pg_wal/RECOVERYXLOG"
OFFSET = 4096
FORK = Lsn(5 * SEGMENT_SIZE + OFFSET)


def store(site: WalSite, *names: SegmentName) -> None:
    for name in names:
        site.archive.put(str(name), make_segment(name), {})


def store_history(site: WalSite, timeline: int, *forks: tuple[int, Lsn]) -> None:
    site.archive.put(f"{timeline:08X}.history", render_history(*forks), {})


def make_request(site: WalSite, name: object, *more: Path, **changes: object) -> GetRequest:
    paths = (site.repository_path, *more)
    fields: dict[str, object] = {
        "cluster": CLUSTER,
        "repositories": tuple(
            RepositoryPlace(name=f"r{n}", store=StoreSettings(url=path.as_uri())) for n, path in enumerate(paths)
        ),
        "file_name": str(name),
        "target_path": TARGET,
        "system_identifier": SYSTEM_IDENTIFIER,
        **changes,
    }
    return GetRequest(**fields)  # type: ignore[arg-type]


def get(site: WalSite, name: object, *more: Path, **changes: object) -> GetOutcome:
    return get_file(make_request(site, name, *more, **changes))


def plan(end: int, *path: tuple[int, int, int | None]) -> FollowedPlan:
    legs = [[t, str(Lsn(begin)), None if until is None else str(Lsn(until))] for t, begin, until in path]
    return parse_plan(json.dumps({"format": 1, "timeline_path": legs, "expected_end_lsn": str(Lsn(end))}), "the.plan")


def damage(path: Path, content: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(content)


# -- what is put in place ----------------------------------------------------------------------------------------------


def test_a_segment_is_fetched_whole_and_replaces_what_was_there(site: WalSite) -> None:
    store(site, segment_name(3))
    site.write("RECOVERYXLOG", b"old")
    assert get(site, segment_name(3)) is GetOutcome.FETCHED
    assert site.fetched == make_segment(segment_name(3))
    assert os.listdir("pg_wal") == ["RECOVERYXLOG"]
    assert os.stat(TARGET).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["00000002.history", "000000010000000000000003.00000028.backup", "odd.name"])
def test_other_files_are_fetched_as_they_are(site: WalSite, name: str) -> None:
    content = render_history((1, FORK))
    site.archive.put(name, content, {})
    assert get(site, name) is GetOutcome.FETCHED
    assert site.fetched == content


def test_nothing_is_left_behind_when_the_target_cannot_be_written(site: WalSite) -> None:
    store(site, segment_name(3))
    os.mkdir(TARGET)
    with pytest.raises(StoreUnreachable, match="could not write"):
        get(site, segment_name(3))
    assert os.listdir("pg_wal") == ["RECOVERYXLOG"]


def test_a_target_directory_that_is_not_there_is_no_absence(site: WalSite) -> None:
    store(site, segment_name(3))
    with pytest.raises(StoreUnreachable, match="could not write"):
        get(site, segment_name(3), target_path="nowhere/RECOVERYXLOG")


def test_what_a_killed_call_left_is_removed_after_a_while_and_not_before(site: WalSite) -> None:
    store(site, segment_name(3))
    clock = ManualClock()
    now = clock.now().timestamp()
    for name, age in (("old", 4000), ("young", 1000)):
        os.utime(site.write(f".pghaven-RECOVERYXLOG-{name}", b"x"), (now - age, now - age))
    get(site, segment_name(3), clock=clock)
    assert sorted(os.listdir("pg_wal")) == [".pghaven-RECOVERYXLOG-young", "RECOVERYXLOG"]


def test_a_file_that_nobody_waits_for_any_more_is_not_put_in_place(site: WalSite) -> None:
    store(site, segment_name(3))
    with pytest.raises(Cancelled, match="no longer wanted"):
        get(site, segment_name(3), still_wanted=lambda: False)
    assert os.listdir("pg_wal") == []


# -- absence -----------------------------------------------------------------------------------------------------------


def test_the_end_of_the_archive_is_absence(site: WalSite) -> None:
    store(site, segment_name(3))
    assert get(site, segment_name(4)) is GetOutcome.ABSENT
    assert get(site, "00000002.history") is GetOutcome.ABSENT
    assert not os.path.exists(TARGET)


def test_without_a_plan_a_gap_is_no_absence(site: WalSite) -> None:
    store(site, segment_name(3), segment_name(9))
    with pytest.raises(Damaged, match=r'is missing from the archive, which goes on with "000000010000000000000009"'):
        get(site, segment_name(4))


def test_a_later_segment_of_another_timeline_makes_no_gap(site: WalSite) -> None:
    store(site, segment_name(3), segment_name(9, timeline=2))
    assert get(site, segment_name(4)) is GetOutcome.ABSENT


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x" * 65])
def test_a_name_that_cannot_be_asked_for_is_wrong_usage(site: WalSite, name: str) -> None:
    with pytest.raises(UsageError):
        get(site, name)


def test_a_name_of_another_segment_size_is_wrong_usage(site: WalSite) -> None:
    with pytest.raises(UsageError, match="1048576 bytes"):
        get(site, "0000000100000000FFFFFFFF")


# -- what is no absence ------------------------------------------------------------------------------------------------


def test_a_repository_that_is_not_there_is_no_absence(site: WalSite) -> None:
    site.repository_path.rename(site.root / "away")
    with pytest.raises(StoreUnreachable):
        get(site, segment_name(3))


def test_an_empty_directory_in_its_place_is_no_absence(site: WalSite) -> None:
    site.repository_path.rename(site.root / "away")
    site.repository_path.mkdir()
    with pytest.raises(PghavenError, match="there is no repository"):
        get(site, segment_name(3))


def test_an_unknown_cluster_is_no_absence(site: WalSite) -> None:
    with pytest.raises(PghavenError, match="not registered"):
        get(site, segment_name(3), cluster="other")
    with pytest.raises(Refused, match="is not known"):
        get(site, segment_name(3), system_identifier=5)


def test_without_an_identifier_a_name_with_two_lives_is_no_absence(site: WalSite) -> None:
    assert get(site, segment_name(3), system_identifier=None) is GetOutcome.ABSENT
    site.repository.register_lineage(CLUSTER, make_lineage(system_identifier=5), new_lineage=True)
    with pytest.raises(UsageError, match="several clusters"):
        get(site, segment_name(3), system_identifier=None)


@pytest.mark.parametrize("at", [0, 100, 5000, 8000, -200, -50, -1])
def test_a_flipped_bit_anywhere_is_damage(site: WalSite, at: int) -> None:
    store(site, segment_name(3))
    path = site.object_path(segment_name(3))
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    damage(path, bytes(content))
    with pytest.raises(Damaged):
        get(site, segment_name(3))
    assert os.listdir("pg_wal") == []


@pytest.mark.parametrize("keep", [0, 1, 1000, -1, -100])
def test_a_truncated_object_is_damage(site: WalSite, keep: int) -> None:
    store(site, segment_name(3))
    path = site.object_path(segment_name(3))
    damage(path, path.read_bytes()[:keep])
    with pytest.raises(Damaged):
        get(site, segment_name(3))


def test_an_object_under_another_s_name_is_damage(site: WalSite) -> None:
    store(site, segment_name(3), segment_name(4))
    damage(site.object_path(segment_name(3)), site.object_path(segment_name(4)).read_bytes())
    with pytest.raises(Damaged):
        get(site, segment_name(3))


def test_a_file_that_entered_the_archive_wrong_is_damage(site: WalSite) -> None:
    site.archive.put(str(segment_name(3)), make_segment(segment_name(4)), {})
    site.archive.put(str(segment_name(5)), make_segment(segment_name(5))[:-8192], {})
    for number in (3, 5):
        with pytest.raises(Damaged):
            get(site, segment_name(number))


# -- several repositories ----------------------------------------------------------------------------------------------


def test_a_second_repository_helps_and_the_first_one_s_failure_is_told(site: WalSite, tmp_path: Path) -> None:
    second = tmp_path / "second"
    site.register(second)
    site.archive_in(second).put(str(segment_name(3)), make_segment(segment_name(3)), {})
    events: list[Event] = []
    request = make_request(site, segment_name(3), second)
    assert get_file(request, events.append) is GetOutcome.FETCHED
    assert not events
    store(site, segment_name(3))
    damage(site.object_path(segment_name(3)), b"x")
    assert get_file(request, events.append) is GetOutcome.FETCHED
    assert site.fetched == make_segment(segment_name(3))
    (notice,) = events
    assert isinstance(notice, Notice)
    assert 'from repository "r0"' in notice.text


def test_absence_needs_the_word_of_every_repository(site: WalSite, tmp_path: Path) -> None:
    second = tmp_path / "second"
    site.register(second)
    assert get(site, segment_name(3), second) is GetOutcome.ABSENT
    with pytest.raises(StoreUnreachable, match=r'1 of 3 repositories failed.*repository "r2"'):
        get(site, segment_name(3), second, tmp_path / "gone")


# -- with a plan -------------------------------------------------------------------------------------------------------


def test_before_the_planned_end_absence_is_damage_and_names_segment_and_plan(site: WalSite) -> None:
    followed = plan(5 * SEGMENT_SIZE, (1, 0, None))
    with pytest.raises(Damaged, match=r'"000000010000000000000004" is missing.*restore plan "the.plan"'):
        get(site, segment_name(4), plan=followed)
    assert get(site, segment_name(5), plan=followed) is GetOutcome.ABSENT


def test_what_the_plan_needs_may_come_from_any_repository(site: WalSite, tmp_path: Path) -> None:
    second = tmp_path / "second"
    site.register(second)
    site.archive_in(second).put(str(segment_name(4)), make_segment(segment_name(4)), {})
    followed = plan(5 * SEGMENT_SIZE, (1, 0, None))
    assert get(site, segment_name(4), second, plan=followed) is GetOutcome.FETCHED


def test_a_timeline_that_is_not_planned_is_absent_whatever_the_archive_holds(site: WalSite) -> None:
    store(site, segment_name(4), segment_name(4, timeline=2))
    followed = plan(9 * SEGMENT_SIZE, (1, 0, None))
    assert get(site, segment_name(4, timeline=2), plan=followed) is GetOutcome.ABSENT
    assert get(site, segment_name(4), plan=followed) is GetOutcome.FETCHED


def test_what_the_path_left_behind_is_absent(site: WalSite) -> None:
    store(site, segment_name(6))
    followed = plan(9 * SEGMENT_SIZE, (1, 0, FORK), (2, FORK, None))
    assert get(site, segment_name(6), plan=followed) is GetOutcome.ABSENT


def test_an_ancestor_s_segment_that_holds_the_fork_is_served_up_to_it(site: WalSite) -> None:
    store(site, segment_name(5))
    followed = plan(FORK, (1, 0, FORK), (2, FORK, None))
    assert get(site, segment_name(5, timeline=2), plan=followed) is GetOutcome.ABSENT
    assert get(site, segment_name(5), plan=followed) is GetOutcome.FETCHED
    whole = make_segment(segment_name(5))
    assert site.fetched == whole[:OFFSET] + bytes(SEGMENT_SIZE - OFFSET)


def test_an_ancestor_s_segment_never_stands_in_for_one_that_is_needed(site: WalSite) -> None:
    store(site, segment_name(5))
    followed = plan(FORK + 1, (1, 0, FORK), (2, FORK, None))
    with pytest.raises(Damaged, match="is missing"):
        get(site, segment_name(5, timeline=2), plan=followed)
    with pytest.raises(Refused, match="a later timeline took over"):
        get(site, segment_name(5), plan=followed)


def test_later_history_files_are_served_so_that_no_timeline_is_used_twice(site: WalSite) -> None:
    store_history(site, 2, (1, FORK))
    followed = plan(FORK, (1, 0, None))
    assert get(site, "00000002.history", plan=followed) is GetOutcome.FETCHED
    assert get(site, "00000003.history", plan=followed) is GetOutcome.ABSENT


def test_the_planned_history_file_cannot_be_absent(site: WalSite) -> None:
    with pytest.raises(Damaged, match="history file of timeline 2"):
        get(site, "00000002.history", plan=plan(FORK, (1, 0, FORK), (2, FORK, None)))


# -- the end in the midst of a segment ---------------------------------------------------------------------------------


def keep_part(site: WalSite, name: SegmentName, end: int, repository: Path | None = None) -> bytes:
    """Store what a receiver has of a segment; what is to be served of it."""
    archive = site.archive_in(repository or site.repository_path)
    put_piece(archive, Piece(segment=name, receiver="0" * 8, begin=0, end=end), make_segment(name)[:end], {})
    return make_segment(name)[:end] + bytes(SEGMENT_SIZE - end)


def test_a_partial_that_a_plan_ends_in_is_served_and_one_that_is_too_short_is_not(site: WalSite) -> None:
    served = keep_part(site, segment_name(4), OFFSET)
    assert get(site, segment_name(4), plan=plan(4 * SEGMENT_SIZE + OFFSET, (1, 0, None))) is GetOutcome.FETCHED
    assert site.fetched == served
    for end in (4 * SEGMENT_SIZE + OFFSET + 1, 6 * SEGMENT_SIZE):
        with pytest.raises(Damaged, match="is missing"):
            get(site, segment_name(4), plan=plan(end, (1, 0, None)))
    # The rest of a record that begins before the plan's end.
    assert get(site, segment_name(4), plan=plan(4 * SEGMENT_SIZE, (1, 0, None))) is GetOutcome.FETCHED


def test_the_segment_itself_goes_before_its_partial(site: WalSite) -> None:
    keep_part(site, segment_name(4), OFFSET)
    store(site, segment_name(4))
    assert get(site, segment_name(4), plan=plan(4 * SEGMENT_SIZE + OFFSET, (1, 0, None))) is GetOutcome.FETCHED
    assert site.fetched == make_segment(segment_name(4))


def test_without_a_plan_the_partial_that_reaches_furthest_is_the_end(site: WalSite, tmp_path: Path) -> None:
    second = tmp_path / "second"
    site.register(second)
    store(site, segment_name(3))
    keep_part(site, segment_name(4), OFFSET)
    served = keep_part(site, segment_name(4), 2 * OFFSET, second)
    assert get(site, segment_name(4), second) is GetOutcome.FETCHED
    assert site.fetched == served
    site.archive_in(second).put(str(segment_name(4)), make_segment(segment_name(4)), {})
    assert get(site, segment_name(4), second) is GetOutcome.FETCHED
    assert site.fetched == make_segment(segment_name(4))


def test_a_partial_in_the_midst_is_no_end_and_a_later_one_makes_a_gap(site: WalSite) -> None:
    keep_part(site, segment_name(4), OFFSET)
    with pytest.raises(Damaged, match=r'goes on with part of "000000010000000000000004"'):
        get(site, segment_name(3))
    store(site, segment_name(5))
    with pytest.raises(Damaged, match=r'goes on with "000000010000000000000005"'):
        get(site, segment_name(4))


def test_a_partial_is_served_up_to_where_its_timeline_was_left(site: WalSite) -> None:
    keep_part(site, segment_name(5), 2 * OFFSET)
    store_history(site, 2, (1, FORK))
    assert get(site, segment_name(5)) is GetOutcome.FETCHED
    assert site.fetched == make_segment(segment_name(5))[:OFFSET] + bytes(SEGMENT_SIZE - OFFSET)
    keep_part(site, segment_name(6), OFFSET)
    assert get(site, segment_name(6)) is GetOutcome.ABSENT


def test_a_standby_is_given_no_partial(site: WalSite) -> None:
    keep_part(site, segment_name(4), OFFSET)
    assert get(site, segment_name(4), standby=True) is GetOutcome.ABSENT


# -- as a standby ------------------------------------------------------------------------------------------------------


def test_a_standby_goes_on_when_the_store_cannot_be_reached(site: WalSite) -> None:
    site.repository_path.rename(site.root / "away")
    events: list[Event] = []
    request = make_request(site, segment_name(3), standby=True)
    assert get_file(request, events.append) is GetOutcome.ABSENT
    (notice,) = events
    assert isinstance(notice, Notice)
    assert "could not fetch" in notice.text


def test_a_standby_is_not_held_to_a_plan_or_to_gaps(site: WalSite) -> None:
    store(site, segment_name(9))
    followed = plan(20 * SEGMENT_SIZE, (1, 0, None))
    assert get(site, segment_name(4), plan=followed, standby=True) is GetOutcome.ABSENT
    assert get(site, segment_name(9), plan=followed, standby=True) is GetOutcome.FETCHED


def test_a_standby_is_stopped_by_damage(site: WalSite) -> None:
    store(site, segment_name(3))
    damage(site.object_path(segment_name(3)), b"x")
    with pytest.raises(Damaged):
        get(site, segment_name(3), standby=True)


def test_a_standby_gets_nothing_past_the_fork_of_the_current_timeline(site: WalSite) -> None:
    store(site, segment_name(4), segment_name(5), segment_name(6), segment_name(5, timeline=2))
    assert get(site, segment_name(6), standby=True) is GetOutcome.FETCHED
    store_history(site, 2, (1, FORK))
    assert get(site, segment_name(4), standby=True) is GetOutcome.FETCHED
    assert get(site, segment_name(5), standby=True) is GetOutcome.ABSENT
    assert get(site, segment_name(6), standby=True) is GetOutcome.ABSENT
    assert get(site, segment_name(5, timeline=2), standby=True) is GetOutcome.FETCHED


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_no_absence(site: WalSite) -> None:
    store(site, segment_name(3))
    site.object_path(segment_name(3)).chmod(0)
    with pytest.raises(NotPermitted):
        get(site, segment_name(3), standby=True)
