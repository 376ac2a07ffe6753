"""The recovery window as a line of characters: what can be restored, gaps, and when backups, drills and dumps were.

The one idea: a character stands for a stretch of time, and it says "can be restored" only if every moment of that
stretch can; whatever small gap is in it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pghaven.postgres.timeline import Timeline
    from pghaven.proof.states import RepositoryState
    from pghaven.proof.windows import Window

COLUMNS_MIN: Final = 16
"""Narrower than this there is no line."""
COLUMNS_MAX: Final = 120
_TIMELINES_SHOWN: Final = 3
_SPAN_MIN: Final = timedelta(seconds=10)
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * n for n in (1, 2, 3, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14, 28, 91, 182, 364, 1820)),
)
_NOW: Final = "now|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """What a stretch is drawn with: all of it can be restored, some of it cannot, it is not in the repository yet, or
    it is not known."""

    held: str
    gap: str
    pending: str
    unknown: str = "?"


UTF8: Final = Letters(held="━", gap="×", pending="┄")
ASCII: Final = Letters(held="=", gap="x", pending="-")


def choose_letters(encoding: str | None) -> Letters:
    """Those that a stream of this encoding can show."""
    try:
        "".join((UTF8.held, UTF8.gap, UTF8.pending)).encode(encoding or "ascii")
    except (UnicodeError, LookupError):
        return ASCII
    return UTF8


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """``columns`` characters for the time from ``begin`` to ``now``; times are written as of ``zone``, None for the
    local one."""

    begin: datetime
    now: datetime
    columns: int
    letters: Letters
    zone: tzinfo | None = None

    @property
    def cell(self) -> timedelta:
        return (self.now - self.begin) / self.columns

    def edge(self, column: int) -> datetime:
        return self.begin + (self.now - self.begin) * column / self.columns

    def find_column(self, moment: datetime) -> int | None:
        if not self.begin <= moment <= self.now:
            return None
        return min(int((moment - self.begin) / self.cell), self.columns - 1)


def draw_window(
    state: RepositoryState, timeline: Timeline | None, now: datetime, *, columns: int, letters: Letters
) -> list[tuple[str, str]]:
    """Lines with their names, empty where nothing can be restored or there is no room. ``timeline`` is the server's."""
    if columns < COLUMNS_MIN or not state.reach.windows:
        return []
    columns = min(columns, COLUMNS_MAX)
    times = [*(window.begin for window in state.reach.windows), *_list_dumps(state)]
    begin = min(times)
    canvas = Canvas(begin=begin, now=max(now, begin + _SPAN_MIN), columns=columns, letters=letters)
    return list(_iter_lines(state, timeline, canvas, now))


def _iter_lines(
    state: RepositoryState, timeline: Timeline | None, canvas: Canvas, now: datetime
) -> Iterator[tuple[str, str]]:
    drawn = ""
    for number, windows in _by_timeline(state, timeline):
        line = draw_stretches(windows, canvas, is_cut=_is_cut(state, windows))
        drawn += line
        yield "window" if number == 0 else "", line if number == 0 else f"{line}  timeline {windows[0].timeline}"
    backups = [(one.stopped_at, "B") for one in state.backups if one.state.value == "complete" and one.stopped_at]
    drills = [
        (one.reached_at or one.began_at, "!" if not one.passed else "d" if one.is_stale(now) else "D")
        for one in state.drills
        if one.doubt is None
    ]
    for name, marks in (
        ("backups", backups),
        ("drills", drills),
        ("dumps", [(one, "S") for one in _list_dumps(state)]),
    ):
        line = draw_marks(marks, canvas)
        drawn += line
        if line.strip():
            yield f" {name}", line
    yield " time", draw_scale(canvas)
    yield "", _explain(drawn, canvas.letters)


def _list_dumps(state: RepositoryState) -> list[datetime]:
    return [one.started_at for one in state.dumps if one.started_at is not None]


def _by_timeline(state: RepositoryState, timeline: Timeline | None) -> Iterator[tuple[int, list[Window]]]:
    """The windows of the timeline that leads to now, then of others that lead elsewhere, the newest first."""
    chosen = state.find_window(timeline)
    assert chosen is not None
    first = [one for one in state.reach.windows if one.timeline == chosen.timeline]
    yield 0, first
    others = sorted({one.timeline for one in state.reach.windows} - {chosen.timeline}, reverse=True)
    for number, other in enumerate(others[: _TIMELINES_SHOWN - 1], 1):
        yield number, [one for one in state.reach.windows if one.timeline == other]


def _is_cut(state: RepositoryState, windows: Sequence[Window]) -> bool:
    """Whether WAL is missing behind the last window, so that what comes after it does not lead on."""
    last = max(windows, key=lambda one: one.end_lsn)
    missing = [(gap.first.timeline, gap.first.end_lsn) for gap in state.reach.gaps]
    missing += [(segment.timeline, segment.end_lsn) for segment, _ in state.reach.damaged]
    return any(timeline <= last.timeline and lsn > last.end_lsn for timeline, lsn in missing)


def draw_stretches(windows: Sequence[Window], canvas: Canvas, *, is_cut: bool) -> str:
    """``windows`` are of one timeline. Behind the last one is what is not in the repository yet, or what cannot be
    restored, when that one is cut off."""
    letters = canvas.letters
    spans = [(one.begin, one.end) for one in windows if one.end is not None]
    unknown = min((one.begin for one in windows if one.end is None), default=None)
    first = min(one.begin for one in windows)
    last = max((end for _, end in spans), default=first)
    line = ""
    for column in range(canvas.columns):
        begin, end = canvas.edge(column), canvas.edge(column + 1)
        bare = _subtract(begin, end, spans)
        if not bare:
            line += letters.held
        elif bare[-1][1] <= first:
            line += " "
        elif unknown is not None and bare[-1][1] > unknown:
            line += letters.unknown
        elif bare[0][0] >= last and unknown is None and not is_cut:
            line += letters.pending
        else:
            line += letters.gap
    return line


def _subtract(
    begin: datetime, end: datetime, spans: Iterable[tuple[datetime, datetime]]
) -> list[tuple[datetime, datetime]]:
    """What of a stretch lies in none of the spans."""
    left = []
    for from_, to in sorted(spans):
        if to <= begin or from_ >= end:
            continue
        if from_ > begin:
            left.append((begin, from_))
        begin = max(begin, to)
    return [*left, (begin, end)] if begin < end else left


def draw_marks(marks: Iterable[tuple[datetime, str]], canvas: Canvas) -> str:
    """A letter for each; of several in one place their number, unless one of them is a failure."""
    cells: dict[int, list[str]] = {}
    for moment, letter in marks:
        column = canvas.find_column(moment)
        if column is not None:
            cells.setdefault(column, []).append(letter)
    return "".join(_join(cells.get(column, [])) for column in range(canvas.columns))


def _join(letters: Sequence[str]) -> str:
    if len(letters) < 2:
        return letters[0] if letters else " "
    return "!" if "!" in letters else str(len(letters)) if len(letters) < 10 else "*"


def draw_scale(canvas: Canvas) -> str:
    """Times, each behind the bar that stands at it, and now at the end."""
    room = canvas.columns - len(_NOW)
    step = _choose_step(canvas)
    line = ""
    day = None
    for moment in _iter_ticks(canvas, step):
        column = canvas.find_column(moment)
        label = _render_tick(moment, step, with_date=moment.date() != day)
        if column is None or column < len(line) or column + len(label) >= room:
            continue
        line = line.ljust(column) + label + " "
        day = moment.date()
    return line.ljust(room)[:room] + _NOW


def _choose_step(canvas: Canvas) -> int:
    """The smallest one whose labels do not run into each other."""
    for step in _STEPS:
        width = len(_render_tick(canvas.now, step, with_date=True)) + 2
        if timedelta(seconds=step) / canvas.cell >= width:
            return step
    return _STEPS[-1]


def _iter_ticks(canvas: Canvas, step: int) -> Iterator[datetime]:
    """Round times of the clock on the wall."""
    start = canvas.begin.astimezone(canvas.zone)
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    if step < _DAY:
        midnight += timedelta(seconds=(start - midnight).total_seconds() // step * step)
    moment = midnight
    while moment <= canvas.now:
        yield moment
        moment += timedelta(seconds=step)


def _render_tick(moment: datetime, step: int, *, with_date: bool) -> str:
    if step >= 182 * _DAY:
        return f"|{moment:%Y-%m}"
    if step >= _DAY:
        return f"|{moment:%m-%d}"
    time = f"{moment:%H:%M:%S}" if step < _MINUTE else f"{moment:%H:%M}"
    return f"|{moment:%m-%d} {time}" if with_date else f"|{time}"


def _explain(drawn: str, letters: Letters) -> str:
    """What the letters that are there stand for."""
    meanings = (
        (letters.held, "can be restored to"),
        (letters.gap, "cannot"),
        (letters.pending, "not in the repository yet"),
        (letters.unknown, "not known"),
        ("!", "failed"),
        ("d", "too long ago to count"),
    )
    return ", ".join(f"{letter} {meaning}" for letter, meaning in meanings if letter in drawn)
