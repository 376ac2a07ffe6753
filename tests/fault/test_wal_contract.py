"""The contract of archive_command and restore_command, held by the real command line against a directory.

Twelve ways in which a push may go and eight in which a get may, each ending in a status that PostgreSQL acts upon.
The power-loss case needs a loop device, those that hang need strace or a file system that can be frozen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Conflict
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.proof.wal_incidents import judge_writers
from pghaven.repository.incidents import list_incidents
from pghaven.repository.repository import open_repository
from pghaven.repository.walstore import WalArchive
from pghaven.store.open import open_store
from pghaven.wal.conflict import put_or_tell
from tests.fault.tracing import MUTATING, Traced, kills, needs_strace, run_traced
from tests.fault.volumes import frozen, memory_volume, needs_root, power_cut_volume
from tests.support.moving import list_files
from tests.support.places import own, plain_user, run_as_plain
from tests.support.synthetic import START
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.support.walfile import (
    PROGRAM,
    SEGMENT_SIZE,
    SYSTEM_IDENTIFIER,
    Ended,
    WalSite,
    make_segment,
    render_history,
    segment_name,
    start_in,
)

NAME = segment_name(3)
CONTENT = make_segment(NAME)
OTHER = make_segment(NAME, seed=1)
MAIN = "import os, sys; os.chdir(sys.argv.pop(1)); from pghaven.cli.main import main; sys.exit(main())"


@pytest.fixture
def site(tmp_path: Path) -> WalSite:
    return WalSite(tmp_path)


def push(site: WalSite, content: bytes = CONTENT, name: object = NAME) -> Ended:
    """Through sh, by the rendered setting, as PostgreSQL does it."""
    return site.run_shell(site.archive_command(site.write(name, content)))


def get(site: WalSite, name: object = NAME, plan: str | None = None) -> Ended:
    return site.run_shell(site.restore_command(name, plan=plan))


def push_traced(site: WalSite, log: Path, inject: str | None = None, content: bytes = CONTENT) -> Traced:
    words = ["wal", "push", *site.options, site.write(NAME, content)]
    return run_traced(MAIN, [str(site.data_directory), *words], log, inject=inject)


def leftovers(site: WalSite) -> list[Path]:
    return list_files(site.repository_path, ".tmp-*")


def wal_objects(site: WalSite) -> list[str]:
    return sorted(path.name for path in site.repository_path.glob("clusters/*/wal/**/*") if is_object(path))


def is_object(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".tmp-")


# -- push 1 to 4: new, again, different, again after a crash -----------------------------------------------------------


def test_a_new_segment_is_archived_and_comes_back(site: WalSite) -> None:
    assert push(site).status == 0
    assert get(site).status == 0
    assert site.fetched == CONTENT


def test_the_same_again_is_success(site: WalSite) -> None:
    assert [push(site).status for _ in range(3)] == [0, 0, 0]
    assert wal_objects(site) == [str(NAME)]


def test_different_content_is_refused_and_both_are_named(site: WalSite) -> None:
    push(site)
    ended = push(site, OTHER)
    assert ended.status == 12
    assert ended.err.count(" hash ") == 2
    assert site.archive.get(str(NAME)) == CONTENT


@needs_strace
def test_the_same_again_proves_first_that_the_copy_is_durable(site: WalSite, tmp_path: Path) -> None:
    push(site)
    traced = push_traced(site, tmp_path / "log")
    assert traced.status == 0
    flushed = [call.arguments for call in traced.calls if call.name == "fsync"]
    assert any(f"/{NAME}>" in arguments for arguments in flushed)
    assert any(arguments.endswith("/00000000>") for arguments in flushed)
    assert push_traced(site, tmp_path / "log", "fsync:error=EIO:when=1").status == 14


@needs_root
def test_what_was_acknowledged_survives_a_power_cut(tmp_path: Path) -> None:
    with power_cut_volume(tmp_path) as volume:
        site = WalSite(tmp_path / "site", repository=volume.path / "repository")
        assert push(site).status == 0
        history = render_history((1, Lsn(4 * SEGMENT_SIZE)))
        assert push(site, history, "00000002.history").status == 0
        volume.cut()
        assert get(site).status == 0
        assert site.fetched == CONTENT
        assert site.archive.get("00000002.history") == history
        assert push(site).status == 0


def test_another_cluster_under_the_name_is_kept_as_an_incident_of_both(site: WalSite) -> None:
    assert push(site).status == 0
    stranger = SYSTEM_IDENTIFIER + 1
    site.write(NAME, make_segment(NAME, system_identifier=stranger))
    for _ in range(2):
        ended = site.push(f"pg_wal/{NAME}")
        assert ended.status == 12
        assert str(SYSTEM_IDENTIFIER) in ended.err
        assert str(stranger) in ended.err
    (incident,) = list_incidents(site.repository, "main", SYSTEM_IDENTIFIER)
    assert incident.archived["system_identifier"] == str(SYSTEM_IDENTIFIER)
    assert incident.refused["system_identifier"] == str(stranger)
    assert incident.archived["data_directory"] == incident.refused["data_directory"] == str(site.data_directory)
    (problem,) = judge_writers("main", [incident], incident.seen_at)
    assert "two servers archive as main" in problem.text
    assert f"system identifier {stranger}" in problem.text
    assert site.archive.get(str(NAME)) == CONTENT


def test_a_server_that_goes_on_being_refused_the_same_file_is_told_of_as_long_as_it_does(site: WalSite) -> None:
    """It never comes to another file: after a week it looked like one that was stopped."""
    assert push(site).status == 0
    clock = ManualClock(START)
    repository = open_repository(open_store(site.repository_path.as_uri()), clock=clock)
    archive = WalArchive(repository, "main", SYSTEM_IDENTIFIER, SEGMENT_SIZE)
    for _ in range(30):
        for _ in range(2):
            with pytest.raises(Conflict):
                put_or_tell(archive, str(NAME), OTHER, {"host": "db2"})
        clock.advance(timedelta(days=1).total_seconds())
    (incident,) = list_incidents(repository, "main", SYSTEM_IDENTIFIER)
    (problem,) = judge_writers("main", [incident], clock.now())
    assert str(NAME) in problem.text
    assert 'host "db2"' in problem.text
    names = repository.store.list_children(f"clusters/main/incidents/{SYSTEM_IDENTIFIER}/")
    assert len(names) == 30, "one for each day"


# -- push 5: two servers at once ---------------------------------------------------------------------------------------


def test_of_two_servers_that_write_one_name_at_once_exactly_one_wins(site: WalSite, tmp_path: Path) -> None:
    contents = [make_segment(NAME, seed=seed) for seed in range(4)]
    commands = []
    for number, content in enumerate(contents):
        directory = tmp_path / f"server{number}"
        (directory / "pg_wal").mkdir(parents=True)
        (directory / "pg_wal" / str(NAME)).write_bytes(content)
        commands.append((directory, [*PROGRAM, "wal", "push", *site.options, f"pg_wal/{NAME}"]))
    running = [start_in(directory, command) for directory, command in commands]
    errors = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in running]
    statuses = [process.returncode for process in running]
    assert sorted(statuses) == [0, 12, 12, 12]
    winner = statuses.index(0)
    assert site.archive.get(str(NAME)) == contents[winner]
    assert all("other contents" in error for number, error in enumerate(errors) if number != winner)
    assert leftovers(site) == []


# -- push 6: killed anywhere -------------------------------------------------------------------------------------------


@needs_strace
def test_killed_before_any_of_its_steps_a_push_can_be_made_again(tmp_path: Path) -> None:
    """Every prefix of what a push changes on disk: nothing that is visible is wrong, and the next push succeeds."""
    log = tmp_path / "log"
    calls = push_traced(WalSite(tmp_path / "whole"), log).calls
    assert [call.name for call in calls][-4:] == ["fsync", "linkat", "unlinkat", "fsync"]
    for number, kill in enumerate(kills(calls)):
        site = WalSite(tmp_path / str(number))
        assert push_traced(site, log, kill).status == 18
        visible = wal_objects(site)
        assert visible in ([], [str(NAME)])
        if visible:
            assert site.archive.get(str(NAME)) == CONTENT
        assert push(site).status == 0
        assert site.archive.get(str(NAME)) == CONTENT
        shutil.rmtree(site.root)


@needs_strace
def test_killed_before_any_of_its_steps_a_get_leaves_no_wrong_file(site: WalSite, tmp_path: Path) -> None:
    push(site)
    words = [str(site.data_directory), "wal", "get", *site.options, str(NAME), "pg_wal/RECOVERYXLOG"]
    target = site.data_directory / "pg_wal" / "RECOVERYXLOG"
    steps = (*MUTATING, "rename")
    calls = run_traced(MAIN, words, tmp_path / "log", trace=steps).calls
    assert [call.name for call in calls] == ["writev", "rename"]
    for kill in kills(calls):
        target.unlink(missing_ok=True)
        assert run_traced(MAIN, words, tmp_path / "log", trace=steps, inject=kill).status == 255
        assert not target.exists()
        assert get(site).status == 0
        assert site.fetched == CONTENT


# -- push 7, 8: full and failing disks ---------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("options", ["size=700k", "nr_inodes=9"])
def test_a_full_disk_fails_the_push_and_nothing_half_done_is_visible(tmp_path: Path, options: str) -> None:
    with memory_volume(tmp_path / "small", options) as small:
        site = WalSite(tmp_path / "site", repository=small / "repository")
        random = os.urandom(SEGMENT_SIZE)  # headers of a segment, and nothing that could be compressed
        content = CONTENT[:40] + random[40:]
        ended = push(site, content)
        assert ended.status == 14
        assert "no space left" in ended.err
        assert wal_objects(site) == []
        assert leftovers(site) == []
        subprocess.run(["mount", "-o", "remount,size=10m,nr_inodes=1000", str(small)], check=True)
        assert push(site, content).status == 0
        assert site.archive.get(str(NAME)) == content


@needs_strace
@pytest.mark.parametrize("call", ["fsync:error=EIO", "writev:error=EIO", "linkat:error=EIO", "writev:error=ENOSPC"])
def test_an_error_of_the_disk_fails_the_push_and_the_next_one_writes_anew(
    site: WalSite, tmp_path: Path, call: str
) -> None:
    failed = push_traced(site, tmp_path / "log", f"{call}:when=1")
    assert failed.status == 14
    assert wal_objects(site) == []
    assert push(site).status == 0
    assert site.archive.get(str(NAME)) == CONTENT


# -- push 9: names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("00000002.history", render_history((1, Lsn(4 * SEGMENT_SIZE)))),
        (f"{NAME}.partial", CONTENT),
        (f"{NAME}.00000028.backup", b"START WAL LOCATION: 0/300028"),
        ("x" * 64, b"the future"),
    ],
)
def test_every_kind_of_file_goes_in_and_comes_back(site: WalSite, name: str, content: bytes) -> None:
    assert push(site, content, name).status == 0
    assert push(site, content, name).status == 0
    assert push(site, content + b"x", name).status in (12, 16)
    assert get(site, name).status == 0
    assert site.fetched == content


def test_a_name_too_long_for_postgresql_is_refused(site: WalSite) -> None:
    assert push(site, b"x", "x" * 65).status == 12


# -- push 10, 11: asked to end, and hanging ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hanging:
    """A command that runs under ``tracer``; ``first`` is the process of it that PostgreSQL would wait for."""

    tracer: subprocess.Popen[str]
    log: Path
    first: int

    def find_status(self) -> int | None:
        ended = re.search(rf"^{self.first} +\+\+\+ exited with (\d+) \+\+\+$", self.log.read_text(), re.MULTILINE)
        return None if ended is None else int(ended[1])


@contextmanager
def hanging(site: WalSite, words: list[str], call: str, path: Path | None = None) -> Iterator[Hanging]:
    """A command whose first ``call`` (on ``path``) hangs for longer than anybody here waits."""
    delay = f"inject={call}:delay_enter={int(10 * PATIENCE_SECONDS * 1_000_000)}:when=1"
    log = site.root / "strace"
    command = ["strace", "-f", "-q", "-o", str(log), "-e", f"trace={call}", "-e", delay]
    command += () if path is None else ("-P", str(path))
    with start_in(site.data_directory, [*command, *PROGRAM, *words]) as tracer:
        try:
            first = wait_until(lambda: find_traced(tracer.pid), "the traced process")[0]
            yield Hanging(tracer=tracer, log=log, first=first)
        finally:
            if tracer.poll() is None:
                os.killpg(tracer.pid, signal.SIGKILL)


def find_traced(tracer_pid: int) -> list[int]:
    """The program under strace, which has other children for moments at its start."""
    children = Path(f"/proc/{tracer_pid}/task/{tracer_pid}/children").read_text().split()
    return [int(child) for child in children if b"\0wal\0" in read_words(child)]


def read_words(pid: str) -> bytes:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
    return b"" if words.startswith(b"strace") else words


def end_before_the_hang(command: Hanging) -> tuple[int, str]:
    """Status and words of the command, which must end although what it did still hangs, and is ended here."""
    wait_until(lambda: command.find_status() is not None, "the command to end")
    with suppress(ProcessLookupError):
        os.killpg(command.tracer.pid, signal.SIGKILL)
    status = command.find_status()
    assert status is not None
    return status, command.tracer.communicate(timeout=PATIENCE_SECONDS)[1]


@needs_strace
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_push_that_is_asked_to_end_ends_and_fails(site: WalSite, number: signal.Signals) -> None:
    words = ["wal", "push", *site.options, site.write(NAME, CONTENT)]
    with hanging(site, words, "linkat") as command:
        wait_until(lambda: leftovers(site), "the push to have written")
        os.kill(command.first, number)
        status, error = end_before_the_hang(command)
    assert status == 18
    assert ("interrupted" if number == signal.SIGINT else f"ended by {number.name}") in error
    assert wal_objects(site) == []
    assert push(site).status == 0


@needs_strace
def test_a_push_into_a_store_that_hangs_ends_in_time(site: WalSite) -> None:
    site.configure(wal_timeout="1s")
    words = ["wal", "push", *site.options, site.write(NAME, CONTENT)]
    with hanging(site, words, "fsync") as command:
        status, error = end_before_the_hang(command)
    assert status == 18
    assert f'"{NAME}" was not archived within 1.0 s' in error


@needs_root
def test_a_push_that_cannot_even_be_killed_does_not_hold_up_the_server(tmp_path: Path) -> None:
    with power_cut_volume(tmp_path) as volume:
        site = WalSite(tmp_path / "site", repository=volume.path / "repository")
        site.configure(wal_timeout="1s")
        command = site.archive_command(site.write(NAME, CONTENT))
        said = tmp_path / "said"  # a file, as a pipe would stay open for as long as the child that is left behind
        with frozen(volume.path), said.open("w") as file:
            done = subprocess.run(
                ["/bin/sh", "-c", command], cwd=site.data_directory, stderr=file, check=False, timeout=PATIENCE_SECONDS
            )
        assert done.returncode == 18
        assert "was not archived within 1.0 s" in said.read_text()
        site.configure()
        assert push(site).status == 0
        assert site.archive.get(str(NAME)) == CONTENT


@needs_root
def test_a_large_segment_has_longer_at_each_try_and_is_archived_in_the_end(tmp_path: Path) -> None:
    size = 64 << 20
    with power_cut_volume(tmp_path) as volume:
        site = WalSite(tmp_path / "site", repository=volume.path / "repository", segment_size=size)
        (site.data_directory / "pg_wal" / "archive_status").mkdir()
        site.configure(wal_timeout="1s")
        name = SegmentName.parse(str(NAME), size)
        command = site.archive_command(site.write(name, make_segment(name)))
        with frozen(volume.path):
            for told in ("1.0 s", "2.0 s"):
                said = tmp_path / "said"
                with said.open("w") as file:
                    words = ["/bin/sh", "-c", command]
                    done = subprocess.run(words, cwd=site.data_directory, stderr=file, check=False)
                assert done.returncode == 18
                assert f"was not archived within {told}" in said.read_text()
        site.configure()
        ended = site.run_shell(command)
        assert ended.status == 0, ended.err
        assert not (site.data_directory / "pg_wal" / "pghaven" / "late").exists()


# -- push 12: odd places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["with space", "a b'c%d", 'quo"te $HOME `id` ;&', "%p%f%%", "ümläut", "-n"])
def test_any_path_comes_through_both_commands(tmp_path: Path, place: str) -> None:
    site = WalSite(tmp_path / place)
    site.data_directory.joinpath("pghaven.restore.json").write_text(make_plan(NAME.end_lsn, archiving="allowed"))
    assert push(site).status == 0
    assert get(site, plan="pghaven.restore.json").status == 0
    assert site.fetched == CONTENT


# -- get 1 to 3: found, absent at the end, absent in the middle --------------------------------------------------------


def make_plan(end: Lsn, **more: object) -> str:
    body = {"format": 1, "timeline_path": [[1, "0/0", None]], "expected_end_lsn": str(end), **more}
    return json.dumps(body)


def test_absent_at_the_end_ends_recovery(site: WalSite) -> None:
    push(site)
    assert get(site, NAME.next()).status == 1
    assert get(site, "00000002.history").status == 1


def test_absent_in_the_middle_stops_recovery(site: WalSite) -> None:
    after = NAME.next().next()
    push(site)
    push(site, make_segment(after), after)
    assert get(site, NAME.next()).status == 255


def test_absent_before_the_planned_end_stops_recovery(site: WalSite) -> None:
    push(site)
    (site.data_directory / "the plan.json").write_text(make_plan(NAME.next().end_lsn))
    ended = get(site, NAME.next(), plan="the plan.json")
    assert ended.status == 255
    assert str(NAME.next()) in ended.err
    assert "the plan.json" in ended.err
    assert get(site, NAME.next().next(), plan="the plan.json").status == 1


def test_a_plan_that_is_gone_or_unreadable_stops_recovery(site: WalSite) -> None:
    push(site)
    assert get(site, plan="gone.json").status == 255
    (site.data_directory / "broken.json").write_text("{")
    assert get(site, plan="broken.json").status == 255


# -- get 4, 5: time out, not permitted, not there ----------------------------------------------------------------------


@needs_strace
@pytest.mark.parametrize("standby", [False, True])
def test_a_store_that_hangs_stops_recovery_in_time_but_not_a_standby(site: WalSite, standby: bool) -> None:
    push(site)
    site.configure(wal_timeout="1s")
    if standby:
        (site.data_directory / "standby.signal").touch()
    words = ["wal", "get", *site.options, "--absent-status", "86", str(NAME), "pg_wal/RECOVERYXLOG"]
    with hanging(site, words, "pread64", site.object_path(NAME)) as command:
        status, _ = end_before_the_hang(command)
    assert status == (86 if standby else 255)


def test_a_repository_that_may_not_be_read_stops_recovery(server_path: Path, pghaven_command: object) -> None:
    site = WalSite(server_path / "site")
    push(site)
    hide = site.object_path(NAME).parent
    for path in [site.root, *site.root.rglob("*")]:
        own(path)
    if os.geteuid() == 0:
        os.chown(hide, 0, 0)
    hide.chmod(0o700 if os.geteuid() == 0 else 0)
    executable = pghaven_command.words  # type: ignore[attr-defined]
    for name in (NAME, NAME.next()):
        ended = run_as_plain(["sh", "-c", site.restore_command(name, executable)], cwd=site.data_directory)
        assert ended.returncode == 255
        assert "ermission denied" in ended.stderr, plain_user()
    hide.chmod(0o700)
    own(hide)
    ended = run_as_plain(["sh", "-c", site.restore_command(NAME, executable)], cwd=site.data_directory)
    assert ended.returncode == 0


def move_away(site: WalSite) -> None:
    site.repository_path.rename(site.root / "away")


def leave_empty_mount_point(site: WalSite) -> None:
    move_away(site)
    site.repository_path.mkdir()


def put_another_repository(site: WalSite) -> None:
    move_away(site)
    shutil.rmtree(site.repository_path, ignore_errors=True)
    shutil.copytree(site.root / "away", site.repository_path, ignore=shutil.ignore_patterns("lineages"))


def damage_descriptor(site: WalSite) -> None:
    path = site.repository_path / "pghaven.json"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-3])


def break_configuration(site: WalSite) -> None:
    site.config_path.write_text("[cluster.main]\n")


def remove_configuration(site: WalSite) -> None:
    site.config_path.unlink()


def remove_pg_wal(site: WalSite) -> None:
    (site.data_directory / "pg_wal").rename(site.root / "pg_wal")


@pytest.mark.parametrize(
    "spoil",
    [
        move_away,
        leave_empty_mount_point,
        put_another_repository,
        damage_descriptor,
        break_configuration,
        remove_configuration,
    ],
)
def test_without_a_repository_that_knows_the_cluster_nothing_is_absent(
    site: WalSite, spoil: Callable[[WalSite], None]
) -> None:
    push(site)
    spoil(site)
    assert get(site, NAME.next()).status == 255
    assert get(site, NAME).status == 255
    assert site.run_shell(site.restore_command(NAME).partition("; s=$?")[0]).status == 255


def test_a_file_that_cannot_be_put_in_place_is_not_absent(site: WalSite) -> None:
    push(site)
    remove_pg_wal(site)
    assert get(site).status == 255


# -- get 6, 7: damage --------------------------------------------------------------------------------------------------


def test_every_kind_of_damage_stops_recovery(site: WalSite) -> None:
    push(site)
    path = site.object_path(NAME)
    path.chmod(0o600)
    intact = path.read_bytes()
    flipped = [intact[:at] + bytes([intact[at] ^ 4]) + intact[at + 1 :] for at in (0, len(intact) // 2, -30)]
    for broken in (*flipped, intact[:-1], intact[: len(intact) // 2], b"", intact + b"x"):
        path.write_bytes(broken)
        ended = get(site)
        assert ended.status == 255
        assert "damaged" in ended.err
    path.write_bytes(intact)
    assert get(site).status == 0


def test_damage_stops_a_standby_too(site: WalSite) -> None:
    push(site)
    (site.data_directory / "standby.signal").touch()
    path = site.object_path(NAME)
    path.chmod(0o600)
    path.write_bytes(b"x")
    assert get(site).status == 255


# -- get 8: the program itself is broken -------------------------------------------------------------------------------


def test_a_broken_program_never_looks_like_absence(site: WalSite, tmp_path: Path) -> None:
    push(site)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "blake3.py").write_text("raise ImportError('half an upgrade')\n")
    (broken / "pghaven.py").write_text("import no_such_module\n")
    cases: dict[str, tuple[list[str], dict[str, str]]] = {
        "no such program": (["/nowhere/pghaven"], {}),
        "an interpreter that cannot start": ([*PROGRAM], {"PYTHONHOME": "/nowhere"}),
        "a program that cannot be imported": ([*PROGRAM], {"PYTHONPATH": str(broken)}),
        "a module that does not exist": ([sys.executable, "-m", "pghaven.no_such_module"], {}),
        "a syntax error": ([sys.executable, "-c", "("], {}),
    }
    for what, (executable, environment) in cases.items():
        for name in (NAME, NAME.next()):
            ended = site.run_shell(site.restore_command(name, executable), environment)
            assert ended.status == 255, (what, ended.err)


def test_a_library_that_breaks_on_the_way_never_looks_like_absence(site: WalSite, tmp_path: Path) -> None:
    push(site)
    (tmp_path / "blake3.py").write_text("raise ImportError('half an upgrade')\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    bare = site.restore_command(NAME.next()).partition("; s=$?")[0]
    assert site.run_shell(bare, environment).status == 255
    assert site.run_shell(site.restore_command(NAME.next()), environment).status == 255
    assert site.run_shell(site.archive_command(f"pg_wal/{NAME}"), environment).status == 1


# -- both: standbys ----------------------------------------------------------------------------------------------------


def test_a_standby_goes_on_streaming_while_the_store_is_away(site: WalSite) -> None:
    push(site)
    (site.data_directory / "standby.signal").touch()
    move_away(site)
    ended = get(site)
    assert ended.status == 1
    assert "could not fetch" in ended.err
