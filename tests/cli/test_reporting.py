"""What a running command shows: warnings, notes, steps and progress, on a terminal and elsewhere."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from pghaven.cli.progress import Reporter, render_progress
from pghaven.clock import ManualClock
from pghaven.events import Notice, Progress
from tests.cli.running import TIMEOUT_SECONDS, clean_environment, run_probe


def run_on_terminal(*words: str, **environment: str) -> str:
    """What a terminal at standard error receives; standard output goes elsewhere."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cli.probe_command", *words],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=clean_environment({"TERM": "xterm", **environment}),
    ) as process:
        os.close(theirs)
        received = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # EIO: the other end is closed
                break
            if not part:
                break
            received += part
        process.wait(TIMEOUT_SECONDS)
    os.close(ours)
    return received.decode().replace("\r\n", "\n")


def test_a_warning_is_shown_and_makes_the_status_done_with_warnings() -> None:
    ended = run_probe("probe", "show", "--warn", "--note")
    assert ended.status == 3
    assert ended.out == "all is well\n"
    assert ended.err == ("pghaven: note: nothing unusual\npghaven: warning: the ice is thin\nHINT:  Walk slowly.\n")


def test_quiet_leaves_warnings_and_the_result() -> None:
    ended = run_probe("probe", "show", "--warn", "--note", "-q")
    assert ended.status == 3
    assert ended.out == "all is well\n"
    assert ended.err == "pghaven: warning: the ice is thin\nHINT:  Walk slowly.\n"


def test_a_note_does_not_change_the_status() -> None:
    assert run_probe("probe", "show", "--note").status == 0


def test_notices_are_part_of_the_json() -> None:
    ended = run_probe("probe", "show", "--warn", "--json")
    assert ended.status == 3
    assert json.loads(ended.out)["notices"] == [
        {"level": "warning", "code": "thin_ice", "text": "the ice is thin", "hint": "Walk slowly."}
    ]


def test_steps_are_shown_when_asked_for() -> None:
    assert run_probe("probe", "show").err == ""
    assert run_probe("probe", "show", "-v").err == "pghaven: looking around\n"
    assert run_probe("-v", "probe", "show", "-q").err == ""


def test_progress_is_never_shown_off_a_terminal() -> None:
    assert run_probe("probe", "work", "-v").err == "pghaven: getting ready\npghaven: warning: the ice is thin\n"


def test_a_terminal_has_one_line_that_is_rewritten_and_clean_at_the_end() -> None:
    shown = run_on_terminal("probe", "work")
    assert "\r\x1b[Kgetting ready" in shown
    assert "\r\x1b[Kcopying  0 %  0 B of 100 MiB" in shown
    assert "\r\x1b[Kpghaven: \x1b[1m\x1b[33mwarning:\x1b[0m the ice is thin\n" in shown
    assert shown.endswith("\r\x1b[K")


def test_no_color_takes_the_colour_only() -> None:
    shown = run_on_terminal("probe", "work", NO_COLOR="1")
    assert "pghaven: warning: the ice is thin\n" in shown
    assert "\r\x1b[Kcopying" in shown
    assert "\x1b[3" not in shown


@pytest.mark.parametrize("words", [("probe", "work", "--quiet"), ("probe", "work")])
def test_a_dumb_terminal_and_a_quiet_run_get_whole_lines_only(words: tuple[str, ...]) -> None:
    terminal = "xterm" if "--quiet" in words else "dumb"
    shown = run_on_terminal(*words, TERM=terminal, NO_COLOR="1")
    assert shown == "pghaven: warning: the ice is thin\n"


def test_an_error_is_coloured_on_a_terminal() -> None:
    shown = run_on_terminal("probe", "get", "missing")
    assert shown == "pghaven: \x1b[1m\x1b[31merror:\x1b[0m no such object\n"


def test_progress_tells_what_is_known() -> None:
    progress = Progress(phase="copying", done_bytes=1 << 30, total_bytes=4 << 30)
    assert render_progress(progress, None) == "copying  25 %  1.00 GiB of 4.00 GiB"
    assert render_progress(progress, float(512 << 20)) == ("copying  25 %  1.00 GiB of 4.00 GiB  512 MiB/s  6.0 s left")
    unknown = Progress(phase="reading", done_bytes=1024, total_bytes=0)
    assert render_progress(unknown, 1024.0) == "reading  1.00 KiB  1.00 KiB/s"


def test_progress_never_shows_more_than_all() -> None:
    assert "  100 %  " in render_progress(Progress(phase="x", done_bytes=11, total_bytes=10), None)


def test_the_rate_is_that_of_the_last_seconds_of_this_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    clock = ManualClock()
    reporter = Reporter(clock=clock)
    reporter._live = True
    monkeypatch.setattr("pghaven.cli.progress.write_error", drawn.append)
    for second in range(30):
        speed = 1 if second < 15 else 3
        reporter(Progress(phase="copying", done_bytes=second * speed << 20, total_bytes=0))
        clock.advance(1)
    assert drawn[-1].endswith("87.0 MiB  3.00 MiB/s")
    reporter(Progress(phase="checking", done_bytes=0, total_bytes=0))
    assert drawn[-1].endswith("checking  0 B")


def test_redrawing_is_rare_however_often_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    clock = ManualClock()
    reporter = Reporter(clock=clock)
    reporter._live = True
    monkeypatch.setattr("pghaven.cli.progress.write_error", drawn.append)
    for done in range(1000):
        reporter(Progress(phase="copying", done_bytes=done, total_bytes=1000))
        clock.advance(0.001)
    assert len(drawn) <= 11


def test_standard_error_that_is_closed_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Reporter(verbose=True) as reporter:
        reporter(Notice(level="warning", code="x", text="y"))
    assert len(reporter.notices) == 1
