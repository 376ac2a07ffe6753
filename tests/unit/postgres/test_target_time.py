"""Moments as people write them: one meaning or a refusal that names the choices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.errors import UsageError
from pghaven.postgres.recovery import parse_target_time
from pghaven.units import render_time, render_time_utc

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 23, 3, 47, tzinfo=UTC)


def parse(text: str, zone: ZoneInfo | timezone | None = BERLIN) -> datetime:
    return parse_target_time(text, zone, now=NOW)


@pytest.fixture
def machine_in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T03:47:00Z",
        "2026-11-23 03:47Z",
        "2026-11-23 03:47 utc",
        "2026-11-23 03:47:00 GMT",
        "20261123T034700Z",
        "20261123T0347+0000",
        "2026-11-23 04:47:00+01",
        "2026-11-23 04:47:00 +01:00",
        "2026-11-23t04:47:00.000+0100",
        "2026-11-22 19:17:00,0-08:30",
        "2026-11-23 04:47",
        "  2026-11-23   04:47:00  ",
        "2026-11-23 04:47 Europe/Berlin",
        "2026-11-23 09:17:00 Asia/Kolkata",
        "2026-11-23 04:47:00 CET",
    ],
)
def test_many_ways_to_write_one_moment(text: str) -> None:
    assert parse(text) == datetime(2026, 11, 23, 3, 47, tzinfo=UTC)


def test_result_is_in_utc_whatever_was_written() -> None:
    for text in ("2026-07-01 12:00", "2026-07-01 12:00+05", "2026-07-01 12:00 America/New_York", "-1h"):
        assert parse(text).tzinfo is UTC


def test_microseconds_are_kept() -> None:
    assert parse("2026-11-23 03:47:00.123456Z").microsecond == 123456
    assert parse("2026-11-23 03:47:00.5Z").microsecond == 500000


def test_historic_offsets_with_seconds_are_read() -> None:
    assert parse("2026-11-23 04:47:30+01:00:30") == datetime(2026, 11, 23, 3, 47, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("-2h", timedelta(hours=2)),
        ("-15min", timedelta(minutes=15)),
        ("- 1.5 d", timedelta(hours=36)),
        ("-0s", timedelta()),
    ],
)
def test_time_before_now_is_counted_from_the_given_now(text: str, back: timedelta) -> None:
    assert parse(text) == NOW - back


def test_repeated_hour_is_refused_with_both_readings() -> None:
    with pytest.raises(UsageError) as caught:
        parse("2026-10-25 02:30")
    assert caught.value.message == (
        '"2026-10-25 02:30" happened twice in Europe/Berlin, because the clocks went back: '
        "it could mean 2026-10-25 02:30:00+02:00 or 2026-10-25 02:30:00+01:00"
    )


def test_skipped_hour_is_refused_with_both_readings() -> None:
    with pytest.raises(UsageError) as caught:
        parse("2026-03-29 02:30 Europe/Berlin", ZoneInfo("UTC"))
    assert caught.value.message == (
        '"2026-03-29 02:30 Europe/Berlin" never happened in Europe/Berlin, because the clocks went forward: '
        "it could mean 2026-03-29 01:30:00+01:00 or 2026-03-29 03:30:00+02:00"
    )


def test_readings_offered_are_accepted_in_turn() -> None:
    assert parse("2026-10-25 02:30:00+02:00") == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert parse("2026-10-25 02:30:00+01:00") == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert parse("2026-03-29 01:30:00+01:00") == datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    assert parse("2026-03-29 03:30:00+02:00") == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def test_abbreviation_from_a_log_tells_the_repeated_hour_apart() -> None:
    assert parse("2026-10-25 02:30:00.5 CEST") == datetime(2026, 10, 25, 0, 30, 0, 500000, tzinfo=UTC)
    assert parse("2026-10-25 02:30:00.5 CET") == datetime(2026, 10, 25, 1, 30, 0, 500000, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-07-01 12:00 CET", "2026-11-23 04:47 EST", "2026-11-23 04:47 PM"])
def test_abbreviation_of_another_zone_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="which is not what Europe/Berlin is called at that time"):
        parse(text)


def test_abbreviation_that_names_both_readings_is_still_ambiguous() -> None:
    # In 2014 Moscow's clocks went back for good; both offsets were called MSK.
    with pytest.raises(UsageError, match=r"happened twice in Europe/Moscow.*01:30:00\+04:00 or .*01:30:00\+03:00"):
        parse("2014-10-26 01:30:00 MSK", ZoneInfo("Europe/Moscow"))


def test_edges_of_the_changes_mean_one_moment() -> None:
    assert parse("2026-10-25 01:59:59.999999") == datetime(2026, 10, 24, 23, 59, 59, 999999, tzinfo=UTC)
    assert parse("2026-10-25 03:00") == datetime(2026, 10, 25, 2, 0, tzinfo=UTC)
    assert parse("2026-03-29 01:59:59") == datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC)
    assert parse("2026-03-29 03:00") == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    for text in ("2026-10-25 02:00", "2026-10-25 02:59:59.999999", "2026-03-29 02:00", "2026-03-29 02:59:59.999999"):
        with pytest.raises(UsageError, match="it could mean"):
            parse(text)


@pytest.mark.usefixtures("machine_in_berlin")
def test_zone_of_the_machine_follows_the_same_rules() -> None:
    assert parse("2026-07-01 12:00", None) == datetime(2026, 7, 1, 10, 0, tzinfo=UTC)
    assert parse("2026-11-23 04:47", None) == NOW
    assert parse("2026-10-25 02:30 CEST", None) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert parse("2026-10-25 02:30 CET", None) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    with pytest.raises(
        UsageError, match=r"twice in the local time zone.*02:30:00\+02:00 or 2026-10-25 02:30:00\+01:00"
    ):
        parse("2026-10-25 02:30", None)
    with pytest.raises(UsageError, match=r"never happened in the local.*01:30:00\+01:00 or 2026-03-29 03:30:00\+02:00"):
        parse("2026-03-29 02:30", None)


def test_fixed_offset_may_stand_for_the_zone() -> None:
    assert parse("2026-10-25 02:30", timezone(timedelta(hours=2))) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "yesterday",
        "latest",
        "12:00",
        "2026-11-23 4:47",
        "2026-11-23 04",
        "23.11.2026 04:47",
        "11/23/2026 04:47",
        "2026-13-01 00:00",
        "2026-02-29 00:00",
        "2026-11-23 24:00",
        "2026-11-23 23:59:60",
        "2026-11-23 04:47:00+16",
        "2026-11-23 04:47:00+01:60",
        "2026-11-23 04:47:00 Europe/Atlantis",
        "2026-11-23 04:47:00 America/Argentina",
        "2026-11-23 04:47:00 ../../etc/passwd",
        "2026-11-23 04:47:00 /etc/passwd",
        "2026-11-23 04:47:00 Europe/Berlin and more",
        "1969-12-31 00:00Z",
        "9999-12-31 23:59:59-15",
        "-",
        "-2",
        "-2 fortnights",
        "-999999999999w",
        "+2h",
        "２026-11-23 04:47",
    ],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.hint is not None
    assert '"2026-11-23 04:47:00+01:00"' in caught.value.hint
    assert "\n" not in caught.value.message


def test_whole_day_is_not_guessed_to_begin_at_midnight() -> None:
    with pytest.raises(UsageError, match='"2026-11-23" is a whole day') as caught:
        parse("2026-11-23")
    assert caught.value.hint == 'Write the time too: "2026-11-23 00:00".'


def test_nanoseconds_are_refused_rather_than_rounded() -> None:
    with pytest.raises(UsageError, match="finer than a microsecond"):
        parse("2026-11-23 04:47:00.1234567")


moments = st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1), timezones=st.just(UTC))
zones = st.sampled_from(
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia", "Africa/Casablanca"]
)


@given(moments)
def test_what_we_write_we_read(moment: datetime) -> None:
    assert parse(render_time_utc(moment)) == moment
    assert parse(moment.strftime("%Y-%m-%d %H:%M:%S.%f+00")) == moment
    assert parse(render_time(moment)) == moment.replace(microsecond=0)


@given(moments, zones)
def test_time_with_its_offset_always_means_that_moment(moment: datetime, zone: str) -> None:
    local = moment.astimezone(ZoneInfo(zone))
    assert parse(local.isoformat()) == moment
    assert parse(local.isoformat(sep=" ")) == moment


@given(moments, zones)
def test_time_without_offset_means_that_moment_or_is_refused_as_ambiguous(moment: datetime, zone: str) -> None:
    local = moment.astimezone(ZoneInfo(zone))
    wall = local.replace(tzinfo=None).isoformat(sep=" ")
    other = local.replace(fold=1 - local.fold)
    if local.utcoffset() == other.utcoffset():
        assert parse(wall, ZoneInfo(zone)) == moment
        assert parse(f"{wall} {zone}", ZoneInfo("UTC")) == moment
    else:
        with pytest.raises(UsageError, match="happened twice"):
            parse(wall, ZoneInfo(zone))


near_changes = st.one_of(
    st.datetimes(datetime(2026, 3, 29, 0), datetime(2026, 3, 29, 5)),
    st.datetimes(datetime(2026, 10, 25, 0), datetime(2026, 10, 25, 5)),
)


@given(near_changes)
def test_accepted_wall_time_reads_back_and_is_the_only_one(wall: datetime) -> None:
    candidates = {
        wall.replace(tzinfo=timezone(timedelta(hours=hours))).astimezone(UTC)
        for hours in (1, 2)
        if wall.replace(tzinfo=timezone(timedelta(hours=hours))).astimezone(BERLIN).replace(tzinfo=None, fold=0) == wall
    }
    try:
        assert {parse(wall.isoformat(sep=" "))} == candidates
    except UsageError:
        assert len(candidates) != 1


@given(st.text(max_size=40))
def test_no_text_does_anything_but_mean_a_moment_or_be_refused(text: str) -> None:
    try:
        assert parse(text).tzinfo is UTC
    except UsageError as error:
        assert error.message
        assert "\n" not in error.message
