"""Days, weeks, months and years of the calendar, of which the newest backup is kept.

The one idea: periods are of UTC, so that a move to summer time or to another zone moves no backup from one into
another, and only periods that have a backup count, so that a pause in taking backups takes none away.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

from pghaven.retention.facts import DatedBackup


class Period(StrEnum):
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"


def name_period(period: Period, moment: datetime) -> str:
    """``"2026-11-23"``, ``"2026-W48"`` (ISO 8601), ``"2026-11"`` or ``"2026"``."""
    utc = moment.astimezone(UTC)
    if period is Period.WEEKLY:
        year, week, _ = utc.isocalendar()
        return f"{year:04}-W{week:02}"
    length = {Period.DAILY: 10, Period.MONTHLY: 7, Period.YEARLY: 4}[period]
    return utc.date().isoformat()[:length]


def find_newest_of_periods(
    backups: Sequence[DatedBackup], period: Period, wanted: int
) -> tuple[tuple[str, DatedBackup], ...]:
    """The name and the newest backup of each of the last ``wanted`` periods that have one, newest first.

    ``backups`` are oldest first.
    """
    newest = {name_period(period, one.moment): one for one in backups}
    return tuple(sorted(newest.items(), key=lambda item: item[1].moment, reverse=True)[:wanted])
