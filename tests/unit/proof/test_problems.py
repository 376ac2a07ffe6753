"""What is told to be wrong, in which order."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.proof.catalog import ListedBackup, ShownState
from pghaven.proof.problems import IMPORTANCE, find_problems
from pghaven.proof.receiving import describe_receiver
from pghaven.proof.standing import describe_standby
from pghaven.proof.states import Problem, RepositorySilence, RepositoryState, ServerSilence, ServerState
from pghaven.proof.windows import Gap, Reach, Window
from pghaven.repository.drills import DrillEvidence
from pghaven.repository.evidence import Evidence, Scope
from pghaven.server.probe import ArchiverFacts
from pghaven.server.slots import SlotActivity
from pghaven.server.standbys import Standby
from pghaven.wal.room import WalRoom

NOW = datetime(2026, 11, 23, tzinfo=UTC)
SIZE = 1 << 24
ARCHIVER = ArchiverFacts(
    archived_count=5,
    last_archived_name="000000010000000000000005",
    last_archived_time=NOW - timedelta(minutes=1),
    failed_count=0,
    last_failed_name=None,
    last_failed_time=None,
    stats_reset=None,
)
SERVER = ServerState(
    version="17.1",
    in_recovery=False,
    timeline=Timeline(1),
    lsn=Lsn(6 * SIZE),
    system_identifier=77,
    started=NOW,
    archive_mode="on",
    archiver=ARCHIVER,
    waiting=0,
)
BACKUP = ListedBackup(
    label="b",
    state=ShownState.COMPLETE,
    system_identifier=77,
    started_at=NOW - timedelta(hours=2),
    stopped_at=NOW - timedelta(hours=1),
    seconds=3600.0,
    total_bytes=1,
    changes="full",
    parent=None,
    stored_bytes=1,
    timeline=Timeline(1),
    start_lsn=Lsn(SIZE),
    stop_lsn=Lsn(SIZE + 1),
    from_standby=False,
    bad_pages=0,
    server_version_num=170001,
    host="h",
    process=1,
    reason=None,
)


def segment(number: int) -> SegmentName:
    return SegmentName(timeline=Timeline(1), number=number, segment_size=SIZE)


WINDOW = Window(
    timeline=Timeline(1),
    begin=NOW - timedelta(hours=1),
    begin_lsn=Lsn(SIZE + 1),
    end=NOW,
    end_lsn=Lsn(6 * SIZE),
    last_segment=segment(5),
    backups=("b",),
)
REACH = Reach(windows=(WINDOW,), gaps=(), unusable=(), unknown=())
REPOSITORY = RepositoryState(
    name="main",
    url="file:///r",
    free_bytes=None,
    system_identifier=77,
    backups=(BACKUP,),
    reach=REACH,
    recovery_point=None,
    quarantined=0,
    fenced=None,
)


def problems(
    server: ServerState | ServerSilence = SERVER, repository: RepositoryState | RepositorySilence = REPOSITORY
) -> tuple[Problem, ...]:
    return find_problems("main", server, [repository], NOW)


def only(found: tuple[Problem, ...]) -> Problem:
    (problem,) = found
    return problem


def test_nothing_is_wrong_where_nothing_is() -> None:
    assert problems() == ()


def test_the_critical_ones_come_first() -> None:
    old = replace(BACKUP, stopped_at=NOW - timedelta(days=9))
    silence = ServerSilence(is_running=False, reason="nobody there", hint=None)
    found = problems(silence, replace(REPOSITORY, backups=(old,)))
    assert [problem.level for problem in found] == ["critical", "warning"]
    assert found[1].text == "the newest backup is 9 d 0 h old"


def test_a_running_backup_is_no_backup_yet() -> None:
    running = replace(BACKUP, state=ShownState.RUNNING, stopped_at=None)
    found = problems(repository=replace(REPOSITORY, backups=(running,), reach=replace(REACH, windows=())))
    assert "there is no backup" in only(found).text


def test_archiving_that_fails_is_told_with_what_waits() -> None:
    failing = replace(ARCHIVER, failed_count=3, last_failed_name="X", last_failed_time=NOW)
    problem = only(problems(replace(SERVER, archiver=failing, waiting=4)))
    assert problem.level == "critical"
    assert problem.text.endswith("4 finished WAL files wait in pg_wal")


def test_archiving_that_was_mended_since_is_fine() -> None:
    mended = replace(ARCHIVER, failed_count=3, last_failed_name="X", last_failed_time=NOW - timedelta(hours=1))
    assert problems(replace(SERVER, archiver=mended)) == ()


def test_archiving_that_is_behind_is_a_warning() -> None:
    assert only(problems(replace(SERVER, waiting=40))).level == "warning"
    assert problems(replace(SERVER, waiting=3)) == ()


def test_a_gap_is_critical_only_while_it_cuts_off_the_present() -> None:
    gap = Gap(first=segment(3), last=segment(3))
    past = only(problems(repository=replace(REPOSITORY, reach=replace(REACH, gaps=(gap,)))))
    assert (past.level, past.text) == ("warning", f"WAL segment {gap.first} is missing from the archive")
    short = replace(WINDOW, end_lsn=Lsn(3 * SIZE))
    present = only(problems(repository=replace(REPOSITORY, reach=replace(REACH, gaps=(gap,), windows=(short,)))))
    assert (present.level, present.text) == ("critical", f"{past.text}: nothing written after it can be restored")


def test_damaged_pages_quarantine_and_a_fence_are_told() -> None:
    bad = replace(REPOSITORY, backups=(replace(BACKUP, bad_pages=2),), quarantined=3, fenced="passed over")
    assert [problem.text for problem in problems(repository=bad)] == [
        "passed over",
        "the newest backup holds 2 damaged pages of the server",
        "3 WAL files of a server that was passed over are in quarantine",
    ]


def test_a_silent_repository_keeps_its_own_hint() -> None:
    silence = RepositorySilence(name="main", url="file:///r", reason="gone", hint="Mount it.")
    problem = only(problems(repository=silence))
    assert problem.text == 'repository "main" cannot be used: gone'
    assert problem.hint == "Mount it. Then look again: pghaven check main"


# -- a receiver -------------------------------------------------------------------------------------------------------


SLOT = SlotActivity(
    name="pghaven",
    is_active=True,
    wal_status="reserved",
    restart_lsn=Lsn(5 * SIZE),
    held_bytes=3 * SIZE,
    state="streaming",
    sync_state="sync",
    flushed_lsn=Lsn(6 * SIZE - 1024),
)


def receiver_texts(server: ServerState) -> list[str]:
    return [problem.text for problem in find_problems("main", server, [], NOW)]


def test_while_wal_is_not_archived_it_is_told_how_long_it_will_last() -> None:
    room = WalRoom(waiting=40, waiting_bytes=40 * SIZE, free_bytes=36 << 30, bytes_per_second=1 << 20)
    failing = replace(ARCHIVER, failed_count=3, last_failed_name="0" * 24, last_failed_time=NOW)
    for archiver in (failing, ARCHIVER):
        problem = only(problems(replace(SERVER, archiver=archiver, waiting=40, room=room)))
        assert "pg_wal has room for 10 h 14 min at the present 1.00 MiB/s" in problem.text


def test_a_receiver_that_streams_is_no_problem_and_archives_in_place_of_the_archiver() -> None:
    assert receiver_texts(replace(SERVER, receiver=SLOT, is_receiver_wanted=True)) == []
    assert receiver_texts(replace(SERVER, receiver=SLOT, archive_mode="off")) == []
    assert describe_receiver(SLOT, SERVER) == "synchronous, streaming, 1.00 KiB behind"


def test_a_slot_that_nobody_uses_is_told_with_what_it_holds_back() -> None:
    idle = replace(SLOT, is_active=False, state=None, sync_state=None, flushed_lsn=None)
    (text,) = receiver_texts(replace(SERVER, receiver=idle))
    assert text == 'no receiver uses replication slot "pghaven", and the server keeps 48.0 MiB of WAL for it'
    (lost,) = receiver_texts(replace(SERVER, receiver=replace(idle, wal_status="lost")))
    assert "was invalidated" in lost


def test_a_receiver_that_is_wanted_is_missed() -> None:
    assert receiver_texts(SERVER) == []
    (text,) = receiver_texts(replace(SERVER, is_receiver_wanted=True))
    assert "no WAL is received" in text


# -- standbys ---------------------------------------------------------------------------------------------------------

STANDBY = Standby(
    name="second",
    address="10.0.0.2",
    state="streaming",
    sync_state="async",
    slot="second",
    wal_status="reserved",
    replayed_lsn=Lsn(6 * SIZE - 1024),
    behind_bytes=1024,
    replay_seconds=0.25,
    held_bytes=1024,
)
AWAY = replace(STANDBY, state="away", address=None, replayed_lsn=None, behind_bytes=None, replay_seconds=None)


def test_a_standby_that_is_close_behind_is_no_problem() -> None:
    assert problems(replace(SERVER, standbys=(STANDBY,))) == ()
    assert describe_standby(STANDBY) == "second at 10.0.0.2: streaming, 1.00 KiB behind, 0.2 s late"
    synchronous = replace(STANDBY, sync_state="quorum", behind_bytes=0, replay_seconds=None)
    assert describe_standby(synchronous) == "second at 10.0.0.2: synchronous, streaming, nothing behind"
    assert describe_standby(AWAY) == "second: away, the server keeps 1.00 KiB of WAL for it"


def test_standbys_that_do_not_protect_are_told() -> None:
    late, lost = replace(STANDBY, replay_seconds=3600.0), replace(AWAY, wal_status="lost")
    filling = replace(AWAY, held_bytes=5 << 30)
    texts = [only(problems(replace(SERVER, standbys=(one,)))).text for one in (late, lost, filling)]
    assert texts == [
        'standby "second" is 1 h 0 min behind',
        'standby "second" cannot follow any more: its slot was invalidated, and its WAL removed',
        'nobody uses slot "second", and the server keeps 5.00 GiB of WAL for it',
    ]
    assert problems(replace(SERVER, standbys=(AWAY,))) == ()


# -- order, and what to do --------------------------------------------------------------------------------------------


def list_every_kind() -> tuple[Problem, ...]:
    """Of each kind that can be made of these values at least one."""
    failing = replace(ARCHIVER, failed_count=3, last_failed_name="X", last_failed_time=NOW)
    idle = replace(SLOT, is_active=False)
    servers: list[ServerState | ServerSilence] = [
        replace(SERVER, archiver=failing),
        replace(SERVER, archive_mode="off"),
        replace(SERVER, waiting=40),
        replace(SERVER, receiver=replace(idle, wal_status="lost")),
        replace(SERVER, receiver=idle),
        replace(SERVER, is_receiver_wanted=True),
        replace(SERVER, standbys=(replace(AWAY, wal_status="lost"), replace(AWAY, held_bytes=5 << 30))),
        *(ServerSilence(is_running=one, reason="r", hint=None) for one in (True, False, None)),
    ]
    gap = Gap(first=segment(3), last=segment(3))
    old = replace(BACKUP, stopped_at=NOW - timedelta(days=60))
    short = replace(WINDOW, end_lsn=Lsn(3 * SIZE))
    drill = DrillEvidence(
        name="d",
        began_at=NOW - timedelta(days=60),
        passed=True,
        backup="b",
        manifest_hash="h",
        system_identifier=77,
        target="t",
        timeline=None,
        reached_lsn=None,
        reached_at=None,
        failures=(),
        seconds={},
        written_bytes=0,
        fetched_bytes=0,
        replayed_bytes=0,
    )
    repositories: list[RepositoryState | RepositorySilence] = [
        RepositorySilence(name="main", url="file:///r", reason="gone", hint=None),
        replace(REPOSITORY, backups=(), reach=replace(REACH, windows=())),
        replace(REPOSITORY, backups=(old,)),
        replace(REPOSITORY, backups=(replace(BACKUP, bad_pages=2, state=ShownState.COMPLETE),)),
        replace(REPOSITORY, backups=(replace(BACKUP, state=ShownState.DAMAGED, reason="r"), BACKUP)),
        replace(REPOSITORY, reach=replace(REACH, gaps=(gap,))),
        replace(REPOSITORY, reach=replace(REACH, gaps=(gap,), windows=(short,))),
        replace(REPOSITORY, reach=replace(REACH, unusable=(("b", segment(1)),), unknown=(Timeline(3),))),
        replace(REPOSITORY, reach=replace(REACH, damaged=((segment(2), "r"), (segment(6), "r")))),
        replace(REPOSITORY, fenced="passed over", quarantined=3, single_writer=True, older=("r",)),
        replace(REPOSITORY, is_horizon_whole=False),
        replace(REPOSITORY, drills=(drill,)),
        replace(REPOSITORY, drills=(replace(drill, passed=False, failures=("rows: r",)),)),
        replace(REPOSITORY, drills=(replace(drill, passed=False, doubt="it is not signed"),)),
        replace(REPOSITORY, drills=(replace(drill, began_at=NOW + timedelta(days=1)),)),
    ]
    found = [*(problem for one in servers for problem in problems(one))]
    return (*found, *(problem for one in repositories for problem in problems(repository=one)))


def test_every_problem_comes_with_a_command() -> None:
    found = list_every_kind()
    assert len({one.code for one in found}) > 20
    for one in found:
        assert re.search(r"pghaven [a-z]+|psql -c|DROP|SELECT", one.hint or ""), one
        assert one.code in IMPORTANCE, one


def test_what_is_lost_by_the_hour_is_told_first() -> None:
    failing = replace(ARCHIVER, failed_count=3, last_failed_name="X", last_failed_time=NOW)
    old = replace(BACKUP, stopped_at=NOW - timedelta(days=9), bad_pages=1)
    found = problems(replace(SERVER, archiver=failing), replace(REPOSITORY, backups=(old,), fenced="passed over"))
    assert [one.code for one in found] == ["archiving_failed", "fenced", "bad_pages", "backup_old"]


def test_a_verification_that_does_not_count_is_told() -> None:
    doubtful = Evidence(
        name="clusters/main/evidence/E",
        scope=Scope.QUICK,
        only=None,
        began_at=NOW - timedelta(hours=2),
        backups=(),
        archive_ends=(),
        damage_count=0,
        doubt="it is not signed",
    )
    problem = only(problems(repository=replace(REPOSITORY, doubtful=doubtful)))
    assert (problem.code, problem.level) == ("verification_doubtful", "warning")
    assert problem.text == "the result of the last verification, 2 h 0 min ago, does not count: it is not signed"
    assert "clusters/main/evidence/E" in (problem.hint or "")
