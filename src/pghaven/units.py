"""Sizes, durations, rates and moments as people write and read them.

The one idea: inside the program sizes are bytes (int) and durations seconds (float); text exists only at the edges.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pghaven.light import pattern

_SIZE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_QUANTITY = pattern(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")


def parse_size(text: str) -> int:
    """Bytes from ``"64MiB"``. Raises ValueError, saying which units there are."""
    return round(_parse_quantity(text, _SIZE_UNITS, "size", "64MiB"))


def parse_duration(text: str) -> float:
    """Seconds from ``"15min"``. Raises ValueError, saying which units there are."""
    return _parse_quantity(text, _DURATION_UNITS, "duration", "15min")


def parse_rate(text: str) -> int:
    """Bytes a second from ``"50MiB/s"``. Raises ValueError."""
    size, slash, unit = text.strip().rpartition("/")
    if not slash or unit.strip() != "s":
        raise ValueError(f'"{text}" is not a rate such as "50MiB/s"')
    return parse_size(size)


def _parse_quantity(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    match = _QUANTITY.fullmatch(text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f'"{text}" is not a {what} such as "{example}" (units: {", ".join(units)})')
    return float(match[1]) * factor


def render_size(size_bytes: float) -> str:
    """``1536`` as ``"1.5 KiB"``: three significant digits, binary units."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    if unit == "B":
        return f"{value:.0f} B"
    return f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def render_duration(seconds: float) -> str:
    """``754`` as ``"12 min 34 s"``; two units at most, tenths below ten seconds."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def render_rate(bytes_per_second: float) -> str:
    return f"{render_size(bytes_per_second)}/s"


def render_time(moment: datetime) -> str:
    """A moment for people: local zone, seconds, with the offset (``2026-11-23 04:47:00+01:00``)."""
    return moment.astimezone().isoformat(sep=" ", timespec="seconds")


def render_time_utc(moment: datetime) -> str:
    """A moment for machines: UTC, microseconds, ``Z`` (``2026-11-23T03:47:00.000000Z``)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time_utc(text: str) -> datetime:
    """The inverse of ``render_time_utc``. Raises ValueError."""
    moment = datetime.fromisoformat(text)  # strptime loads the calendar, for every WAL file
    if moment.isoformat(timespec="microseconds") != f"{text.removesuffix('Z')}+00:00" or not text.endswith("Z"):
        raise ValueError(f'"{text}" is not a time such as "2026-11-23T03:47:00.000000Z"')
    return moment


def since_epoch(seconds: float) -> datetime:
    """A UTC moment from seconds since 1970."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
