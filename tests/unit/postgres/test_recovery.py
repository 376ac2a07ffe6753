"""Recovery targets and the settings written for them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.errors import UsageError
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import (
    RecoveryTarget,
    TargetKind,
    quote_setting,
    render_recovery_settings,
    render_settings_block,
    render_target,
    replace_settings_block,
    strip_settings_block,
)
from pghaven.postgres.timeline import Timeline

MOMENT = datetime(2026, 10, 25, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
TARGETS: list[tuple[dict[str, Any], tuple[str, str] | None]] = [
    ({"kind": TargetKind.LATEST}, None),
    ({"kind": TargetKind.IMMEDIATE}, ("recovery_target", "immediate")),
    ({"kind": TargetKind.TIME, "time": MOMENT}, ("recovery_target_time", "2026-10-25 00:30:00.123456+00")),
    ({"kind": TargetKind.LSN, "lsn": Lsn(0x16_B374D848)}, ("recovery_target_lsn", "16/B374D848")),
    ({"kind": TargetKind.XID, "xid": (1 << 32) + 734}, ("recovery_target_xid", "4294968030")),
    ({"kind": TargetKind.NAME, "name": "it's \\ ü"}, ("recovery_target_name", "it's \\ ü")),
]
TARGET_SETTINGS = {"recovery_target" + suffix for suffix in ("", "_name", "_time", "_xid", "_lsn")}


def render(target: RecoveryTarget) -> tuple[tuple[str, str], ...]:
    return render_recovery_settings(target, restore_command="get %f %p", timeline=Timeline(10))


@pytest.mark.parametrize(("fields", "wanted"), TARGETS)
def test_one_target_is_set_and_all_others_are_emptied_before_it(
    fields: dict[str, Any], wanted: tuple[str, str] | None
) -> None:
    # The server takes the settings in the order of the file, and an empty target that follows another kind of target
    # is "multiple recovery targets" to it (seen on 15 and 18).
    pairs = [pair for pair in render(RecoveryTarget(**fields)) if pair[0] in TARGET_SETTINGS]
    assert {name for name, _ in pairs} == TARGET_SETTINGS
    assert len(pairs) == len(TARGET_SETTINGS)
    given_values = [pair for pair in pairs if pair[1]]
    assert given_values == ([] if wanted is None else [wanted])
    if wanted is not None:
        assert pairs[-1] == wanted


def test_no_setting_is_written_twice() -> None:
    for fields, _ in TARGETS:
        names = [name for name, _ in render(RecoveryTarget(**fields))]
        assert len(names) == len(set(names))


def test_timeline_side_and_action_are_always_said() -> None:
    exact = dict(render(RecoveryTarget(kind=TargetKind.LSN, lsn=Lsn(1), inclusive=False, action="pause")))
    assert exact["recovery_target_timeline"] == "10"
    assert exact["recovery_target_inclusive"] == "off"
    assert exact["recovery_target_action"] == "pause"
    latest = render_recovery_settings(RecoveryTarget(kind=TargetKind.LATEST), restore_command="x", timeline="latest")
    assert dict(latest)["recovery_target_timeline"] == "latest"
    assert dict(latest)["recovery_target_inclusive"] == "on"


def test_commands_and_delay_of_the_restored_configuration_are_switched_off() -> None:
    settings = dict(render(RecoveryTarget(kind=TargetKind.LATEST)))
    assert settings["restore_command"] == "get %f %p"
    assert settings["archive_cleanup_command"] == ""
    assert settings["recovery_end_command"] == ""
    assert settings["recovery_min_apply_delay"] == "0"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": TargetKind.TIME}, 'recovery target "time" needs its time'),
        ({"kind": TargetKind.LATEST, "lsn": Lsn(1)}, 'recovery target "latest" takes no lsn'),
        ({"kind": TargetKind.NAME, "name": "x", "xid": 5}, 'recovery target "name" takes no xid'),
        ({"kind": TargetKind.TIME, "time": datetime(2026, 1, 1)}, "has no time zone"),
        ({"kind": TargetKind.XID, "xid": 2}, "2 is not the ID of a transaction"),
        ({"kind": TargetKind.XID, "xid": 1 << 32}, "is not the ID of a transaction"),
        ({"kind": TargetKind.XID, "xid": 1 << 64}, "is not the ID of a transaction"),
        ({"kind": TargetKind.XID, "xid": -5}, "is not the ID of a transaction"),
        ({"kind": TargetKind.NAME, "name": ""}, "must have 1 to 63 bytes"),
        ({"kind": TargetKind.NAME, "name": "ü" * 32}, "must have 1 to 63 bytes"),
        ({"kind": TargetKind.LATEST, "action": "pause"}, "cannot pause at the latest position"),
        ({"kind": TargetKind.LATEST, "action": "shutdown"}, "cannot shutdown at the latest position"),
    ],
)
def test_targets_that_make_no_sense_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        RecoveryTarget(**fields)


def test_longest_name_of_a_restore_point_is_accepted() -> None:
    assert RecoveryTarget(kind=TargetKind.NAME, name="x" * 63).name == "x" * 63


def test_targets_are_told_in_words() -> None:
    assert render_target(RecoveryTarget(kind=TargetKind.LATEST)) == "the latest position in the archive"
    assert render_target(RecoveryTarget(kind=TargetKind.IMMEDIATE)) == "the end of the backup"
    assert render_target(RecoveryTarget(kind=TargetKind.NAME, name="x")) == 'restore point "x"'
    assert (
        render_target(RecoveryTarget(kind=TargetKind.XID, xid=7, timeline=Timeline(10)))
        == "up to and including transaction 7, timeline 10"
    )
    assert (
        render_target(RecoveryTarget(kind=TargetKind.LSN, lsn=Lsn(10), inclusive=False))
        == "up to but not including WAL position 0/A"
    )
    words = render_target(RecoveryTarget(kind=TargetKind.TIME, time=MOMENT))
    assert words == f"up to and including {MOMENT.astimezone().isoformat(sep=' ')}"


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("", "''"),
        ("plain", "'plain'"),
        ("it's", "'it''s'"),
        ("C:\\new", "'C:\\\\new'"),
        ("a\nb\r", "'a\\nb\\r'"),
        ("ü %p %% \t#", "'ü %p %% \t#'"),
    ],
)
def test_values_are_quoted_as_the_server_reads_them(value: str, quoted: str) -> None:
    assert quote_setting(value) == quoted


def test_zero_byte_cannot_be_quoted() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        quote_setting("a\0b")


def read_as_the_server_does(quoted: str) -> str:
    """The STRING rule of guc-file.l and DeescapeQuotedString, for the escapes that matter."""
    assert re.fullmatch(r"'([^'\\\n]|\\.|'')*'", quoted)
    escapes = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
    return re.sub(r"\\(.)|''", lambda match: "'" if match[1] is None else escapes.get(match[1], match[1]), quoted[1:-1])


@given(st.text(st.characters(exclude_characters="\0")))
def test_any_value_reaches_the_server_unchanged(value: str) -> None:
    assert read_as_the_server_does(quote_setting(value)) == value


def test_block_is_marked_explained_and_complete() -> None:
    block = render_settings_block([("restore_command", "it's"), ("recovery_target_time", "")], "Why.\n\nMore.")
    assert block == (
        "# BEGIN pghaven\n# Why.\n#\n# More.\nrestore_command = 'it''s'\nrecovery_target_time = ''\n# END pghaven\n"
    )


def test_header_cannot_end_the_block_or_set_anything() -> None:
    block = render_settings_block([("a", "b")], "x\nfsync = off\n# END pghaven\r\nport = 1\x0b# END pghaven")
    settings = [line for line in block.split("\n") if line and not line.startswith("#")]
    assert settings == ["a = 'b'"]
    assert strip_settings_block(f"one = 1\n{block}two = 2\n") == "one = 1\ntwo = 2\n"


@pytest.mark.parametrize("name", ["", "a b", "a = 1 #", "a\nb", "1a", "ä"])
def test_what_is_no_name_of_a_setting_is_not_written(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a setting"):
        render_settings_block([(name, "x")], "")


lines = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=30)
pairs = st.lists(st.tuples(st.from_regex(r"[a-z_][a-z0-9_.]{0,10}", fullmatch=True), lines), max_size=4)


@given(st.lists(lines).map("\n".join), pairs, lines)
def test_own_block_can_be_replaced_and_removed_again(text: str, settings: list[tuple[str, str]], header: str) -> None:
    block = render_settings_block(settings, header)
    once = replace_settings_block(text, block)
    assert once.endswith(block)
    assert strip_settings_block(once) == (text if not text or text.endswith("\n") else text + "\n")
    assert replace_settings_block(once, block) == once


def test_block_in_the_middle_is_removed_and_the_rest_kept() -> None:
    block = render_settings_block([("a", "b")], "h")
    assert strip_settings_block(f"one = 1\n{block}\ntwo = 2\n{block}") == "one = 1\n\ntwo = 2\n"
    assert strip_settings_block(block.rstrip("\n")) == ""


def test_beginning_without_end_is_left_alone() -> None:
    text = "# BEGIN pghaven\na = 'b'\nkeep = 'me'\n"
    assert strip_settings_block(text) == text


def test_settings_left_by_alter_system_lose_against_the_new_block() -> None:
    # ALTER SYSTEM has rewritten the file without its comments; the last one to name a setting decides.
    text = "restore_command = 'old'\nrecovery_target_xid = '5'\n"
    settings = render(RecoveryTarget(kind=TargetKind.TIME, time=MOMENT.astimezone(UTC)))
    merged = replace_settings_block(text, render_settings_block(settings, ""))
    last = dict(line.split(" = ", 1) for line in merged.splitlines() if " = " in line)
    assert last["restore_command"] == "'get %f %p'"
    assert last["recovery_target_xid"] == "''"
