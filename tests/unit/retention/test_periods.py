"""Periods of the calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pghaven.retention.facts import date_backups
from pghaven.retention.periods import Period, find_newest_of_periods, name_period
from tests.unit.retention.backups import backup, lineage


@pytest.mark.parametrize(
    ("period", "moment", "name"),
    [
        (Period.DAILY, datetime(2026, 11, 23, 23, 59, tzinfo=UTC), "2026-11-23"),
        (Period.WEEKLY, datetime(2026, 11, 23, tzinfo=UTC), "2026-W48"),
        (Period.WEEKLY, datetime(2027, 1, 3, tzinfo=UTC), "2026-W53"),
        (Period.WEEKLY, datetime(2024, 12, 30, tzinfo=UTC), "2025-W01"),
        (Period.MONTHLY, datetime(2026, 11, 23, tzinfo=UTC), "2026-11"),
        (Period.YEARLY, datetime(2026, 11, 23, tzinfo=UTC), "2026"),
    ],
)
def test_a_period_has_a_name(period: Period, moment: datetime, name: str) -> None:
    assert name_period(period, moment) == name


def test_periods_are_of_utc() -> None:
    moment = datetime(2027, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert [name_period(period, moment) for period in Period] == ["2026-12-31", "2026-W53", "2026-12", "2026"]


def test_a_pause_in_taking_backups_takes_none_away() -> None:
    ages = (400, 300, 299.9, 2, 1)
    dated = date_backups([lineage(*(backup(f"b{age}", age, number) for number, age in enumerate(ages)))])
    chosen = find_newest_of_periods(dated, Period.DAILY, 3)
    assert [one.backup.label for _, one in chosen] == ["b1", "b2", "b299.9"]
