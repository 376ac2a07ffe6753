"""What the options of ``pghaven restore`` mean, and which do not go together."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pghaven.cli.restore_request import PlaceOptions, TargetOptions, make_request, make_target
from pghaven.errors import UsageError
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import TargetKind
from pghaven.postgres.timeline import Timeline

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NO_TARGET = TargetOptions(
    time=None, lsn=None, xid=None, name=None, immediate=False, timeline=None, action=None, exclusive=False
)
PLACE = PlaceOptions(
    cluster="main",
    target_dir="/srv/new",
    delta=False,
    remove_foreign=False,
    backup=None,
    standby=False,
    archive=False,
    tablespaces=(),
    port=None,
)


def test_without_a_target_the_latest_position_is_meant() -> None:
    target = make_target(NO_TARGET, NOW)
    assert (target.kind, target.action, target.inclusive, target.timeline) == (TargetKind.LATEST, "promote", True, None)


@pytest.mark.parametrize(
    ("options", "kind", "name", "value"),
    [
        ({"time": "2026-11-23T03:47:00Z"}, TargetKind.TIME, "time", datetime(2026, 11, 23, 3, 47, tzinfo=UTC)),
        ({"time": "-2h"}, TargetKind.TIME, "time", datetime(2026, 11, 23, 10, 0, tzinfo=UTC)),
        ({"lsn": "0/3000028"}, TargetKind.LSN, "lsn", Lsn(0x3000028)),
        ({"xid": "7431"}, TargetKind.XID, "xid", 7431),
        ({"name": "before the upgrade"}, TargetKind.NAME, "name", "before the upgrade"),
    ],
)
def test_each_target_is_read(options: dict[str, str], kind: TargetKind, name: str, value: object) -> None:
    target = make_target(replace(NO_TARGET, **options), NOW)
    assert (target.kind, getattr(target, name)) == (kind, value)


def test_immediate_is_a_target_of_its_own() -> None:
    assert make_target(replace(NO_TARGET, immediate=True), NOW).kind is TargetKind.IMMEDIATE


@pytest.mark.parametrize(("text", "expected"), [("3", 3), ("0000000A", 10), ("latest", None)])
def test_a_timeline_is_read_as_people_and_files_write_it(text: str, expected: int | None) -> None:
    timeline = make_target(replace(NO_TARGET, timeline=text), NOW).timeline
    assert timeline == (None if expected is None else Timeline(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "-1h", "lsn": "0/1"}, "--target-time and --target-lsn are different targets"),
        ({"xid": "5", "immediate": True}, "--target-xid and --immediate are different targets"),
        ({"exclusive": True}, "--exclusive needs a target that can be left out: a time, an LSN or a transaction"),
        ({"exclusive": True, "name": "x"}, "--exclusive needs a target that can be left out"),
        ({"lsn": "3000028"}, "--target-lsn: "),
        ({"xid": "0x17"}, '--target-xid: "0x17" is not the number of a transaction'),
        ({"xid": "2"}, "2 is not the ID of a transaction"),
        ({"timeline": "current"}, '--target-timeline: "current" is not a timeline'),
        ({"action": "pause"}, "cannot pause at the latest position"),
        ({"time": "yesterday"}, '"yesterday" is not a time'),
        ({"time": "2026-11-23"}, '"2026-11-23" is a whole day, not a time'),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        make_target(replace(NO_TARGET, **options), NOW)  # type: ignore[arg-type]
    assert raised.value.message.startswith(message)


@pytest.mark.parametrize("options", [{"time": "-1h"}, {"action": "pause"}, {"exclusive": True}, {"immediate": True}])
def test_a_standby_stops_nowhere(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="--standby follows its primary and stops nowhere"):
        make_request(replace(NO_TARGET, **options), replace(PLACE, standby=True), NOW)  # type: ignore[arg-type]


def test_a_relative_target_directory_becomes_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert make_request(NO_TARGET, replace(PLACE, target_dir="srv/../new"), NOW).target_dir == "/new"


def test_tablespaces_are_mapped_as_pg_basebackup_does() -> None:
    mapping = make_request(NO_TARGET, replace(PLACE, tablespaces=("/a=/b", "/c\\=d/=/e")), NOW).tablespace_mapping
    assert mapping == {"/a": "/b", "/c=d": "/e"}


@pytest.mark.parametrize("text", ["/a", "a=/b", "/a=b", "/a=/b=/c", "=/b"])
def test_a_mapping_that_is_none_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="is not OLD=NEW with two absolute paths"):
        make_request(NO_TARGET, replace(PLACE, tablespaces=(text,)), NOW)


def test_a_tablespace_mapped_twice_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match='"/a" is mapped twice'):
        make_request(NO_TARGET, replace(PLACE, tablespaces=("/a=/b", "/a/=/c")), NOW)


def test_removing_what_is_foreign_needs_delta() -> None:
    with pytest.raises(UsageError, match="--remove-foreign goes with --delta"):
        make_request(NO_TARGET, replace(PLACE, remove_foreign=True), NOW)
    assert make_request(NO_TARGET, replace(PLACE, remove_foreign=True, delta=True), NOW).remove_foreign
