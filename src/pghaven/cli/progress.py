"""What a running operation shows on standard error.

The one idea: a terminal gets one line that is rewritten; anything else gets whole lines and only those worth keeping
(warnings always, notes unless quiet, steps when asked for). Nothing shown here can stop the operation.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from pghaven.cli.output import make_printable, write_error
from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.events import Event, Notice, Progress, Step
from pghaven.units import render_duration, render_rate, render_size

REDRAW_SECONDS = 0.1
LINE_SECONDS = 10.0
RATE_WINDOW_SECONDS = 10.0
RATE_SAMPLE_SECONDS = 0.25
DEFAULT_COLUMNS = 80

_ERASE_LINE = "\r\x1b[K"
_YELLOW, _RED, _BOLD, _RESET = "\x1b[33m", "\x1b[31m", "\x1b[1m", "\x1b[0m"


def is_live_terminal(environment: Mapping[str, str] | None = None) -> bool:
    """Whether standard error is a terminal on which a line can be rewritten."""
    variables = os.environ if environment is None else environment
    return sys.stderr is not None and sys.stderr.isatty() and variables.get("TERM", "dumb") not in ("", "dumb")


def render_label(label: str, environment: Mapping[str, str] | None = None) -> str:
    """ "error:" or "warning:", coloured on a terminal unless NO_COLOR asks otherwise (https://no-color.org)."""
    variables = os.environ if environment is None else environment
    if variables.get("NO_COLOR") or not is_live_terminal(variables):
        return label
    return f"{_BOLD}{_RED if label.startswith('error') else _YELLOW}{label}{_RESET}"


def render_hint(hint: str) -> str:
    return f"HINT:  {make_printable(hint)}\n"


class Reporter:
    """A listener that shows events, and a block at whose end the terminal's line is clean again.

    ``notices`` are all that were heard, for the result and the exit status. What is not a terminal gets a line
    every ten seconds, if it asked for steps, of what tells how long all of it will take.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, clock: Clock = SYSTEM_CLOCK) -> None:
        self.notices: list[Notice] = []
        self._quiet = quiet
        self._verbose = verbose
        self._clock = clock
        self._live = is_live_terminal() and not quiet
        self._line = ""
        self._drawn_at = float("-inf")
        self._rate = _Rate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._erase()

    def __call__(self, event: Event) -> None:
        match event:
            case Notice():
                self._show_notice(event)
            case Step():
                self._show_step(event)
            case Progress():
                self._show_progress(event)

    def _show_notice(self, notice: Notice) -> None:
        self.notices.append(notice)
        if notice.level == "info" and self._quiet:
            return
        label = render_label("warning:" if notice.level == "warning" else "note:")
        hint = render_hint(notice.hint) if notice.hint else ""
        self._print_above(f"pghaven: {label} {make_printable(notice.text)}\n{hint}")

    def _show_step(self, step: Step) -> None:
        self._rate = _Rate()
        if self._verbose and not self._quiet:
            self._print_above(f"pghaven: {make_printable(step.text)}\n")
        if self._live:
            self._draw(make_printable(step.text))

    def _show_progress(self, progress: Progress) -> None:
        if not self._live and (self._quiet or not self._verbose or progress.seconds_left is None):
            return
        now = self._clock.monotonic()
        if self._rate.phase != progress.phase:
            self._rate = _Rate(progress.phase)
            self._drawn_at = float("-inf")
        self._rate.note(now, progress.done_bytes)
        if now - self._drawn_at >= (REDRAW_SECONDS if self._live else LINE_SECONDS):
            self._drawn_at = now
            line = render_progress(progress, self._rate.bytes_per_second)
            if self._live:
                self._draw(line)
            else:
                write_error(f"pghaven: {line}\n")

    def _print_above(self, text: str) -> None:
        line = self._line
        self._erase()
        write_error(text)
        if line:
            self._draw(line)

    def _draw(self, line: str) -> None:
        self._line = line[: _count_columns() - 1]
        write_error(_ERASE_LINE + self._line)

    def _erase(self) -> None:
        if self._line:
            write_error(_ERASE_LINE)
            self._line = ""


def render_progress(progress: Progress, bytes_per_second: float | None) -> str:
    """``copying  42 %  1.23 GiB of 2.93 GiB  512 MiB/s  3 s left``; what is not known is left out."""
    parts = [make_printable(progress.phase)]
    done, total = progress.done_bytes, progress.total_bytes
    if total > 0:
        parts += [f"{min(100, 100 * done // total):d} %", f"{render_size(done)} of {render_size(total)}"]
    else:
        parts.append(render_size(done))
    if bytes_per_second:
        parts.append(render_rate(bytes_per_second))
    if progress.seconds_left is not None:
        parts.append(f"{render_duration(max(1, round(progress.seconds_left)))} left in all")
    elif bytes_per_second and total > done:
        parts.append(f"{render_duration(max(1, round((total - done) / bytes_per_second)))} left")
    return "  ".join(parts)


class _Rate:
    """Bytes a second over the last few seconds of one phase."""

    def __init__(self, phase: str | None = None) -> None:
        self.phase = phase
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, moment: float, done_bytes: int) -> None:
        if self._samples and moment - self._samples[-1][0] < RATE_SAMPLE_SECONDS:
            return
        self._samples.append((moment, done_bytes))
        while moment - self._samples[0][0] > RATE_WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def bytes_per_second(self) -> float | None:
        if len(self._samples) < 2:
            return None
        (first, from_bytes), (last, to_bytes) = self._samples[0], self._samples[-1]
        return (to_bytes - from_bytes) / (last - first)


def _count_columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or DEFAULT_COLUMNS
    except (OSError, ValueError, AttributeError):
        return DEFAULT_COLUMNS
