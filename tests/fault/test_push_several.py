"""One file into several repositories, of which some are down, hang, are full, refuse, or come back.

Every case is the real command in a process of its own; the repositories are real directories, one of them on a file
system that hangs (a FUSE that never answers) or that is full.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pghaven.errors import ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.repository.repository import create_repository
from pghaven.store.open import create_root
from pghaven.wal.behind import BehindNotes
from tests.fault.volumes import frozen, memory_volume, needs_root, power_cut_volume
from tests.support.waiting import wait_until
from tests.support.walfile import (
    CLUSTER,
    PROGRAM,
    SEGMENT_SIZE,
    SYSTEM_IDENTIFIER,
    Ended,
    WalSite,
    make_lineage,
    make_segment,
    render_history,
    run_in,
    segment_name,
)

NAME = segment_name(3)
ONE_IS_ENOUGH = 'wal_required = 1\nwal_patience = "2min"\n'
AND_NOT_FOR_LONG = 'wal_required = 1\nwal_patience = "1s"\n'


@pytest.fixture
def site(tmp_path: Path) -> WalSite:
    made = WalSite(tmp_path)
    (made.data_directory / "pg_wal" / "archive_status").mkdir()
    return made


@pytest.fixture
def second(site: WalSite, tmp_path: Path) -> Path:
    path = tmp_path / "second"
    site.register(path)
    return path


def push(site: WalSite, number: int = 3, *options: str, seed: int = 0) -> Ended:
    name = segment_name(number)
    return site.push(site.write(name, make_segment(name, seed=seed)), *options)


def notes(site: WalSite) -> BehindNotes:
    return BehindNotes(str(site.data_directory / "pg_wal"))


def missed(site: WalSite, repository: str = "r1") -> tuple[str, ...] | None:
    behind = notes(site).read(repository)
    return None if behind is None else behind.names


def end_rest(site: WalSite, repository: str = "r1") -> None:
    """Have the repository due for another try, as if the time were over."""
    path = site.data_directory / "pg_wal" / "pghaven" / f"behind-{repository}.json"
    body = json.loads(path.read_text())
    path.write_text(json.dumps({**body, "tried_at": body["tried_at"].replace("20", "19", 1)}))


def fill_in(site: WalSite, push_next: Callable[[], Ended], repository: str = "r1") -> None:
    """A push spends a second on what a repository has missed, and on a slow machine the next one goes on with it."""

    def is_filled() -> bool:
        end_rest(site, repository)
        assert push_next().status == 0
        return missed(site, repository) is None

    wait_until(is_filled, f"{repository} to have all")


def held(site: WalSite, path: Path, number: int = 3) -> bool:
    name = segment_name(number)
    try:
        return site.archive_in(path).get(str(name)) == make_segment(name)
    except ObjectMissing:
        return False


# -- all must hold it --------------------------------------------------------------------------------------------------


def test_every_repository_gets_the_file(site: WalSite, second: Path) -> None:
    site.configure(second)
    ended = push(site, 3, "--json")
    assert ended.status == 0
    assert json.loads(ended.out)["result"]["pushes"] == [
        {"repository": "r0", "outcome": "stored"},
        {"repository": "r1", "outcome": "stored"},
    ]
    assert held(site, site.repository_path)
    assert held(site, second)


def test_one_that_fails_fails_the_push_but_keeps_no_other_from_its_copy(site: WalSite, second: Path) -> None:
    site.configure(site.root / "gone", second)
    ended = push(site)
    assert ended.status == 14
    assert 'repository "r1"' in ended.err
    assert "1 of 3 repositories failed" in ended.err
    assert held(site, site.repository_path)
    assert held(site, second)
    assert missed(site) is None  # nothing counts as archived, so nobody has missed it


def test_each_that_fails_is_named(site: WalSite) -> None:
    site.configure(site.root / "gone", site.root / "lost")
    ended = push(site)
    assert ended.status == 14
    assert ended.err.index('repository "r1"') < ended.err.index('repository "r2"')


@needs_root
def test_one_that_hangs_keeps_no_other_from_its_copy(site: WalSite, tmp_path: Path) -> None:
    """It hangs where not even SIGKILL ends it, and is asked first."""
    with power_cut_volume(tmp_path / "volume") as volume:
        hung = volume.path / "repository"
        site.register(hung)
        good, site.repository_path = site.repository_path, hung
        site.configure(good, wal_timeout="1s")

        def is_held() -> bool:
            """A second may be too short even for the one that does not hang; the server tries again, too."""
            ended = push(site)
            assert ended.status == 18
            assert 'repository "r0"' in ended.err
            return held(site, good)

        with frozen(volume.path):
            wait_until(is_held, "the copy")


# -- one is enough -----------------------------------------------------------------------------------------------------


def test_one_that_may_be_missed_is_noted_and_told(site: WalSite) -> None:
    site.configure(site.root / "gone", extra=ONE_IS_ENOUGH)
    ended = push(site, 3, "--json")
    assert ended.status == 0
    assert f'warning: repository "r1" has missed "{NAME}"' in ended.err
    (told,) = json.loads(ended.out)["result"]["missed"]
    assert told["repository"] == "r1"
    assert missed(site) == (str(NAME),)
    assert held(site, site.repository_path)


def test_without_any_the_push_fails_and_nothing_is_noted(site: WalSite) -> None:
    shutil.move(site.repository_path, site.root / "away")
    site.configure(site.root / "gone", extra=ONE_IS_ENOUGH)
    assert push(site).status == 14
    assert missed(site, "r0") is None
    assert missed(site, "r1") is None


@needs_root
def test_one_that_hangs_holds_up_no_more_than_the_patience_and_then_rests(site: WalSite, tmp_path: Path) -> None:
    with power_cut_volume(tmp_path / "volume") as volume:
        hung = volume.path / "repository"
        site.register(hung)
        site.configure(hung, extra=AND_NOT_FOR_LONG)
        with frozen(volume.path):
            first = push(site, 3)
            assert first.status == 0
            assert 'repository "r1" has missed' in first.err
            assert "within 1.0 s" in first.err
            again = push(site, 4)
            assert again.status == 0
            assert "it is tried again in a moment" in again.err
        assert missed(site) == (str(segment_name(3)), str(segment_name(4)))
        site.configure(hung, extra=ONE_IS_ENOUGH)
        fill_in(site, lambda: push(site, 5))
        assert all(held(site, hung, number) for number in (3, 4, 5))


@needs_root
def test_one_that_is_full_is_filled_in_when_there_is_room(site: WalSite, tmp_path: Path) -> None:
    with memory_volume(tmp_path / "small", "size=100k") as small:
        full = small / "repository"
        site.register(full)
        site.configure(full, extra=ONE_IS_ENOUGH)
        name = segment_name(3)
        content = make_segment(name)[:8192] + os.urandom(SEGMENT_SIZE - 8192)
        ended = site.push(site.write(name, content))
        assert ended.status == 0
        assert "no space left" in ended.err.lower()
        subprocess.run(["mount", "-o", "remount,size=10m", str(small)], check=True)
        fill_in(site, lambda: push(site, 4))
        assert site.archive_in(full).get(str(name)) == content


def test_one_that_is_back_gets_what_it_missed_with_the_histories_first(site: WalSite, second: Path) -> None:
    away = site.root / "away"
    shutil.move(second, away)
    site.configure(second, extra=ONE_IS_ENOUGH)
    assert push(site, 3).status == 0
    history = render_history((1, Lsn(4 * SEGMENT_SIZE)))
    assert site.push(site.write("00000002.history", history)).status == 0
    assert missed(site) == ("00000002.history", str(NAME))
    shutil.move(away, second)
    assert push(site, 4).status == 0  # quarantined where the history is known, and the other still rests
    os.unlink(site.data_directory / "pg_wal" / str(NAME))  # the server has removed it
    new = segment_name(5, timeline=2)
    fill_in(site, lambda: site.push(site.write(new, make_segment(new))))
    archive = site.archive_in(second)
    assert archive.get("00000002.history") == history
    assert archive.get(str(NAME)) == make_segment(NAME)
    assert archive.get(str(new)) == make_segment(new)
    assert [entry.rpartition("-")[0] for entry in archive.list_quarantine()] == [str(segment_name(4))]
    assert archive.read_facts(str(NAME)) == site.archive.read_facts(str(NAME))


def test_a_file_of_pg_wal_that_has_changed_is_not_what_was_archived(site: WalSite, second: Path) -> None:
    away = site.root / "away"
    shutil.move(second, away)
    site.configure(second, extra=ONE_IS_ENOUGH)
    push(site, 3)
    shutil.move(away, second)
    site.write(NAME, make_segment(NAME, seed=1))
    end_rest(site)
    push(site, 4)
    assert held(site, second)


def test_other_contents_in_any_of_them_fail_the_push_even_where_one_is_enough(site: WalSite, second: Path) -> None:
    site.archive_in(second).put(str(NAME), make_segment(NAME, seed=1), {"host": "another"})
    site.configure(second, extra=ONE_IS_ENOUGH)
    ended = push(site)
    assert ended.status == 12
    assert "other contents" in ended.err
    assert "another" in ended.err
    assert missed(site) is None


def test_another_cluster_in_any_of_them_fails_the_push_even_where_one_is_enough(site: WalSite, second: Path) -> None:
    other = site.root / "other"
    lineage = make_lineage(system_identifier=SYSTEM_IDENTIFIER + 1)
    create_repository(create_root(other.as_uri())).register_lineage(CLUSTER, lineage, new_lineage=False)
    site.configure(second, other, extra=ONE_IS_ENOUGH)
    ended = push(site, 3, "--json")
    assert ended.status == 12
    error = json.loads(ended.out)["error"]
    assert error["code"] == "conflict"
    assert "is not known under the name" in error["message"]
    assert missed(site, "r2") is None


def test_one_that_refuses_for_its_own_sake_has_missed_the_file(site: WalSite, second: Path) -> None:
    """Somebody moved what it holds to a larger disk, and left a symbolic link, which is not followed."""
    shutil.move(second / "clusters", site.root / "larger")
    (second / "clusters").symlink_to(site.root / "larger")
    site.configure(second, extra=ONE_IS_ENOUGH)
    ended = push(site)
    assert ended.status == 0
    assert 'repository "r1" has missed' in ended.err
    assert "symbolic link" in ended.err
    assert missed(site) == (str(NAME),)
    site.configure(second)
    assert push(site, 4).status == 12  # where all must hold it this is as good a reason as any


def test_whoever_is_frozen_over_the_notes_holds_up_no_push(site: WalSite) -> None:
    site.configure(site.root / "gone", extra=ONE_IS_ENOUGH)
    assert push(site, 3).status == 0
    end_rest(site)
    with open(site.data_directory / "pg_wal" / "pghaven" / "behind.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = push(site, 4)
    assert ended.status == 0
    assert "could not note who is behind: another process has held behind.lock" in ended.err
    assert held(site, site.repository_path, 4)
    assert missed(site) == (str(NAME),)


# -- the command -------------------------------------------------------------------------------------------------------


def test_refill_compares_the_archives_and_needs_no_notes(site: WalSite, second: Path) -> None:
    site.configure(second)
    push(site, 3)
    site.configure()
    for number in (4, 5):
        push(site, number)
    history = render_history((1, Lsn(6 * SEGMENT_SIZE)))
    site.push(site.write("00000002.history", history))
    push(site, 7)
    site.configure(second)
    os.unlink(site.data_directory / "pg_wal" / str(segment_name(4)))
    refilled = site.run("refill")
    assert refilled.status == 2  # --cluster is not an option of it
    ended = site.run_bare("refill", "--json")
    assert ended.status == 0, ended.err
    first, other = json.loads(ended.out)["repositories"]
    assert (first["filled"], other["filled"], other["from_pg_wal"]) == (0, 3, 2)
    assert all(held(site, second, number) for number in (3, 4, 5))
    assert site.archive_in(second).get("00000002.history") == history
    assert "nothing is missing" in site.run_bare("refill").out


def test_refill_brings_back_nothing_from_before_a_repository_s_own_first_segment(site: WalSite, second: Path) -> None:
    push(site, 3)
    site.configure(second)
    assert site.run_bare("refill").status == 0
    assert not held(site, second)
    push(site, 5)
    site.configure()
    push(site, 6)
    site.configure(second)
    ended = site.run_bare("refill")
    assert ended.status == 3, ended  # segment 4 is nowhere, which is told
    assert "000000010000000000000004: lost" in ended.out
    assert not held(site, second, 3)
    assert held(site, second, 6)


def test_refill_tells_who_could_not_be_reached_and_keeps_the_note(site: WalSite, second: Path) -> None:
    site.configure(site.root / "gone", second, extra='wal_required = 2\nwal_patience = "1s"\n')
    push(site, 3)
    ended = site.run_bare("refill")
    assert ended.status == 14
    assert "r1: failed" in ended.out
    assert missed(site) == (str(NAME),)


def test_more_required_than_there_are_is_a_problem_of_the_configuration(site: WalSite) -> None:
    site.configure(extra="wal_required = 2\n")
    ended = push(site)
    assert ended.status == 2
    assert '"wal_required" in [cluster.main] is 2, but there are 1 repositories' in ended.err


def test_status_tells_who_is_behind_and_since_when(site: WalSite, second: Path) -> None:
    shutil.move(second, site.root / "away")
    site.configure(second, extra=ONE_IS_ENOUGH)
    push(site, 3)
    push(site, 4)
    ended = run_in(site.root, [*PROGRAM, "--config", str(site.config_path), "--json", "status"])
    assert ended.status == 3
    (cluster,) = json.loads(ended.out)["clusters"]
    first, other = cluster["repositories"]
    assert first["missed"] is None
    assert other["missed"]["files"] == 2
    texts = [problem["text"] for problem in cluster["problems"]]
    assert any('repository "r1" has missed 2 WAL files since' in text for text in texts)
