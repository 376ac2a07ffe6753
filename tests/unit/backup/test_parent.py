"""Which backup a new one may build on: only one of this very history that ended before the new one starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pghaven.backup.parent import ParentNeeds, choose_parent, find_refusal
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, Timeline, parse_history
from pghaven.repository.entry import BackupEntry, BackupState

NEEDS = ParentNeeds(
    system_identifier=7_000_000_000_000_000_001,
    major=17,
    wal_segment_size=16 << 20,
    data_checksums=True,
    history=History.root(Timeline(1)),
    start_lsn=Lsn.parse("0/5000028"),
)
# Timeline 1 was left at 0/4000000, timeline 2 at 0/4800000.
ON_3 = replace(
    NEEDS,
    history=parse_history("1\t0/4000000\tno recovery target\n2\t0/4800000\tno recovery target\n", Timeline(3)),
)
SUMMARY = {
    "system_identifier": "7000000000000000001",
    "server_version_num": 170006,
    "wal_segment_size": 16 << 20,
    "data_checksums": True,
    "timeline": 1,
    "start_lsn": "0/2000028",
    "stop_lsn": "0/2000120",
}


def make_entry(label: str = "a", state: BackupState = BackupState.COMMITTED, **changes: Any) -> BackupEntry:
    return BackupEntry(label=label, state=state, intent=None, last_sign=None, summary={**SUMMARY, **changes})


def refusal(needs: ParentNeeds = NEEDS, **changes: Any) -> str:
    return find_refusal(make_entry(**changes), needs) or ""


def test_newest_usable_backup_is_chosen_and_newer_ones_have_their_reasons() -> None:
    entries = [
        make_entry("oldest"),
        make_entry("old", start_lsn="0/3000028", stop_lsn="0/3000120"),
        make_entry("ahead", start_lsn="0/6000028", stop_lsn="0/6000120"),
        make_entry("gone", state=BackupState.RETIRED),
    ]
    choice = choose_parent(entries, NEEDS)
    assert choice.entry is entries[1]
    assert choice.reasons == (
        'backup "gone" is retired',
        'backup "ahead" ends at 0/6000120, after the new one starts (0/5000028)',
    )


def test_without_backups_there_is_no_parent_and_nothing_to_explain() -> None:
    choice = choose_parent((), NEEDS)
    assert (choice.entry, choice.reasons) == (None, ())


@pytest.mark.parametrize("state", [state for state in BackupState if state is not BackupState.COMMITTED])
def test_only_committed_backups_are_built_on(state: BackupState) -> None:
    assert refusal(state=state) == f"is {state}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"system_identifier": "7"}, "is of system identifier 7, and this server is 7000000000000000001"),
        ({"server_version_num": 160009}, "is of PostgreSQL 16, and this server is PostgreSQL 17"),
        ({"wal_segment_size": 1 << 20}, "has WAL segments of 1048576 bytes, and this server's have 16777216"),
        ({"data_checksums": False}, "was taken with data checksums off; they were switched since"),
    ],
)
def test_backup_of_something_else_is_refused(changes: dict[str, Any], said: str) -> None:
    assert not refusal()
    assert refusal(**changes) == said


def test_checksums_switched_off_since_are_refused_too() -> None:
    needs = replace(NEEDS, data_checksums=False)
    assert refusal(needs) == "was taken with data checksums on; they were switched since"
    assert not refusal(needs, data_checksums=False)


def test_another_minor_version_of_the_server_is_no_obstacle() -> None:
    assert not refusal(server_version_num=170000)


@pytest.mark.parametrize("missing", SUMMARY)
def test_backup_that_does_not_say_enough_is_refused(missing: str) -> None:
    summary = {name: value for name, value in SUMMARY.items() if name != missing}
    assert "does not say enough about itself" in (find_refusal(replace(make_entry(), summary=summary), NEEDS) or "")


@pytest.mark.parametrize(
    "changes",
    [{"stop_lsn": "nonsense"}, {"timeline": 0}, {"start_lsn": "0/2000120"}, {"data_checksums": None}],
)
def test_backup_that_says_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    assert refusal(**changes)


@pytest.mark.parametrize("stop", ["0/2000120", "0/5000028"])
def test_backup_that_ended_where_the_new_one_starts_or_before_is_fine(stop: str) -> None:
    assert not refusal(stop_lsn=stop)


def test_backup_that_a_lagging_standby_has_not_reached_is_refused() -> None:
    assert refusal(stop_lsn="0/5000029") == "ends at 0/5000029, after the new one starts (0/5000028)"


@pytest.mark.parametrize(
    ("timeline", "stop", "said"),
    [
        (1, "0/4000000", ""),
        (1, "0/4000001", "ends at 0/4000001 of timeline 1, which was left at 0/4000000 on the way to timeline 3"),
        (2, "0/4000120", ""),
        (2, "0/4800000", ""),
        (2, "0/4800120", "ends at 0/4800120 of timeline 2, which was left at 0/4800000 on the way to timeline 3"),
        (3, "0/4800120", ""),
        (3, "0/5000029", "ends at 0/5000029, after the new one starts (0/5000028)"),
        (4, "0/4800120", "is of timeline 4, which is not in the history of timeline 3"),
    ],
)
def test_parent_lies_on_the_path_that_led_here(timeline: int, stop: str, said: str) -> None:
    """A restore to an earlier point, or a failover, leaves what came after the fork to another future."""
    assert refusal(ON_3, timeline=timeline, stop_lsn=stop) == said


def test_timeline_that_was_left_again_before_it_began_holds_no_parent() -> None:
    history = parse_history("1\t0/4000000\tx\n2\t0/3000000\tbefore timeline 2 began\n", Timeline(3))
    needs = replace(NEEDS, history=history)
    assert not refusal(needs, stop_lsn="0/3000000")
    assert "timeline 1, which was left at 0/3000000" in refusal(needs, stop_lsn="0/3000001")
    assert "timeline 2, which was left at 0/3000000" in refusal(needs, timeline=2, stop_lsn="0/4000120")


def test_a_refused_newest_backup_does_not_hide_an_older_one_on_this_history() -> None:
    """After a restore to an earlier point the last backups are of the future that was left."""
    entries = [make_entry("before"), make_entry("after", start_lsn="0/4100028", stop_lsn="0/4100120")]
    choice = choose_parent(entries, ON_3)
    assert choice.entry is entries[0]
    assert len(choice.reasons) == 1
