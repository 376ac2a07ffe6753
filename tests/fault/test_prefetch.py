"""What is fetched ahead is served as long as it is true, by whatever end the process that fetched it comes to."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.repository.partials import Piece, put_piece
from pghaven.repository.walstore import WalArchive
from pghaven.store.open import create_root
from pghaven.wal.spool import name_key
from tests.support.keys import make_sealed
from tests.support.recovering import NO_PROGRAM, Recovery
from tests.support.waiting import wait_until
from tests.support.walfile import (
    CLUSTER,
    PROGRAM,
    SEGMENT_SIZE,
    SYSTEM_IDENTIFIER,
    WalSite,
    make_lineage,
    make_segment,
    render_history,
    segment_name,
)

FIRST, LAST = 3, 12
STOP_RECOVERY = 255
PLAN = "pghaven.restore.json"


@pytest.fixture
def site(tmp_path: Path) -> WalSite:
    made = WalSite(tmp_path)
    store(made, *(segment_name(number) for number in range(FIRST, LAST + 1)))
    return made


@pytest.fixture
def recovery(site: WalSite) -> Iterator[Recovery]:
    with Recovery(site) as made:
        yield made


def store(site: WalSite, *names: SegmentName) -> None:
    for name in names:
        site.archive.put(str(name), make_segment(name), {})


def write_plan(site: WalSite, end: Lsn, *legs: tuple[int, int, int | None]) -> None:
    path = [[timeline, str(Lsn(begin)), None if end is None else str(Lsn(end))] for timeline, begin, end in legs]
    plan = {"format": 1, "timeline_path": path, "expected_end_lsn": str(end)}
    (site.data_directory / PLAN).write_text(json.dumps(plan))


def begin(recovery: Recovery, last: int = LAST) -> None:
    """Recovery gets its first file, and all others are spooled."""
    wanted = {str(segment_name(number)) for number in range(FIRST + 1, last + 1)}

    def is_spooled() -> bool:
        """Who fetches ahead may have been too late to vouch, and has given up: the next call begins again."""
        assert recovery.spools.exists() or recovery.get(segment_name(FIRST)) == 0
        return recovery.ready >= wanted

    wait_until(is_spooled, "all files in the spool")


# -- what is served ----------------------------------------------------------------------------------------------------


def test_a_shell_serves_what_was_fetched_ahead_and_then_it_is_all_gone(site: WalSite, recovery: Recovery) -> None:
    begin(recovery)
    for number in range(FIRST + 1, LAST + 1):
        assert recovery.take(segment_name(number)) == 0
        assert site.fetched == make_segment(segment_name(number))
    recovery.wait_removed()
    assert recovery.get(segment_name(LAST + 1)) == 1
    store(site, segment_name(LAST + 1))
    assert recovery.get(segment_name(LAST + 1)) == 0


def test_the_program_serves_from_there_too_and_waits_for_what_is_on_its_way(site: WalSite, recovery: Recovery) -> None:
    begin(recovery)
    plain = recovery.site.restore_command(segment_name(FIRST + 1)).partition("esac; ")[2]
    path = site.object_path(segment_name(FIRST + 1))
    path.unlink()  # so that it can have come from the spool only
    assert recovery.run(plain) == 0
    assert site.fetched == make_segment(segment_name(FIRST + 1))


def test_recovery_may_ask_for_earlier_files_again(site: WalSite, recovery: Recovery) -> None:
    begin(recovery)
    for number in (FIRST + 1, FIRST, FIRST + 1):
        assert recovery.get(segment_name(number)) == 0
        assert site.fetched == make_segment(segment_name(number))
    recovery.wait_ready(*(segment_name(number) for number in range(FIRST + 2, LAST + 1)))


def test_no_more_than_configured_is_spooled(site: WalSite, recovery: Recovery) -> None:
    site.configure(extra='wal_prefetch = "3MiB"\n')
    begin(recovery, FIRST + 3)
    for number in range(FIRST + 1, LAST - 3):
        assert recovery.take(segment_name(number)) == 0
        recovery.wait_ready(segment_name(number + 3))
        assert recovery.ready == {str(segment_name(number + ahead)) for ahead in (1, 2, 3)}


@pytest.mark.parametrize("size", ["0B", "1023kB"])
def test_nothing_is_spooled_where_there_is_no_room_for_a_segment(site: WalSite, recovery: Recovery, size: str) -> None:
    site.configure(extra=f'wal_prefetch = "{size}"\n')
    for number in (FIRST, FIRST + 1):
        assert recovery.get(segment_name(number)) == 0
    assert not recovery.spools.exists()


def test_what_was_sealed_after_a_rotation_is_fetched_ahead_too(site: WalSite, tmp_path: Path) -> None:
    sealed = make_sealed(create_root((tmp_path / "sealed").as_uri()))
    sealed.open().register_lineage(CLUSTER, make_lineage(), new_lineage=False)
    key_file = tmp_path / "key"
    key_file.write_text(f"{sealed.key.render()}\n")
    key_file.chmod(0o600)
    site.repository_path = tmp_path / "sealed"
    site.configure()
    site.config_path.write_text(site.config_path.read_text().replace("[cluster", f'key_file = "{key_file}"\n[cluster'))

    def put(*numbers: int) -> None:
        archive = WalArchive(sealed.open(), CLUSTER, SYSTEM_IDENTIFIER, SEGMENT_SIZE)
        for number in numbers:
            archive.put(str(segment_name(number)), make_segment(segment_name(number)), {})

    put(FIRST, FIRST + 1, FIRST + 2)
    with Recovery(site) as recovery:
        begin(recovery, FIRST + 2)
        before = recovery.list_processes()
        sealed.rotate()
        put(FIRST + 3, FIRST + 4)
        assert recovery.get(segment_name(FIRST)) == 0  # asked again for a file that it had, it looks again
        recovery.wait_ready(segment_name(FIRST + 3), segment_name(FIRST + 4))
        assert recovery.list_processes() == before
        assert recovery.take(segment_name(FIRST + 4)) == 0


def test_what_fetches_ahead_holds_nothing_of_the_server(recovery: Recovery) -> None:
    begin(recovery)
    for pid in recovery.list_processes():
        links = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
        assert {link for link in links if not link.startswith(("/dev/null", "pipe:", "anon_inode:"))} == {
            str(recovery.spools)
        }
        assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getsid(pid) not in (os.getsid(0), pid)


def test_another_repository_serves_what_one_cannot(site: WalSite, tmp_path: Path, recovery: Recovery) -> None:
    second = tmp_path / "second"
    site.register(second)
    site.configure(second)
    for number in range(FIRST, LAST + 1):
        site.archive_in(second).put(str(segment_name(number)), make_segment(segment_name(number)), {})
    site.repository_path.rename(tmp_path / "away")
    begin(recovery)
    assert recovery.take(segment_name(FIRST + 1)) == 0


# -- the path ----------------------------------------------------------------------------------------------------------


def test_a_plan_is_followed_over_timelines_and_no_further_than_its_end(site: WalSite) -> None:
    fork = 6 * SEGMENT_SIZE + 4096
    store(site, *(segment_name(number, timeline=2) for number in range(6, 10)))
    write_plan(site, Lsn(8 * SEGMENT_SIZE + 1), (1, 0, fork), (2, fork, None))
    with Recovery(site, PLAN) as recovery:
        assert recovery.get(segment_name(FIRST)) == 0
        wanted = [segment_name(4), segment_name(5), *(segment_name(number, timeline=2) for number in (6, 7, 8))]
        recovery.wait_ready(*wanted)
        assert recovery.ready == {str(name) for name in wanted}
        for name in wanted:
            assert recovery.take(name) == 0
            assert site.fetched == make_segment(name)


@pytest.mark.parametrize("standby", [True, False], ids=["standby", "recovery"])
def test_without_a_plan_the_way_leads_to_the_newest_timeline(site: WalSite, recovery: Recovery, standby: bool) -> None:
    if standby:
        (site.data_directory / "standby.signal").touch()
    fork = Lsn(6 * SEGMENT_SIZE + 4096)
    site.archive.put("00000002.history", render_history((1, fork)), {})
    store(site, *(segment_name(number, timeline=2) for number in range(6, 10)))
    assert recovery.get(segment_name(FIRST)) == 0
    wanted = [segment_name(4), segment_name(5), *(segment_name(number, timeline=2) for number in range(6, 10))]
    recovery.wait_ready(*wanted)
    assert recovery.ready == {str(name) for name in wanted}


def test_a_recovery_that_stays_on_its_timeline_is_followed_there(site: WalSite, recovery: Recovery) -> None:
    site.archive.put("00000002.history", render_history((1, Lsn(5 * SEGMENT_SIZE + 4096))), {})
    store(site, segment_name(5, timeline=2))
    assert recovery.get(segment_name(FIRST)) == 0
    recovery.wait_ready(segment_name(4), segment_name(5, timeline=2))
    assert recovery.get(segment_name(4)) == 0
    assert recovery.get(segment_name(5)) == 0
    recovery.wait_ready(segment_name(6), segment_name(LAST))
    assert recovery.take(segment_name(6)) == 0


# -- what is not served ------------------------------------------------------------------------------------------------


def test_absence_and_damage_are_answered_by_the_program_alone(site: WalSite, recovery: Recovery) -> None:
    path = site.object_path(segment_name(6))
    path.chmod(0o600)
    content = path.read_bytes()
    path.write_bytes(content[:-100] + bytes(100))
    site.object_path(segment_name(8)).unlink()
    assert recovery.get(segment_name(FIRST)) == 0
    recovery.wait_ready(segment_name(4), segment_name(5))
    for number in (4, 5):
        assert recovery.take(segment_name(number)) == 0
    for _ in range(2):
        assert recovery.get(segment_name(6)) == STOP_RECOVERY
    path.write_bytes(content)
    assert recovery.get(segment_name(6)) == 0
    recovery.wait_ready(segment_name(7))
    assert recovery.take(segment_name(7)) == 0
    assert recovery.get(segment_name(8)) == STOP_RECOVERY  # the archive goes on behind it
    store(site, segment_name(8))
    assert recovery.get(segment_name(8)) == 0
    assert site.fetched == make_segment(segment_name(8))


def test_part_of_a_segment_is_served_only_when_recovery_asks(site: WalSite, recovery: Recovery) -> None:
    """By then it may have become more."""
    tail = segment_name(LAST + 1)
    content = make_segment(tail)
    put_piece(site.archive, Piece(segment=tail, receiver="0" * 8, begin=0, end=8192), content[:8192], {})
    begin(recovery)
    for number in range(FIRST + 1, LAST + 1):
        assert recovery.take(segment_name(number)) == 0
    recovery.wait_removed()
    store(site, tail)
    assert recovery.get(tail) == 0
    assert site.fetched == content


def test_no_other_recovery_and_no_other_command_is_served(site: WalSite, recovery: Recovery) -> None:
    begin(recovery)
    command = site.restore_command(segment_name(FIRST + 1), NO_PROGRAM)
    config = str(site.config_path)
    ours = name_key(config, CLUSTER, None)
    others = {name_key(config, CLUSTER, PLAN), name_key(config, "x", None), name_key(f"{config}x", CLUSTER, None)}
    assert ours in command
    assert len(others - {ours}) == len(others) == 3
    for other in others:
        assert recovery.run(command.replace(ours, other)) == STOP_RECOVERY
    assert site.run_shell(command).status == STOP_RECOVERY  # the child of another process
    asked_by_another = command.replace('case "pg_wal/RECOVERYXLOG"', f'case "pg_wal/{segment_name(FIRST + 1)}"')
    assert recovery.run(asked_by_another) == STOP_RECOVERY  # as pg_rewind asks
    assert recovery.run(command) == 0


def change_plan(site: WalSite) -> None:
    write_plan(site, Lsn(20 * SEGMENT_SIZE), (1, 0, None))


def change_configuration(site: WalSite) -> None:
    site.configure(wal_timeout="2min")


def become_standby(site: WalSite) -> None:
    (site.data_directory / "standby.signal").touch()


@pytest.mark.parametrize("change", [change_plan, change_configuration, become_standby])
def test_what_was_fetched_under_other_conditions_is_dropped(site: WalSite, change: Callable[[WalSite], None]) -> None:
    write_plan(site, Lsn(LAST * SEGMENT_SIZE), (1, 0, None))
    with Recovery(site, PLAN) as recovery:
        begin(recovery, LAST - 1)
        change(site)
        recovery.wait_removed()
        assert recovery.take(segment_name(FIRST + 1)) == STOP_RECOVERY
        assert recovery.get(segment_name(FIRST + 1)) == 0


def test_a_standby_is_not_served_what_was_left_behind_meanwhile(site: WalSite, recovery: Recovery) -> None:
    become_standby(site)
    begin(recovery)
    site.archive.put("00000002.history", render_history((1, Lsn(5 * SEGMENT_SIZE))), {})
    recovery.wait_removed()
    assert recovery.get(segment_name(4)) == 0
    assert recovery.get(segment_name(5)) == 1
    assert recovery.get(segment_name(6)) == 1


def test_a_standby_is_not_served_while_nobody_can_be_asked(site: WalSite, recovery: Recovery) -> None:
    become_standby(site)
    recovery.program = PROGRAM
    begin(recovery)
    site.repository_path.rename(site.root / "away")
    recovery.wait_removed()


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_the_spool_goes_with_the_startup_process(recovery: Recovery) -> None:
    begin(recovery)
    recovery.end()
    recovery.wait_removed()


@pytest.mark.parametrize("victim", [0, -1], ids=["the one that vouches", "one that fetches"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_whoever_is_killed_the_next_file_is_right(
    site: WalSite, recovery: Recovery, victim: int, number: signal.Signals
) -> None:
    recovery.program = PROGRAM
    begin(recovery)
    os.kill(recovery.list_processes()[victim], number)
    wait_until(lambda: not recovery.list_processes(), "the end of all of them")
    for following in range(FIRST + 1, LAST + 1):
        assert recovery.get(segment_name(following)) == 0
        assert site.fetched == make_segment(segment_name(following))


def test_nothing_is_served_that_nobody_vouches_for_any_more(site: WalSite, recovery: Recovery) -> None:
    recovery.program = PROGRAM
    begin(recovery)
    main = recovery.list_processes()[0]
    os.kill(main, signal.SIGSTOP)
    (lease,) = recovery.spools.glob("*/lease")
    wait_until(lambda: lease.stat().st_mtime < time.time() - 0.1, "the end of the lease")
    assert recovery.take(segment_name(FIRST + 1)) == STOP_RECOVERY
    assert recovery.get(segment_name(FIRST + 1)) == 0  # by the program itself
    os.kill(main, signal.SIGCONT)
    # Not the removal of the spool: once it has ended, what that program started may fetch ahead in its turn.
    wait_until(lambda: main not in recovery.list_processes(), "the end of the one that nobody believes any more")


def test_what_a_killed_one_left_is_swept_by_the_next(site: WalSite, recovery: Recovery) -> None:
    recovery.program = PROGRAM
    begin(recovery)
    os.kill(recovery.list_processes()[0], signal.SIGKILL)
    wait_until(lambda: not recovery.list_processes(), "the end of all of them")
    (left,) = recovery.spools.iterdir()
    with Recovery(site) as another:
        assert another.get(segment_name(FIRST)) == 0
        wait_until(lambda: not left.exists(), "the removal of what was left")
        another.wait_ready(segment_name(LAST))


def test_a_push_sweeps_what_was_left_but_nothing_that_is_in_use(site: WalSite, recovery: Recovery) -> None:
    begin(recovery)
    path = site.write(segment_name(LAST), make_segment(segment_name(LAST)))
    assert site.push(path).status == 0
    assert recovery.take(segment_name(FIRST + 1)) == 0
    os.kill(recovery.list_processes()[0], signal.SIGKILL)
    wait_until(lambda: not recovery.list_processes(), "the end of all of them")
    assert recovery.ready
    assert site.push(path).status == 0
    assert not recovery.spools.exists()


def test_a_full_disk_costs_nothing_but_time(site: WalSite, recovery: Recovery) -> None:
    """More is to stay free than there is."""
    site.configure(extra='wal_prefetch = "4096TiB"\n')
    for number in range(FIRST, FIRST + 3):
        assert recovery.get(segment_name(number)) == 0
    recovery.wait_removed()
