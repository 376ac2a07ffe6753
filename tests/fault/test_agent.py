"""The agent: what it answers is true and comes soon, and whatever becomes of it the server is never kept waiting.

Every push is the configured command through ``sh``, in a data directory with an ``archive_status`` as a server has.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pghaven.agent.door import find_other
from pghaven.errors import Cancelled, Conflict, Locked, StoreUnreachable
from pghaven.proof.receiving import judge_agent
from pghaven.wal.agentstate import AgentState, find_agent
from pghaven.wal.asking import SOCKET_PATH
from tests.fault.test_look_ahead import archive, finish, finish_all, held, is_told
from tests.fault.volumes import frozen, needs_root, power_cut_volume
from tests.support.agent import PROGRAM, RunningAgent, ping, running_agent
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.support.walfile import WalSite, make_segment, run_in, segment_name, start_in

# A program that tells whether it has loaded what does a push, and one that cannot load it. Both wait for the agent for
# longer than two seconds, since it is not the speed of a machine that is to be told here.
_WAITING = f"from pghaven.wal import asking; asking._TAKEN_SECONDS = {PATIENCE_SECONDS}; "
_THIN = (
    f"import sys; {_WAITING}from pghaven.cli.main import main; status = main()\n"
    "print(*sorted(name for name in sys.modules if name.startswith('pghaven')), len(sys.modules)); sys.exit(status)"
)
THIN = (sys.executable, "-c", _THIN)
_NO_PUSH = "import sys; sys.modules['pghaven.cli.wal_run'] = None\n"
ONLY_ASKS = (sys.executable, "-c", f"{_NO_PUSH}{_WAITING}from pghaven.cli.main import main; sys.exit(main())")


@pytest.fixture
def site(tmp_path: Path) -> WalSite:
    made = WalSite(tmp_path)
    (made.data_directory / "pg_wal" / "archive_status").mkdir()
    return made


def finish_one(site: WalSite, number: int) -> None:
    finish_all(site, [number])


def is_held(site: WalSite, number: int) -> bool:
    return held(site, site.repository_path, number)


def socket_of(site: WalSite) -> Path:
    return site.data_directory / SOCKET_PATH


def find_desk(site: WalSite) -> int:
    """The process that answers; it may be busy for longer than a question waits."""
    return wait_until(lambda: ping(site.data_directory), "an answer") or 0


def test_a_push_by_the_agent_loads_next_to_nothing(site: WalSite) -> None:
    with running_agent(site.config_path, site.data_directory):
        site.write(segment_name(3), make_segment(segment_name(3)))
        ended = run_in(site.data_directory, [*THIN, "wal", "push", *site.options, f"pg_wal/{segment_name(3)}"])
    assert ended.status == 0, ended.err
    *ours, modules = ended.out.split()
    assert ours == ["pghaven", "pghaven.cli", "pghaven.cli.main", "pghaven.wal", "pghaven.wal.asking"]
    bare = run_in(site.data_directory, [sys.executable, "-c", "import sys; print(len(sys.modules))"])
    assert int(modules) - int(bare.out) <= 8
    assert is_held(site, 3)


def test_what_waits_is_marked_without_anybody_having_asked(site: WalSite) -> None:
    with running_agent(site.config_path, site.data_directory):
        finish_all(site)
        wait_until(lambda: all(is_told(site, number, "/bin/sh") for number in (3, 4, 5, 6)), "marks")
    assert all(is_held(site, number) for number in (3, 4, 5, 6))


def test_a_backlog_is_archived_in_its_order_with_the_agent_at_work(site: WalSite) -> None:
    numbers = range(3, 40)
    finish_all(site, numbers)
    counted, script = site.root / "started", site.root / "counting"
    script.write_text(f'echo x >> {counted}\nexec "$@"\n')
    program = ("/bin/sh", str(script), *PROGRAM)
    with running_agent(site.config_path, site.data_directory):
        assert [archive(site, segment_name(number), program).status for number in numbers] == [0] * len(numbers)
    assert all(is_held(site, number) for number in numbers)
    assert len(counted.read_text().split()) < len(numbers), "most are marked when the server comes to them"


def test_an_error_is_told_as_a_push_tells_it(site: WalSite) -> None:
    alone = _fail(site)
    with running_agent(site.config_path, site.data_directory) as agent:
        by_agent = _fail(site)
        assert by_agent == alone
        other = make_segment(segment_name(9), seed=1)
        finish(site, segment_name(9), make_segment(segment_name(9)))
        assert archive(site, segment_name(9)).status == 0
        site.write(segment_name(9), other)
        assert archive_with(site, 9, ONLY_ASKS) == Conflict.exit_status
        assert "cannot" in agent.log.read_text() or "could not" in agent.log.read_text()
        assert "archiving works again" in agent.log.read_text()
    assert site.archive.get(str(segment_name(9))) == make_segment(segment_name(9))


def _fail(site: WalSite) -> tuple[int, str]:
    """What the server is told while there is no repository, by whoever does the push."""
    finish_one(site, 8)
    site.repository_path.rename(site.root / "away")
    try:
        ended = site.run_shell(site.archive_command(f"pg_wal/{segment_name(8)}"))
    finally:
        (site.root / "away").rename(site.repository_path)
    assert ended.status == StoreUnreachable.exit_status
    return ended.status, ended.err


def archive_with(site: WalSite, number: int, program: Sequence[str]) -> int:
    return site.run_shell(site.archive_command(f"pg_wal/{segment_name(number)}", program)).status


# -- without it ------------------------------------------------------------------------------------------------------


def kill_all(agent: RunningAgent, site: WalSite) -> None:
    """The agent, and the child that answers at its socket."""
    desk = find_desk(site)
    agent.process.send_signal(signal.SIGSTOP)
    os.kill(desk, signal.SIGKILL)
    agent.process.kill()
    agent.process.wait(PATIENCE_SECONDS)


def test_who_gets_no_answer_does_it_himself(site: WalSite) -> None:
    with running_agent(site.config_path, site.data_directory) as agent:
        kill_all(agent, site)
    assert socket_of(site).exists(), "nobody was left to remove it"
    finish_one(site, 3)
    assert archive(site, segment_name(3)).status == 0
    assert is_held(site, 3)


def test_what_it_has_started_follows_it_when_it_is_killed(site: WalSite) -> None:
    with running_agent(site.config_path, site.data_directory) as agent:
        agent.process.kill()
        agent.process.wait(PATIENCE_SECONDS)
        wait_until(lambda: ping(site.data_directory) is None, "the agent's children to follow it")
        wait_until(lambda: not find_other(str(site.data_directory)), "the lock to be free")
        assert socket_of(site).exists(), "it tells that nobody has ended it"
        assert find_agent(str(site.data_directory)) is AgentState.SILENT
    with running_agent(site.config_path, site.data_directory):
        wait_until(lambda: find_agent(str(site.data_directory)) is AgentState.RUNNING, "an answer")
    assert find_agent(str(site.data_directory)) is AgentState.NONE


def test_one_that_is_killed_is_missed_and_one_that_ended_is_not(site: WalSite) -> None:
    assert find_agent(str(site.data_directory)) is AgentState.NONE
    with running_agent(site.config_path, site.data_directory):
        wait_until(lambda: find_agent(str(site.data_directory)) is AgentState.RUNNING, "an answer")
    assert find_agent(str(site.data_directory)) is AgentState.NONE
    with running_agent(site.config_path, site.data_directory) as agent:
        kill_all(agent, site)
    assert find_agent(str(site.data_directory)) is AgentState.SILENT
    (problem,) = judge_agent(AgentState.SILENT)
    assert "does not answer" in problem.text


def test_one_that_is_stopped_holds_nobody_up(site: WalSite) -> None:
    with running_agent(site.config_path, site.data_directory):
        desk = find_desk(site)
        os.kill(desk, signal.SIGSTOP)
        try:
            finish_one(site, 3)
            assert archive(site, segment_name(3)).status == 0
        finally:
            os.kill(desk, signal.SIGCONT)
    assert is_held(site, 3)


@needs_root
def test_one_that_dies_in_the_midst_of_a_push_is_followed_by_whoever_asked(site: WalSite, tmp_path: Path) -> None:
    with power_cut_volume(tmp_path / "volume") as volume:
        path = volume.path / "repository"
        site.repository_path = path
        site.register(path)
        site.configure(wal_timeout="100s")
        with running_agent(site.config_path, site.data_directory):
            site.write(segment_name(3), make_segment(segment_name(3)))
            desk = find_desk(site)
            with frozen(volume.path):
                command = site.archive_command(f"pg_wal/{segment_name(3)}")
                waiting = start_in(site.data_directory, ["/bin/sh", "-c", command])
                wait_until(lambda: _has_children(desk), "the push to begin")
                os.kill(desk, signal.SIGKILL)
                wait_until(lambda: ping(site.data_directory) is not None, "another process at the door")
            _, told = waiting.communicate(timeout=PATIENCE_SECONDS)
            assert waiting.returncode == 0, told
        assert is_held(site, 3)


def _has_children(process: int) -> bool:
    return bool(Path(f"/proc/{process}/task/{process}/children").read_text().split())


@needs_root
def test_a_store_that_hangs_is_told_of_in_time(site: WalSite, tmp_path: Path) -> None:
    with power_cut_volume(tmp_path / "volume") as volume:
        path = volume.path / "repository"
        site.repository_path = path
        site.register(path)
        site.configure(wal_timeout="2s")
        with running_agent(site.config_path, site.data_directory):
            with frozen(volume.path):
                finish_one(site, 3)  # before, it might be there already
                ended = site.run_shell(site.archive_command(f"pg_wal/{segment_name(3)}", ONLY_ASKS))
                assert ended.status == Cancelled.exit_status
                assert "within 2 s" in ended.err or "within 1" in ended.err
            # A disk that has just hung may be slow for longer than two seconds; the server tries again, too.
            wait_until(lambda: archive(site, segment_name(3)).status == 0, "the push")
        assert is_held(site, 3)


# -- one at a time, and its end ----------------------------------------------------------------------------------------


def test_a_second_one_is_refused_and_the_first_goes_on(site: WalSite) -> None:
    with running_agent(site.config_path, site.data_directory):
        first = find_desk(site)
        second = run_in(site.root, [*PROGRAM, "agent", "--config", str(site.config_path)])
        assert second.status == Locked.exit_status
        assert "another agent serves" in second.err
        assert find_desk(site) == first


def test_it_ends_when_it_is_asked_to_and_leaves_no_door(site: WalSite) -> None:
    with running_agent(site.config_path, site.data_directory) as agent:
        assert agent.end() == 0
        assert "ended, as it was asked to (SIGTERM)" in agent.log.read_text()
    assert not socket_of(site).exists()
    with running_agent(site.config_path, site.data_directory):
        finish_one(site, 3)
        assert archive(site, segment_name(3), ONLY_ASKS).status == 0


def test_a_part_of_it_that_is_killed_is_begun_again(site: WalSite) -> None:
    with running_agent(site.config_path, site.data_directory):
        desk = find_desk(site)
        os.kill(desk, signal.SIGKILL)
        wait_until(lambda: ping(site.data_directory) not in (desk, None), "another process at the door")
        finish_one(site, 3)
        assert archive(site, segment_name(3), ONLY_ASKS).status == 0


# -- what changes under it ---------------------------------------------------------------------------------------------


def test_it_gives_signs_of_life_to_the_service_manager(site: WalSite, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"pghaven-{site.root}"[-100:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(PATIENCE_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        with running_agent(site.config_path, site.data_directory):
            told = [manager.recv(1000).decode().splitlines() for _ in range(4)]
    assert told[0] == ["READY=1"]
    assert all("WATCHDOG=1" in lines for lines in told[1:]), told


def test_a_data_directory_that_comes_later_or_is_replaced_is_served(site: WalSite) -> None:
    away = site.root / "away"
    site.data_directory.rename(away)
    with running_agent(site.config_path):
        shutil.copytree(away, site.data_directory)
        wait_until(lambda: ping(site.data_directory) is not None, "the agent in the new directory")
        shutil.rmtree(site.data_directory)
        away.rename(site.data_directory)
        wait_until(lambda: ping(site.data_directory) is not None, "the agent in the directory in its place")
        finish_one(site, 3)
        assert archive(site, segment_name(3), ONLY_ASKS).status == 0


def test_a_changed_configuration_is_used_and_a_wrong_one_is_not(site: WalSite) -> None:
    with running_agent(site.config_path, site.data_directory) as agent:
        good = site.config_path.read_text()
        site.config_path.write_text(good + "nonsense = 1\n")
        wait_until(lambda: "is not used" in agent.log.read_text(), "the wrong configuration to be told of")
        finish_one(site, 3)
        assert archive(site, segment_name(3), ONLY_ASKS).status == 0
        second = site.root / "second"
        site.register(second)
        site.configure(second)
        wait_until(lambda: "read anew" in agent.log.read_text(), "the new configuration")
        wait_until(lambda: ping(site.data_directory) is not None, "the agent")
        finish_one(site, 4)
        assert archive(site, segment_name(4), ONLY_ASKS).status == 0
        assert held(site, second, 4)


def test_only_the_words_of_its_own_configuration_are_taken(site: WalSite) -> None:
    other = site.root / "other.toml"
    shutil.copy(site.config_path, other)
    site.write(segment_name(3), make_segment(segment_name(3)))
    path = f"pg_wal/{segment_name(3)}"
    with running_agent(site.config_path, site.data_directory):
        for options in (("--config", str(other), "--cluster", "main"), ("--config", str(site.config_path))):
            assert run_in(site.data_directory, [*ONLY_ASKS, "wal", "push", *options, path]).status != 0
        words = [*ONLY_ASKS, "wal", "push", *site.options, path]
        assert run_in(site.data_directory, words, {"PGHAVEN_CLUSTER__MAIN__WAL_REQUIRED": "1"}).status != 0
        assert run_in(site.data_directory, words).status == 0


def test_a_repository_that_was_down_is_filled_in(site: WalSite, tmp_path: Path) -> None:
    second = tmp_path / "second"
    site.register(second)
    site.configure(second, extra="wal_required = 1\n")
    with running_agent(site.config_path, site.data_directory):
        second.rename(tmp_path / "away")
        finish_one(site, 3)
        assert archive(site, segment_name(3), ONLY_ASKS).status == 0
        (tmp_path / "away").rename(second)
        finish_one(site, 4)
        assert archive(site, segment_name(4), ONLY_ASKS).status == 0
    assert is_held(site, 3)
    assert is_held(site, 4)
