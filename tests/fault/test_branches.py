"""Two servers were promoted apart and took one number: each repository holds another branch of timeline 2.

Nothing may bring the two together, for then a restore would replay a mixture of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pghaven.errors import ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository.branches import find_apart
from pghaven.repository.joined import JoinedArchive
from pghaven.repository.walstore import WalArchive
from pghaven.transfer.walfiles import WalWish, list_missing
from pghaven.wal.behind import BehindNotes
from pghaven.wal.commands import ABSENT_STATUS
from tests.support.walfile import (
    CLUSTER,
    SEGMENT_SIZE,
    WalSite,
    make_lineage,
    make_segment,
    render_history,
    segment_name,
)


@pytest.fixture
def site(tmp_path: Path) -> WalSite:
    """One branch in the first repository, which timeline 3 descends from; the other one in the second."""
    made = WalSite(tmp_path)
    made.register(second_path(made))
    made.configure(second_path(made))
    ours, theirs = archives(made)
    ours.put("00000002.history", render_history(fork(5)), {})
    ours.put("00000003.history", render_history(fork(5), (2, Lsn(8 * SEGMENT_SIZE))), {})
    theirs.put("00000002.history", render_history(fork(4)), {})
    for archive, timeline, numbers in (
        (ours, 1, (3, 4, 5)),
        (theirs, 1, (3, 4)),
        (ours, 2, (5, 6, 7)),
        (ours, 3, (8,)),
        (theirs, 2, (4, 5)),
    ):
        for number in numbers:
            name = segment_name(number, timeline)
            archive.put(str(name), make_segment(name, seed=0 if timeline == 1 or archive is ours else 1), {})
    return made


def fork(number: int) -> tuple[int, Lsn]:
    """Timeline 1 was left inside this segment."""
    return 1, Lsn(number * SEGMENT_SIZE + 96)


def second_path(site: WalSite) -> Path:
    return site.root / "second"


def archives(site: WalSite) -> tuple[WalArchive, WalArchive]:
    return site.archive, site.archive_in(second_path(site))


def numbers_of(archive: WalArchive, timeline: int) -> list[int]:
    return [one.name.number for one in archive.list_segments(Timeline(timeline))]


def test_a_timeline_is_apart_where_its_history_differs_and_so_is_what_descends_from_it(site: WalSite) -> None:
    ours, theirs = archives(site)
    assert find_apart(ours, theirs) == find_apart(theirs, ours) == {2, 3}
    assert find_apart(ours, ours) == frozenset()


def test_a_history_that_only_one_has_tells_no_branches_apart(site: WalSite, tmp_path: Path) -> None:
    site.register(tmp_path / "third")
    third = site.archive_in(tmp_path / "third")
    name = segment_name(5, 2)
    third.put(str(name), make_segment(name), {})
    assert find_apart(site.archive, third) == frozenset()


def test_refill_leaves_each_its_branch_and_says_so(site: WalSite) -> None:
    ended = site.run_bare("refill", "--json")
    assert ended.status != 0
    ours, theirs = archives(site)
    assert (numbers_of(ours, 2), numbers_of(theirs, 2), numbers_of(theirs, 3)) == ([5, 6, 7], [4, 5], [])
    assert not theirs.exists("00000003.history")
    assert numbers_of(theirs, 1) == [3, 4, 5]  # what they share is filled in all the same
    first, second = json.loads(ended.out)["repositories"]
    assert (first["filled"], second["filled"]) == (0, 1)
    for told in (first, second):
        assert '"00000002.history" is not the same in file://' in told["error"]
        assert "nothing of timeline 2, 3 passes" in told["error"]
        assert "Find out which of them is the right one" in told["hint"]


def test_what_a_note_names_is_not_filled_in_from_another_branch(site: WalSite) -> None:
    notes = BehindNotes(str(site.data_directory / "pg_wal"))
    (site.data_directory / "pg_wal" / "archive_status").mkdir()
    site.configure(second_path(site), extra='wal_required = 1\nwal_patience = "1s"\n')
    away = site.root / "away"
    second_path(site).rename(away)
    name = segment_name(7, 2)
    assert site.push(site.write(name, site.archive.get(str(name)))).status == 0
    noted = notes.read("r1")
    assert noted is not None
    assert noted.names == (str(name),)
    away.rename(second_path(site))
    ended = site.run_bare("refill")
    assert ended.status != 0
    assert numbers_of(archives(site)[1], 2) == [4, 5]
    assert notes.read("r1") == noted


def test_a_copy_takes_nothing_of_another_branch_and_says_so(site: WalSite) -> None:
    ours, theirs = archives(site)
    wish = WalWish(lineage=make_lineage(), begin_lsn=Lsn(0))
    found = list_missing(ours.repository, theirs.repository, CLUSTER, wish)
    assert [job.file_name for job in found.jobs] == [str(segment_name(5))]
    ((name, reason),) = found.apart
    assert name == "00000002.history"
    assert "different branches" in reason


@pytest.mark.parametrize(
    ("chosen", "held"), [(0, {1: [3, 4, 5], 2: [5, 6, 7], 3: [8]}), (1, {1: [3, 4, 5], 2: [4, 5]})]
)
def test_read_as_one_archive_they_give_the_branch_of_the_one_that_was_chosen(
    site: WalSite, chosen: int, held: dict[int, list[int]]
) -> None:
    first, other = archives(site)[chosen], archives(site)[1 - chosen]
    joined = JoinedArchive(first.repository, [other.repository], CLUSTER, make_lineage())
    assert {int(one): numbers_of(joined, one) for one in joined.list_timelines()} == held
    assert joined.get("00000002.history") == first.get("00000002.history")
    absent = segment_name(4, 2) if chosen == 0 else segment_name(7, 2)
    assert not joined.exists(str(absent))
    with pytest.raises(ObjectMissing):
        joined.get(str(absent))


def test_a_third_archive_that_has_the_chosen_branch_gives_of_it(site: WalSite, tmp_path: Path) -> None:
    site.register(tmp_path / "third")
    third, name = site.archive_in(tmp_path / "third"), segment_name(8, 2)
    ours, theirs = archives(site)
    third.put("00000002.history", ours.get("00000002.history"), {})
    third.put(str(name), make_segment(name), {})
    joined = JoinedArchive(ours.repository, [theirs.repository, third.repository], CLUSTER, make_lineage())
    assert numbers_of(joined, 2) == [5, 6, 7, 8]


@pytest.mark.parametrize(("repositories", "number"), [(["r1", "r0"], 7), (["r0", "r1"], 4)])
def test_recovery_gets_nothing_of_a_branch_that_was_not_chosen(
    site: WalSite, repositories: list[str], number: int
) -> None:
    plan = {
        "format": 1,
        "timeline_path": [[2, "0/0", None]],
        "expected_end_lsn": str(Lsn(3 * SEGMENT_SIZE)),
        "repositories": repositories,
    }
    path = site.root / "plan.json"
    path.write_text(json.dumps(plan))
    assert (
        site.get(segment_name(number, 2), "--plan", str(path), "--absent-status", str(ABSENT_STATUS)).status
        == ABSENT_STATUS
    )
    shared = segment_name(5, 2)
    assert site.get(shared, "--plan", str(path)).status == 0
    assert site.fetched == make_segment(shared, seed=1 if repositories[0] == "r1" else 0)
