"""Which backups a repository has missed, told from what both hold."""

from __future__ import annotations

import pytest

from pghaven.cli.backup_several import find_missed
from pghaven.repository.entry import BackupEntry, BackupState

LABELS = ("first", "second", "third")


def hold(label: str, state: BackupState) -> BackupEntry:
    return BackupEntry(label=label, state=state, intent=None, last_sign=None)


OURS = [hold(label, BackupState.COMMITTED) for label in LABELS]


@pytest.mark.parametrize(
    ("state", "missed"),
    [
        (BackupState.COMMITTED, ("third",)),
        (BackupState.RETIRED, ("third",)),
        (BackupState.ABANDONED, ("second", "third")),
        (BackupState.UNDECIDED, ("second", "third")),
    ],
)
def test_only_what_was_completed_there_is_not_missed(state: BackupState, missed: tuple[str, ...]) -> None:
    theirs = [hold("first", BackupState.COMMITTED), hold("second", state)]
    assert find_missed(OURS, theirs, "third") == missed


def test_where_nothing_is_shared_the_new_one_alone_goes_there() -> None:
    assert find_missed(OURS, [hold("second", BackupState.ABANDONED)], "third") == ("third",)
    assert find_missed(OURS, [], "third") == ("third",)
