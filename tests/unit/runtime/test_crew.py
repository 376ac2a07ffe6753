"""Crews: how work goes round, and that no failure and no end of the program leaves a worker behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pghaven.errors import Cancelled, Damaged, Refused
from pghaven.runtime.crew import JOBS_IN_FLIGHT, NOT_YET, Crew
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.unit.runtime import crew_jobs

PROJECT = Path(__file__).resolve().parents[3]


def pids(directory: Path, sign: str) -> list[int]:
    return [int(path.name.removeprefix(f"{sign}-")) for path in directory.glob(f"{sign}-*")]


def run_acts(directory: Path, *jobs: str, size: int = 2) -> list[object]:
    results: list[object] = []
    with Crew(size=size, setup=crew_jobs.Act, settings=directory) as crew:
        crew.run(iter(jobs), results.append)
    return results


def assert_none_is_left(directory: Path) -> None:
    started = pids(directory, "started")
    assert started
    assert [pid for pid in started if crew_jobs.is_alive(pid)] == []


# Work


@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_every_job_is_done_once_and_every_worker_that_had_one_is_closed(size: int) -> None:
    results: list[object] = []
    jobs = [("job", number, {"key": [number]}) for number in range(200)]
    with Crew(size=size, setup=crew_jobs.Echo, settings="mine") as crew:
        crew.run(iter(jobs), results.append)
    done = [result for result in results if isinstance(result, tuple) and len(result) == 3]
    closed = [result for result in results if isinstance(result, tuple) and len(result) == 2]
    assert sorted(done) == jobs
    assert {settings for settings, _ in closed} == {"mine"}
    assert sum(count for _, count in closed) == 200
    assert len(closed) <= max(size, 1)


def test_while_nothing_comes_the_caller_is_told(tmp_path: Path) -> None:
    """The job ends only by what is done then."""
    results: list[object] = []
    with Crew(size=1, setup=crew_jobs.Act, settings=tmp_path) as crew:
        crew.run(iter(["wait_for_a_word"]), results.append, on_quiet=(tmp_path / "word").touch)
    assert results == ["heard"]


@pytest.mark.parametrize("size", [0, 2])
def test_results_are_taken_while_there_is_no_job_yet(size: int) -> None:
    """The next job may be known only from them."""
    results: list[object] = []

    def jobs() -> Iterator[object]:
        yield "first"
        while not results:
            yield NOT_YET
        yield results[0]

    with Crew(size=size, setup=crew_jobs.Echo, settings="") as crew:
        crew.run(jobs(), results.append)
    assert [one for one in results if isinstance(one, str)] == ["first", "first"]


def test_a_worker_that_prepares_for_jobs_is_told_of_the_next_while_one_is_at_work() -> None:
    results: list[object] = []
    with Crew(size=1, setup=crew_jobs.Foresee, settings=19) as crew:
        crew.run(iter(range(20)), results.append)
    assert results == [True] * 20


def test_a_crew_without_jobs_ends() -> None:
    results: list[object] = []
    with Crew(size=2, setup=crew_jobs.Echo, settings="") as crew:
        crew.run(iter(()), results.append)
    assert all(result == ("", 0) for result in results)


def test_a_crew_that_is_never_run_ends(tmp_path: Path) -> None:
    with Crew(size=2, setup=crew_jobs.Act, settings=tmp_path):
        wait_until(lambda: len(pids(tmp_path, "started")) == 2, "two workers")
    assert_none_is_left(tmp_path)


def test_none_is_a_result_too(tmp_path: Path) -> None:
    results: list[object] = []
    with Crew(size=1, setup=crew_jobs.Echo, settings="") as crew:
        crew.run(iter([None, None]), results.append)
    assert results == [None, None, ("", 2)]


def test_jobs_are_pulled_no_faster_than_they_are_done() -> None:
    pulled = done = 0

    def jobs() -> Iterator[int]:
        nonlocal pulled
        for number in range(300):
            pulled += 1
            assert pulled - done <= 2 * JOBS_IN_FLIGHT
            yield number

    def count(_: object) -> None:
        nonlocal done
        done += 1

    with Crew(size=2, setup=crew_jobs.Echo, settings="") as crew:
        crew.run(jobs(), count)
    assert pulled == 300


def test_entering_does_not_wait_for_the_workers(tmp_path: Path) -> None:
    signal_file = tmp_path / "go"
    results: list[object] = []
    with Crew(size=2, setup=crew_jobs.wait_for_file, settings=signal_file) as crew:
        signal_file.touch()  # not reached if entering waited for the setups
        crew.run(iter(range(10)), results.append)
    assert sorted(result for result in results if isinstance(result, int)) == list(range(10))


def test_of_two_long_jobs_each_worker_gets_one(tmp_path: Path) -> None:
    """Each waits for the other to have begun, so one worker alone would never get to the second."""
    assert run_acts(tmp_path, "meet", "meet") == ["met", "met"]


def test_large_jobs_and_large_results_do_not_wait_for_each_other() -> None:
    results: list[object] = []
    job, size = bytes(range(256)) * 40_000, 5_000_000
    with Crew(size=2, setup=crew_jobs.Grow, settings=None) as crew:
        crew.run(iter([(job, size)] * 8), results.append)
    assert results == [(len(job), bytes(size))] * 8


def test_bytes_of_any_size_come_back_as_they_were() -> None:
    jobs = [b"", b"x", bytes(1 << 16), os.urandom(3_000_001)]
    results: list[object] = []
    with Crew(size=2, setup=crew_jobs.Grow, settings=None) as crew:
        crew.run(iter(jobs), results.append)
    assert sorted(results, key=len) == jobs  # type: ignore[arg-type]


def test_what_a_worker_prints_stays_out_of_our_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_acts(tmp_path, "print") == ["printed"]
    assert capfd.readouterr().out == ""


def test_a_worker_imports_only_what_it_needs() -> None:
    results: list[list[str]] = []
    with Crew(size=1, setup=crew_jobs.Imports, settings=None) as crew:
        crew.run(iter([None]), results.append)
    assert not {"subprocess", "multiprocessing", "ctypes", "numpy", "click", "pytest"} & set(results[0])


def test_workers_are_as_nice_as_they_are_told_to_be_and_never_less_than_we_are() -> None:
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    for nice, expected in ((19, 19), (0, ours), (ours + 1, ours + 1)):
        results: list[object] = []
        with Crew(size=1, setup=crew_jobs.Niceness, settings=None, nice=nice) as crew:
            crew.run(iter([1]), results.append)
        assert results == [[expected, expected]]
    assert os.getpriority(os.PRIO_PROCESS, 0) == ours


def test_a_crew_runs_once_and_inside_its_block() -> None:
    crew = Crew(size=1, setup=crew_jobs.Echo, settings="")
    with pytest.raises(RuntimeError, match="inside its block"):
        crew.run(iter(()), print)
    with crew:
        crew.run(iter([1]), lambda _: None)
        with pytest.raises(RuntimeError, match="once"):
            crew.run(iter([1]), lambda _: None)


# Failures


@pytest.mark.parametrize("size", [0, 2])
def test_an_error_of_ours_arrives_as_it_was(tmp_path: Path, size: int) -> None:
    with pytest.raises(Refused) as raised:
        run_acts(tmp_path, *["nothing"] * 5, "refuse", *["nothing"] * 50, size=size)
    assert type(raised.value) is Refused
    assert (raised.value.message, raised.value.detail, raised.value.hint) == ("no such luck", "Really.", "Ask again.")
    assert getattr(raised.value, "__notes__", []) == []


def test_the_first_failure_stops_the_others(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        run_acts(tmp_path, "wait_for_ever", "refuse", "nothing", "refuse")
    assert_none_is_left(tmp_path)
    assert pids(tmp_path, "cleaned") == pids(tmp_path, "waiting")


def test_any_other_error_brings_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        run_acts(tmp_path, "divide_by_zero")
    (note,) = raised.value.__notes__
    assert "in worker process" in note
    assert "do_divide_by_zero" in note


def test_an_error_that_cannot_travel_is_described(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="StrangeError") as raised:
        run_acts(tmp_path, "raise_strange_error")
    assert "do_raise_strange_error" in raised.value.__notes__[0]


def test_a_result_that_cannot_travel_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="pickle"):
        run_acts(tmp_path, "return_the_unpicklable")
    assert_none_is_left(tmp_path)


def test_a_failing_setup_is_raised() -> None:
    with (
        pytest.raises(Damaged, match="no luck"),
        Crew(size=2, setup=crew_jobs.fail_setup, settings="luck") as crew,
    ):
        crew.run(iter(range(10)), lambda _: None)


def test_settings_that_cannot_travel_start_nothing() -> None:
    with pytest.raises(Exception, match="pickle"), Crew(size=2, setup=crew_jobs.Echo, settings=lambda: None):  # type: ignore[arg-type]
        pass


def test_a_failing_source_of_jobs_stops_the_workers(tmp_path: Path) -> None:
    def jobs() -> Iterator[str]:
        yield "wait_for_ever"
        wait_until(lambda: pids(tmp_path, "waiting"), "a worker at work")
        raise Damaged("no more jobs")

    with (
        pytest.raises(Damaged, match="no more jobs"),
        Crew(size=2, setup=crew_jobs.Act, settings=tmp_path) as crew,
    ):
        crew.run(jobs(), lambda _: None)
    assert_none_is_left(tmp_path)


def test_a_failing_receiver_stops_the_workers(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise Damaged("not what was expected")

    with pytest.raises(Damaged), Crew(size=2, setup=crew_jobs.Act, settings=tmp_path) as crew:
        crew.run(iter(["nothing"] * 10), fail)
    assert_none_is_left(tmp_path)


def test_a_killed_worker_is_noticed_and_named(tmp_path: Path) -> None:
    with pytest.raises(Cancelled, match=r"worker process \d+ was terminated by signal 9: Killed") as raised:
        run_acts(tmp_path, "wait_for_ever", "die", "nothing")
    assert "memory" in str(raised.value.hint)
    assert_none_is_left(tmp_path)


def test_a_worker_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(Cancelled, match=r"worker process \d+ ended with 7"):
        run_acts(tmp_path, "exit", size=1)


def test_a_worker_deaf_to_being_stopped_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pghaven.runtime.crew.GRACE_SECONDS", 0.2)
    with Crew(size=1, setup=crew_jobs.Act, settings=tmp_path) as crew:

        def jobs() -> Iterator[str]:
            yield "ignore_being_stopped"
            wait_until(lambda: pids(tmp_path, "waiting"), "a deaf worker")
            raise Damaged("stop")

        with pytest.raises(Damaged):
            crew.run(jobs(), lambda _: None)
    assert_none_is_left(tmp_path)


# The program around it

PROGRAM = """
import sys
from pathlib import Path
from pghaven.runtime.crew import Crew
from tests.unit.runtime.crew_jobs import Act

# On purpose without a guard: workers do not import the main module.
print("main", flush=True)
with Crew(size=2, setup=Act, settings=Path(sys.argv[1])) as crew:
    crew.run(iter(sys.argv[2:]), lambda result: print(result, flush=True))
"""


def write_program(directory: Path, name: str, head: str = "") -> Path:
    path = directory / name
    path.write_text(head + textwrap.dedent(PROGRAM))
    path.chmod(0o755)
    return path


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program, and sees to its end."""
    with contextlib.ExitStack() as programs:

        def start(command: list[str], **options: object) -> subprocess.Popen[str]:
            environment = {**os.environ, "PYTHONPATH": f"{PROJECT / 'src'}:{PROJECT}"}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            program = subprocess.Popen(command, env=environment, **pipes, **options)  # type: ignore[call-overload]
            programs.enter_context(program)
            programs.callback(program.kill)
            return program  # type: ignore[no-any-return]

        yield start


@pytest.mark.parametrize("way", ["script", "console script", "module", "code"])
def test_it_works_however_the_program_was_started(tmp_path: Path, start: Start, way: str) -> None:
    signs = tmp_path / "signs"
    signs.mkdir()
    if way == "module":
        write_program(tmp_path, "program.py")
        command = [sys.executable, "-m", "program"]
    elif way == "console script":
        command = [str(write_program(tmp_path, "program", f"#!{sys.executable}\n"))]
    elif way == "code":
        command = [sys.executable, "-c", PROGRAM]
    else:
        command = [sys.executable, str(write_program(tmp_path, "program.py"))]
    out, err = start([*command, str(signs), "nothing", "nothing"], cwd=tmp_path).communicate(timeout=PATIENCE_SECONDS)
    assert (out, err) == ("main\nnothing\nnothing\n", "")


def test_an_interrupt_lets_workers_clean_up_and_leaves_none(tmp_path: Path, start: Start) -> None:
    program = start([sys.executable, "-c", PROGRAM, str(tmp_path), "wait_for_ever", "wait_for_ever"])
    wait_until(lambda: len(pids(tmp_path, "waiting")) == 2, "two busy workers")
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=PATIENCE_SECONDS)
    assert program.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1  # nothing from the workers
    assert sorted(pids(tmp_path, "cleaned")) == sorted(pids(tmp_path, "waiting"))
    assert_none_is_left(tmp_path)


def test_an_interrupt_from_the_terminal_does_not_reach_the_workers(tmp_path: Path, start: Start) -> None:
    program = start([sys.executable, "-c", PROGRAM, str(tmp_path), "wait_for_ever"], process_group=0)
    (worker,) = wait_until(lambda: pids(tmp_path, "waiting"), "a busy worker")
    assert os.getpgid(worker) != os.getpgid(program.pid)
    os.kill(worker, signal.SIGINT)  # and one that is sent to it alone is for the crew to decide
    os.killpg(program.pid, signal.SIGINT)
    _, err = program.communicate(timeout=PATIENCE_SECONDS)
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert pids(tmp_path, "cleaned") == [worker]
    assert_none_is_left(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_when_the_program_is_ended(tmp_path: Path, start: Start, how: signal.Signals) -> None:
    program = start([sys.executable, "-c", PROGRAM, str(tmp_path), "wait_for_ever", "wait_for_ever"])
    wait_until(lambda: len(pids(tmp_path, "waiting")) == 2, "two busy workers")
    program.send_signal(how)
    program.communicate(timeout=PATIENCE_SECONDS)
    wait_until(lambda: not any(map(crew_jobs.is_alive, pids(tmp_path, "started"))), "the workers' end")
    assert sorted(pids(tmp_path, "cleaned")) == sorted(pids(tmp_path, "waiting"))
