"""Which member takes the backup."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pghaven.backup.role import BackupFrom, MemberState, choose_source
from pghaven.postgres.lsn import Lsn

PRIMARY = MemberState(name="a", system_identifier=7, in_recovery=False, lsn=Lsn(5 << 30), streaming=False)
STANDBY = replace(PRIMARY, name="b", in_recovery=True, streaming=True)
BEHIND = replace(STANDBY, name="c", lsn=Lsn(3 << 30))
STUCK = replace(STANDBY, name="d", streaming=False)
STRANGER = replace(STANDBY, name="e", system_identifier=8)


@pytest.mark.parametrize(
    ("wanted", "own", "others", "left_to"),
    [
        (BackupFrom.ANY, PRIMARY, [STANDBY], None),
        (BackupFrom.STANDBY, PRIMARY, [STANDBY], "b"),
        (BackupFrom.STANDBY, PRIMARY, [BEHIND, STANDBY], "b"),
        (BackupFrom.STANDBY, PRIMARY, [BEHIND, STUCK, STRANGER], None),
        (BackupFrom.STANDBY, PRIMARY, [], None),
        (BackupFrom.STANDBY, STANDBY, [PRIMARY, BEHIND], None),
        (BackupFrom.STANDBY, BEHIND, [PRIMARY, STANDBY], "b"),
        (BackupFrom.STANDBY, BEHIND, [PRIMARY], None),
        (BackupFrom.STANDBY, STUCK, [STANDBY], "b"),
        (BackupFrom.PRIMARY, STANDBY, [PRIMARY], "a"),
        (BackupFrom.PRIMARY, STANDBY, [BEHIND], None),
        (BackupFrom.PRIMARY, PRIMARY, [STANDBY], None),
    ],
)
def test_the_one_that_was_wished_for_takes_it_and_else_who_is_there(
    wanted: BackupFrom, own: MemberState, others: list[MemberState], left_to: str | None
) -> None:
    assert choose_source(wanted, own, others).left_to == left_to
