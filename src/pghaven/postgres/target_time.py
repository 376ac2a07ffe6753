"""Reading the moments people write as recovery targets.

The one idea: a restore to the wrong hour is a silent loss, so a time is taken only if it means one moment. A wall-clock
time that happened twice or never, a bare date, or a zone abbreviation that is not the local one, is refused with the
readings it could have. Results are in UTC, because Python compares two times of one zone by the wall clock alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pghaven.errors import UsageError
from pghaven.units import parse_duration

_HINT: Final = (
    'Write a time such as "2026-11-23 04:47:00+01:00", "2026-11-23T03:47:00Z", "2026-11-23 04:47 Europe/Berlin" '
    'or "-15min".'
)
_RELATIVE = re.compile(r"-\s*(.+)", re.DOTALL)
_EXTENDED = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:(?:\s*[Tt]\s*|\s+)(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]+))?)?\s*(?P<zone>\S*))?",
    re.ASCII,
)
_BASIC = re.compile(
    r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})"
    r"[Tt](?P<hour>[0-9]{2})(?P<minute>[0-9]{2})(?:(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]+))?)?(?P<zone>\S*)",
    re.ASCII,
)
_OFFSET = re.compile(r"([+-])([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2}))?)?", re.ASCII)
_UTC_NAMES: Final = frozenset({"Z", "UTC", "GMT"})
_YEAR_MIN: Final = 1970


@dataclass(frozen=True, slots=True)
class _Zone:
    """What a wall-clock time is read in; ``rules`` None stands for this machine's zone."""

    rules: tzinfo | None

    def attach(self, wall: datetime, fold: int) -> datetime:
        if self.rules is None:
            return wall.replace(fold=fold).astimezone()
        return wall.replace(fold=fold, tzinfo=self.rules)

    def wall_of(self, moment: datetime) -> datetime:
        return moment.astimezone(UTC).astimezone(self.rules).replace(tzinfo=None, fold=0)

    def __str__(self) -> str:
        return "the local time zone" if self.rules is None else str(self.rules)


def parse_target_time(text: str, zone: tzinfo | None, *, now: datetime) -> datetime:
    """The moment ``text`` means, in UTC.

    ISO 8601 and PostgreSQL's own form are read, with an offset, ``Z`` or the name of a zone behind them; without one
    the time is read in ``zone``, or in this machine's zone if that is None. Abbreviations, as in server logs, are
    read if they are that zone's own at that time. ``"-2h"`` is counted from ``now`` (aware).

    Raises UsageError for anything else, with examples; for a time that the clocks skipped or showed twice the message
    names both readings.
    """
    text = " ".join(text.split())
    relative = _RELATIVE.fullmatch(text)
    try:
        if relative is not None:
            return _go_back(text, relative[1], now)
        match = _EXTENDED.fullmatch(text) or _BASIC.fullmatch(text)
        if match is None:
            raise UsageError(f'"{text}" is not a time', hint=_HINT)
        return _resolve(text, _parse_wall(text, match), match["zone"], _Zone(zone))
    except OverflowError as error:
        raise UsageError(f'"{text}" is beyond the times that can be handled', hint=_HINT) from error


def _go_back(text: str, duration: str, now: datetime) -> datetime:
    try:
        return now.astimezone(UTC) - timedelta(seconds=parse_duration(duration))
    except ValueError as error:
        raise UsageError(f'"{text}" is not a time before now: {error}', hint=_HINT) from error


def _parse_wall(text: str, match: re.Match[str]) -> datetime:
    if match["hour"] is None:
        raise UsageError(f'"{text}" is a whole day, not a time', hint=f'Write the time too: "{text} 00:00".')
    fraction = match["fraction"] or ""
    if len(fraction) > 6:
        raise UsageError(f'"{text}" is finer than a microsecond, which is as fine as PostgreSQL counts')
    names = ("year", "month", "day", "hour", "minute", "second")
    year, month, day, hour, minute, second = (int(match[name] or 0) for name in names)
    if year < _YEAR_MIN:
        raise UsageError(f'"{text}" is before {_YEAR_MIN}', hint=_HINT)
    try:
        return datetime(year, month, day, hour, minute, second, int(fraction.ljust(6, "0")))
    except ValueError as error:
        raise UsageError(f'"{text}" is not a time: {error}', hint=_HINT) from error


def _resolve(text: str, wall: datetime, suffix: str, local: _Zone) -> datetime:
    if suffix.upper() in _UTC_NAMES:
        return wall.replace(tzinfo=UTC)
    offset = _OFFSET.fullmatch(suffix)
    if offset is not None:
        return wall.replace(tzinfo=timezone(_parse_offset(text, offset))).astimezone(UTC)
    if not suffix:
        return _read_wall(text, wall, local)
    if "/" in suffix:
        return _read_wall(text, wall, _Zone(_find_zone(text, suffix)))
    return _read_abbreviation(text, wall, suffix, local)


def _parse_offset(text: str, match: re.Match[str]) -> timedelta:
    hours, minutes, seconds = (int(match[group] or 0) for group in (2, 3, 4))
    if hours > 15 or minutes > 59 or seconds > 59:
        raise UsageError(f'"{text}" has an impossible offset "{match[0]}"', hint=_HINT)
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return -offset if match[1] == "-" else offset


def _find_zone(text: str, name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f'"{text}" names the time zone "{name}", which is not known here',
            detail="Names come from the time zone data of the system (package tzdata); offsets are always understood.",
            hint=_HINT,
        ) from error


def _read_wall(text: str, wall: datetime, zone: _Zone) -> datetime:
    readings = sorted({zone.attach(wall, fold).astimezone(UTC) for fold in (0, 1)})
    if len(readings) == 1:
        return readings[0]
    choices = " or ".join(_render(zone.wall_of(reading), reading) for reading in readings)
    if zone.wall_of(readings[0]) == wall:
        what = f"happened twice in {zone}, because the clocks went back"
    else:  # PEP 495: one reading takes the offset from before the gap, the other the one from after it
        what = f"never happened in {zone}, because the clocks went forward"
    raise UsageError(f'"{text}" {what}: it could mean {choices}', hint="Write one of these.")


def _read_abbreviation(text: str, wall: datetime, name: str, zone: _Zone) -> datetime:
    """An abbreviation also tells the two readings of a repeated hour apart."""
    readings = [zone.attach(wall, fold) for fold in (0, 1)]
    named = {moment.astimezone(UTC) for moment in readings if zone.wall_of(moment) == wall and moment.tzname() == name}
    if len(named) == 1:
        return named.pop()
    if named:  # the offset changed, the name did not
        return _read_wall(text, wall, zone)
    raise UsageError(
        f'"{text}" ends in "{name}", which is not what {zone} is called at that time',
        hint="Abbreviations mean different zones to different people: write an offset or a name like Europe/Berlin.",
    )


def _render(wall: datetime, moment: datetime) -> str:
    offset = timezone(wall - moment.replace(tzinfo=None))
    return wall.replace(tzinfo=offset).isoformat(sep=" ")
