"""What is advised about a server's settings, and what became of old ones."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.postgres.settings import OLD_RECIPES, plan_settings, quote_command_word
from pghaven.postgres.version import SUPPORTED, MajorVersion, require_supported

COMMAND = "pghaven wal push %p"
V16 = require_supported(160000)
V17 = require_supported(170000)
GOOD = {
    "wal_level": "replica",
    "archive_mode": "on",
    "archive_command": COMMAND,
    "archive_library": "",
    "archive_timeout": "1min",
    "full_page_writes": "on",
    "fsync": "on",
    "summarize_wal": "on",
}


def names(current: dict[str, str], version: MajorVersion = V17) -> list[str]:
    return [advice.name for advice in plan_settings(current, COMMAND, version)]


@pytest.mark.parametrize("version", SUPPORTED, ids=str)
def test_server_in_order_is_left_alone(version: MajorVersion) -> None:
    assert plan_settings(GOOD, COMMAND, version) == ()
    assert plan_settings({**GOOD, "wal_level": "logical", "archive_mode": "always"}, COMMAND, version) == ()


@pytest.mark.parametrize(
    ("name", "value", "wanted", "needs_restart", "required"),
    [
        ("wal_level", "minimal", "replica", True, True),
        ("archive_mode", "off", "on", True, True),
        ("archive_library", "basic_archive", "", False, True),
        ("archive_command", "cp %p /mnt/%f", COMMAND, False, True),
        ("archive_command", "(disabled)", COMMAND, False, True),
        ("archive_timeout", "0", "60s", False, False),
        ("full_page_writes", "off", "on", False, False),
        ("fsync", "off", "on", False, False),
        ("summarize_wal", "off", "on", False, False),
    ],
)
def test_each_setting_is_advised_alone(name: str, value: str, wanted: str, needs_restart: bool, required: bool) -> None:
    (advice,) = plan_settings({**GOOD, name: value}, COMMAND, V17)
    assert (advice.name, advice.current, advice.wanted) == (name, value, wanted)
    assert (advice.needs_restart, advice.required) == (needs_restart, required)
    assert advice.reason


def test_new_server_needs_archiving_first_and_good_advice_after() -> None:
    initdb = {**GOOD, "archive_mode": "off", "archive_command": "(disabled)", "archive_timeout": "0"}
    assert names({**initdb, "summarize_wal": "off"}) == [
        "archive_mode",
        "archive_command",
        "archive_timeout",
        "summarize_wal",
    ]


def test_summaries_are_not_asked_of_servers_without_them() -> None:
    without = {name: value for name, value in GOOD.items() if name != "summarize_wal"}
    assert names(without, V16) == []
    assert names(without, V17) == ["summarize_wal"]


def test_replacing_another_command_says_so() -> None:
    (advice,) = plan_settings({**GOOD, "archive_command": "cp %p /mnt/%f"}, COMMAND, V17)
    assert "instead of where it goes now" in advice.reason
    (advice,) = plan_settings({**GOOD, "archive_command": ""}, COMMAND, V17)
    assert "instead" not in advice.reason


@pytest.mark.parametrize("value", ["0", "0s", "0 min"])
def test_no_timeout_in_any_unit_is_no_timeout(value: str) -> None:
    assert names({**GOOD, "archive_timeout": value}) == ["archive_timeout"]


@pytest.mark.parametrize("value", ["30", "30s", "10min", "1h", "100"])
def test_any_timeout_that_is_set_stays(value: str) -> None:
    assert names({**GOOD, "archive_timeout": value}) == []


def test_settings_not_known_count_as_unset() -> None:
    assert names({}) == ["wal_level", "archive_mode", "archive_command", "archive_timeout", "summarize_wal"]


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(words)
def test_percent_signs_are_doubled_for_the_server(word: str) -> None:
    quoted = quote_command_word(word)
    assert "%" not in quoted.replace("%%", "")


@pytest.mark.parametrize("word", ["", "a b", "it's", "50%p", "$HOME", "back\\slash", "`id`", "ü\n", '"', "%%f"])
def test_word_reaches_the_program_unchanged_through_server_and_shell(word: str) -> None:
    command = "printf %s " + quote_command_word(word).replace("%%", "%")
    assert subprocess.run(["sh", "-c", command], check=True, capture_output=True).stdout.decode() == word


def test_old_recipes_that_no_supported_server_knows_have_an_answer() -> None:
    for name in ("recovery.conf", "standby_mode", "wal_keep_segments", "checkpoint_segments", "pg_start_backup()"):
        assert OLD_RECIPES[name].instead
    assert OLD_RECIPES["wal_keep_segments"].gone_since == "13"
    assert OLD_RECIPES["promote_trigger_file"].gone_since == "16"
    assert OLD_RECIPES["vacuum_defer_cleanup_age"].gone_since == "16"
