"""Marks, and the looking ahead that leaves them: what the server is told without asking is true, wherever a push ends.

Every push is the configured command through ``sh``, in a data directory with an ``archive_status`` as a server has.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import ObjectMissing
from pghaven.postgres.lsn import Lsn
from pghaven.wal.behind import BehindNotes
from pghaven.wal.marks import Marks
from tests.fault.tracing import MUTATING, Traced, kills, needs_strace, run_traced
from tests.support.walfile import (
    PROGRAM,
    SEGMENT_SIZE,
    Ended,
    WalSite,
    make_segment,
    render_history,
    run_in,
    segment_name,
)

NUMBERS = (3, 4, 5, 6)
MAIN = "import os, sys; os.chdir(sys.argv.pop(1)); from pghaven.cli.main import main; sys.exit(main())"
FORKS = ("clone", "fork", "vfork", "clone3")
NO_PROGRAM = ["/nonexistent/pghaven"]


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


def finish(site: WalSite, name: object, content: bytes) -> None:
    """A file that waits to be archived."""
    site.write(name, content)
    (site.data_directory / "pg_wal" / "archive_status" / f"{name}.ready").touch()


def finish_all(site: WalSite, numbers: Sequence[int] = NUMBERS) -> None:
    for number in numbers:
        finish(site, segment_name(number), make_segment(segment_name(number)))


def archive(site: WalSite, name: object, program: Sequence[str] = PROGRAM) -> Ended:
    """What the archiver does with one file."""
    ended = site.run_shell(site.archive_command(f"pg_wal/{name}", program))
    if ended.status == 0:
        status = site.data_directory / "pg_wal" / "archive_status"
        (status / f"{name}.ready").rename(status / f"{name}.done")
    return ended


def marks(site: WalSite) -> Marks:
    return Marks(str(site.data_directory / "pg_wal"))


def marked(site: WalSite) -> list[int]:
    """The segments of which the server would be told without asking that they are archived."""
    return [number for number in NUMBERS if is_told(site, number, "/bin/sh")]


def is_told(site: WalSite, number: int, shell: str) -> bool:
    command = site.archive_command(f"pg_wal/{segment_name(number)}", NO_PROGRAM)
    return run_in(site.data_directory, [shell, "-c", command]).status == 0


def held(site: WalSite, path: Path, number: int) -> bool:
    name = segment_name(number)
    try:
        return site.archive_in(path).get(str(name)) == make_segment(name)
    except ObjectMissing:
        return False


def missed(site: WalSite) -> set[str]:
    behind = BehindNotes(str(site.data_directory / "pg_wal")).read("r1")
    return set() if behind is None else set(behind.names)


# -- what a mark says --------------------------------------------------------------------------------------------------


def test_files_that_wait_are_pushed_beside_the_first_and_cost_a_shell_each(site: WalSite) -> None:
    finish_all(site)
    assert archive(site, segment_name(3)).status == 0
    assert marked(site) == [4, 5, 6]
    assert all(held(site, site.repository_path, number) for number in NUMBERS)
    assert [archive(site, segment_name(number), NO_PROGRAM).status for number in (4, 5, 6)] == [0, 0, 0]
    finish_all(site, [7])
    assert archive(site, segment_name(7), NO_PROGRAM).status == 127
    assert archive(site, segment_name(7)).status == 0
    assert os.listdir(site.data_directory / "pg_wal" / "pghaven" / "marks") == []


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_mark_speaks_of_the_very_file_that_was_pushed(site: WalSite, shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    finish_all(site)
    archive(site, segment_name(3))
    assert is_told(site, 4, path)
    file = site.data_directory / "pg_wal" / str(segment_name(4))
    there = file.stat().st_mtime_ns
    for moment in (there - 1, there + 1, there - 10**9, there + 10**9):
        os.utime(file, ns=(moment, moment))
        assert not is_told(site, 4, path), moment - there
    os.utime(file, ns=(there, there))
    assert is_told(site, 4, path)
    file.unlink()
    assert not is_told(site, 4, path)


def test_a_file_that_was_rewritten_is_pushed_and_refused(site: WalSite) -> None:
    finish_all(site)
    archive(site, segment_name(3))
    site.write(segment_name(4), make_segment(segment_name(4), seed=1))
    ended = archive(site, segment_name(4))
    assert ended.status == 12
    assert "other contents" in ended.err


def test_a_shell_that_cannot_compare_times_has_the_file_pushed(site: WalSite) -> None:
    finish_all(site)
    archive(site, segment_name(3))
    command = site.archive_command(f"pg_wal/{segment_name(4)}", NO_PROGRAM)
    assert "-nt" in command
    for broken in ("-xx", ""):
        ended = site.run_shell(command.replace("-nt", broken).replace("-ot", broken))
        assert ended.status == 127, ended.err


def test_nobody_looks_ahead_where_it_is_not_wanted(site: WalSite) -> None:
    site.configure(extra="wal_look_ahead = 0\n")
    finish_all(site)
    assert archive(site, segment_name(3)).status == 0
    assert marked(site) == []
    site.configure(extra="wal_look_ahead = 1\n")
    assert archive(site, segment_name(4)).status == 0
    assert marked(site) == [5]


@pytest.mark.parametrize("size_bytes", [1 << 20, 16 << 20, pytest.param(1 << 30, marks=pytest.mark.slow)])
def test_segments_of_any_size_are_archived_ahead_as_far_as_memory_goes(tmp_path: Path, size_bytes: int) -> None:
    site = WalSite(tmp_path, segment_size=size_bytes)
    (site.data_directory / "pg_wal" / "archive_status").mkdir()
    names = [segment_name(number, segment_size=size_bytes) for number in (1, 2)]
    for name in names:
        finish(site, name, make_segment(name))
    assert archive(site, names[0]).status == 0
    assert marks(site).is_marked(str(names[1])) == (size_bytes < 1 << 30)
    assert archive(site, names[1]).status == 0
    assert site.archive.get(str(names[1])) == make_segment(names[1])


# -- what gets no mark -------------------------------------------------------------------------------------------------


def test_what_fails_ahead_fails_in_its_turn_and_keeps_no_other_up(site: WalSite) -> None:
    finish_all(site)
    site.write(segment_name(4), b"no segment")
    finish(site, segment_name(5), make_segment(segment_name(5), seed=1))
    site.archive.put(str(segment_name(5)), make_segment(segment_name(5)), {"host": "another"})
    assert archive(site, segment_name(3)).status == 0
    assert set(marked(site)) <= {6}
    assert archive(site, segment_name(4)).status == 16
    assert archive(site, segment_name(5)).status == 12


def test_what_is_quarantined_is_told_in_its_turn(site: WalSite) -> None:
    site.push(site.write("00000002.history", render_history((1, Lsn(5 * SEGMENT_SIZE)))))
    finish_all(site)
    assert archive(site, segment_name(3)).status == 0
    assert marked(site) == [4]
    assert "quarantined" in archive(site, segment_name(5)).err


def test_no_segment_is_stored_before_a_history_that_waits(site: WalSite) -> None:
    finish_all(site)
    finish(site, "00000002.history", render_history((1, Lsn(9 * SEGMENT_SIZE))))
    assert archive(site, "00000002.history").status == 0
    assert not any(held(site, site.repository_path, number) for number in NUMBERS)
    assert archive(site, segment_name(3)).status == 0
    assert marked(site) == [4, 5, 6]


def test_a_restored_copy_leaves_no_marks(site: WalSite) -> None:
    finish_all(site)
    (site.data_directory / "pghaven.restore.json").write_text('{"archiving": "off"}')
    assert archive(site, segment_name(3)).status == 12
    assert marked(site) == []


@needs_strace
@pytest.mark.parametrize("first_that_fails", [2, 3])
def test_where_no_process_can_be_made_to_look_ahead_the_file_is_archived_all_the_same(
    site: WalSite, tmp_path: Path, first_that_fails: int
) -> None:
    finish_all(site)
    traced = push_traced(site, tmp_path / "log", FORKS, f"{','.join(FORKS)}:error=EAGAIN:when={first_that_fails}+")
    assert traced.status == 0, traced.err
    assert "EAGAIN" in {call.error for call in traced.calls}
    assert held(site, site.repository_path, 3)
    assert marked(site) == ([] if first_that_fails == 2 else [4, 5, 6])


@needs_strace
def test_where_no_process_can_be_made_for_one_repository_the_other_gets_the_file(site: WalSite, second: Path) -> None:
    site.configure(second)
    finish_all(site)
    traced = push_traced(site, site.root / "log", FORKS, f"{','.join(FORKS)}:error=EAGAIN:when=2+")
    assert traced.status == 18
    assert 'repository "r1": could not start a process' in traced.err
    assert held(site, site.repository_path, 3)
    assert not held(site, second, 3)
    site.configure(second, extra="wal_required = 1\n")
    assert push_traced(site, site.root / "log", FORKS, f"{','.join(FORKS)}:error=EAGAIN:when=1+").status == 0
    assert missed(site) == {str(segment_name(3))}


# -- several repositories ----------------------------------------------------------------------------------------------


def test_while_one_of_all_is_down_the_other_gets_all_that_waits_and_nothing_counts(site: WalSite, second: Path) -> None:
    shutil.move(second, site.root / "away")
    site.configure(second)
    finish_all(site)
    assert archive(site, segment_name(3)).status == 14
    assert marked(site) == []
    assert all(held(site, site.repository_path, number) for number in NUMBERS)
    assert archive(site, segment_name(3)).status == 14
    shutil.move(site.root / "away", second)
    assert archive(site, segment_name(3)).status == 0
    assert marked(site) == [4, 5, 6]
    assert all(held(site, second, number) for number in NUMBERS)


def test_one_that_is_down_for_long_keeps_no_other_from_what_waits_behind_the_files_ahead(
    site: WalSite, second: Path
) -> None:
    """The first of those that wait stay the same for as long as one repository lacks them: the other needs the next."""
    numbers = range(3, 12)
    shutil.move(second, site.root / "away")
    site.configure(second, extra="wal_look_ahead = 2\n")
    finish_all(site, numbers)
    for _ in range(4):
        assert archive(site, segment_name(3)).status == 14
        assert not any(is_told(site, number, "/bin/sh") for number in numbers)
    assert all(held(site, site.repository_path, number) for number in numbers)
    shutil.move(site.root / "away", second)
    for number in numbers:
        assert archive(site, segment_name(number)).status == 0
        assert held(site, second, number)


@needs_strace
@pytest.mark.parametrize("first_that_fails", range(2, 8))
def test_where_too_many_files_are_open_nothing_is_marked_that_a_repository_lacks(
    site: WalSite, second: Path, first_that_fails: int
) -> None:
    site.configure(second)
    finish_all(site)
    push_traced(site, site.root / "log", ("pipe2",), f"pipe2:error=EMFILE:when={first_that_fails}+")
    for number in marked(site):
        assert held(site, site.repository_path, number)
        assert held(site, second, number)


def test_where_one_is_enough_what_the_other_misses_is_noted_before_it_is_marked(site: WalSite, second: Path) -> None:
    shutil.move(second, site.root / "away")
    site.configure(second, extra="wal_required = 1\n")
    finish_all(site)
    assert archive(site, segment_name(3)).status == 0
    assert marked(site) == [4, 5, 6]
    assert missed(site) == {str(segment_name(number)) for number in NUMBERS}
    shutil.move(site.root / "away", second)
    assert site.run_bare("refill").status == 0
    assert missed(site) == set()
    assert all(held(site, second, number) for number in NUMBERS)


def test_what_a_repository_holds_is_not_believed_for_ever(site: WalSite, second: Path) -> None:
    """It may have been made anew while the other one was down."""
    shutil.move(second, site.root / "away")
    site.configure(second)
    finish_all(site)
    assert archive(site, segment_name(3)).status == 14
    assert marks(site).is_held("r0", str(segment_name(3)))
    clock = ManualClock()
    then = (site.data_directory / "pg_wal" / "pghaven" / "held-r0" / str(segment_name(3))).stat().st_ctime
    clock.advance(then - clock.now().timestamp() + 601)
    assert not Marks(str(site.data_directory / "pg_wal"), clock).is_held("r0", str(segment_name(3)))


def test_a_push_that_fails_tells_how_long_there_is_room_and_removes_nothing(site: WalSite) -> None:
    shutil.move(site.repository_path, site.root / "away")
    finish_all(site)
    for number in NUMBERS:
        moment = (site.data_directory / "pg_wal" / str(segment_name(number))).stat().st_mtime - 100 * (9 - number)
        os.utime(site.data_directory / "pg_wal" / str(segment_name(number)), (moment, moment))
    ended = archive(site, segment_name(3))
    assert ended.status == 14
    assert "4 WAL files wait to be archived; pg_wal has room for" in ended.err
    assert "at the present" in ended.err
    assert all((site.data_directory / "pg_wal" / str(segment_name(number))).exists() for number in NUMBERS)


# -- crashes -----------------------------------------------------------------------------------------------------------


@needs_strace
@pytest.mark.slow
def test_killed_before_any_of_its_steps_it_leaves_no_mark_that_is_not_true(tmp_path: Path) -> None:
    run_all_kills(tmp_path, stride=1)


@needs_strace
def test_killed_before_some_of_its_steps_it_leaves_no_mark_that_is_not_true(tmp_path: Path) -> None:
    run_all_kills(tmp_path, stride=5)


def run_all_kills(tmp_path: Path, stride: int) -> None:
    log = tmp_path / "log"
    steps = (*MUTATING, "utimensat", "write")
    calls = push_traced(make_site(tmp_path / "whole"), log, steps).calls
    assert {"utimensat", "linkat", "fsync"} <= {call.name for call in calls}
    for number, kill in enumerate(dict.fromkeys(kills(calls))):
        if number % stride:
            continue
        site = make_site(tmp_path / str(number))
        push_traced(site, log, steps, kill)
        for one in marked(site):
            assert held(site, site.repository_path, one), (kill, one)
        for one in NUMBERS:
            assert archive(site, segment_name(one)).status == 0
            assert held(site, site.repository_path, one)
        shutil.rmtree(site.root)


def make_site(root: Path) -> WalSite:
    site = WalSite(root)
    (site.data_directory / "pg_wal" / "archive_status").mkdir()
    finish_all(site)
    return site


def push_traced(site: WalSite, log: Path, steps: Sequence[str], inject: str | None = None) -> Traced:
    words = [str(site.data_directory), "wal", "push", *site.options, f"pg_wal/{segment_name(3)}"]
    return run_traced(MAIN, words, log, inject=inject, trace=steps)
